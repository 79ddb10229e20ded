//! Pages of the history, as one watch sees it: what its selectors pick from the changes behind its cursor.

use std::collections::HashMap;

use proto::limits::WATCH_BATCH_BYTES;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::history::{self, Place};
use super::{kv, pairs};
use crate::error::StoreError;
use crate::model::{ChangeBatch, Entry, Event, KeyName, Namespace, Pairs, Selector, With};

/// A page ends with the revision in which so many changes have been looked at, however few of them are watched.
const PAGE_CHANGES_MAX: usize = 10_000;
/// Counted for an event beside its key, value and metadata, in bytes.
const EVENT_BYTES: usize = 64;

const CHANGES: &str = "select id, namespace_id, key, event, time_ms, create_revision, version, expire_ms, metadata, \
     kind, inline_value, value_id from change where id > ? order by id";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 1] = [CHANGES];

/// What a watch wants to know.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) selectors: Vec<Selector>,
    pub(super) with: With,
}

/// How far a watch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The last change that was looked at.
    place: Place,
    /// Every change up to this revision has been looked at.
    pub(super) complete: u64,
}

impl Cursor {
    /// Behind every change of the revision.
    pub(super) fn behind(revision: u64) -> Self {
        Self {
            place: Place::behind(revision),
            complete: revision,
        }
    }
}

/// Some of what lies behind a cursor.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) batches: Vec<ChangeBatch>,
    pub(super) cursor: Cursor,
    /// There was nothing more in the snapshot.
    pub(super) is_last: bool,
}

/// The next page, of no more than `bytes_max`; none if what is next does not fit. Fails if that has been forgotten: it is
/// seen in the same snapshot, so that nothing can be missing from a page.
pub(super) fn page(
    connection: &Connection,
    query: &Query,
    cursor: Cursor,
    bytes_max: usize,
) -> Result<Option<Page>, StoreError> {
    let facts = history::facts(connection)?;
    if cursor.complete < facts.history_revision {
        return Err(StoreError::HistoryGone {
            oldest: facts.history_revision,
            store_revision: facts.revision,
        });
    }
    let watched = Watched::find(connection, &query.selectors)?;
    let mut reading = Reading {
        cursor,
        batches: Vec::new(),
        open: None,
        open_bytes: 0,
        bytes: 0,
    };
    let mut statement = connection.prepare_cached(CHANGES)?;
    let mut rows = statement.query([cursor.place.id()])?;
    let mut looked_at = 0;
    let mut at = None;
    while let Some(row) = rows.next()? {
        let place = Place::of(row)?;
        let revision = place.revision();
        if at != Some(revision) {
            reading.close(false);
            reading.cursor.complete = revision - 1;
            if reading.bytes >= WATCH_BATCH_BYTES || looked_at >= PAGE_CHANGES_MAX {
                return Ok(Some(reading.page(false)));
            }
            at = Some(revision);
        }
        looked_at += 1;
        if let Some(namespace) = watched.namespace(row)? {
            let bytes = event_bytes(connection, row, query.with)?;
            let fits = reading.bytes + bytes <= bytes_max;
            if !fits && reading.bytes == 0 {
                return Ok(None);
            }
            if !fits || reading.open_bytes >= WATCH_BATCH_BYTES {
                // This row is the proof that the revision has more to tell.
                reading.close(true);
                return Ok(Some(reading.page(false)));
            }
            let (event, entry) = read(connection, row, namespace, revision, query.with)?;
            reading.add(revision, event, entry, bytes);
        }
        reading.cursor.place = place;
    }
    reading.close(false);
    reading.cursor = Cursor::behind(facts.revision);
    Ok(Some(reading.page(true)))
}

/// The keys that are watched, by the id of their namespace. One that has never been written to has none, and no changes
/// either.
struct Watched<'query>(HashMap<i64, (&'query Namespace, Vec<Bounds>)>);

/// The first key, and the first one past the last.
type Bounds = (Vec<u8>, Vec<u8>);

impl<'query> Watched<'query> {
    fn find(connection: &Connection, selectors: &'query [Selector]) -> Result<Self, StoreError> {
        let mut watched: HashMap<i64, (&Namespace, Vec<Bounds>)> = HashMap::new();
        for Selector { namespace, selection } in selectors {
            if let Some(id) = kv::namespace_id(connection, namespace)? {
                let (_, ranges) = watched.entry(id).or_insert_with(|| (namespace, Vec::new()));
                ranges.push(kv::bounds(selection));
            }
        }
        Ok(Self(watched))
    }

    /// The namespace of a change's key, if that is watched.
    fn namespace(&self, row: &Row<'_>) -> Result<Option<&'query Namespace>, StoreError> {
        let Some((namespace, ranges)) = self.0.get(&row.get(1)?) else {
            return Ok(None);
        };
        let key = blob(row, 2)?.unwrap_or_default();
        let selects = |(start, end): &Bounds| start.as_slice() <= key && key < end.as_slice();
        Ok(ranges.iter().any(selects).then_some(*namespace))
    }
}

/// A page that grows.
struct Reading {
    cursor: Cursor,
    batches: Vec<ChangeBatch>,
    /// Of the revision that is being read.
    open: Option<ChangeBatch>,
    open_bytes: usize,
    bytes: usize,
}

impl Reading {
    fn add(&mut self, revision: u64, event: Event, entry: Entry, bytes: usize) {
        self.bytes += bytes;
        self.open_bytes += bytes;
        let batch = self.open.get_or_insert_with(|| ChangeBatch {
            revision,
            commit_ms: entry.update_ms,
            events: Vec::new(),
            more: false,
        });
        batch.events.push((event, entry));
    }

    /// Ends the batch that is open, if one is.
    fn close(&mut self, more: bool) {
        self.open_bytes = 0;
        self.batches
            .extend(self.open.take().map(|batch| ChangeBatch { more, ..batch }));
    }

    fn page(self, is_last: bool) -> Page {
        Page {
            batches: self.batches,
            cursor: self.cursor,
            is_last,
        }
    }
}

/// What an event takes, before any large part of it is read.
fn event_bytes(connection: &Connection, row: &Row<'_>, with: With) -> Result<usize, StoreError> {
    let value_bytes = match (with, row.get(11)?) {
        (With::NoContent, _) => 0,
        (With::Content, Some(id)) => kv::value_bytes(connection, id)?,
        (With::Content, None) => bytes(row, 10)?,
    };
    Ok(bytes(row, 2)? + bytes(row, 8)? + value_bytes + EVENT_BYTES)
}

fn bytes(row: &Row<'_>, column: usize) -> Result<usize, StoreError> {
    Ok(blob(row, column)?.map_or(0, <[u8]>::len))
}

fn read(
    connection: &Connection,
    row: &Row<'_>,
    namespace: &Namespace,
    revision: u64,
    with: With,
) -> Result<(Event, Entry), StoreError> {
    let name = KeyName {
        namespace: namespace.clone(),
        key: kv::stored_key(row.get(2)?)?,
    };
    let update_ms = row.get(4)?;
    let event = match row.get(3)? {
        1_i64 => Event::Put,
        2 => Event::Delete,
        3 => Event::Expire,
        _ => return Err(StoreError::Damaged("a change that is none")),
    };
    if event != Event::Put {
        let gone = Entry {
            name,
            content: None,
            revision,
            create_revision: 0,
            version: 0,
            update_ms,
            expire_ms: None,
            metadata: Pairs::new(),
        };
        return Ok((event, gone));
    }
    let content = match with {
        With::NoContent => None,
        With::Content => {
            let bytes = kv::value(connection, row.get(10)?, row.get(11)?)?;
            Some(kv::content(row.get(9)?, bytes)?)
        }
    };
    let entry = Entry {
        name,
        content,
        revision,
        create_revision: row.get::<_, i64>(5)?.cast_unsigned(),
        version: row.get::<_, i64>(6)?.cast_unsigned(),
        update_ms,
        expire_ms: row.get(7)?,
        metadata: pairs::decode(blob(row, 8)?)?,
    };
    Ok((event, entry))
}

fn blob<'row>(row: &'row Row<'_>, column: usize) -> Result<Option<&'row [u8]>, StoreError> {
    match row.get_ref(column)? {
        ValueRef::Blob(bytes) => Ok(Some(bytes)),
        ValueRef::Null => Ok(None),
        _ => Err(StoreError::Damaged("a column of another kind")),
    }
}
