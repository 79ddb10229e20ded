//! Exact figures of queues, and the list of them.

use rusqlite::{Connection, OptionalExtension as _};

use super::settings::{Queue, columns, known};
use crate::error::StoreError;
use crate::model::{QueueInfo, QueueList, QueueName, QueuePage, QueueStats};

const OLDEST_READY: &str = "select enqueue_ms from message indexed by message_state \
     where queue_id = ? and state = 2 order by id limit 1";
const QUEUES: &str = concat!(columns!(), "where name > ? order by name limit ?");

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 2] = [OLDEST_READY, QUEUES];

/// Figures of a queue.
pub(in crate::store) fn stats(
    connection: &Connection,
    now_ms: i64,
    name: &QueueName,
) -> Result<QueueStats, StoreError> {
    let queue = known(connection, name)?;
    of(connection, now_ms, &queue)
}

/// A page of queues, by name.
pub(in crate::store) fn list(connection: &Connection, now_ms: i64, list: &QueueList) -> Result<QueuePage, StoreError> {
    let after = list.after.as_ref().map_or("", QueueName::as_str);
    // One more than the page holds, to know whether there is more.
    let limit = i64::try_from(list.rows_max + 1).unwrap_or(i64::MAX);
    let mut queues = connection
        .prepare_cached(QUEUES)?
        .query_map((after, limit), Queue::read)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let more = queues.len() > list.rows_max;
    queues.truncate(list.rows_max);
    let queues = queues.into_iter().map(|queue| info(connection, now_ms, queue));
    Ok(QueuePage {
        queues: queues.collect::<Result<_, _>>()?,
        more,
    })
}

/// All that there is to say of a queue.
pub(super) fn info(connection: &Connection, now_ms: i64, queue: Queue) -> Result<QueueInfo, StoreError> {
    Ok(QueueInfo {
        stats: of(connection, now_ms, &queue)?,
        name: QueueName::parse(queue.name).map_err(|_| StoreError::Damaged("a queue with a bad name"))?,
        settings: queue.settings,
        create_ms: queue.create_ms,
    })
}

fn of(connection: &Connection, now_ms: i64, queue: &Queue) -> Result<QueueStats, StoreError> {
    let oldest: Option<i64> = connection
        .prepare_cached(OLDEST_READY)?
        .query_row([queue.id], |row| row.get(0))
        .optional()?;
    let [delayed, ready, leased, dead, blocked] = queue.counts.map(i64::cast_unsigned);
    Ok(QueueStats {
        ready,
        delayed,
        leased,
        dead,
        blocked,
        oldest_ready_ms: oldest.map(|enqueue_ms| now_ms.saturating_sub(enqueue_ms).max(0)),
    })
}
