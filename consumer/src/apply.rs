//! One message: which versions its operation still owns, and one commit that applies them, records the outcome and
//! settles the message.

use feed::apply::Tally;
use feed::commit::Commit;
use feed::operation::{OperationMessage, OperationRecord, OperationState};
use feed_store::{FeedStore, FeedStoreError, Outcome};
use proto::v1;
use proto::v1::settlement::{Ack, Action, Dead};
use runtime::clock::Clock;

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

/// Applies what the operation of this message still owns, and acks.
pub(crate) async fn apply(
    store: &FeedStore,
    clock: &Clock,
    message: &OperationMessage,
    receipt: &[u8],
) -> Result<Applied, ApplyError> {
    for _ in 0..COMMIT_ATTEMPTS_MAX {
        let (mut commit, tally) = store.owned_changes(message.operation, &message.documents).await?;
        let state = if tally.applied > 0 {
            OperationState::Applied
        } else {
            OperationState::Superseded
        };
        OperationRecord::ended(message, state, None, clock.now_ms()).put(&mut commit);
        match store
            .commit(commit, vec![settlement(receipt, Action::Ack(Ack {}))])
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
/// so that putting the message back can still apply it.
pub(crate) async fn bury(
    store: &FeedStore,
    clock: &Clock,
    message: &OperationMessage,
    receipt: &[u8],
    reason: &str,
) -> Result<(), FeedStoreError> {
    let mut commit = Commit::default();
    OperationRecord::ended(message, OperationState::Failed, Some(reason), clock.now_ms()).put(&mut commit);
    let dead = Action::Dead(Dead {
        reason: reason.to_owned(),
    });
    store.commit(commit, vec![settlement(receipt, dead)]).await.map(|_| ())
}

/// A settlement of one receipt.
pub(crate) fn settlement(receipt: &[u8], action: Action) -> v1::Settlement {
    v1::Settlement {
        receipt: receipt.to_vec().into(),
        action: Some(action),
    }
}
