//! Callers that wait for messages, in the order they came, and messages that were leased for callers who went away.
//!
//! The writer alone keeps the line of waiting callers: whoever makes a message ready runs on the writer too, so nobody
//! can be missed between looking and lying down to wait.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::writer::Job;
use crate::error::StoreError;
use crate::model::{Deadline, Delivery, Lease, QueueName};

/// A caller that asks for messages.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) queue: QueueName,
    pub(super) ask: Ask,
    /// Whether it waits if there are none.
    pub(super) patience: Patience,
    pub(super) deadline: Deadline,
    pub(super) returns: Returns,
    pub(super) answer: oneshot::Sender<Result<Claimed, StoreError>>,
}

/// How much a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) messages_max: usize,
    /// The answer ends after the message that reaches it.
    pub(super) bytes_max: usize,
    /// None: the queue's setting.
    pub(super) lease_ms: Option<i64>,
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
            self.returns.add(self.deliveries.iter().map(|delivery| delivery.lease));
        }
    }
}

/// Leases to be given back. At most as many wait here as callers that go away at once were given.
#[derive(Clone, Debug)]
pub(super) struct Returns {
    leases: Arc<Mutex<Vec<Lease>>>,
    jobs: SyncSender<Job>,
}

impl Returns {
    pub(super) fn new(leases: Arc<Mutex<Vec<Lease>>>, jobs: SyncSender<Job>) -> Self {
        Self { leases, jobs }
    }

    fn add(&self, given: impl Iterator<Item = Lease>) {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).extend(given);
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
