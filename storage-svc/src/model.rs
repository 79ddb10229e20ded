//! Checked requests and their answers, as the store takes and gives them.
//!
//! Whoever builds one of these has checked it: names, sizes and counts are within the limits. Knows neither the wire
//! nor SQLite.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::limits::{KEY_BYTES_MAX, NAMESPACE_CHARS_MAX, QUEUE_NAME_CHARS_MAX};
use sha2::{Digest as _, Sha256};

/// A namespace's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// Checks the name; the error is the rule that it breaks.
    pub fn parse(name: String) -> Result<Self, String> {
        check_name(&name, NAMESPACE_CHARS_MAX)?;
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A queue's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(String);

impl QueueName {
    /// Checks the name; the error is the rule that it breaks.
    pub fn parse(name: String) -> Result<Self, String> {
        check_name(&name, QUEUE_NAME_CHARS_MAX)?;
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_name(name: &str, chars_max: usize) -> Result<(), String> {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > chars_max || !name.bytes().all(valid) {
        return Err(format!("must be 1 to {chars_max} characters of [a-z0-9._-]"));
    }
    Ok(())
}

/// A key's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks the name; the error is the rule that it breaks.
    pub fn parse(key: String) -> Result<Self, String> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains('\0') {
            return Err(format!("must be 1 to {KEY_BYTES_MAX} bytes without NUL"));
        }
        Ok(Self(key))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A key in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub key: Key,
}

/// A value or a message's body. What was written as text is read as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Any bytes.
    Bytes(Bytes),
    /// UTF-8.
    Text(String),
}

impl Content {
    /// The bytes, whatever the kind.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Text(text) => text.as_bytes(),
        }
    }
}

/// Metadata of an entry or attributes of a message.
pub type Pairs = BTreeMap<String, String>;

/// Which content a read brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Revisions and metadata alone.
    NoContent,
    /// The content as it was written.
    Content,
}

/// One key with its value, as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which key.
    pub name: KeyName,
    /// None: left out.
    pub content: Option<Content>,
    /// Of the commit that last wrote it.
    pub revision: u64,
    /// Of the commit that created it.
    pub create_revision: u64,
    /// Writes since creation.
    pub version: u64,
    /// When it was last written.
    pub update_ms: i64,
    /// From when on it is not there.
    pub expire_ms: Option<i64>,
    /// As written.
    pub metadata: Pairs,
}

/// An answer with the store's revision in the snapshot that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<T> {
    /// What was read.
    pub found: T,
    /// The store's revision then.
    pub store_revision: u64,
}

/// Some keys of one namespace, in order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The keys that start with it.
    Prefix(String),
    /// The keys from `start` up to and without `end`; an empty `end` is past the last key.
    Range {
        /// First key.
        start: String,
        /// First key that is out.
        end: String,
    },
}

/// Following scanned entries to the records that their values name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dereference {
    /// Where the records are.
    pub target: Namespace,
    /// Leave out the entries whose record is missing.
    pub skip_dangling: bool,
}

/// One page of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where.
    pub namespace: Namespace,
    /// Which keys.
    pub selection: Selection,
    /// From the last to the first.
    pub reverse: bool,
    /// Most rows.
    pub rows_max: usize,
    /// The last key of the page before.
    pub after: Option<Key>,
    /// Whether the scanned entries bring their content.
    pub with: With,
    /// Whether to follow them.
    pub dereference: Option<Dereference>,
}

/// A scanned entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRow {
    /// The entry.
    pub entry: Entry,
    /// The record that it names.
    pub target: Option<Entry>,
}

/// A page of scanned entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage {
    /// In the order asked for.
    pub rows: Vec<ScanRow>,
    /// The last key that was looked at, if there may be more.
    pub last: Option<Key>,
}

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

/// A message to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    /// Where to.
    pub queue: QueueName,
    /// What.
    pub body: Content,
    /// About it.
    pub attributes: Pairs,
    /// Not delivered earlier than this from now.
    pub delay_ms: i64,
}

/// One lease of one message, as a genuine receipt names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The message.
    pub message_id: u64,
    /// Which of its leases.
    pub epoch: u64,
}

/// What becomes of a leased message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Done: deleted.
    Ack,
    /// Not done: back after a delay.
    Nack {
        /// None: the queue's back-off.
        delay_ms: Option<i64>,
        /// Why.
        error: String,
        /// Was not tried.
        refund_attempt: bool,
    },
    /// The lease now ends this long from now.
    Extend {
        /// How long.
        lease_ms: i64,
    },
    /// Never to be delivered again.
    Dead {
        /// Why.
        reason: String,
    },
}

/// A leased message and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Which.
    pub lease: Lease,
    /// What.
    pub action: Action,
}

/// How a settlement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// As asked; with the lease's new end after an extend.
    Done {
        /// The lease's new end.
        lease_expire_ms: Option<i64>,
    },
    /// The lease is lost.
    Stale,
    /// The message is gone.
    Gone,
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

/// A digest of fields, each with its length, so that no two requests read alike.
#[derive(Default)]
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_be_bytes());
        self
    }

    pub(crate) fn signed(&mut self, number: i64) -> &mut Self {
        self.0.update(number.to_be_bytes());
        self
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    fn key_name(&mut self, name: &KeyName) -> &mut Self {
        self.text(name.namespace.as_str()).text(name.key.as_str())
    }

    fn content(&mut self, content: &Content) -> &mut Self {
        self.number(u64::from(matches!(content, Content::Text(_))));
        self.bytes(content.as_bytes())
    }

    fn pairs(&mut self, pairs: &Pairs) -> &mut Self {
        self.number(pairs.len() as u64);
        for (name, value) in pairs {
            self.text(name).text(value);
        }
        self
    }
}

/// A commit that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision that its entries carry, or the store's if it changed no key.
    pub revision: u64,
    /// When.
    pub commit_ms: i64,
    /// Ids of the new messages, in order.
    pub enqueued: Vec<u64>,
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

/// Asks for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// Where from.
    pub queue: QueueName,
    /// At most so many.
    pub messages_max: usize,
    /// How long to wait for the first.
    pub wait: Duration,
    /// None: the queue's setting.
    pub lease_ms: Option<i64>,
}

/// A leased message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which message, and which of its leases.
    pub lease: Lease,
    /// What.
    pub body: Content,
    /// About it.
    pub attributes: Pairs,
    /// Deliveries so far, this one included.
    pub attempt: u32,
    /// When it was enqueued.
    pub enqueue_ms: i64,
    /// What the last nack said.
    pub last_error: String,
    /// When the lease ends.
    pub lease_expire_ms: i64,
}

/// Exact figures of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// To be delivered next.
    pub ready: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// Out with a consumer.
    pub leased: u64,
    /// Given up.
    pub dead: u64,
    /// Age of the oldest ready message.
    pub oldest_ready_ms: Option<i64>,
}

/// Identity of the store and of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// The engine's version.
    pub engine_version: String,
    /// Number of the last migration.
    pub schema_version: u32,
    /// Drawn when the store was created.
    pub store_id: String,
    /// Drawn when it was opened.
    pub incarnation: String,
    /// The store's revision.
    pub store_revision: u64,
}

/// When the caller stops waiting; none: never.
pub type Deadline = Option<Instant>;
