//! What a request did beside its rows. Kept apart until its savepoint holds, and told to nobody before the commit: a
//! request that fails leaves no trace in memory either.

use std::collections::BTreeSet;

use super::history::Growth;

/// When a request runs, and on which state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The store's time.
    pub(super) now_ms: i64,
    /// The store's revision before the request.
    pub(super) revision: u64,
}

/// What a request did beside its rows.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// It changed the file.
    pub(super) wrote: bool,
    /// The store's revision now, if keys changed.
    pub(super) revision: Option<u64>,
    /// A message's time was set.
    pub(super) timed: bool,
    /// Messages that are no longer leased.
    pub(super) released: Vec<u64>,
    /// Queues that messages became ready in.
    pub(super) ready: BTreeSet<i64>,
    /// Changes of keys that it recorded or forgot.
    pub(super) history: Growth,
}

impl Effects {
    /// Adds those of a request that ran later.
    pub(super) fn absorb(&mut self, later: Self) {
        self.wrote |= later.wrote;
        self.revision = later.revision.or(self.revision);
        self.timed |= later.timed;
        self.released.extend(later.released);
        self.ready.extend(later.ready);
        self.history.add(later.history);
    }
}
