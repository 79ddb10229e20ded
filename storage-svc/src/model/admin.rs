//! What the store says of itself, and how long callers wait.

use std::time::Instant;

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
