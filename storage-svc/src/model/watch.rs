//! Watching keys: what is asked for and what is told.

use std::time::Duration;

use super::name::Namespace;
use super::read::{Entry, Selection, With};

/// Some keys of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// Where.
    pub namespace: Namespace,
    /// Which keys.
    pub selection: Selection,
}

/// A request to be told of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// A key is watched if one of them selects it.
    pub selectors: Vec<Selector>,
    /// Changes of later revisions only; none: than the store's when the watch begins.
    pub after_revision: Option<u64>,
    /// Whether what was written comes along.
    pub with: With,
    /// Silence after which a progress mark is due.
    pub progress_interval: Duration,
}

/// How a key changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Written.
    Put = 1,
    /// Deleted.
    Delete = 2,
    /// Collected after its expiry.
    Expire = 3,
}

/// Changes of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeBatch {
    /// Which.
    pub revision: u64,
    /// When it was committed.
    pub commit_ms: i64,
    /// In the order they were made. An entry is what the revision wrote; of one that is gone only the key.
    pub events: Vec<(Event, Entry)>,
    /// Other changes of the same revision follow.
    pub more: bool,
}

/// What a watch is told, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The first: how the store was when the watch began.
    Head {
        /// The store's revision.
        store_revision: u64,
        /// The lowest revision that could have been asked for.
        oldest_revision: u64,
    },
    /// Changes.
    Changes(ChangeBatch),
    /// Everything up to this revision has been told.
    Progress(u64),
}

/// The history that watches can go back over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryStats {
    /// Changes kept.
    pub changes: u64,
    /// Keys, values and metadata added up, with something for each change.
    pub bytes: u64,
}
