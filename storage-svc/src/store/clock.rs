//! The store's time: never behind what the file says was written, so that it does not run backwards over a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use runtime::clock::Clock;

/// Tells the store's time; clones tell the same.
#[derive(Clone, Debug)]
pub(super) struct StoreClock {
    clock: Clock,
    latest_ms: Arc<AtomicI64>,
}

impl StoreClock {
    /// Follows `clock`, but not behind `latest_ms`.
    pub(super) fn new(clock: Clock, latest_ms: i64) -> Self {
        Self {
            clock,
            latest_ms: Arc::new(AtomicI64::new(latest_ms)),
        }
    }

    /// Milliseconds since 1970. Stands still while the machine's clock is behind.
    pub(super) fn now_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        self.latest_ms.fetch_max(now_ms, Ordering::SeqCst).max(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_backwards() {
        let clock = Clock::manual(1_000);
        let store_clock = StoreClock::new(clock.clone(), 5_000);
        assert_eq!(store_clock.now_ms(), 5_000);
        clock.advance_ms(5_000);
        assert_eq!(store_clock.now_ms(), 6_000);
        clock.advance_ms(-3_600_000);
        assert_eq!(store_clock.clone().now_ms(), 6_000);
    }
}
