//! Queues by name and by row id, and their settings.

use proto::limits::QUEUES_MAX;
use rand::RngExt as _;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::figures;
use super::lately::Lately;
use crate::error::StoreError;
use crate::model::{QueueChange, QueueInfo, QueueName, QueueSettings};
use crate::store::effects::{Effects, Moment};

/// Columns of a queue in the order that `Queue::read` takes them.
macro_rules! columns {
    () => {
        "select id, name, lease_ms, attempts_max, backoff_min_ms, backoff_max_ms, backoff_jitter_percent, \
         dedup_window_ms, dead_retention_ms, depth_max, paused, create_ms, delayed, ready, leased, dead, blocked \
         from queue "
    };
}
pub(super) use columns;

const QUEUE_BY_NAME: &str = concat!(columns!(), "where name = ?");
const QUEUE_BY_ID: &str = concat!(columns!(), "where id = ?");
const NEW_QUEUE: &str = "insert into queue (name, create_ms, lease_ms, attempts_max, backoff_min_ms, backoff_max_ms, \
     backoff_jitter_percent, dedup_window_ms, dead_retention_ms, depth_max, paused) \
     values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const SET: &str = "update queue set lease_ms = ?, attempts_max = ?, backoff_min_ms = ?, backoff_max_ms = ?, \
     backoff_jitter_percent = ?, dedup_window_ms = ?, dead_retention_ms = ?, depth_max = ?, paused = ? where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 3] = [QUEUE_BY_NAME, QUEUE_BY_ID, SET];

/// A queue's row.
#[derive(Clone, Debug)]
pub(in crate::store) struct Queue {
    pub(in crate::store) id: i64,
    pub(super) name: String,
    pub(in crate::store) settings: QueueSettings,
    pub(super) create_ms: i64,
    /// By state, in the order of their numbers.
    pub(super) counts: [i64; 5],
}

impl Queue {
    /// Columns in the order of the statements above.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            settings: QueueSettings {
                lease_ms: row.get(2)?,
                attempts_max: row.get(3)?,
                backoff_min_ms: row.get(4)?,
                backoff_max_ms: row.get(5)?,
                backoff_jitter_percent: row.get(6)?,
                dedup_window_ms: row.get(7)?,
                dead_retention_ms: row.get(8)?,
                depth_max: row.get::<_, i64>(9)?.cast_unsigned(),
                paused: row.get(10)?,
            },
            create_ms: row.get(11)?,
            counts: [row.get(12)?, row.get(13)?, row.get(14)?, row.get(15)?, row.get(16)?],
        })
    }

    /// Messages of any state.
    pub(super) fn depth(&self) -> u64 {
        self.counts.iter().sum::<i64>().cast_unsigned()
    }
}

/// How long a message waits after its attempt of this number: doubling from the least to the most, then spread, so that
/// what failed together is not tried again together.
pub(super) fn backoff_ms(settings: &QueueSettings, attempt: i64) -> i64 {
    let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(62);
    let plain_ms = settings
        .backoff_min_ms
        .saturating_mul(1 << doublings)
        .min(settings.backoff_max_ms);
    let spread_ms = plain_ms.saturating_mul(i64::from(settings.backoff_jitter_percent)) / 100;
    plain_ms.saturating_add(rand::rng().random_range(-spread_ms..=spread_ms))
}

/// The queue of this name, made if there is none. `field` is blamed if there can be no more.
pub(in crate::store) fn resolve(
    connection: &Connection,
    now_ms: i64,
    name: &QueueName,
    field: impl FnOnce() -> String,
    lately: &mut Lately,
) -> Result<Queue, StoreError> {
    match by_name(connection, name)? {
        Some(queue) => Ok(queue),
        None => make(connection, now_ms, name, &QueueSettings::default(), field, lately),
    }
}

fn make(
    connection: &Connection,
    now_ms: i64,
    name: &QueueName,
    settings: &QueueSettings,
    field: impl FnOnce() -> String,
    lately: &mut Lately,
) -> Result<Queue, StoreError> {
    let count: i64 = connection.query_row("select count(*) from queue", (), |row| row.get(0))?;
    if usize::try_from(count).is_ok_and(|count| count >= QUEUES_MAX) {
        return Err(StoreError::invalid(
            field(),
            format!("must be one of the {QUEUES_MAX} queues there are: there can be no more"),
        ));
    }
    connection.prepare_cached(NEW_QUEUE)?.execute(params![
        name.as_str(),
        now_ms,
        settings.lease_ms,
        settings.attempts_max,
        settings.backoff_min_ms,
        settings.backoff_max_ms,
        settings.backoff_jitter_percent,
        settings.dedup_window_ms,
        settings.dead_retention_ms,
        settings.depth_max.cast_signed(),
        settings.paused,
    ])?;
    lately.writes();
    by_name(connection, name)?.ok_or(StoreError::Damaged("a queue that is gone as soon as it is made"))
}

/// Makes a queue; nothing happens if it is there with the same settings.
pub(in crate::store) fn create(
    connection: &Connection,
    moment: Moment,
    name: &QueueName,
    settings: &QueueSettings,
) -> Result<(QueueInfo, Effects), StoreError> {
    let mut lately = Lately::default();
    let queue = match by_name(connection, name)? {
        Some(queue) if queue.settings == *settings => queue,
        Some(queue) => return Err(StoreError::QueueExists(queue.name)),
        None => make(
            connection,
            moment.now_ms,
            name,
            settings,
            || "name".to_owned(),
            &mut lately,
        )?,
    };
    let info = figures::info(connection, moment.now_ms, queue)?;
    Ok((info, lately.finish(connection)?))
}

/// Changes settings of a queue. Unpaused, it wakes those who wait.
pub(in crate::store) fn update(
    connection: &Connection,
    moment: Moment,
    name: &QueueName,
    change: &QueueChange,
) -> Result<(QueueInfo, Effects), StoreError> {
    let mut queue = known(connection, name)?;
    let before = queue.settings;
    let after = change.apply(before);
    if after.backoff_max_ms < after.backoff_min_ms {
        return Err(StoreError::invalid(
            "settings.backoff.max",
            "must not be less than backoff.initial",
        ));
    }
    let mut lately = Lately::default();
    if after != before {
        connection.prepare_cached(SET)?.execute(params![
            after.lease_ms,
            after.attempts_max,
            after.backoff_min_ms,
            after.backoff_max_ms,
            after.backoff_jitter_percent,
            after.dedup_window_ms,
            after.dead_retention_ms,
            after.depth_max.cast_signed(),
            after.paused,
            queue.id,
        ])?;
        lately.writes();
        if before.paused && !after.paused {
            lately.wakes(queue.id);
        }
        if after.dead_retention_ms != before.dead_retention_ms {
            lately.retimes();
        }
        queue.settings = after;
    }
    let info = figures::info(connection, moment.now_ms, queue)?;
    Ok((info, lately.finish(connection)?))
}

/// The queue of this name, if there is one.
pub(super) fn by_name(connection: &Connection, name: &QueueName) -> Result<Option<Queue>, StoreError> {
    let mut statement = connection.prepare_cached(QUEUE_BY_NAME)?;
    Ok(statement.query_row([name.as_str()], Queue::read).optional()?)
}

/// The queue of this name, which the caller takes to be there.
pub(super) fn known(connection: &Connection, name: &QueueName) -> Result<Queue, StoreError> {
    by_name(connection, name)?.ok_or_else(|| StoreError::QueueNotFound(name.as_str().to_owned()))
}

/// The queue of this row, if it has not been deleted.
pub(super) fn by_id(connection: &Connection, id: i64) -> Result<Option<Queue>, StoreError> {
    let mut statement = connection.prepare_cached(QUEUE_BY_ID)?;
    Ok(statement.query_row([id], Queue::read).optional()?)
}

/// The queue that a message is in.
pub(super) fn of_message(connection: &Connection, queue_id: i64) -> Result<Queue, StoreError> {
    by_id(connection, queue_id)?.ok_or(StoreError::Damaged("a message without its queue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(attempt: i64, plain_ms: i64) {
        for _ in 0..100 {
            let backoff_ms = backoff_ms(&QueueSettings::default(), attempt);
            assert!(
                (backoff_ms - plain_ms).abs() <= plain_ms / 5,
                "{backoff_ms} after attempt {attempt}"
            );
        }
    }

    #[test]
    fn the_backoff_doubles_up_to_its_limit() {
        check(1, 1_000);
        check(2, 2_000);
        check(10, 512_000);
        check(11, 600_000);
        check(1_000_000, 600_000);
    }
}
