//! Ids of messages that must not be sent twice within their queue's window.

use rusqlite::{Connection, OptionalExtension as _};

use crate::error::StoreError;

const RECALL: &str = "select message_id from dedup where queue_id = ? and dedup_id = ? and expire_ms > ?";
const REMEMBER: &str = "insert or replace into dedup (queue_id, dedup_id, message_id, expire_ms) values (?, ?, ?, ?)";
const EXPIRED: &str = "select queue_id, dedup_id from dedup where expire_ms <= ? order by expire_ms limit ?";
const FORGET: &str = "delete from dedup where queue_id = ? and dedup_id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 3] = [RECALL, EXPIRED, FORGET];

/// The message that was added under this id, whether or not it is still there.
pub(super) fn recall(
    connection: &Connection,
    now_ms: i64,
    queue_id: i64,
    dedup_id: &str,
) -> Result<Option<i64>, StoreError> {
    let mut statement = connection.prepare_cached(RECALL)?;
    let found = statement.query_row((queue_id, dedup_id, now_ms), |row| row.get(0));
    Ok(found.optional()?)
}

/// Keeps the id until `expire_ms`.
pub(super) fn remember(
    connection: &Connection,
    queue_id: i64,
    dedup_id: &str,
    message_id: i64,
    expire_ms: i64,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(REMEMBER)?;
    statement.execute((queue_id, dedup_id, message_id, expire_ms))?;
    Ok(())
}

/// Takes at most `limit` ids out of the file whose time is over; how many it were.
pub(in crate::store) fn collect(connection: &Connection, now_ms: i64, limit: i64) -> Result<usize, StoreError> {
    let expired = connection
        .prepare_cached(EXPIRED)?
        .query_map((now_ms, limit), |row| row.try_into())?
        .collect::<rusqlite::Result<Vec<(i64, String)>>>()?;
    for id in &expired {
        connection.prepare_cached(FORGET)?.execute((id.0, &id.1))?;
    }
    Ok(expired.len())
}
