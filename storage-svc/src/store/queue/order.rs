//! Ordering keys: of one queue's messages with the same key at most one is not blocked.
//!
//! That one is the one that is leased or, when none is, the one with the lowest id. Dead messages stand outside. The
//! rule holds after every change, so that nobody has to look for a key that could go on.

use rusqlite::{Connection, OptionalExtension as _};

use super::lately::Lately;
use super::message::state;
use crate::error::StoreError;
use crate::model::MessageState;

const UNBLOCKED: &str = "select id, state from message indexed by message_unblocked \
     where queue_id = ? and ordering_key = ? and state < 4";
const FIRST_BLOCKED: &str = "select id, due_ms from message indexed by message_blocked \
     where queue_id = ? and ordering_key = ? and state = 5 order by id limit 1";
const MOVE: &str = "update message set state = ? where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 3] = [UNBLOCKED, FIRST_BLOCKED, MOVE];

/// Where a message waits that nothing blocks.
pub(super) fn waiting(now_ms: i64, due_ms: i64) -> MessageState {
    if due_ms > now_ms {
        MessageState::Delayed
    } else {
        MessageState::Ready
    }
}

/// Where a message stands that is about to be added: its id will be the highest.
pub(super) fn on_arrival(
    connection: &Connection,
    now_ms: i64,
    queue_id: i64,
    key: Option<&str>,
    due_ms: i64,
) -> Result<MessageState, StoreError> {
    match key {
        Some(key) if unblocked(connection, queue_id, key)?.is_some() => Ok(MessageState::Blocked),
        _ => Ok(waiting(now_ms, due_ms)),
    }
}

/// Where a message stands that a consumer held and that is not done: behind an earlier one that was redriven meanwhile.
/// After the message has been moved there, that one has to be let go by `advance`.
pub(super) fn on_return(
    connection: &Connection,
    now_ms: i64,
    (queue_id, id): (i64, i64),
    key: Option<&str>,
    due_ms: i64,
) -> Result<MessageState, StoreError> {
    match key {
        Some(key) if first_blocked(connection, queue_id, key)?.is_some_and(|(first, _)| first < id) => {
            Ok(MessageState::Blocked)
        }
        _ => Ok(waiting(now_ms, due_ms)),
    }
}

/// Where a dead message stands that is about to come back: in its old place, unless a later one is out.
pub(super) fn on_redrive(
    connection: &Connection,
    (queue_id, id): (i64, i64),
    key: Option<&str>,
    lately: &mut Lately,
) -> Result<MessageState, StoreError> {
    let Some(key) = key else {
        return Ok(MessageState::Ready);
    };
    match unblocked(connection, queue_id, key)? {
        None => Ok(MessageState::Ready),
        Some((other, state)) if other < id || state == MessageState::Leased => Ok(MessageState::Blocked),
        Some((other, state)) => {
            let blocked = MessageState::Blocked;
            connection.prepare_cached(MOVE)?.execute((blocked as i64, other))?;
            lately.moves(queue_id, other, state, blocked);
            Ok(MessageState::Ready)
        }
    }
}

/// Lets the next message of a key go, now that none of them is unblocked.
pub(super) fn advance(
    connection: &Connection,
    now_ms: i64,
    queue_id: i64,
    key: Option<&str>,
    lately: &mut Lately,
) -> Result<(), StoreError> {
    let Some(key) = key else {
        return Ok(());
    };
    if let Some((id, due_ms)) = first_blocked(connection, queue_id, key)? {
        let state = waiting(now_ms, due_ms);
        connection.prepare_cached(MOVE)?.execute((state as i64, id))?;
        lately.moves(queue_id, id, MessageState::Blocked, state);
    }
    Ok(())
}

fn unblocked(connection: &Connection, queue_id: i64, key: &str) -> Result<Option<(i64, MessageState)>, StoreError> {
    let mut statement = connection.prepare_cached(UNBLOCKED)?;
    let found = statement.query_row((queue_id, key), |row| Ok((row.get(0)?, state(row.get(1)?)?)));
    Ok(found.optional()?)
}

/// The lowest id of the key's messages that are blocked, and when it may be ready.
fn first_blocked(connection: &Connection, queue_id: i64, key: &str) -> Result<Option<(i64, i64)>, StoreError> {
    let mut statement = connection.prepare_cached(FIRST_BLOCKED)?;
    Ok(statement.query_row((queue_id, key), |row| row.try_into()).optional()?)
}
