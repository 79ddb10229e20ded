//! Reads of keys: get, batch, scan, within whatever transaction the caller holds.
//!
//! An entry is not there from its expiry on, whether or not it has been collected.

use std::collections::HashMap;

use bytes::Bytes;
use proto::limits::{BATCH_GET_BYTES, SCAN_BYTES};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::pairs;
use crate::error::StoreError;
use crate::model::{
    Content, Dereference, Entry, Key, KeyName, Namespace, Pairs, Scan, ScanPage, ScanRow, Selection, With,
};

/// A page of a scan ends after so many keys looked at, however few of them are rows: expired and dangling ones are
/// passed over, but not for ever.
pub(crate) const SCAN_KEYS_MAX: usize = 10_000;
/// Behind every key: no byte of UTF-8 is so high.
const PAST_ALL_KEYS: [u8; 1] = [0xff];

const STORE_REVISION: &str = "select revision from store where id = 0";
const NAMESPACE: &str = "select id from namespace where name = ?";
const ENTRY: &str = "select key, revision, create_revision, version, update_ms, expire_ms, metadata, kind, \
     inline_value, value_id from entry where namespace_id = ? and key = ?";
const ENTRIES: &str = "select key, revision, create_revision, version, update_ms, expire_ms, metadata, kind, \
     inline_value, value_id from entry where namespace_id = ? and key >= ? and key < ? order by key";
const ENTRIES_REVERSED: &str = "select key, revision, create_revision, version, update_ms, expire_ms, metadata, kind, \
     inline_value, value_id from entry where namespace_id = ? and key >= ? and key < ? order by key desc";
const VALUE: &str = "select content from value where id = ?";
const VALUE_LENGTH: &str = "select octet_length(content) from value where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 7] = [
    STORE_REVISION,
    NAMESPACE,
    ENTRY,
    ENTRIES,
    ENTRIES_REVERSED,
    VALUE,
    VALUE_LENGTH,
];

/// The revision of the last commit that changed a key.
pub(super) fn store_revision(connection: &Connection) -> Result<u64, StoreError> {
    let revision = connection
        .prepare_cached(STORE_REVISION)?
        .query_row((), |row| row.get::<_, i64>(0))?;
    Ok(revision.cast_unsigned())
}

/// The row id of a namespace that has been written to.
pub(super) fn namespace_id(connection: &Connection, namespace: &Namespace) -> Result<Option<i64>, StoreError> {
    let id = connection
        .prepare_cached(NAMESPACE)?
        .query_row([namespace.as_str()], |row| row.get(0))
        .optional()?;
    Ok(id)
}

/// An entry as it lies in its row, expired or not.
pub(super) struct Stored {
    pub(super) revision: u64,
    pub(super) create_revision: u64,
    pub(super) version: u64,
    pub(super) update_ms: i64,
    pub(super) expire_ms: Option<i64>,
    pub(super) value_id: Option<i64>,
    metadata: Pairs,
    is_text: bool,
    inline_value: Option<Vec<u8>>,
}

impl Stored {
    /// Whether the entry is there.
    pub(super) fn is_live(&self, now_ms: i64) -> bool {
        self.expire_ms.is_none_or(|expire_ms| expire_ms > now_ms)
    }

    /// Columns in the order of the statements above; the first is the key.
    fn read(row: &Row<'_>) -> Result<Self, StoreError> {
        let metadata = match row.get_ref(6)? {
            ValueRef::Blob(column) => pairs::decode(Some(column))?,
            _ => Pairs::new(),
        };
        Ok(Self {
            revision: row.get::<_, i64>(1)?.cast_unsigned(),
            create_revision: row.get::<_, i64>(2)?.cast_unsigned(),
            version: row.get::<_, i64>(3)?.cast_unsigned(),
            update_ms: row.get(4)?,
            expire_ms: row.get(5)?,
            metadata,
            is_text: row.get(7)?,
            inline_value: row.get(8)?,
            value_id: row.get(9)?,
        })
    }

    /// The entry by its name, with its content if that is wanted.
    pub(super) fn entry(mut self, connection: &Connection, name: KeyName, with: With) -> Result<Entry, StoreError> {
        let content = match with {
            With::NoContent => None,
            With::Content => Some(self.content(connection)?),
        };
        Ok(Entry {
            name,
            content,
            revision: self.revision,
            create_revision: self.create_revision,
            version: self.version,
            update_ms: self.update_ms,
            expire_ms: self.expire_ms,
            metadata: self.metadata,
        })
    }

    fn content(&mut self, connection: &Connection) -> Result<Content, StoreError> {
        let bytes = value(connection, self.inline_value.take(), self.value_id)?;
        content(self.is_text, bytes)
    }
}

/// A value, wherever it lies.
pub(super) fn value(
    connection: &Connection,
    inline_value: Option<Vec<u8>>,
    value_id: Option<i64>,
) -> Result<Vec<u8>, StoreError> {
    match (inline_value, value_id) {
        (Some(bytes), _) => Ok(bytes),
        (None, Some(id)) => connection
            .prepare_cached(VALUE)?
            .query_row([id], |row| row.get(0))
            .optional()?
            .ok_or(StoreError::Damaged("an entry without its value")),
        (None, None) => Err(StoreError::Damaged("an entry without a value")),
    }
}

/// How long a value is that lies apart.
pub(super) fn value_bytes(connection: &Connection, value_id: i64) -> Result<usize, StoreError> {
    let length = connection
        .prepare_cached(VALUE_LENGTH)?
        .query_row([value_id], |row| row.get::<_, u32>(0))
        .optional()?;
    let length = length.ok_or(StoreError::Damaged("an entry without its value"))?;
    Ok(length as usize)
}

/// Bytes as the kind that they were written as.
pub(super) fn content(is_text: bool, bytes: Vec<u8>) -> Result<Content, StoreError> {
    if is_text {
        let text = String::from_utf8(bytes).map_err(|_| StoreError::Damaged("a text that is not UTF-8"))?;
        Ok(Content::Text(text))
    } else {
        Ok(Content::Bytes(Bytes::from(bytes)))
    }
}

/// One row by its key, expired or not.
pub(super) fn stored(connection: &Connection, namespace_id: i64, key: &Key) -> Result<Option<Stored>, StoreError> {
    let mut statement = connection.prepare_cached(ENTRY)?;
    let mut rows = statement.query((namespace_id, key.as_str().as_bytes()))?;
    rows.next()?.map(Stored::read).transpose()
}

/// One entry that is there.
pub(super) fn get(
    connection: &Connection,
    now_ms: i64,
    name: KeyName,
    with: With,
) -> Result<Option<Entry>, StoreError> {
    match namespace_id(connection, &name.namespace)? {
        Some(namespace_id) => entry(connection, now_ms, namespace_id, name, with),
        None => Ok(None),
    }
}

fn entry(
    connection: &Connection,
    now_ms: i64,
    namespace_id: i64,
    name: KeyName,
    with: With,
) -> Result<Option<Entry>, StoreError> {
    let stored = stored(connection, namespace_id, &name.key)?.filter(|stored| stored.is_live(now_ms));
    stored.map(|stored| stored.entry(connection, name, with)).transpose()
}

/// Several entries, one for each of the first keys: the answer ends after the entry that reaches its size.
pub(super) fn batch_get(
    connection: &Connection,
    now_ms: i64,
    names: Vec<KeyName>,
    with: With,
) -> Result<Vec<Option<Entry>>, StoreError> {
    let mut namespace_ids = HashMap::new();
    let mut entries = Vec::with_capacity(names.len());
    let mut bytes = 0;
    for name in names {
        let known = namespace_ids.get(&name.namespace).copied();
        let namespace_id = if let Some(id) = known {
            id
        } else {
            let id = namespace_id(connection, &name.namespace)?;
            namespace_ids.insert(name.namespace.clone(), id);
            id
        };
        let entry = match namespace_id {
            Some(id) => entry(connection, now_ms, id, name, with)?,
            None => None,
        };
        bytes += entry.as_ref().map_or(0, entry_bytes);
        entries.push(entry);
        if bytes >= BATCH_GET_BYTES {
            break;
        }
    }
    Ok(entries)
}

/// One page.
pub(super) fn scan(connection: &Connection, now_ms: i64, scan: &Scan) -> Result<ScanPage, StoreError> {
    let mut page = ScanPage {
        rows: Vec::new(),
        last: None,
    };
    let Some(namespace_id) = namespace_id(connection, &scan.namespace)? else {
        return Ok(page);
    };
    let follow = match &scan.dereference {
        Some(dereference) => Some(Follow {
            dereference,
            namespace_id: self::namespace_id(connection, &dereference.target)?,
        }),
        None => None,
    };
    let (mut start, mut end) = bounds(&scan.selection);
    match &scan.after {
        Some(after) if scan.reverse => end = end.min(after.as_str().as_bytes().to_vec()),
        // The least key behind another is that one with a zero byte; no key holds one.
        Some(after) => start = start.max([after.as_str().as_bytes(), &[0]].concat()),
        None => {}
    }
    let mut statement = connection.prepare_cached(if scan.reverse { ENTRIES_REVERSED } else { ENTRIES })?;
    let mut found = statement.query((namespace_id, start, end))?;
    let mut bytes = 0;
    let mut looked_at = 0;
    let mut last = None;
    while let Some(row) = found.next()? {
        if page.rows.len() >= scan.rows_max || bytes >= SCAN_BYTES || looked_at >= SCAN_KEYS_MAX {
            // This row is the proof that there is more.
            page.last = last;
            break;
        }
        looked_at += 1;
        let key = key_of(row)?;
        last = Some(key.clone());
        let stored = Stored::read(row)?;
        if !stored.is_live(now_ms) {
            continue;
        }
        let name = KeyName {
            namespace: scan.namespace.clone(),
            key,
        };
        let row = match &follow {
            None => Some(ScanRow {
                entry: stored.entry(connection, name, scan.with)?,
                target: None,
            }),
            Some(follow) => follow.row(
                connection,
                now_ms,
                stored.entry(connection, name, With::Content)?,
                scan.with,
            )?,
        };
        if let Some(row) = row {
            bytes += entry_bytes(&row.entry) + row.target.as_ref().map_or(0, entry_bytes);
            page.rows.push(row);
        }
    }
    Ok(page)
}

/// Following a page's entries.
struct Follow<'scan> {
    dereference: &'scan Dereference,
    namespace_id: Option<i64>,
}

impl Follow<'_> {
    /// None: the entry leads nowhere and is to be left out.
    fn row(
        &self,
        connection: &Connection,
        now_ms: i64,
        mut index: Entry,
        with: With,
    ) -> Result<Option<ScanRow>, StoreError> {
        let target_key = index
            .content
            .as_ref()
            .and_then(|content| std::str::from_utf8(content.as_bytes()).ok())
            .and_then(|key| Key::parse(key.to_owned()).ok());
        let target = match (self.namespace_id, target_key) {
            (Some(namespace_id), Some(key)) => {
                let name = KeyName {
                    namespace: self.dereference.target.clone(),
                    key,
                };
                entry(connection, now_ms, namespace_id, name, With::Content)?
            }
            _ => None,
        };
        if target.is_none() && self.dereference.skip_dangling {
            return Ok(None);
        }
        if with == With::NoContent {
            index.content = None;
        }
        Ok(Some(ScanRow { entry: index, target }))
    }
}

/// Counts the keys of a prefix that are there and were written after `revision`: whether there is one, or none
/// although so many keys were looked at that the caller should not have asked.
pub(super) fn prefix_changed_since(
    connection: &Connection,
    now_ms: i64,
    namespace: &Namespace,
    prefix: &str,
    revision: u64,
    keys_max: usize,
) -> Result<PrefixState, StoreError> {
    let Some(namespace_id) = namespace_id(connection, namespace)? else {
        return Ok(PrefixState::Unchanged);
    };
    let (start, end) = bounds(&Selection::Prefix(prefix.to_owned()));
    let mut statement = connection.prepare_cached(ENTRIES)?;
    let mut found = statement.query((namespace_id, start, end))?;
    let mut looked_at = 0;
    while let Some(row) = found.next()? {
        if looked_at == keys_max {
            return Ok(PrefixState::TooLarge);
        }
        looked_at += 1;
        let written = row.get::<_, i64>(1)?.cast_unsigned();
        let expire_ms: Option<i64> = row.get(5)?;
        if written > revision && expire_ms.is_none_or(|expire_ms| expire_ms > now_ms) {
            return Ok(PrefixState::Changed);
        }
    }
    Ok(PrefixState::Unchanged)
}

/// What a look at the keys of a prefix found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PrefixState {
    Unchanged,
    Changed,
    TooLarge,
}

/// The first key, and the first one past the last, as bytes. No byte of UTF-8 is 0xff, so a prefix's end is the prefix
/// with its last byte raised: not a text, but nothing here needs it to be one.
pub(super) fn bounds(selection: &Selection) -> (Vec<u8>, Vec<u8>) {
    match selection {
        Selection::Prefix(prefix) => {
            let mut end = prefix.as_bytes().to_vec();
            match end.last_mut() {
                Some(byte) => *byte += 1,
                None => end.extend(PAST_ALL_KEYS),
            }
            (prefix.as_bytes().to_vec(), end)
        }
        Selection::Range { start, end } => {
            let end = if end.is_empty() {
                PAST_ALL_KEYS.to_vec()
            } else {
                end.as_bytes().to_vec()
            };
            (start.as_bytes().to_vec(), end)
        }
    }
}

fn key_of(row: &Row<'_>) -> Result<Key, StoreError> {
    stored_key(row.get(0)?)
}

/// A key as it lies in a column.
pub(super) fn stored_key(column: Vec<u8>) -> Result<Key, StoreError> {
    let key = String::from_utf8(column).ok();
    key.and_then(|key| Key::parse(key).ok())
        .ok_or(StoreError::Damaged("a key that is none"))
}

/// About what an entry takes in an answer.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    let metadata: usize = entry
        .metadata
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    entry.content.as_ref().map_or(0, |content| content.as_bytes().len()) + metadata + entry.name.key.as_str().len()
}
