//! Turns the domain's commits into the contract's, and its answers back.

use feed::commit::{Change, Commit, Expect};
use feed::keys::Key;
use prost_types::Duration;
use proto::limits::{
    COMMIT_BYTES_MAX, COMMIT_CHECKS_MAX, COMMIT_MUTATIONS_MAX, MESSAGE_BODY_BYTES_MAX, VALUE_BYTES_MAX,
};
use proto::v1;
use proto::v1::commit_response::Outcome as Answer;

use crate::{FeedStore, FeedStoreError, WRITE_QUEUE};

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it happened.
    Committed {
        /// The revision that its entries carry.
        revision: u64,
    },
    /// None of it happened: something it was judged on has changed since.
    Conflict {
        /// The keys (or prefixes) whose checks failed.
        failed: Vec<Key>,
        /// The message it settles is somebody else's now, or nobody's.
        lease_lost: bool,
    },
}

impl FeedStore {
    /// Commits, all or nothing, settling leased messages in the same transaction. When the service is away or its
    /// answer is lost the client sends the same commit again, a few times, under one request id: it happens at most
    /// once. An error that [is transient](FeedStoreError::is_transient) leaves open whether it did.
    pub async fn commit(&self, commit: Commit, settlements: Vec<v1::Settlement>) -> Result<Outcome, FeedStoreError> {
        let keys: Vec<Key> = commit.checks.iter().map(|check| check.key.clone()).collect();
        let request = request(commit, settlements)?;
        match self.client.commit(request).await? {
            Answer::Committed(committed) => Ok(Outcome::Committed {
                revision: committed.revision,
            }),
            Answer::Conflict(conflict) => {
                let index = |index: &u32| usize::try_from(*index).ok();
                let failed = conflict
                    .failed_checks
                    .iter()
                    .filter_map(|check| keys.get(index(check)?).cloned());
                Ok(Outcome::Conflict {
                    failed: failed.collect(),
                    lease_lost: !conflict.failed_settlements.is_empty(),
                })
            }
        }
    }

    /// Commits, and adds its message only if the queue remembers none of this dedup id. Whether it was added; not if the
    /// commit came to nothing.
    pub(crate) async fn commit_once(&self, commit: Commit, dedup_id: &str) -> Result<bool, FeedStoreError> {
        let mut request = request(commit, Vec::new())?;
        for message in &mut request.enqueues {
            dedup_id.clone_into(&mut message.dedup_id);
        }
        Ok(match self.client.commit(request).await? {
            Answer::Committed(committed) => committed.enqueued.iter().any(|result| !result.deduplicated),
            Answer::Conflict(_) => false,
        })
    }
}

/// Refuses what the storage service would not take as one commit, by the same count: keys, values, metadata and the
/// message added up. [`FeedStore::commit`] asks it too; ask before that of a commit that somebody else is to make later.
pub fn check_size(commit: &Commit) -> Result<(), FeedStoreError> {
    let message = commit.message.as_ref().map_or(0, String::len);
    let mut bytes = message;
    let mut is_value_too_large = false;
    for (key, change) in &commit.changes {
        bytes += key.key.len();
        if let Change::Put { text, metadata, .. } = change {
            let metadata = metadata.iter().map(|(name, value)| name.len() + value.len());
            bytes += text.len() + metadata.sum::<usize>();
            is_value_too_large |= text.len() > VALUE_BYTES_MAX;
        }
    }
    if bytes > COMMIT_BYTES_MAX
        || is_value_too_large
        || message > MESSAGE_BODY_BYTES_MAX
        || commit.changes.len() > COMMIT_MUTATIONS_MAX
        || commit.checks.len() > COMMIT_CHECKS_MAX
    {
        return Err(FeedStoreError::TooLarge);
    }
    Ok(())
}

fn request(commit: Commit, settlements: Vec<v1::Settlement>) -> Result<v1::CommitRequest, FeedStoreError> {
    check_size(&commit)?;
    let Commit {
        checks,
        changes,
        message,
    } = commit;
    let checks = checks.into_iter().map(|check| v1::Check {
        namespace: check.key.namespace.to_owned(),
        key: check.key.key,
        expect: Some(match check.expect {
            Expect::Revision(revision) => v1::check::Expect::Revision(revision),
            Expect::PrefixUnchangedSince(revision) => v1::check::Expect::PrefixUnchangedSince(revision),
        }),
    });
    let enqueues = message.into_iter().map(|text| v1::NewMessage {
        queue: WRITE_QUEUE.to_owned(),
        content: Some(v1::new_message::Content::Text(text)),
        ..Default::default()
    });
    Ok(v1::CommitRequest {
        checks: checks.collect(),
        mutations: changes.into_iter().map(mutation).collect(),
        enqueues: enqueues.collect(),
        settlements,
        request_id: uuid::Uuid::new_v4().to_string(),
    })
}

fn mutation((key, change): (Key, Change)) -> v1::Mutation {
    match change {
        Change::Delete => v1::Mutation::delete(key.namespace, &key.key),
        Change::Put { text, metadata, ttl_ms } => {
            let metadata = metadata
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            match ttl_ms {
                None => v1::Mutation::put_text(key.namespace, &key.key, text, metadata),
                Some(ms) => {
                    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap_or_default();
                    let ttl = Duration {
                        seconds: ms.div_euclid(1000),
                        nanos,
                    };
                    v1::Mutation::put_text_for(key.namespace, &key.key, text, metadata, ttl)
                }
            }
        }
    }
}
