//! What went wrong with a message: its last attempts that failed.

use proto::limits::FAILURES_KEPT;
use rusqlite::{Connection, OptionalExtension as _};

use super::message::Message;
use crate::error::StoreError;
use crate::model::Failure;

const LAST: &str = "select number from failure where message_id = ? order by number desc limit 1";
const NEW: &str = "insert into failure (message_id, number, attempt, time_ms, error) values (?, ?, ?, ?, ?)";
const TRIM: &str = "delete from failure where message_id = ? and number <= ?";
const FORGET: &str = "delete from failure where message_id = ?";
const FAILURES: &str = "select attempt, time_ms, error from failure where message_id = ? order by number";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 4] = [LAST, TRIM, FORGET, FAILURES];

/// Keeps what ended the message's attempt at this time, and forgets what is too long ago.
pub(super) fn record(connection: &Connection, message: &Message, time_ms: i64, error: &str) -> Result<(), StoreError> {
    let last: Option<i64> = connection
        .prepare_cached(LAST)?
        .query_row([message.id], |row| row.get(0))
        .optional()?;
    let number = last.unwrap_or(0) + 1;
    connection
        .prepare_cached(NEW)?
        .execute((message.id, number, message.attempt, time_ms, error))?;
    let kept = i64::try_from(FAILURES_KEPT).unwrap_or(i64::MAX);
    if number > kept {
        connection.prepare_cached(TRIM)?.execute((message.id, number - kept))?;
    }
    Ok(())
}

/// Forgets all of a message.
pub(super) fn forget(connection: &Connection, message_id: i64) -> Result<(), StoreError> {
    connection.prepare_cached(FORGET)?.execute([message_id])?;
    Ok(())
}

/// Those of a message, oldest first.
pub(super) fn of(connection: &Connection, message_id: i64) -> Result<Vec<Failure>, StoreError> {
    let mut statement = connection.prepare_cached(FAILURES)?;
    let failures = statement.query_map([message_id], |row| {
        Ok(Failure {
            attempt: row.get(0)?,
            time_ms: row.get(1)?,
            error: row.get(2)?,
        })
    })?;
    Ok(failures.collect::<rusqlite::Result<_>>()?)
}
