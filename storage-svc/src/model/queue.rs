//! Messages, leases, settlements, and figures of queues.

use std::time::Duration;

use super::name::{Content, Pairs, QueueName};

/// A message to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    /// Where to.
    pub queue: QueueName,
    /// What.
    pub body: Content,
    /// About it.
    pub attributes: Pairs,
    /// Delivered one at a time with those of the same key; never empty.
    pub ordering_key: Option<String>,
    /// Not added if there was one with the same id within the queue's window; never empty.
    pub dedup_id: Option<String>,
    /// Not delivered earlier than this from now.
    pub delay_ms: i64,
}

/// What became of a new message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// Its id, or that of the one before it with the same dedup id.
    pub id: u64,
    /// There was one before it: nothing was added.
    pub deduplicated: bool,
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
    /// As enqueued; empty: none.
    pub ordering_key: String,
    /// As enqueued; empty: none.
    pub dedup_id: String,
    /// Deliveries so far, this one included.
    pub attempt: u32,
    /// Lives so far beyond the first.
    pub redrives: u32,
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
    /// Behind an earlier message of their ordering key.
    pub blocked: u64,
    /// Age of the oldest ready message.
    pub oldest_ready_ms: Option<i64>,
}
