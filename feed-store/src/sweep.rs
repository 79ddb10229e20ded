//! `pending` is the truth and the queue a to-do list: what is pending and has no message gets a new one.
//!
//! A pending version is written together with its message, so none is ever without one but for what was done to the queue
//! by hand, or a message that was dead for longer than the queue keeps such ones. A message stays in the queue, under its
//! id, until the commit that removes the pending versions of its operation: one that is not found by looking through all
//! messages, from the lowest id on, after its version was seen to be pending, is not there.
//!
//! Records of operations follow: what is accepted owns something, and its message is not dead. Where no consumer could
//! record that, a sweep does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use feed::accept::META_OPERATION;
use feed::commit::Commit;
use feed::id::DocumentKey;
use feed::keys;
use feed::operation::{OperationMessage, OperationRecord, OperationState};
use feed::state::OperationId;
use feed::time;
use proto::client::Content as Values;
use proto::limits::{LIST_ROWS_MAX, SCAN_ROWS_MAX};
use proto::v1;

use crate::load::malformed;
use crate::{FeedStore, FeedStoreError, Outcome, WRITE_QUEUE};

/// Most pending versions that one sweep looks after; the next one goes on behind them.
pub const SWEEP_VERSIONS_MAX: usize = 10_000;
/// Most messages that one sweep looks through. In a longer queue nothing is missed before it is shorter again.
pub const SWEEP_MESSAGES_MAX: usize = 50_000;
/// Most records of operations that one sweep looks at; the next one goes on behind them.
pub const SWEEP_RECORDS_MAX: usize = SCAN_ROWS_MAX;
/// An operation that was accepted more recently is let be: its message is most likely on its way. 5 minutes.
pub const SWEEP_RECORD_AGE_MIN: Duration = Duration::from_mins(5);

/// Where the next sweep begins.
#[derive(Clone, Debug, Default)]
pub struct SweepPlace {
    /// Key of a pending version.
    version: Option<String>,
    /// Of the next page of records.
    record_token: String,
}

/// What sweeps came to, those that failed half way included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Operations that had no message and have one again.
    pub enqueued: usize,
    /// Operations that are recorded as failed, for their messages were found dead.
    pub failed: usize,
    /// Operations that are recorded as superseded, for they were found to own nothing any more.
    pub superseded: usize,
    /// Keys of malformed records, which were passed over.
    pub malformed: BTreeSet<String>,
    /// The queue was too long to be looked through, the last time.
    pub gave_up: bool,
}

/// Documents with the revision of their pending version.
type Versions = BTreeMap<DocumentKey, u64>;

/// An operation whose message is dead, and which owns something.
struct Dead {
    message: OperationMessage,
    reason: String,
    owned: (DocumentKey, u64),
}

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
        self.is_committed(commit).await
    }

    /// Enqueues again what is pending and has no message, and records as failed what waits for a dead one. Any number of
    /// sweeps at once do no harm: each enqueues only what is still pending when it does, and the queue takes one message of
    /// an operation for as long as it remembers it.
    pub async fn sweep(&self, place: &mut SweepPlace, swept: &mut Swept, now_ms: i64) -> Result<(), FeedStoreError> {
        let (mut waiting, next) = self.pending_versions(place.version.as_deref(), swept).await?;
        swept.gave_up = !self.strike_out_enqueued(&mut waiting, swept, now_ms).await?;
        if swept.gave_up {
            return Ok(());
        }
        for (operation, versions) in waiting {
            match self.enqueue_again(operation, versions, now_ms).await {
                Ok(enqueued) => swept.enqueued += usize::from(enqueued),
                Err(FeedStoreError::Malformed { key, .. }) => drop(swept.malformed.insert(key)),
                Err(error) => return Err(error),
            }
        }
        place.version = next;
        Ok(())
    }

    /// Records as superseded what is accepted and owns nothing any more. Who would have done so is the consumer that is
    /// given its message, which was deleted by hand, or is dead. Looks at [`SWEEP_RECORDS_MAX`] records at most, and reads
    /// only unless there is something to record.
    pub async fn sweep_records(
        &self,
        place: &mut SweepPlace,
        swept: &mut Swept,
        now_ms: i64,
    ) -> Result<(), FeedStoreError> {
        let age_min = i64::try_from(SWEEP_RECORD_AGE_MIN.as_millis()).unwrap_or(i64::MAX);
        let latest = time::to_text(now_ms.saturating_sub(age_min));
        let request = v1::ScanRequest {
            selector: Some(v1::Selector {
                namespace: keys::OPERATIONS.to_owned(),
                keys: None,
            }),
            page_size: i32::try_from(SWEEP_RECORDS_MAX).unwrap_or(i32::MAX),
            // One that is refused, for it is of another store, is not tried again.
            page_token: std::mem::take(&mut place.record_token),
            ..Default::default()
        };
        let page = self.client.scan(request).await?;
        for entry in page.rows.into_iter().filter_map(|row| row.entry) {
            let record = OperationRecord::parse(entry.text().unwrap_or_default());
            let Ok((message, record)) = record.and_then(|record| Ok((record.message()?, record))) else {
                swept.malformed.insert(record_name(&entry.key));
                continue;
            };
            // Times of records are all written alike.
            if record.state != OperationState::Accepted || record.accepted_at > latest {
                continue;
            }
            // What it does not own after its record was read it will never own.
            if !self.owned(message.operation, &message.documents).await?.is_empty() {
                continue;
            }
            let mut commit = Commit::default();
            commit.expect_revision(keys::operation(message.operation), entry.revision);
            OperationRecord::ended(&message, OperationState::Superseded, None, now_ms).put(&mut commit);
            swept.superseded += usize::from(self.is_committed(commit).await?);
        }
        place.record_token = page.next_page_token;
        Ok(())
    }

    /// Which operations own pending versions, from this key on, and where the next look begins.
    async fn pending_versions(
        &self,
        from: Option<&str>,
        swept: &mut Swept,
    ) -> Result<(BTreeMap<OperationId, Versions>, Option<String>), FeedStoreError> {
        let mut waiting: BTreeMap<_, Versions> = BTreeMap::new();
        let mut count = 0;
        let mut page_token = String::new();
        loop {
            let page = self.pending_page(from, SCAN_ROWS_MAX, page_token).await?;
            let mut last = None;
            for entry in page.rows.into_iter().filter_map(|row| row.entry) {
                match owner(&entry) {
                    Some((document, operation)) => {
                        waiting.entry(operation).or_default().insert(document, entry.revision);
                    }
                    None => drop(swept.malformed.insert(format!("{}/{}", keys::PENDING, entry.key))),
                }
                count += 1;
                last = Some(entry.key);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok((waiting, None));
            }
            if count >= SWEEP_VERSIONS_MAX && last.is_some() {
                return Ok((waiting, last));
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

    /// Takes out the operations that have a message, in whatever state, and records what the dead ones mean; false if
    /// there are too many messages to tell.
    async fn strike_out_enqueued(
        &self,
        waiting: &mut BTreeMap<OperationId, Versions>,
        swept: &mut Swept,
        now_ms: i64,
    ) -> Result<bool, FeedStoreError> {
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
            let mut dead = Vec::new();
            for message in &page.messages {
                // What is no message of ours is not of an operation either.
                let Some(Ok(operation)) = message.text().map(OperationMessage::parse) else {
                    continue;
                };
                let owned = waiting.remove(&operation.operation).unwrap_or_default();
                if let Some(owned) = owned.into_iter().next().filter(|_| is_dead(message)) {
                    dead.push(Dead {
                        message: operation,
                        reason: reason(message),
                        owned,
                    });
                }
            }
            self.fail(&dead, swept, now_ms).await?;
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

    /// Records operations as failed that are still recorded as accepted: the queue itself gave their messages up, or
    /// a consumer that could not record it.
    async fn fail(&self, dead: &[Dead], swept: &mut Swept, now_ms: i64) -> Result<(), FeedStoreError> {
        let records: Vec<_> = dead
            .iter()
            .map(|dead| keys::operation(dead.message.operation))
            .collect();
        let entries = self.entries(&records, Values::Included).await?;
        for (Dead { message, reason, owned }, entry) in dead.iter().zip(entries) {
            let Some(entry) = entry else { continue };
            match OperationRecord::parse(entry.text().unwrap_or_default()) {
                Ok(record) if record.state == OperationState::Accepted => {}
                Ok(_) => continue,
                Err(_) => {
                    swept.malformed.insert(record_name(&entry.key));
                    continue;
                }
            }
            let (document, revision) = *owned;
            let mut commit = Commit::default();
            commit.expect_revision(keys::operation(message.operation), entry.revision);
            commit.expect_revision(keys::pending(document), revision);
            OperationRecord::ended(message, OperationState::Failed, Some(reason), now_ms).put(&mut commit);
            swept.failed += usize::from(self.is_committed(commit).await?);
        }
        Ok(())
    }

    /// False if something the commit was judged on has changed: the next sweep looks again.
    async fn is_committed(&self, commit: Commit) -> Result<bool, FeedStoreError> {
        let outcome = self.commit(commit, Vec::new()).await?;
        Ok(matches!(outcome, Outcome::Committed { .. }))
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
        let (record, revision) = self.record(operation).await?;
        let is_over = record
            .as_ref()
            .is_none_or(|record| record.state == OperationState::Failed);
        let message = match record {
            // All documents, not only those that were seen now: there may be more of a large operation.
            Some(record) => {
                let message = record.message();
                message.map_err(|fault| malformed(&keys::operation(operation), fault))?
            }
            None => OperationMessage {
                operation,
                accepted_at: time::to_text(now_ms),
                documents: versions.into_keys().collect(),
            },
        };
        if is_over {
            commit.expect_revision(keys::operation(operation), revision);
            OperationRecord::new(&message, OperationState::Accepted).put(&mut commit);
        }
        commit.message = Some(message.to_text());
        self.commit_once(commit, &operation.to_string()).await
    }
}

/// The document of a pending version, and the operation that owns it; none of a malformed one.
fn owner(entry: &v1::Entry) -> Option<(DocumentKey, OperationId)> {
    let operation = entry.metadata.get(META_OPERATION)?;
    Some((entry.key.parse().ok()?, operation.parse().ok()?))
}

/// The record of an operation, as errors name it.
fn record_name(key: &str) -> String {
    format!("{}/{key}", keys::OPERATIONS)
}

fn is_dead(message: &v1::Message) -> bool {
    message.state() == v1::MessageState::Dead
}

/// Why a message is dead, and what it failed of last if that says more.
fn reason(message: &v1::Message) -> String {
    let v1::Message {
        dead_reason,
        last_error,
        ..
    } = message;
    if last_error.is_empty() || last_error == dead_reason {
        dead_reason.clone()
    } else {
        format!("{dead_reason}; last: {last_error}")
    }
}
