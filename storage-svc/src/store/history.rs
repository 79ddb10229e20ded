//! The history of keys: what each revision changed, kept for a span so that watches can tell it. Owns the rows, their
//! figures and how long values outlive their entries; knows nothing of who watches.
//!
//! Changes up to the store's `history_revision` are not told any more. It rises before rows go, and over whole
//! revisions only, so that a revision is told whole or not at all.

use std::time::Duration;

use proto::limits::COMMIT_MUTATIONS_MAX;
use rusqlite::{Connection, Row};

use super::collect::Left;
use super::effects::Effects;
use crate::error::StoreError;
use crate::model::{Event, HistoryStats};

/// Bits of a change's id that number it within its revision: more than a commit can change keys.
const NUMBER_BITS: u32 = 15;
const _: () = assert!(
    COMMIT_MUTATIONS_MAX < 1 << NUMBER_BITS,
    "a commit's changes can be numbered"
);
/// Counted for a change beside its key, value and metadata, in bytes: about what its row takes.
const ROW_BYTES: usize = 64;
/// What one step of trimming takes away, in changes, beside twice what the batch added: so that it gains on every
/// writer and stops none.
const TRIM_CHANGES: i64 = 1_000;
/// And in bytes.
const TRIM_BYTES: i64 = 4 * 1024 * 1024;

const RECORD: &str = "insert into change (id, namespace_id, key, event, time_ms, bytes, create_revision, version, \
     expire_ms, metadata, kind, inline_value, value_id) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const FACTS: &str = "select revision, history_revision, history_changes, history_bytes from store where id = 0";
const OLDEST: &str = "select id, namespace_id, key, time_ms, bytes, value_id from change where id > 0 order by id";
const DELETE_VALUE: &str = "delete from value where id = ?1 and not exists \
     (select 1 from entry where namespace_id = ?2 and key = ?3 and value_id = ?1)";
const FORGET: &str = "delete from change where id <= ?";
const RAISE: &str = "update store set history_revision = ? where id = 0";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 5] = [FACTS, OLDEST, DELETE_VALUE, FORGET, RAISE];

/// Where a change lies in the history: by revision, then by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(i64);

impl Place {
    fn new(revision: u64, number: i64) -> Self {
        Self((revision.cast_signed() << NUMBER_BITS) + number)
    }

    /// Behind every change of the revision and before every change of the next one.
    pub(super) fn behind(revision: u64) -> Self {
        Self(Self::new(revision + 1, 0).0 - 1)
    }

    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        row.get(0).map(Self)
    }

    pub(super) fn id(self) -> i64 {
        self.0
    }

    pub(super) fn revision(self) -> u64 {
        (self.0 >> NUMBER_BITS).cast_unsigned()
    }
}

/// What a transaction added to the history, or took from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) changes: i64,
    pub(super) bytes: i64,
}

impl Growth {
    pub(super) fn add(&mut self, other: Self) {
        self.changes += other.changes;
        self.bytes += other.bytes;
    }
}

/// What the store knows of its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The store's revision.
    pub(super) revision: u64,
    /// The lowest revision that a watch can begin after.
    pub(super) history_revision: u64,
    pub(super) stats: HistoryStats,
}

/// As of the caller's snapshot.
pub(super) fn facts(connection: &Connection) -> Result<Facts, StoreError> {
    let facts = connection.prepare_cached(FACTS)?.query_row((), |row| {
        Ok(Facts {
            revision: row.get::<_, i64>(0)?.cast_unsigned(),
            history_revision: row.get::<_, i64>(1)?.cast_unsigned(),
            stats: HistoryStats {
                changes: row.get::<_, i64>(2)?.cast_unsigned(),
                bytes: row.get::<_, i64>(3)?.cast_unsigned(),
            },
        })
    })?;
    Ok(facts)
}

/// What a put wrote, as it lies in the entry's row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'entry> {
    pub(super) create_revision: u64,
    pub(super) version: u64,
    pub(super) expire_ms: Option<i64>,
    pub(super) metadata: Option<&'entry [u8]>,
    pub(super) is_text: bool,
    pub(super) inline_value: Option<&'entry [u8]>,
    pub(super) value_id: Option<i64>,
    pub(super) value_bytes: usize,
}

/// Records what one revision changes: each key once.
#[derive(Debug)]
pub(super) struct Recorder<'connection> {
    connection: &'connection Connection,
    now_ms: i64,
    revision: u64,
    /// Looked up when it is first asked for.
    history_revision: Option<u64>,
    growth: Growth,
}

impl<'connection> Recorder<'connection> {
    pub(super) fn new(connection: &'connection Connection, now_ms: i64, revision: u64) -> Self {
        Self {
            connection,
            now_ms,
            revision,
            history_revision: None,
            growth: Growth::default(),
        }
    }

    /// A key was written.
    pub(super) fn put(&mut self, namespace_id: i64, key: &[u8], written: &Written<'_>) -> Result<(), StoreError> {
        self.record(namespace_id, key, Event::Put, Some(written))
    }

    /// A key was deleted, or collected after its expiry.
    pub(super) fn removed(&mut self, namespace_id: i64, key: &[u8], event: Event) -> Result<(), StoreError> {
        self.record(namespace_id, key, event, None)
    }

    /// Whether the value of an entry that was last written at `revision` is still to be told, so that it must stay when
    /// the entry loses it. Entries written before there was a history are never told.
    pub(super) fn tells(&mut self, revision: u64) -> Result<bool, StoreError> {
        let history_revision = match self.history_revision {
            Some(known) => known,
            None => facts(self.connection)?.history_revision,
        };
        self.history_revision = Some(history_revision);
        Ok(revision > history_revision)
    }

    /// What was recorded.
    pub(super) fn growth(&self) -> Growth {
        self.growth
    }

    fn record(
        &mut self,
        namespace_id: i64,
        key: &[u8],
        event: Event,
        written: Option<&Written<'_>>,
    ) -> Result<(), StoreError> {
        let content = written.map_or(0, |written| {
            written.value_bytes + written.metadata.map_or(0, <[u8]>::len)
        });
        let bytes = i64::try_from(ROW_BYTES + key.len() + content).unwrap_or(i64::MAX);
        self.connection.prepare_cached(RECORD)?.execute(rusqlite::params![
            Place::new(self.revision, self.growth.changes).id(),
            namespace_id,
            key,
            event as i64,
            self.now_ms,
            bytes,
            written.map(|written| written.create_revision.cast_signed()),
            written.map(|written| written.version.cast_signed()),
            written.and_then(|written| written.expire_ms),
            written.and_then(|written| written.metadata),
            written.map(|written| written.is_text),
            written.and_then(|written| written.inline_value),
            written.and_then(|written| written.value_id),
        ])?;
        self.growth.add(Growth { changes: 1, bytes });
        Ok(())
    }
}

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// For how long, in milliseconds.
    pub(super) kept_ms: i64,
    /// And how much at most, in bytes.
    pub(super) bytes_max: i64,
}

impl Span {
    /// Everything that is younger.
    pub(super) fn younger_than(kept: Duration) -> Self {
        Self {
            kept_ms: i64::try_from(kept.as_millis()).unwrap_or(i64::MAX),
            bytes_max: i64::MAX,
        }
    }
}

/// What one step of trimming found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trimmed {
    pub(super) left: Left,
    /// The lowest revision that a watch can begin after, now.
    pub(super) history_revision: u64,
}

/// One bounded step: forgets the oldest changes outside of the span. `added` is what the transaction has added so far,
/// which the store's own figures do not show yet.
pub(super) fn trim(
    connection: &Connection,
    now_ms: i64,
    span: Span,
    added: Growth,
) -> Result<(Trimmed, Effects), StoreError> {
    let Facts {
        history_revision: before,
        stats,
        ..
    } = facts(connection)?;
    let changes_max = TRIM_CHANGES + 2 * added.changes.max(0);
    let bytes_max = TRIM_BYTES + 2 * added.bytes.max(0);
    let oldest_ms = now_ms.saturating_sub(span.kept_ms);
    let mut excess = stats.bytes.cast_signed() + added.bytes - span.bytes_max;
    let mut history_revision = before;
    let mut last = None;
    let mut gone = Growth::default();
    let mut left = Left::Nothing;
    let mut statement = connection.prepare_cached(OLDEST)?;
    let mut oldest = statement.query(())?;
    while let Some(row) = oldest.next()? {
        let place = Place::of(row)?;
        let time_ms: i64 = row.get(3)?;
        // A revision that has been begun is not told any more: its other changes follow, whatever they are.
        if place.revision() > history_revision {
            if time_ms > oldest_ms && excess <= 0 {
                break;
            }
            history_revision = place.revision();
        }
        if gone.changes >= changes_max || gone.bytes >= bytes_max {
            left = Left::More;
            break;
        }
        let bytes: i64 = row.get(4)?;
        if let Some(value_id) = row.get::<_, Option<i64>>(5)? {
            let place = (value_id, row.get::<_, i64>(1)?, row.get_ref(2)?.as_blob().ok());
            connection.prepare_cached(DELETE_VALUE)?.execute(place)?;
        }
        gone.add(Growth { changes: 1, bytes });
        excess -= bytes;
        last = Some(place);
    }
    drop(oldest);
    let mut effects = Effects::default();
    if history_revision > before {
        connection
            .prepare_cached(RAISE)?
            .execute([history_revision.cast_signed()])?;
        effects.wrote = true;
    }
    if let Some(last) = last {
        connection.prepare_cached(FORGET)?.execute([last.id()])?;
        effects.wrote = true;
        effects.history = Growth {
            changes: -gone.changes,
            bytes: -gone.bytes,
        };
    }
    Ok((Trimmed { left, history_revision }, effects))
}
