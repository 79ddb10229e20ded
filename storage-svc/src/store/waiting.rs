//! Callers that wait for messages, in the order they came, and messages that were leased for callers who went away.
//!
//! The writer alone keeps the line of waiting callers: whoever makes a message ready runs on the writer too, so nobody
//! can be missed between looking and lying down to wait.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::job::Job;
use super::window::Window;
use crate::error::StoreError;
use crate::model::{Deadline, Delivery, Lease, QueueName};

/// A caller that asks for messages.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) queue: QueueName,
    pub(super) asked: Asked,
    /// Whether it waits if there are none.
    pub(super) patience: Patience,
    pub(super) deadline: Deadline,
    pub(super) returns: Returns,
    pub(super) answer: oneshot::Sender<Result<Claimed, StoreError>>,
}

impl Claim {
    /// How much it asks for now; none: it is given nothing.
    pub(super) fn ask(&self) -> Option<Ask> {
        match &self.asked {
            Asked::Once(ask) => Some(*ask),
            Asked::Window(window) => window.ask(),
        }
    }

    /// The window that its messages will be out through.
    pub(super) fn window(&self) -> Option<&Arc<Window>> {
        match &self.asked {
            Asked::Once(_) => None,
            Asked::Window(window) => Some(window),
        }
    }
}

/// Who asks.
#[derive(Debug)]
pub(super) enum Asked {
    /// A caller, for so much.
    Once(Ask),
    /// A stream, for what its window has room for when its turn comes.
    Window(Arc<Window>),
}

/// How much a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) messages_max: usize,
    /// The answer ends after the message that reaches it.
    pub(super) bytes_max: usize,
    /// None: whatever its size, a message has room.
    pub(super) room: Option<Room>,
    /// None: the queue's setting.
    pub(super) lease_ms: Option<i64>,
}

/// Where there is only so much room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// For bodies.
    pub(super) bytes: usize,
    /// Nothing is there yet: the first message fits whatever its size.
    pub(super) is_whole: bool,
}

impl Room {
    /// Whether bodies of so many bytes fit after `count` others, those counted in.
    pub(super) fn fits(self, count: usize, bytes: usize) -> bool {
        bytes <= self.bytes || (self.is_whole && count == 0)
    }
}

/// Messages that were leased.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) deliveries: Vec<Delivery>,
    /// There was another message, but no room for it.
    pub(super) is_crowded: bool,
}

/// Whether a caller waits if there are no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    None,
    UntilItGoesAway,
}

/// Messages leased for a caller. Dropped before the caller took them, they go back.
#[derive(Debug)]
pub(super) struct Claimed {
    deliveries: Vec<Delivery>,
    returns: Returns,
}

impl Claimed {
    pub(super) fn new(deliveries: Vec<Delivery>, returns: Returns) -> Self {
        Self { deliveries, returns }
    }

    /// The caller has them.
    pub(super) fn take(mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.deliveries.is_empty() {
            let untold = self.deliveries.iter().map(|delivery| delivery.lease);
            self.returns.add(untold.collect(), Vec::new());
        }
    }
}

/// Leases of callers who went away. At most as many wait here as those that go away at once were given.
#[derive(Debug, Default)]
pub(super) struct Returned {
    /// Of callers who were never told: the attempt does not count.
    pub(super) untold: Vec<Lease>,
    /// Of streams that ended: as after a nack.
    pub(super) unsettled: Vec<Lease>,
}

impl Returned {
    pub(super) fn is_empty(&self) -> bool {
        self.untold.is_empty() && self.unsettled.is_empty()
    }

    /// At most so many of each.
    pub(super) fn take(&mut self, leases_max: usize) -> Self {
        let part = |leases: &mut Vec<Lease>| leases.split_off(leases.len().saturating_sub(leases_max));
        Self {
            untold: part(&mut self.untold),
            unsettled: part(&mut self.unsettled),
        }
    }

    pub(super) fn put_back(&mut self, taken: Self) {
        self.untold.extend(taken.untold);
        self.unsettled.extend(taken.unsettled);
    }
}

/// Where leases are given back.
#[derive(Clone, Debug)]
pub(super) struct Returns {
    returned: Arc<Mutex<Returned>>,
    jobs: SyncSender<Job>,
}

impl Returns {
    pub(super) fn new(returned: Arc<Mutex<Returned>>, jobs: SyncSender<Job>) -> Self {
        Self { returned, jobs }
    }

    pub(super) fn add(&self, untold: Vec<Lease>, unsettled: Vec<Lease>) {
        let given = Returned { untold, unsettled };
        if given.is_empty() {
            return;
        }
        self.returned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put_back(given);
        // A full channel means that the writer is awake anyway, a closed one that it is gone.
        let _ = self.jobs.try_send(Job::Wake);
    }
}

/// The lines, one for each queue.
#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<i64, VecDeque<Waiter>>);

/// A place in a line.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The batch that it came in: if that fails, it goes.
    batch: u64,
    pub(super) claim: Claim,
}

impl Lines {
    /// At the end of the queue's line.
    pub(super) fn join(&mut self, queue_id: i64, batch: u64, claim: Claim) {
        self.0.entry(queue_id).or_default().push_back(Waiter { batch, claim });
    }

    /// The first that is still there.
    pub(super) fn next(&mut self, queue_id: i64) -> Option<Waiter> {
        let line = self.0.get_mut(&queue_id)?;
        while let Some(waiter) = line.pop_front() {
            if !waiter.claim.answer.is_closed() {
                return Some(waiter);
            }
        }
        self.0.remove(&queue_id);
        None
    }

    /// Back to where it was.
    pub(super) fn put_back(&mut self, queue_id: i64, waiter: Waiter) {
        self.0.entry(queue_id).or_default().push_front(waiter);
    }

    /// Those of a queue that do not wait.
    pub(super) fn take_impatient(&mut self, queue_id: i64) -> Vec<Claim> {
        self.take(queue_id, |waiter| waiter.claim.patience == Patience::None)
    }

    /// Those that came in a batch.
    pub(super) fn take_batch(&mut self, batch: u64) -> Vec<Claim> {
        let queue_ids: Vec<i64> = self.0.keys().copied().collect();
        let taken = queue_ids
            .into_iter()
            .flat_map(|id| self.take(id, |waiter| waiter.batch == batch));
        taken.collect()
    }

    /// The queues where somebody waits.
    pub(super) fn queue_ids(&self) -> impl Iterator<Item = i64> {
        self.0.keys().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets those that went away.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|_, line| {
            line.retain(|waiter| !waiter.claim.answer.is_closed());
            !line.is_empty()
        });
    }

    fn take(&mut self, queue_id: i64, leaves: impl Fn(&Waiter) -> bool) -> Vec<Claim> {
        let Some(line) = self.0.get_mut(&queue_id) else {
            return Vec::new();
        };
        let (left, stay): (VecDeque<_>, _) = std::mem::take(line).into_iter().partition(leaves);
        *line = stay;
        left.into_iter().map(|waiter| waiter.claim).collect()
    }
}
