//! Messages as an operator sees and moves them.

use std::collections::BTreeSet;

use super::name::{Content, Pairs, QueueName};
use super::read::With;

/// Where a message stands, numbered as in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageState {
    /// Waits for its time.
    Delayed = 1,
    /// To be delivered next.
    Ready = 2,
    /// Out with a consumer.
    Leased = 3,
    /// Given up.
    Dead = 4,
    /// Waits behind an earlier message of its ordering key.
    Blocked = 5,
}

impl MessageState {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Delayed, Self::Ready, Self::Leased, Self::Dead, Self::Blocked];

    /// Whether the others of its ordering key wait for it.
    #[must_use]
    pub fn holds_its_key(self) -> bool {
        matches!(self, Self::Delayed | Self::Ready | Self::Leased)
    }
}

/// An attempt that did not end in an ack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which attempt of the message's life.
    pub attempt: u32,
    /// When it ended.
    pub time_ms: i64,
    /// What went wrong.
    pub error: String,
}

/// A message that nobody has to hold to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which.
    pub id: u64,
    /// Where it stands.
    pub state: MessageState,
    /// None: left out.
    pub body: Option<Content>,
    /// About it.
    pub attributes: Pairs,
    /// Empty: none.
    pub ordering_key: String,
    /// Empty: none.
    pub dedup_id: String,
    /// Deliveries so far in this life.
    pub attempt: u32,
    /// Lives so far beyond the first.
    pub redrives: u32,
    /// When it was enqueued.
    pub enqueue_ms: i64,
    /// When it may be ready, or its lease ends; none of a message that is ready or dead.
    pub due_ms: Option<i64>,
    /// What the last nack said.
    pub last_error: String,
    /// Of a dead one: why.
    pub dead_reason: String,
    /// Of a dead one: since when.
    pub dead_ms: Option<i64>,
    /// The last attempts that failed, oldest first.
    pub failures: Vec<Failure>,
}

/// Names a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageRef {
    /// By its id.
    Id(u64),
    /// By its dedup id, as long as that is remembered.
    DedupId(String),
}

/// Asks for messages, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageList {
    /// Where.
    pub queue: QueueName,
    /// None: any.
    pub state: Option<MessageState>,
    /// Most of them.
    pub rows_max: usize,
    /// The last one of the page before; 0: from the first.
    pub after: u64,
    /// Whether they bring their bodies.
    pub with: With,
}

/// A page of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagePage {
    /// By id.
    pub messages: Vec<Message>,
    /// There are more behind the last one.
    pub more: bool,
}

/// Gives dead messages another life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redrive {
    /// Where.
    pub queue: QueueName,
    /// Which; empty: all.
    pub ids: Vec<u64>,
}

/// Deletes messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// Where.
    pub queue: QueueName,
    /// Which; empty: all.
    pub ids: Vec<u64>,
    /// Those alone that are in these states.
    pub states: BTreeSet<MessageState>,
}

/// How many messages a call moved or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// So many.
    pub messages: u64,
    /// There are more.
    pub more: bool,
}
