//! When streams must end: whoever serves them stops, or the store does.

use tokio_util::sync::CancellationToken;

/// Any of several reasons to stop.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    /// The one who serves stops.
    pub(super) draining: CancellationToken,
    /// The store has ended.
    pub(super) ended: CancellationToken,
}

impl Stop {
    /// Whether there has been one.
    pub(super) fn is_stopped(&self) -> bool {
        self.draining.is_cancelled() || self.ended.is_cancelled()
    }

    /// Waits for the first.
    pub(super) async fn stopped(&self) {
        tokio::select! {
            () = self.draining.cancelled() => {}
            () = self.ended.cancelled() => {}
        }
    }
}
