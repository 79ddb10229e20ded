//! Checked requests and their answers, as the store takes and gives them.
//!
//! Whoever builds one of these has checked it: names, sizes and counts are within the limits. Knows neither the wire
//! nor SQLite.

mod admin;
mod commit;
mod consume;
mod fingerprint;
mod message;
mod name;
mod queue;
mod queue_settings;
mod read;
mod watch;

pub use self::admin::{BackupHeader, BackupPart, CheckReport, Checkpointed, Deadline, StoreInfo, StoreStats};
pub use self::commit::{
    Change, Check, Commit, Committed, Conflict, Expect, Expiry, Mutation, Origin, Outcome, RequestId,
};
pub use self::consume::Consume;
pub(crate) use self::fingerprint::Fingerprint;
pub use self::message::{Failure, Message, MessageList, MessagePage, MessageRef, MessageState, Moved, Purge, Redrive};
pub use self::name::{Content, Key, KeyName, Namespace, Pairs, QueueName};
pub use self::queue::{Action, Delivery, Enqueued, Lease, NewMessage, QueueStats, Receive, Settled, Settlement};
pub use self::queue_settings::{QueueChange, QueueInfo, QueueList, QueuePage, QueueSettings};
pub use self::read::{Dereference, Entry, Scan, ScanPage, ScanRow, Selection, Snapshot, With};
pub use self::watch::{ChangeBatch, Event, HistoryStats, Selector, Told, Watch};
