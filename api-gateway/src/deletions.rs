//! How writes stand to the deletions of playlists that this gateway makes.
//!
//! Each of those changes what every write of playlist URLs is judged on, whichever playlist it is of: without an order,
//! steady deletions would let no such write through. This is fair and spares work; it keeps nothing correct. Other
//! gateways delete too, and the checks of each commit alone decide.

use std::sync::Arc;

use feed::accept::Write;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// The line that deletions and the writes that lost to one wait in, first come, first served.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeletionLine(Arc<RwLock<()>>);

/// How an attempt at a write stands to deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// They do not concern the write, or have not been in its way yet.
    Any,
    /// It is one. They go side by side.
    Deletion,
    /// It lost to one: the others wait until it was attempted again.
    BeforeDeletions,
}

/// A place in the line, for one attempt: whoever holds it must not wait for a turn at a document.
#[derive(Debug)]
pub(crate) struct Place(
    #[expect(dead_code, reason = "held, not read")] Option<OwnedRwLockReadGuard<()>>,
    #[expect(dead_code, reason = "held, not read")] Option<OwnedRwLockWriteGuard<()>>,
);

impl Order {
    /// That of a write's first attempt.
    pub(crate) fn of(write: &Write) -> Self {
        match write {
            Write::DeletePlaylist(_) => Self::Deletion,
            _ => Self::Any,
        }
    }
}

impl DeletionLine {
    /// Waits for its place.
    pub(crate) async fn place(&self, order: Order) -> Place {
        match order {
            Order::Any => Place(None, None),
            Order::Deletion => Place(Some(Arc::clone(&self.0).read_owned().await), None),
            Order::BeforeDeletions => Place(None, Some(Arc::clone(&self.0).write_owned().await)),
        }
    }
}
