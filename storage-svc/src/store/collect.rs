//! Takes expired entries, forgotten requests and dedup ids out of the file, some at a time. No read can see it happen: an
//! entry is not there from its expiry on. But watches are told, so what is collected together takes a revision.

use rusqlite::Connection;

use super::commit::{self, Gone};
use super::effects::{Effects, Moment};
use super::history::Recorder;
use super::queue;
use crate::error::StoreError;
use crate::model::Event;

const EXPIRED_ENTRIES: &str = "select namespace_id, key, revision, value_id from entry where expire_ms <= ? \
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

/// Collects at most `rows_max` entries, as many requests and as many dedup ids.
pub(super) fn collect(connection: &Connection, moment: Moment, rows_max: usize) -> Result<(Left, Effects), StoreError> {
    let Moment { now_ms, revision } = moment;
    let limit = i64::try_from(rows_max).unwrap_or(i64::MAX);
    let entries = connection
        .prepare_cached(EXPIRED_ENTRIES)?
        .query_map((now_ms, limit), |row| row.try_into())?
        .collect::<rusqlite::Result<Vec<(i64, Vec<u8>, i64, Option<i64>)>>>()?;
    let mut recorder = Recorder::new(connection, now_ms, revision + 1);
    for (namespace_id, key, written, value_id) in &entries {
        let gone = Gone {
            namespace_id: *namespace_id,
            key,
            revision: written.cast_unsigned(),
            value_id: *value_id,
        };
        commit::remove(connection, &mut recorder, gone, Event::Expire)?;
    }
    let requests = connection
        .prepare_cached(EXPIRED_REQUESTS)?
        .query_map((now_ms, limit), |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    for id in &requests {
        connection.prepare_cached(FORGET)?.execute([id])?;
    }
    let dedup_ids = queue::collect_dedup_ids(connection, now_ms, limit)?;
    let left = if entries.len().max(requests.len()).max(dedup_ids) < rows_max {
        Left::Nothing
    } else {
        Left::More
    };
    let effects = Effects {
        wrote: !entries.is_empty() || !requests.is_empty() || dedup_ids > 0,
        revision: (!entries.is_empty()).then_some(revision + 1),
        history: recorder.growth(),
        ..Effects::default()
    };
    Ok((left, effects))
}
