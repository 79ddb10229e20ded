//! What the writer has done since it started, and what waits for it.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::group_sizes;

/// Counts; shared by the writer and the handles.
#[derive(Debug)]
pub(super) struct Tally {
    /// Requests that shared one commit.
    group_sizes: Histogram,
    commits: AtomicU64,
    requests: AtomicU64,
    waiting: AtomicU64,
}

/// The counts at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Transactions that changed the file.
    pub(super) commits: u64,
    /// Requests in them.
    pub(super) requests: u64,
    /// Requests that the writer has not taken yet.
    pub(super) waiting: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            group_sizes: group_sizes(),
            commits: AtomicU64::default(),
            requests: AtomicU64::default(),
            waiting: AtomicU64::default(),
        }
    }
}

impl Tally {
    /// The sizes that are counted, for whoever tells them.
    pub(super) fn group_sizes(&self) -> Histogram {
        self.group_sizes.clone()
    }

    /// A request is on its way to the writer. Before it is sent, so that it is not taken earlier.
    pub(super) fn submitted(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// The writer has taken a request, or it could not be sent.
    pub(super) fn taken(&self) {
        // A job of the store's own is nobody's request and was never counted.
        let less = |waiting: u64| waiting.checked_sub(1);
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// A transaction was committed.
    pub(super) fn committed(&self, requests: usize) {
        if let Ok(size) = u32::try_from(requests)
            && size > 0
        {
            self.group_sizes.observe(f64::from(size));
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            commits: self.commits.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}
