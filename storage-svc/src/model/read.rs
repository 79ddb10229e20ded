//! Reads of keys and their answers.

use super::name::{Content, Key, KeyName, Namespace, Pairs};

/// Which content a read brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Revisions and metadata alone.
    NoContent,
    /// The content as it was written.
    Content,
}

/// One key with its value, as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which key.
    pub name: KeyName,
    /// None: left out.
    pub content: Option<Content>,
    /// Of the commit that last wrote it.
    pub revision: u64,
    /// Of the commit that created it.
    pub create_revision: u64,
    /// Writes since creation.
    pub version: u64,
    /// When it was last written.
    pub update_ms: i64,
    /// From when on it is not there.
    pub expire_ms: Option<i64>,
    /// As written.
    pub metadata: Pairs,
}

/// An answer with the store's revision in the snapshot that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<T> {
    /// What was read.
    pub found: T,
    /// The store's revision then.
    pub store_revision: u64,
}

/// Some keys of one namespace, in order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The keys that start with it.
    Prefix(String),
    /// The keys from `start` up to and without `end`; an empty `end` is past the last key.
    Range {
        /// First key.
        start: String,
        /// First key that is out.
        end: String,
    },
}

/// Following scanned entries to the records that their values name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dereference {
    /// Where the records are.
    pub target: Namespace,
    /// Leave out the entries whose record is missing.
    pub skip_dangling: bool,
}

/// One page of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where.
    pub namespace: Namespace,
    /// Which keys.
    pub selection: Selection,
    /// From the last to the first.
    pub reverse: bool,
    /// Most rows.
    pub rows_max: usize,
    /// The last key of the page before.
    pub after: Option<Key>,
    /// Whether the scanned entries bring their content.
    pub with: With,
    /// Whether to follow them.
    pub dereference: Option<Dereference>,
}

/// A scanned entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRow {
    /// The entry.
    pub entry: Entry,
    /// The record that it names.
    pub target: Option<Entry>,
}

/// A page of scanned entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage {
    /// In the order asked for.
    pub rows: Vec<ScanRow>,
    /// The last key that was looked at, if there may be more.
    pub last: Option<Key>,
}
