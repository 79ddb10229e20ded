//! Takes expired entries and forgotten requests out of the file, some at a time. Nobody can see it happen: an entry is
//! not there from its expiry on. So it takes no revision.

use rusqlite::Connection;

use super::commit;
use super::effects::Effects;
use crate::error::StoreError;

const EXPIRED_ENTRIES: &str = "select namespace_id, key, value_id from entry where expire_ms <= ? \
     order by expire_ms limit ?";
const EXPIRED_REQUESTS: &str = "select id from request where expire_ms <= ? order by expire_ms limit ?";
const FORGET: &str = "delete from request where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 3] = [EXPIRED_ENTRIES, EXPIRED_REQUESTS, FORGET];

/// Whether there is more to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    More,
}

/// Collects at most `rows_max` entries and as many requests.
pub(super) fn collect(connection: &Connection, now_ms: i64, rows_max: usize) -> Result<(Left, Effects), StoreError> {
    let limit = i64::try_from(rows_max).unwrap_or(i64::MAX);
    let entries = connection
        .prepare_cached(EXPIRED_ENTRIES)?
        .query_map((now_ms, limit), |row| row.try_into())?
        .collect::<rusqlite::Result<Vec<(i64, Vec<u8>, Option<i64>)>>>()?;
    for (namespace_id, key, value_id) in &entries {
        commit::delete_entry(connection, *namespace_id, key, *value_id)?;
    }
    let requests = connection
        .prepare_cached(EXPIRED_REQUESTS)?
        .query_map((now_ms, limit), |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    for id in &requests {
        connection.prepare_cached(FORGET)?.execute([id])?;
    }
    let left = if entries.len().max(requests.len()) < rows_max {
        Left::Nothing
    } else {
        Left::More
    };
    let effects = Effects {
        wrote: !entries.is_empty() || !requests.is_empty(),
        ..Effects::default()
    };
    Ok((left, effects))
}
