//! What the writer is asked to do, and how whoever asks is answered.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::batch::{Batch, in_time};
use super::effects::{Effects, Moment};
use super::queue;
use super::room::Reserved;
use super::waiting::Claim;
use crate::error::StoreError;
use crate::model::{Commit, Deadline, Outcome, Settled, Settlement};

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    Commit {
        commit: Box<Commit>,
        deadline: Deadline,
        answer: Answer<Outcome>,
        /// The commit's share of the memory that may wait here.
        room: Reserved,
    },
    /// Any other change.
    Write(Write),
    Claim(Claim),
    /// Work between batches.
    Aside(Aside),
    /// Look at the clock: answered after a batch has moved messages whose time had come.
    Sweep(Answer<()>),
    /// There is something to do that is not in the channel.
    Wake,
    /// Finish what came before, and end.
    Close,
}

impl Job {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Commit { commit, .. } => commit.bytes,
            _ => 0,
        }
    }
}

/// A change that only its asker knows: it runs in a savepoint of its own, and is answered after the commit.
pub(super) struct Write(pub(super) Box<dyn FnOnce(&mut Batch<'_>) -> Reply + Send>);

/// Answers a change, once it is known whether its batch was committed.
pub(super) type Reply = Box<dyn FnOnce(&Result<(), StoreError>)>;

impl Write {
    /// The change that `work` makes, not begun after `deadline`, its result sent to `answer`.
    pub(super) fn new<T: Send + 'static>(
        work: impl FnOnce(&Connection, Moment) -> Result<(T, Effects), StoreError> + Send + 'static,
        deadline: Deadline,
        answer: Answer<T>,
    ) -> Self {
        Self(Box::new(move |batch| {
            let result = in_time(deadline).and_then(|()| batch.attempt(work));
            Box::new(move |committed| drop(answer.send(committed.clone().and(result))))
        }))
    }

    /// Settlements of a client, each for itself, not begun after `deadline`.
    pub(super) fn settle(settlements: Arc<[Settlement]>, deadline: Deadline, answer: Answer<Vec<Settled>>) -> Self {
        Self(Box::new(move |batch| {
            batch.hear(&settlements);
            let settle =
                move |connection: &_, moment: Moment| queue::settle_each(connection, moment.now_ms, &settlements);
            Self::new(settle, deadline, answer).0(batch)
        }))
    }
}

/// Work on the connection between two batches: what no transaction may be open for.
pub(super) struct Aside(pub(super) Box<dyn FnOnce(&Connection) + Send>);

impl Aside {
    /// The work, not begun after `deadline`, its result sent to `answer`.
    pub(super) fn new<T: Send + 'static>(
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        deadline: Deadline,
        answer: Answer<T>,
    ) -> Self {
        Self(Box::new(move |connection| {
            drop(answer.send(in_time(deadline).and_then(|()| work(connection))));
        }))
    }

    pub(super) fn run(self, connection: &Connection) {
        (self.0)(connection);
    }
}

impl std::fmt::Debug for Aside {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Aside")
    }
}

impl std::fmt::Debug for Write {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Write")
    }
}
