//! Looks, now and then, whether something is pending that has no message, and enqueues it again. Of all consumers one does
//! so at a time.

use std::time::Duration;

use feed_store::{FeedStore, FeedStoreError, SweepPlace, Swept};
use rand::RngExt as _;
use runtime::clock::Clock;
use tokio_util::sync::CancellationToken;

/// Pause between two sweeps, up to a quarter more or less. The first one is at the start.
const INTERVAL: Duration = Duration::from_mins(1);
/// After one consumer's sweep the others' are let be for so long. Less than the shortest pause: whoever swept last is not
/// in its own way.
const TURN: Duration = Duration::from_secs(30);

/// Sweeps until `shutdown`.
pub(crate) async fn run(store: &FeedStore, clock: &Clock, shutdown: &CancellationToken) {
    let sweeping = async {
        let mut place = SweepPlace::default();
        loop {
            match sweep(store, clock, &mut place).await {
                Ok(Swept { enqueued: 0, gave_up }) => tracing::debug!(gave_up, "nothing swept"),
                Ok(Swept { enqueued, .. }) => {
                    tracing::warn!(
                        operations = enqueued,
                        "accepted writes had lost their messages: enqueued again"
                    );
                }
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "not swept"),
            }
            let pause = INTERVAL.mul_f64(rand::rng().random_range(0.75..1.25));
            tokio::time::sleep(pause).await;
        }
    };
    let _: Option<()> = shutdown.run_until_cancelled(sweeping).await;
}

async fn sweep(store: &FeedStore, clock: &Clock, place: &mut SweepPlace) -> Result<Swept, FeedStoreError> {
    // An idle feed is not written to.
    if !store.has_pending().await? || !store.take_sweep_turn(TURN).await? {
        return Ok(Swept::default());
    }
    store.sweep(place, clock.now_ms()).await
}
