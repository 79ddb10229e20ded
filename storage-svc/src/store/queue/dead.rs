//! Dead messages: how they die, come back, and are forgotten.

use rusqlite::{Connection, OptionalExtension as _};

use super::lately::Lately;
use super::list::select;
use super::message::{Message, find};
use super::order;
use super::settings::known;
use crate::error::StoreError;
use crate::model::{MessageState, Moved, Redrive};
use crate::store::effects::{Effects, Moment};

/// Why a message that failed its last attempt is dead.
pub(super) const ATTEMPTS_EXHAUSTED: &str = "attempts exhausted";

const BURY: &str = "update message set state = 4, last_error = coalesce(?, last_error), dead_reason = ?, dead_ms = ? \
     where id = ?";
const REVIVE: &str = "update message set state = ?, due_ms = ?, attempt = 0, redrives = redrives + 1, \
     dead_reason = null, dead_ms = null where id = ?";
const FORGETFUL: &str = "select id, name, dead_retention_ms from queue indexed by queue_forgets \
     where id > ? and dead > 0 and dead_retention_ms > 0 order by id limit 1";
const PAST_RETENTION: &str = "select id, queue_id, state, due_ms, epoch, attempt, ordering_key \
     from message indexed by message_dead_age where queue_id = ? and state = 4 and dead_ms <= ? \
     order by dead_ms limit ?";
const FIRST_PAST: &str = "select min(dead_retention_ms + (select dead_ms from message indexed by message_dead_age \
     where queue_id = queue.id and state = 4 order by dead_ms limit 1)) \
     from queue indexed by queue_forgets where id > ? and dead > 0 and dead_retention_ms > 0";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 5] = [BURY, REVIVE, FORGETFUL, PAST_RETENTION, FIRST_PAST];

/// Gives a leased message up, now or since it was given up at `dead_ms`; the next one of its ordering key may go.
pub(super) fn bury(
    connection: &Connection,
    held: &Message,
    (now_ms, dead_ms): (i64, i64),
    error: Option<&str>,
    reason: &str,
    lately: &mut Lately,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(BURY)?
        .execute((error, reason, dead_ms, held.id))?;
    lately.moves(held.queue_id, held.id, MessageState::Leased, MessageState::Dead);
    order::advance(connection, now_ms, held.queue_id, held.ordering_key.as_deref(), lately)
}

/// Gives dead messages another life.
pub(in crate::store) fn redrive(
    connection: &Connection,
    moment: Moment,
    redrive: &Redrive,
) -> Result<(Moved, Effects), StoreError> {
    let queue = known(connection, &redrive.queue)?;
    let (ids, more) = select(connection, queue.id, &redrive.ids, &[MessageState::Dead])?;
    let mut lately = Lately::default();
    for id in &ids {
        let message = find(connection, *id)?.ok_or(StoreError::Damaged("a message that is only in an index"))?;
        let key = message.ordering_key.as_deref();
        let state = order::on_redrive(connection, (queue.id, *id), key, &mut lately)?;
        connection
            .prepare_cached(REVIVE)?
            .execute((state as i64, moment.now_ms, id))?;
        lately.moves(queue.id, *id, MessageState::Dead, state);
    }
    let moved = Moved {
        messages: ids.len() as u64,
        more,
    };
    Ok((moved, lately.finish(connection)?))
}

/// Deletes at most `messages_max` dead messages that have been kept as long as their queues say.
pub(super) fn forget(
    connection: &Connection,
    now_ms: i64,
    messages_max: i64,
    lately: &mut Lately,
) -> Result<(), StoreError> {
    let mut left = messages_max;
    let mut after = 0;
    while left > 0
        && let Some((queue_id, name, retention_ms)) = next_forgetful(connection, after)?
    {
        let past = connection
            .prepare_cached(PAST_RETENTION)?
            .query_map((queue_id, now_ms.saturating_sub(retention_ms), left), Message::read)?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        for message in past {
            message.remove(connection, now_ms, lately)?;
            lately.forgets(name.clone(), message.id);
            left -= 1;
        }
        after = queue_id;
    }
    Ok(())
}

fn next_forgetful(connection: &Connection, after: i64) -> Result<Option<(i64, String, i64)>, StoreError> {
    let mut statement = connection.prepare_cached(FORGETFUL)?;
    Ok(statement.query_row([after], |row| row.try_into()).optional()?)
}

/// When the next dead message has been kept long enough.
pub(super) fn first_past_ms(connection: &Connection) -> Result<Option<i64>, StoreError> {
    let mut statement = connection.prepare_cached(FIRST_PAST)?;
    Ok(statement.query_row([0], |row| row.get(0))?)
}
