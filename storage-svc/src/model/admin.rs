//! What the store says of itself, and how long callers wait.

use std::time::{Duration, Instant};

use bytes::Bytes;

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
    /// The lowest revision that a watch can begin after.
    pub history_revision: u64,
    /// How long history is kept, in seconds.
    pub history_seconds: u32,
    /// And how much of it at most, in bytes.
    pub history_bytes: u64,
}

/// When the caller stops waiting; none: never.
pub type Deadline = Option<Instant>;

/// Sizes and loads, as of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// Of the database file, in bytes.
    pub file_bytes: u64,
    /// Of the write-ahead log, in bytes.
    pub wal_bytes: u64,
    /// Of a page, in bytes.
    pub page_bytes: u64,
    /// Pages of the database.
    pub pages: u64,
    /// Of them, without content.
    pub free_pages: u64,
    /// Changes that the watch history holds.
    pub history_changes: u64,
    /// Their size, in bytes.
    pub history_bytes: u64,
    /// Queues that there are.
    pub queues: u64,
    /// Namespaces that there are.
    pub namespaces: u64,
    /// Transactions that changed the file, since the store was opened.
    pub commits: u64,
    /// Requests in them.
    pub requests: u64,
    /// Requests that wait for the writer.
    pub writes_waiting: u64,
    /// Since the store was opened.
    pub uptime: Duration,
}

/// What a backup consists of, in order: a header, chunks, a trailer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupPart {
    /// What follows.
    Header(BackupHeader),
    /// Bytes of the file.
    Chunk(Bytes),
    /// That was all.
    Trailer {
        /// Of all chunks.
        sha256: [u8; 32],
    },
}

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupHeader {
    /// The store's revision in the copy.
    pub store_revision: u64,
    /// Of all chunks.
    pub total_bytes: u64,
    /// Number of the last migration.
    pub schema_version: u32,
    /// Of the store that was copied.
    pub store_id: String,
}

/// How an integrity check goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckReport {
    /// A step begins.
    Progress {
        /// From 1.
        step: u32,
        /// Of so many.
        steps: u32,
        /// What is being looked at.
        subject: String,
    },
    /// Something is wrong.
    Problem(String),
    /// That was all.
    Finished {
        /// That were told.
        problems: u64,
    },
}

/// What a checkpoint left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpointed {
    /// A reader held on to the log.
    pub hindered: bool,
    /// Of the write-ahead log, in bytes.
    pub wal_bytes: u64,
}
