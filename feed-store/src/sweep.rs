//! `pending` is the truth and the queue a to-do list: what is pending and has no message gets a new one.
//!
//! A pending version is written together with its message, so none is ever without one but for what was done to the queue
//! by hand, or a message that was dead for longer than the queue keeps such ones. A message stays in the queue, under its
//! id, until the commit that removes the pending versions of its operation: one that is not found by looking through all
//! messages, from the lowest id on, after its version was seen to be pending, is not there.

use std::collections::BTreeMap;
use std::time::Duration;

use feed::accept::META_OPERATION;
use feed::commit::Commit;
use feed::id::DocumentKey;
use feed::keys;
use feed::operation::{OperationMessage, OperationRecord, OperationState};
use feed::state::{Malformed, OperationId};
use feed::time;
use proto::limits::{LIST_ROWS_MAX, SCAN_ROWS_MAX};
use proto::v1;

use crate::load::malformed;
use crate::{FeedStore, FeedStoreError, Outcome, WRITE_QUEUE};

/// Most pending versions that one sweep looks after; the next one goes on behind them.
pub const SWEEP_VERSIONS_MAX: usize = 10_000;
/// Most messages that one sweep looks through. In a longer queue nothing is missed before it is shorter again.
pub const SWEEP_MESSAGES_MAX: usize = 50_000;

/// Where the next sweep begins.
#[derive(Clone, Debug, Default)]
pub struct SweepPlace(Option<String>);

/// What a sweep came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Operations that had no message and have one again.
    pub enqueued: usize,
    /// The queue was too long to be looked through.
    pub gave_up: bool,
}

/// Documents with the revision of their pending version.
type Versions = BTreeMap<DocumentKey, u64>;

impl FeedStore {
    /// Whether any accepted version waits to be applied.
    pub async fn has_pending(&self) -> Result<bool, FeedStoreError> {
        let page = self.pending_page(None, 1, String::new()).await?;
        Ok(!page.rows.is_empty())
    }

    /// Whether it is the caller's turn to sweep; then it is nobody else's for so long.
    pub async fn take_sweep_turn(&self, length: Duration) -> Result<bool, FeedStoreError> {
        let mut commit = Commit::default();
        commit.expect_revision(keys::sweep_turn(), 0);
        commit.put_for(
            keys::sweep_turn(),
            "",
            i64::try_from(length.as_millis()).unwrap_or(i64::MAX),
        );
        Ok(matches!(
            self.commit(commit, Vec::new()).await?,
            Outcome::Committed { .. }
        ))
    }

    /// Enqueues again what is pending and has no message. Any number of sweeps at once do no harm: each enqueues only what
    /// is still pending when it does, and the queue takes one message of an operation for as long as it remembers it.
    pub async fn sweep(&self, place: &mut SweepPlace, now_ms: i64) -> Result<Swept, FeedStoreError> {
        let (mut waiting, next) = self.pending_versions(place).await?;
        let mut swept = Swept {
            enqueued: 0,
            gave_up: !self.strike_out_enqueued(&mut waiting).await?,
        };
        if swept.gave_up {
            return Ok(swept);
        }
        for (operation, versions) in waiting {
            if self.enqueue_again(operation, versions, now_ms).await? {
                swept.enqueued += 1;
            }
        }
        *place = next;
        Ok(swept)
    }

    /// Which operations own pending versions, and where the next look begins.
    async fn pending_versions(
        &self,
        place: &SweepPlace,
    ) -> Result<(BTreeMap<OperationId, Versions>, SweepPlace), FeedStoreError> {
        let mut waiting: BTreeMap<_, Versions> = BTreeMap::new();
        let mut count = 0;
        let mut page_token = String::new();
        loop {
            let page = self.pending_page(place.0.as_deref(), SCAN_ROWS_MAX, page_token).await?;
            let mut last = None;
            for entry in page.rows.into_iter().filter_map(|row| row.entry) {
                let (document, operation) = owner(&entry)?;
                waiting.entry(operation).or_default().insert(document, entry.revision);
                count += 1;
                last = Some(entry.key);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok((waiting, SweepPlace::default()));
            }
            if count >= SWEEP_VERSIONS_MAX && last.is_some() {
                return Ok((waiting, SweepPlace(last)));
            }
        }
    }

    async fn pending_page(
        &self,
        from: Option<&str>,
        rows: usize,
        page_token: String,
    ) -> Result<v1::ScanResponse, FeedStoreError> {
        let [start, end] = keys::all_pending();
        let range = v1::KeyRange {
            start: from.map_or(start.key, str::to_owned),
            end: end.key,
        };
        let request = v1::ScanRequest {
            selector: Some(v1::Selector {
                namespace: start.namespace.to_owned(),
                keys: Some(v1::selector::Keys::Range(range)),
            }),
            page_size: i32::try_from(rows).unwrap_or(i32::MAX),
            page_token,
            omit_values: true,
            ..Default::default()
        };
        Ok(self.client.scan(request).await?)
    }

    /// Takes out the operations that have a message, in whatever state; false if there are too many messages to tell.
    async fn strike_out_enqueued(&self, waiting: &mut BTreeMap<OperationId, Versions>) -> Result<bool, FeedStoreError> {
        let mut count = 0;
        let mut page_token = String::new();
        while !waiting.is_empty() {
            let page = self.client.list_messages(v1::ListMessagesRequest {
                queue: WRITE_QUEUE.to_owned(),
                page_size: i32::try_from(LIST_ROWS_MAX).unwrap_or(i32::MAX),
                page_token,
                ..Default::default()
            });
            // Nobody has used the queue yet, or it was deleted.
            let Some(page) = page.await? else { return Ok(true) };
            count += page.messages.len();
            // What is no message of ours is not of an operation either.
            let messages = page.messages.iter().filter_map(|message| message.text());
            for message in messages.filter_map(|text| OperationMessage::parse(text).ok()) {
                waiting.remove(&message.operation);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(true);
            }
            if count >= SWEEP_MESSAGES_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// False if one of the versions is not pending any more, or a message was added and taken away again a moment ago.
    async fn enqueue_again(
        &self,
        operation: OperationId,
        versions: Versions,
        now_ms: i64,
    ) -> Result<bool, FeedStoreError> {
        let mut commit = Commit::default();
        for (document, revision) in &versions {
            commit.expect_revision(keys::pending(*document), *revision);
        }
        let record = self.operation(operation).await?;
        let message = OperationMessage {
            operation,
            accepted_at: record.map_or_else(|| time::to_text(now_ms), |record| record.accepted_at),
            // A deleted playlist stands before the channels of its cascade, as in the message that is gone.
            documents: versions.into_keys().collect(),
        };
        OperationRecord::new(&message, OperationState::Accepted).put(&mut commit);
        commit.message = Some(message.to_text());
        self.commit_once(commit, &operation.to_string()).await
    }
}

/// The document of a pending version, and the operation that owns it.
fn owner(entry: &v1::Entry) -> Result<(DocumentKey, OperationId), FeedStoreError> {
    let document = entry.key.parse().ok();
    let operation = entry.metadata.get(META_OPERATION).and_then(|text| text.parse().ok());
    document.zip(operation).ok_or_else(|| {
        let [key, _] = keys::all_pending();
        malformed(&key, Malformed("pending version"))
    })
}
