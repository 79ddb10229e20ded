//! Commits and how they end.

use super::fingerprint::Fingerprint;
use super::name::{Content, KeyName, Namespace, Pairs};
use super::queue::{Action, Enqueued, NewMessage, Settlement};
use super::read::Entry;

/// When an entry ceases to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// This many milliseconds after the commit.
    AfterMs(i64),
    /// At this time.
    AtMs(i64),
}

/// What a check expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The entry's revision; 0: no entry.
    Revision(u64),
    /// Whether there is an entry.
    Exists(bool),
}

/// A condition on the state before a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// On one key.
    Key(KeyName, Expect),
    /// No entry of the prefix was written after the revision.
    PrefixUnchangedSince {
        /// Where.
        namespace: Namespace,
        /// Which keys.
        prefix: String,
        /// After it.
        revision: u64,
    },
}

/// What becomes of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written.
    Put {
        /// The new value.
        content: Content,
        /// Until when.
        expiry: Expiry,
        /// The new metadata.
        metadata: Pairs,
    },
    /// Deleted.
    Delete,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// Which key.
    pub name: KeyName,
    /// What becomes of it.
    pub change: Change,
}

/// Which call a commit came by: names the fields in its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `Commit`.
    Commit,
    /// `Put`, with its one mutation.
    Put,
    /// `Delete`, with its one mutation.
    Delete,
    /// `Enqueue`.
    Enqueue,
}

impl Origin {
    /// Path of a field of a mutation.
    #[must_use]
    pub fn mutation_field(self, index: usize, field: &str) -> String {
        match self {
            Self::Put | Self::Delete => field.to_owned(),
            Self::Commit | Self::Enqueue => format!("mutations[{index}].{field}"),
        }
    }

    /// Path of a field of a new message.
    #[must_use]
    pub fn message_field(self, index: usize, field: &str) -> String {
        match self {
            Self::Enqueue => format!("messages[{index}].{field}"),
            _ => format!("enqueues[{index}].{field}"),
        }
    }
}

/// A caller's name for a request, and a digest of what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// As the caller named it.
    pub id: String,
    /// Of everything else in the request.
    pub digest: [u8; 32],
}

/// All or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Which call it came by.
    pub origin: Origin,
    /// Conditions on the state before.
    pub checks: Vec<Check>,
    /// Each key at most once.
    pub mutations: Vec<Mutation>,
    /// Messages to be added.
    pub enqueues: Vec<NewMessage>,
    /// Each message at most once.
    pub settlements: Vec<Settlement>,
    /// None: not remembered.
    pub request_id: Option<RequestId>,
    /// Keys, values, metadata and bodies added up.
    pub bytes: usize,
}

impl Commit {
    /// A commit of nothing.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            checks: Vec::new(),
            mutations: Vec::new(),
            enqueues: Vec::new(),
            settlements: Vec::new(),
            request_id: None,
            bytes: 0,
        }
    }

    /// Names the commit: its retry is told from another commit by the digest of everything it asks for.
    #[must_use]
    pub fn named(mut self, id: String) -> Self {
        if !id.is_empty() {
            let digest = self.digest();
            self.request_id = Some(RequestId { id, digest });
        }
        self
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Fingerprint::default();
        digest.number(self.origin as u64);
        digest.number(self.checks.len() as u64);
        for check in &self.checks {
            match check {
                Check::Key(name, expect) => {
                    digest.key_name(name);
                    match expect {
                        Expect::Revision(revision) => digest.number(0).number(*revision),
                        Expect::Exists(exists) => digest.number(1).number(u64::from(*exists)),
                    };
                }
                Check::PrefixUnchangedSince {
                    namespace,
                    prefix,
                    revision,
                } => {
                    digest.text(namespace.as_str()).text(prefix).number(2).number(*revision);
                }
            }
        }
        digest.number(self.mutations.len() as u64);
        for mutation in &self.mutations {
            digest.key_name(&mutation.name);
            match &mutation.change {
                Change::Put {
                    content,
                    expiry,
                    metadata,
                } => {
                    digest.number(0).content(content).pairs(metadata);
                    match expiry {
                        Expiry::Never => digest.number(0),
                        Expiry::AfterMs(ttl_ms) => digest.number(1).signed(*ttl_ms),
                        Expiry::AtMs(time_ms) => digest.number(2).signed(*time_ms),
                    };
                }
                Change::Delete => {
                    digest.number(1);
                }
            }
        }
        digest.number(self.enqueues.len() as u64);
        for message in &self.enqueues {
            digest.text(message.queue.as_str()).content(&message.body);
            digest.pairs(&message.attributes).signed(message.delay_ms);
            // Set off by what is no text's length, and left out when empty: digests that an earlier version
            // remembered stay good.
            if let Some(key) = &message.ordering_key {
                digest.number(u64::MAX).text(key);
            }
            if let Some(id) = &message.dedup_id {
                digest.number(u64::MAX - 1).text(id);
            }
        }
        digest.number(self.settlements.len() as u64);
        for settlement in &self.settlements {
            digest
                .number(settlement.lease.message_id)
                .number(settlement.lease.epoch);
            match &settlement.action {
                Action::Ack => digest.number(0),
                Action::Nack {
                    delay_ms,
                    error,
                    refund_attempt,
                } => digest
                    .number(1)
                    .signed(delay_ms.unwrap_or(-1))
                    .text(error)
                    .number(u64::from(*refund_attempt)),
                Action::Extend { lease_ms } => digest.number(2).signed(*lease_ms),
                Action::Dead { reason } => digest.number(3).text(reason),
            };
        }
        digest.finish()
    }
}

/// A commit that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision that its entries carry, or the store's if it changed no key.
    pub revision: u64,
    /// When.
    pub commit_ms: i64,
    /// What became of the new messages, in order.
    pub enqueued: Vec<Enqueued>,
    /// Keys that were not there before.
    pub created: u32,
    /// Keys that were there before and are not now.
    pub deleted: u32,
    /// It happened earlier, once.
    pub replayed: bool,
}

/// A commit that did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Indexes of checks.
    pub failed_checks: Vec<usize>,
    /// Indexes of settlements.
    pub failed_settlements: Vec<usize>,
    /// What is there now, without content.
    pub current: Vec<Entry>,
    /// The store's revision.
    pub store_revision: u64,
}

/// How a commit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened.
    Committed(Committed),
    /// It did not.
    Conflict(Conflict),
}
