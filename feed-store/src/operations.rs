//! Records of queued writes, and what becomes of them beside being applied.

use feed::apply::Tally;
use feed::commit::Commit;
use feed::keys;
use feed::operation::{OperationMessage, OperationRecord, OperationState};
use feed::state::OperationId;
use feed::withdraw::{Remains, Stays, WITHDRAWN, references, vanishing, withdraw};
use proto::client::watch::{Update, Watch};
use proto::v1;

use crate::load::malformed;
use crate::{FeedStore, FeedStoreError, Outcome};

/// An operation whose documents or record others changed this often in between is left as it is.
const ATTEMPTS_MAX: u32 = 16;

/// Why an operation could not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    /// Something else needs it.
    #[error(transparent)]
    Stays(#[from] Stays),
    /// Other writers were faster every time.
    #[error("lost to other writers {ATTEMPTS_MAX} times")]
    Contended,
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] FeedStoreError),
}

/// A watch on the records of operations. Dropped, it ends.
#[derive(Debug)]
pub struct OperationWatch(Watch);

/// What a watch on the records of operations tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationNews {
    /// From here on every change is told. Comes first, and again after each interruption: read what you need to know.
    Began,
    /// The records of these operations have changed.
    Written(Vec<OperationId>),
}

impl OperationWatch {
    /// What comes next, through interruptions too. An error is one that another attempt would meet again; calling again
    /// makes one, after a pause.
    pub async fn next(&mut self) -> Result<OperationNews, FeedStoreError> {
        loop {
            match self.0.next().await? {
                Update::Began { .. } => return Ok(OperationNews::Began),
                Update::Changed(batch) => {
                    let keys = batch.events.iter().filter_map(|event| event.entry.as_ref());
                    let operations = keys.filter_map(|entry| entry.key.parse().ok());
                    return Ok(OperationNews::Written(operations.collect()));
                }
                Update::CaughtUp { .. } | Update::Interrupted | Update::Reset(_) => {}
            }
        }
    }
}

impl FeedStore {
    /// Watches the records of all operations from now on.
    #[must_use]
    pub fn watch_operations(&self) -> OperationWatch {
        let selector = v1::Selector {
            namespace: keys::OPERATIONS.to_owned(),
            keys: None,
        };
        OperationWatch(self.client.watch(v1::WatchRequest {
            selectors: vec![selector],
            omit_values: true,
            ..Default::default()
        }))
    }

    /// What became of a queued write; none if there is no such operation, or its record has expired.
    pub async fn operation(&self, operation: OperationId) -> Result<Option<OperationRecord>, FeedStoreError> {
        Ok(self.record(operation).await?.0)
    }

    /// Adds to a commit that applies what an operation still owned what is recorded of that. One that owned nothing any
    /// more was superseded, also if it had failed before: newer writes were based on it all the same. What has ended
    /// otherwise stays so.
    pub async fn record_end(
        &self,
        message: &OperationMessage,
        tally: Tally,
        now_ms: i64,
        commit: &mut Commit,
    ) -> Result<(), FeedStoreError> {
        if tally.applied > 0 {
            OperationRecord::ended(message, OperationState::Applied, None, now_ms).put(commit);
            return Ok(());
        }
        let (record, revision) = self.record(message.operation).await?;
        if record.is_none_or(|record| is_open(&record)) {
            commit.expect_revision(keys::operation(message.operation), revision);
            OperationRecord::ended(message, OperationState::Superseded, None, now_ms).put(commit);
        }
        Ok(())
    }

    /// Adds to a commit that gives an operation up what is recorded of that, and answers whether it has failed: one that
    /// owns nothing any more has not, and ends as [`record_end`](Self::record_end) has it.
    pub async fn record_failure(
        &self,
        message: &OperationMessage,
        reason: &str,
        now_ms: i64,
        commit: &mut Commit,
    ) -> Result<bool, FeedStoreError> {
        let owned = self.owned_versions(message.operation, &message.documents).await?;
        let Some((document, revision)) = owned.first() else {
            self.record_end(message, Tally::default(), now_ms, commit).await?;
            return Ok(false);
        };
        commit.expect_revision(keys::pending(*document), *revision);
        OperationRecord::ended(message, OperationState::Failed, Some(reason), now_ms).put(commit);
        Ok(true)
    }

    /// Takes back what the operation of a message still owns, and answers how many documents that was. Its message is
    /// left: whoever is given it finds nothing to apply.
    pub async fn withdraw(&self, message: &OperationMessage, now_ms: i64) -> Result<usize, WithdrawError> {
        for _ in 0..ATTEMPTS_MAX {
            let (mut commit, count) = withdraw(message.operation, &self.remains(message).await?)?;
            if count > 0 {
                OperationRecord::ended(message, OperationState::Failed, Some(WITHDRAWN), now_ms).put(&mut commit);
            } else {
                self.record_end(message, Tally::default(), now_ms, &mut commit).await?;
            }
            if let Outcome::Committed { .. } = self.commit(commit, Vec::new()).await? {
                return Ok(count);
            }
        }
        Err(WithdrawError::Contended)
    }

    /// Records that a failed operation which still owns something is to be tried again.
    pub async fn accept_again(&self, message: &OperationMessage) -> Result<(), FeedStoreError> {
        for _ in 0..ATTEMPTS_MAX {
            if self.owned(message.operation, &message.documents).await?.is_empty() {
                return Ok(());
            }
            let (record, revision) = match self.record(message.operation).await {
                // It is written anew when the operation ends.
                Err(FeedStoreError::Malformed { .. }) => return Ok(()),
                read => read?,
            };
            if record.is_some_and(|record| record.state != OperationState::Failed) {
                return Ok(());
            }
            let mut commit = Commit::default();
            commit.expect_revision(keys::operation(message.operation), revision);
            OperationRecord::new(message, OperationState::Accepted).put(&mut commit);
            if let Outcome::Committed { .. } = self.commit(commit, Vec::new()).await? {
                return Ok(());
            }
        }
        // Its record is rewritten all the time: so somebody is at it.
        Ok(())
    }

    async fn remains(&self, message: &OperationMessage) -> Result<Remains, FeedStoreError> {
        let OperationMessage {
            operation, documents, ..
        } = message;
        let owned = self.owned(*operation, documents).await?;
        let documents = self.documents(&owned).await?;
        let mut remains = Remains::default();
        let references = references(*operation, &documents);
        if !references.is_empty() {
            let (playlists, revision) = self.accepted_playlists(&references).await?;
            remains.playlists = playlists.into_keys().collect();
            remains.playlist_deleted_revision = revision;
        }
        for playlist in vanishing(*operation, &documents) {
            let links = self.links(playlist, 1).await?;
            let channel = links.channels.first().copied();
            remains.links.insert(playlist, (channel, links.revision));
        }
        remains.documents = documents;
        Ok(remains)
    }

    /// The record, and its revision; 0 if there is none.
    pub(crate) async fn record(
        &self,
        operation: OperationId,
    ) -> Result<(Option<OperationRecord>, u64), FeedStoreError> {
        let key = keys::operation(operation);
        let Some(entry) = self.client.get(key.namespace, &key.key).await? else {
            return Ok((None, 0));
        };
        let record = OperationRecord::parse(entry.text().unwrap_or_default());
        let record = record.map_err(|fault| malformed(&key, fault))?;
        Ok((Some(record), entry.revision))
    }
}

/// Whether newer writes may still be found to have replaced it.
fn is_open(record: &OperationRecord) -> bool {
    match record.state {
        OperationState::Accepted => true,
        OperationState::Failed => record.reason.as_deref() != Some(WITHDRAWN),
        OperationState::Applied | OperationState::Superseded => false,
    }
}
