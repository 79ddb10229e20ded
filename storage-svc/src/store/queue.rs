//! Queues, within the caller's savepoint: enqueue, claim, settle, and what the passing of time does to messages.
//!
//! A message is delayed, ready, leased or dead. Only what is ready is claimed, the lowest id first; what waits for its
//! time is moved by `sweep`, so that a claim never walks over messages that it cannot have.

use std::collections::BTreeMap;

use proto::limits::QUEUES_MAX;
use rand::RngExt as _;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::effects::Effects;
use super::waiting::Ask;
use super::{kv, pairs};
use crate::error::StoreError;
use crate::model::{Action, Delivery, Lease, NewMessage, Origin, QueueName, QueueStats, Settled, Settlement};

/// What `last_error` says of a lease that nobody settled in time.
const LEASE_RAN_OUT: &str = "the lease ran out";
/// Why a message that failed its last attempt is dead.
const ATTEMPTS_EXHAUSTED: &str = "attempts exhausted";

const QUEUE_BY_NAME: &str = "select id, lease_ms, attempts_max, backoff_min_ms, backoff_max_ms, \
     backoff_jitter_percent from queue where name = ?";
const QUEUE_BY_ID: &str = "select id, lease_ms, attempts_max, backoff_min_ms, backoff_max_ms, \
     backoff_jitter_percent from queue where id = ?";
const NEW_QUEUE: &str = "insert into queue (name) values (?)";
const COUNT: &str = "update queue set delayed = delayed + ?, ready = ready + ?, leased = leased + ?, dead = dead + ? \
     where id = ?";
const FIGURES: &str = "select id, delayed, ready, leased, dead from queue where name = ?";
const OLDEST_READY: &str = "select enqueue_ms from message where queue_id = ? and state = 2 order by id limit 1";
const NEW_MESSAGE: &str = "insert into message (queue_id, state, due_ms, enqueue_ms) values (?, ?, ?, ?)";
const NEW_BODY: &str = "insert into message_body (id, kind, attributes, body) values (?, ?, ?, ?)";
const READY: &str = "select message.id, epoch, attempt, enqueue_ms, last_error, kind, attributes, body \
     from message join message_body on message_body.id = message.id \
     where queue_id = ? and state = 2 order by message.id limit ?";
const LEASE: &str = "update message set state = 3, due_ms = ?, epoch = epoch + 1, attempt = attempt + 1 where id = ?";
const MESSAGE: &str = "select queue_id, state, due_ms, epoch, attempt from message where id = ?";
const DELETE: &str = "delete from message where id = ?";
const DELETE_BODY: &str = "delete from message_body where id = ?";
const EXTEND: &str = "update message set due_ms = ? where id = ?";
const WAIT: &str = "update message set state = ?, due_ms = ?, attempt = ?, last_error = ? where id = ?";
const BURY: &str = "update message set state = 4, last_error = coalesce(?, last_error), dead_reason = ? where id = ?";
const RETURN: &str = "update message set state = 2, attempt = attempt - 1 where id = ?";
const LEASES_OUT: &str = "select id, queue_id, due_ms, attempt from message where state = 3 and due_ms <= ? \
     order by due_ms limit ?";
const DELAYS_OVER: &str = "select id, queue_id from message where state = 1 and due_ms <= ? order by due_ms limit ?";
const PROMOTE: &str = "update message set state = 2 where id = ?";
const FIRST_LEASE_OUT: &str = "select due_ms from message where state = 3 and due_ms >= ? order by due_ms limit 1";
const FIRST_DELAY_OVER: &str = "select due_ms from message where state = 1 and due_ms >= ? order by due_ms limit 1";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 19] = [
    QUEUE_BY_NAME,
    QUEUE_BY_ID,
    COUNT,
    FIGURES,
    OLDEST_READY,
    READY,
    LEASE,
    MESSAGE,
    DELETE,
    DELETE_BODY,
    EXTEND,
    WAIT,
    BURY,
    RETURN,
    LEASES_OUT,
    DELAYS_OVER,
    PROMOTE,
    FIRST_LEASE_OUT,
    FIRST_DELAY_OVER,
];

/// Where a message stands, numbered as in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Delayed = 1,
    Ready = 2,
    Leased = 3,
    Dead = 4,
}

/// A queue's settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) id: i64,
    lease_ms: i64,
    attempts_max: i64,
    backoff_min_ms: i64,
    backoff_max_ms: i64,
    backoff_jitter_percent: i64,
}

impl Queue {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            lease_ms: row.get(1)?,
            attempts_max: row.get(2)?,
            backoff_min_ms: row.get(3)?,
            backoff_max_ms: row.get(4)?,
            backoff_jitter_percent: row.get(5)?,
        })
    }

    /// How long a message waits after its attempt of this number: doubling from the least to the most, then spread, so
    /// that what failed together is not tried again together.
    fn backoff_ms(&self, attempt: i64) -> i64 {
        let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(62);
        let plain_ms = self
            .backoff_min_ms
            .saturating_mul(1 << doublings)
            .min(self.backoff_max_ms);
        let spread_ms = plain_ms.saturating_mul(self.backoff_jitter_percent) / 100;
        plain_ms.saturating_add(rand::rng().random_range(-spread_ms..=spread_ms))
    }
}

/// What a request did to queues so far: their figures are written once, at its end.
#[derive(Debug, Default)]
pub(super) struct Lately {
    counts: BTreeMap<i64, [i64; 4]>,
    effects: Effects,
}

impl Lately {
    fn leaves(&mut self, queue_id: i64, state: State) {
        self.counts.entry(queue_id).or_default()[state as usize - 1] -= 1;
        self.effects.wrote = true;
        self.effects.timed |= state == State::Leased || state == State::Delayed;
    }

    fn enters(&mut self, queue_id: i64, state: State) {
        self.counts.entry(queue_id).or_default()[state as usize - 1] += 1;
        self.effects.wrote = true;
        self.effects.timed |= state == State::Leased || state == State::Delayed;
        if state == State::Ready {
            self.effects.ready.insert(queue_id);
        }
    }

    /// Writes the figures.
    pub(super) fn finish(self, connection: &Connection) -> Result<Effects, StoreError> {
        for (queue_id, [delayed, ready, leased, dead]) in self.counts {
            if [delayed, ready, leased, dead] != [0; 4] {
                connection
                    .prepare_cached(COUNT)?
                    .execute((delayed, ready, leased, dead, queue_id))?;
            }
        }
        Ok(self.effects)
    }
}

/// The queue of this name, made if there is none. `field` is blamed if there can be no more.
pub(super) fn resolve(
    connection: &Connection,
    name: &QueueName,
    field: impl FnOnce() -> String,
    lately: &mut Lately,
) -> Result<Queue, StoreError> {
    if let Some(queue) = by_name(connection, name)? {
        return Ok(queue);
    }
    let count: i64 = connection.query_row("select count(*) from queue", (), |row| row.get(0))?;
    if usize::try_from(count).is_ok_and(|count| count >= QUEUES_MAX) {
        return Err(StoreError::invalid(
            field(),
            format!("must be one of the {QUEUES_MAX} queues there are: there can be no more"),
        ));
    }
    connection.prepare_cached(NEW_QUEUE)?.execute([name.as_str()])?;
    lately.effects.wrote = true;
    by_name(connection, name)?.ok_or(StoreError::Damaged("a queue that is gone as soon as it is made"))
}

fn by_name(connection: &Connection, name: &QueueName) -> Result<Option<Queue>, StoreError> {
    let mut statement = connection.prepare_cached(QUEUE_BY_NAME)?;
    Ok(statement.query_row([name.as_str()], Queue::read).optional()?)
}

fn by_id(connection: &Connection, id: i64) -> Result<Queue, StoreError> {
    let mut statement = connection.prepare_cached(QUEUE_BY_ID)?;
    let queue = statement.query_row([id], Queue::read).optional()?;
    queue.ok_or(StoreError::Damaged("a message without its queue"))
}

/// Adds messages; their ids, in order.
pub(super) fn enqueue(
    connection: &Connection,
    now_ms: i64,
    origin: Origin,
    messages: &[NewMessage],
    lately: &mut Lately,
) -> Result<Vec<u64>, StoreError> {
    let mut ids = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let field = || origin.message_field(index, "queue");
        let queue = resolve(connection, &message.queue, field, lately)?;
        let state = if message.delay_ms > 0 {
            State::Delayed
        } else {
            State::Ready
        };
        let due_ms = now_ms.saturating_add(message.delay_ms);
        connection
            .prepare_cached(NEW_MESSAGE)?
            .execute((queue.id, state as i64, due_ms, now_ms))?;
        let id = connection.last_insert_rowid();
        let is_text = matches!(message.body, crate::model::Content::Text(_));
        let attributes = pairs::encode(&message.attributes);
        connection
            .prepare_cached(NEW_BODY)?
            .execute((id, is_text, attributes, message.body.as_bytes()))?;
        lately.enters(queue.id, state);
        ids.push(id.cast_unsigned());
    }
    Ok(ids)
}

/// Leases as many ready messages as are asked for, the oldest first. The lease runs from now; the attempt counts from now.
pub(super) fn claim(
    connection: &Connection,
    now_ms: i64,
    queue_id: i64,
    ask: Ask,
) -> Result<(Vec<Delivery>, Effects), StoreError> {
    let queue = by_id(connection, queue_id)?;
    let lease_expire_ms = now_ms.saturating_add(ask.lease_ms.unwrap_or(queue.lease_ms));
    let mut deliveries = Vec::new();
    let mut bytes = 0;
    let mut statement = connection.prepare_cached(READY)?;
    let mut rows = statement.query((queue_id, i64::try_from(ask.messages_max).unwrap_or(i64::MAX)))?;
    while bytes < ask.bytes_max
        && let Some(row) = rows.next()?
    {
        let attempt: i64 = row.get(2)?;
        let delivery = Delivery {
            lease: Lease {
                message_id: row.get::<_, i64>(0)?.cast_unsigned(),
                epoch: row.get::<_, i64>(1)?.cast_unsigned() + 1,
            },
            body: kv::content(row.get(5)?, row.get(7)?)?,
            attributes: pairs::decode(row.get::<_, Option<Vec<u8>>>(6)?.as_deref())?,
            attempt: u32::try_from(attempt + 1).unwrap_or(u32::MAX),
            enqueue_ms: row.get(3)?,
            last_error: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
            lease_expire_ms,
        };
        bytes += delivery.body.as_bytes().len();
        deliveries.push(delivery);
    }
    // Not before the rows are read: a statement must not change the index that it walks.
    drop(rows);
    let mut lately = Lately::default();
    for delivery in &deliveries {
        connection
            .prepare_cached(LEASE)?
            .execute((lease_expire_ms, delivery.lease.message_id.cast_signed()))?;
        lately.leaves(queue_id, State::Ready);
        lately.enters(queue_id, State::Leased);
    }
    Ok((deliveries, lately.finish(connection)?))
}

/// A message that the caller holds.
pub(super) struct Held {
    id: i64,
    queue_id: i64,
    attempt: i64,
}

/// The message, if the lease still holds; else how it was lost.
pub(super) fn judge(connection: &Connection, now_ms: i64, lease: Lease) -> Result<Result<Held, Settled>, StoreError> {
    let id = lease.message_id.cast_signed();
    let message: Option<(i64, i64, i64, i64, i64)> = connection
        .prepare_cached(MESSAGE)?
        .query_row([id], |row| row.try_into())
        .optional()?;
    let Some((queue_id, state, due_ms, epoch, attempt)) = message else {
        return Ok(Err(Settled::Gone));
    };
    if state != State::Leased as i64 || epoch.cast_unsigned() != lease.epoch || due_ms <= now_ms {
        return Ok(Err(Settled::Stale));
    }
    Ok(Ok(Held { id, queue_id, attempt }))
}

/// Settles messages, each for itself.
pub(super) fn settle_each(
    connection: &Connection,
    now_ms: i64,
    settlements: &[Settlement],
) -> Result<(Vec<Settled>, Effects), StoreError> {
    let mut lately = Lately::default();
    let mut results = Vec::with_capacity(settlements.len());
    for settlement in settlements {
        results.push(settle(connection, now_ms, settlement, &mut lately)?);
    }
    Ok((results, lately.finish(connection)?))
}

/// Settles one message, if its lease still holds.
pub(super) fn settle(
    connection: &Connection,
    now_ms: i64,
    settlement: &Settlement,
    lately: &mut Lately,
) -> Result<Settled, StoreError> {
    let held = match judge(connection, now_ms, settlement.lease)? {
        Ok(held) => held,
        Err(lost) => return Ok(lost),
    };
    let mut lease_expire_ms = None;
    match &settlement.action {
        Action::Ack => {
            connection.prepare_cached(DELETE)?.execute([held.id])?;
            connection.prepare_cached(DELETE_BODY)?.execute([held.id])?;
            lately.leaves(held.queue_id, State::Leased);
        }
        Action::Nack {
            delay_ms,
            error,
            refund_attempt,
        } => {
            let retry = Retry {
                from_ms: now_ms,
                now_ms,
                delay_ms: *delay_ms,
                error,
                refund_attempt: *refund_attempt,
            };
            retry_later(connection, &held, &retry, lately)?;
        }
        Action::Extend { lease_ms } => {
            let expire_ms = now_ms.saturating_add(*lease_ms);
            connection.prepare_cached(EXTEND)?.execute((expire_ms, held.id))?;
            lately.effects.wrote = true;
            lately.effects.timed = true;
            lease_expire_ms = Some(expire_ms);
        }
        Action::Dead { reason } => bury(connection, &held, None, reason, lately)?,
    }
    Ok(Settled::Done { lease_expire_ms })
}

/// How an attempt that failed is followed.
struct Retry<'error> {
    /// The delay counts from here.
    from_ms: i64,
    now_ms: i64,
    /// None: the queue's back-off.
    delay_ms: Option<i64>,
    error: &'error str,
    refund_attempt: bool,
}

/// A nack and a lease that ran out end alike: back to the queue after a delay, or dead after the last attempt.
fn retry_later(connection: &Connection, held: &Held, retry: &Retry<'_>, lately: &mut Lately) -> Result<(), StoreError> {
    let queue = by_id(connection, held.queue_id)?;
    if held.attempt >= queue.attempts_max && !retry.refund_attempt {
        return bury(connection, held, Some(retry.error), ATTEMPTS_EXHAUSTED, lately);
    }
    let delay_ms = retry.delay_ms.unwrap_or_else(|| queue.backoff_ms(held.attempt));
    let due_ms = retry.from_ms.saturating_add(delay_ms);
    let state = if due_ms > retry.now_ms {
        State::Delayed
    } else {
        State::Ready
    };
    let attempt = held.attempt - i64::from(retry.refund_attempt);
    connection
        .prepare_cached(WAIT)?
        .execute((state as i64, due_ms, attempt, retry.error, held.id))?;
    lately.leaves(held.queue_id, State::Leased);
    lately.enters(held.queue_id, state);
    Ok(())
}

fn bury(
    connection: &Connection,
    held: &Held,
    error: Option<&str>,
    reason: &str,
    lately: &mut Lately,
) -> Result<(), StoreError> {
    connection.prepare_cached(BURY)?.execute((error, reason, held.id))?;
    lately.leaves(held.queue_id, State::Leased);
    lately.enters(held.queue_id, State::Dead);
    Ok(())
}

/// Takes back messages that were leased for callers who went away before they were told: ready again at once, the
/// attempt not counted.
pub(super) fn give_back(connection: &Connection, now_ms: i64, leases: &[Lease]) -> Result<((), Effects), StoreError> {
    let mut lately = Lately::default();
    for lease in leases {
        if let Ok(held) = judge(connection, now_ms, *lease)? {
            connection.prepare_cached(RETURN)?.execute([held.id])?;
            lately.leaves(held.queue_id, State::Leased);
            lately.enters(held.queue_id, State::Ready);
        }
    }
    Ok(((), lately.finish(connection)?))
}

/// Moves messages whose time has come: leases that ran out, then delays that are over; at most `messages_max` of each.
/// The back-off after a lease counts from the lease's end, so that it does not depend on when the sweep comes.
pub(super) fn sweep(connection: &Connection, now_ms: i64, messages_max: i64) -> Result<((), Effects), StoreError> {
    let mut lately = Lately::default();
    let leases_out = connection
        .prepare_cached(LEASES_OUT)?
        .query_map((now_ms, messages_max), |row| {
            let due_ms: i64 = row.get(2)?;
            let held = Held {
                id: row.get(0)?,
                queue_id: row.get(1)?,
                attempt: row.get(3)?,
            };
            Ok((held, due_ms))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (held, due_ms) in leases_out {
        let retry = Retry {
            from_ms: due_ms,
            now_ms,
            delay_ms: None,
            error: LEASE_RAN_OUT,
            refund_attempt: false,
        };
        retry_later(connection, &held, &retry, &mut lately)?;
    }
    let delays_over = connection
        .prepare_cached(DELAYS_OVER)?
        .query_map((now_ms, messages_max), |row| row.try_into())?
        .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    for (id, queue_id) in delays_over {
        connection.prepare_cached(PROMOTE)?.execute([id])?;
        lately.leaves(queue_id, State::Delayed);
        lately.enters(queue_id, State::Ready);
    }
    Ok(((), lately.finish(connection)?))
}

/// When the next lease runs out or the next delay is over; never: the end of time.
pub(super) fn next_due_ms(connection: &Connection) -> Result<i64, StoreError> {
    let mut next_ms = i64::MAX;
    for first in [FIRST_LEASE_OUT, FIRST_DELAY_OVER] {
        let due_ms: Option<i64> = connection
            .prepare_cached(first)?
            .query_row([i64::MIN], |row| row.get(0))
            .optional()?;
        next_ms = next_ms.min(due_ms.unwrap_or(i64::MAX));
    }
    Ok(next_ms)
}

/// Figures of a queue.
pub(super) fn stats(connection: &Connection, now_ms: i64, name: &QueueName) -> Result<QueueStats, StoreError> {
    let figures: Option<(i64, i64, i64, i64, i64)> = connection
        .prepare_cached(FIGURES)?
        .query_row([name.as_str()], |row| row.try_into())
        .optional()?;
    let Some((id, delayed, ready, leased, dead)) = figures else {
        return Err(StoreError::QueueNotFound(name.as_str().to_owned()));
    };
    let oldest: Option<i64> = connection
        .prepare_cached(OLDEST_READY)?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(QueueStats {
        ready: ready.cast_unsigned(),
        delayed: delayed.cast_unsigned(),
        leased: leased.cast_unsigned(),
        dead: dead.cast_unsigned(),
        oldest_ready_ms: oldest.map(|enqueue_ms| now_ms.saturating_sub(enqueue_ms).max(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: Queue = Queue {
        id: 1,
        lease_ms: 30_000,
        attempts_max: 10,
        backoff_min_ms: 1_000,
        backoff_max_ms: 600_000,
        backoff_jitter_percent: 20,
    };

    #[track_caller]
    fn check(attempt: i64, plain_ms: i64) {
        for _ in 0..100 {
            let backoff_ms = QUEUE.backoff_ms(attempt);
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
