//! One message: which versions its operation still owns, and one commit that applies them, records the outcome and
//! settles the message.

use feed::apply::Tally;
use feed::commit::Commit;
use feed::operation::OperationMessage;
use feed_store::{FeedStore, FeedStoreError, Outcome};
use proto::v1::settlement::{Ack, Action, Dead};
use runtime::clock::Clock;

use crate::lease::Lease;

/// A commit that lost to another writer of one of its documents this often is left to the queue's back-off.
const COMMIT_ATTEMPTS_MAX: u32 = 16;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Its effect and its acknowledgement are one commit, which happened.
    Done(Tally),
    /// Somebody else holds the message now; nothing was changed.
    LeaseLost,
}

/// What became of a message that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buried {
    /// It is dead, and its operation failed.
    Failed,
    /// Its operation owned nothing any more; it is gone.
    Superseded,
    /// Somebody else holds the message now; nothing was changed.
    LeaseLost,
}

/// Why a message was not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// Storage failed, or holds what this version does not read.
    #[error(transparent)]
    Store(#[from] FeedStoreError),
    /// Other writers were faster every time.
    #[error("lost to other writers {COMMIT_ATTEMPTS_MAX} times")]
    Contended,
}

impl ApplyError {
    /// Whether storage is away, which says nothing about the message.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }
}

/// Applies what the operation of this message still owns, and acks.
pub(crate) async fn apply(
    store: &FeedStore,
    clock: &Clock,
    message: &OperationMessage,
    lease: &Lease,
) -> Result<Applied, ApplyError> {
    for _ in 0..COMMIT_ATTEMPTS_MAX {
        let (mut commit, tally) = store.owned_changes(message.operation, &message.documents).await?;
        store.record_end(message, tally, clock.now_ms(), &mut commit).await?;
        match store
            .commit(commit, vec![lease.settlement(Action::Ack(Ack {}))])
            .await?
        {
            Outcome::Committed { .. } => return Ok(Applied::Done(tally)),
            Outcome::Conflict { lease_lost: true, .. } => return Ok(Applied::LeaseLost),
            Outcome::Conflict { .. } => {}
        }
    }
    Err(ApplyError::Contended)
}

/// Gives the message up: the operation is recorded as failed, the message is kept as dead. The pending version stays,
/// so that putting the message back can still apply it. If the operation owns nothing any more there is nothing to give
/// up: its message is acked.
pub(crate) async fn bury(
    store: &FeedStore,
    clock: &Clock,
    message: &OperationMessage,
    lease: &Lease,
    reason: &str,
) -> Result<Buried, ApplyError> {
    for _ in 0..COMMIT_ATTEMPTS_MAX {
        let mut commit = Commit::default();
        let has_failed = store
            .record_failure(message, reason, clock.now_ms(), &mut commit)
            .await?;
        let (action, buried) = if has_failed {
            let reason = reason.to_owned();
            (Action::Dead(Dead { reason }), Buried::Failed)
        } else {
            (Action::Ack(Ack {}), Buried::Superseded)
        };
        match store.commit(commit, vec![lease.settlement(action)]).await? {
            Outcome::Committed { .. } => return Ok(buried),
            Outcome::Conflict { lease_lost: true, .. } => return Ok(Buried::LeaseLost),
            Outcome::Conflict { .. } => {}
        }
    }
    Err(ApplyError::Contended)
}
