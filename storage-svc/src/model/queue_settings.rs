//! Queues as a whole: their settings, and lists of them.

use super::name::QueueName;
use super::queue::QueueStats;

/// Settings of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// How long a delivery is leased unless the receiver says otherwise.
    pub lease_ms: i64,
    /// Deliveries before a message is dead.
    pub attempts_max: u32,
    /// How long a message waits after its first attempt.
    pub backoff_min_ms: i64,
    /// And at most, after many.
    pub backoff_max_ms: i64,
    /// Both are spread so far either way.
    pub backoff_jitter_percent: u32,
    /// How long a dedup id is remembered; 0: not at all.
    pub dedup_window_ms: i64,
    /// How long dead messages are kept; 0: for ever.
    pub dead_retention_ms: i64,
    /// Most messages of any state.
    pub depth_max: u64,
    /// Nothing is delivered.
    pub paused: bool,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            lease_ms: 30_000,
            attempts_max: 10,
            backoff_min_ms: 1_000,
            backoff_max_ms: 600_000,
            backoff_jitter_percent: 20,
            dedup_window_ms: 600_000,
            dead_retention_ms: 14 * 24 * 3_600_000,
            depth_max: 1_000_000,
            paused: false,
        }
    }
}

/// Settings to be changed; none: as before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueChange {
    /// See [`QueueSettings`].
    pub lease_ms: Option<i64>,
    /// See [`QueueSettings`].
    pub attempts_max: Option<u32>,
    /// See [`QueueSettings`].
    pub backoff_min_ms: Option<i64>,
    /// See [`QueueSettings`].
    pub backoff_max_ms: Option<i64>,
    /// See [`QueueSettings`].
    pub backoff_jitter_percent: Option<u32>,
    /// See [`QueueSettings`].
    pub dedup_window_ms: Option<i64>,
    /// See [`QueueSettings`].
    pub dead_retention_ms: Option<i64>,
    /// See [`QueueSettings`].
    pub depth_max: Option<u64>,
    /// See [`QueueSettings`].
    pub paused: Option<bool>,
}

impl QueueChange {
    /// The settings after the change. The two ends of the back-off may not fit each other any more.
    #[must_use]
    pub fn apply(&self, settings: QueueSettings) -> QueueSettings {
        QueueSettings {
            lease_ms: self.lease_ms.unwrap_or(settings.lease_ms),
            attempts_max: self.attempts_max.unwrap_or(settings.attempts_max),
            backoff_min_ms: self.backoff_min_ms.unwrap_or(settings.backoff_min_ms),
            backoff_max_ms: self.backoff_max_ms.unwrap_or(settings.backoff_max_ms),
            backoff_jitter_percent: self.backoff_jitter_percent.unwrap_or(settings.backoff_jitter_percent),
            dedup_window_ms: self.dedup_window_ms.unwrap_or(settings.dedup_window_ms),
            dead_retention_ms: self.dead_retention_ms.unwrap_or(settings.dead_retention_ms),
            depth_max: self.depth_max.unwrap_or(settings.depth_max),
            paused: self.paused.unwrap_or(settings.paused),
        }
    }
}

/// A queue with its settings and figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Which queue.
    pub name: QueueName,
    /// How it is set.
    pub settings: QueueSettings,
    /// How it stands.
    pub stats: QueueStats,
    /// When it was made; 0: before that was kept.
    pub create_ms: i64,
}

/// Asks for queues, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueList {
    /// Most of them.
    pub rows_max: usize,
    /// The last one of the page before.
    pub after: Option<QueueName>,
}

/// A page of queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePage {
    /// By name.
    pub queues: Vec<QueueInfo>,
    /// There are more behind the last one.
    pub more: bool,
}
