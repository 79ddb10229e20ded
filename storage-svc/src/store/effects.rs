//! What a request did beside its rows. Kept apart until its savepoint holds, and told to nobody before the commit: a
//! request that fails leaves no trace in memory either.

use std::collections::BTreeSet;

use super::history::Growth;
use crate::model::Lease;

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
    /// Leases among those that nobody settled in time.
    pub(super) ran_out: Vec<Lease>,
    /// Queues that messages became ready in, or whose waiting callers must look again for another reason.
    pub(super) ready: BTreeSet<i64>,
    /// Changes of keys that it recorded or forgot.
    pub(super) history: Growth,
    /// Dead messages that were kept long enough and are deleted.
    pub(super) forgotten: Vec<Forgotten>,
}

/// A dead message that was deleted because of its age: nobody asked for it, so it is logged.
#[derive(Debug)]
pub(super) struct Forgotten {
    /// The queue's name.
    pub(super) queue: String,
    pub(super) message_id: u64,
}

impl Effects {
    /// Adds those of a request that ran later.
    pub(super) fn absorb(&mut self, later: Self) {
        self.wrote |= later.wrote;
        self.revision = later.revision.or(self.revision);
        self.timed |= later.timed;
        self.released.extend(later.released);
        self.ran_out.extend(later.ran_out);
        self.ready.extend(later.ready);
        self.history.add(later.history);
        self.forgotten.extend(later.forgotten);
    }

    /// Logs what was done unasked.
    pub(super) fn log(&self) {
        for forgotten in &self.forgotten {
            tracing::info!(
                queue.name = forgotten.queue,
                message.id = forgotten.message_id,
                "a dead message is deleted: its queue keeps them no longer"
            );
        }
    }
}
