//! Waiting for a state: looked at again and again until it is there or its time is up.

use std::time::{Duration, Instant};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `look` answers `Ok`, for at most `deadline`; then fails with what was waited for and what was seen last.
pub(crate) async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(
                start.elapsed() < deadline,
                "not within {deadline:?}: {what}; last seen: {seen}"
            ),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
