//! What a write means in storage: checks, and the keys it puts and deletes, each at most once. Values only; turning
//! them into calls is the affair of whoever holds a connection.

use std::collections::BTreeMap;

use crate::keys::Key;

/// A condition on what is stored when the commit happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The key, or the prefix.
    pub key: Key,
    /// What must hold.
    pub expect: Expect,
}

/// What a [`Check`] asks of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key's entry is of this revision; 0: there is none.
    Revision(u64),
    /// No key of the prefix was written after this revision of the store.
    PrefixUnchangedSince(u64),
}

/// What becomes of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It holds this text.
    Put {
        /// The value.
        text: String,
        /// The entry's metadata.
        metadata: Vec<(&'static str, String)>,
        /// Gone after this many milliseconds; none: stays.
        ttl_ms: Option<i64>,
    },
    /// It is gone.
    Delete,
}

/// One transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// All must hold.
    pub checks: Vec<Check>,
    /// What changes then.
    pub changes: BTreeMap<Key, Change>,
    /// Text of a message for the write queue.
    pub message: Option<String>,
}

impl Commit {
    /// The entry must be of this revision; 0: must not exist.
    pub fn expect_revision(&mut self, key: Key, revision: u64) {
        self.checks.push(Check {
            key,
            expect: Expect::Revision(revision),
        });
    }

    /// No key of the prefix may have been written after this revision.
    pub fn expect_prefix_unchanged_since(&mut self, prefix: Key, revision: u64) {
        self.checks.push(Check {
            key: prefix,
            expect: Expect::PrefixUnchangedSince(revision),
        });
    }

    /// Writes text that stays.
    pub fn put(&mut self, key: Key, text: impl Into<String>) {
        self.put_with(key, text, Vec::new());
    }

    /// Writes text with metadata.
    pub fn put_with(&mut self, key: Key, text: impl Into<String>, metadata: Vec<(&'static str, String)>) {
        self.changes.insert(
            key,
            Change::Put {
                text: text.into(),
                metadata,
                ttl_ms: None,
            },
        );
    }

    /// Writes text that is gone after `ttl_ms` milliseconds.
    pub fn put_for(&mut self, key: Key, text: impl Into<String>, ttl_ms: i64) {
        self.changes.insert(
            key,
            Change::Put {
                text: text.into(),
                metadata: Vec::new(),
                ttl_ms: Some(ttl_ms),
            },
        );
    }

    /// Deletes a key; one that is not there is left so.
    pub fn delete(&mut self, key: Key) {
        self.changes.insert(key, Change::Delete);
    }

    /// Writes an index entry, if the document has one.
    pub(crate) fn put_any(&mut self, key: Option<Key>, text: &str) {
        if let Some(key) = key {
            self.put(key, text);
        }
    }

    /// Deletes an index entry, if the document had one.
    pub(crate) fn delete_any(&mut self, key: Option<Key>) {
        if let Some(key) = key {
            self.delete(key);
        }
    }
}
