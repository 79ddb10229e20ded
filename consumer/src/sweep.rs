//! Looks, now and then, whether something is pending that has no message, and enqueues it again; and records what became of
//! operations where no consumer could. Of all consumers one looks at what is pending at a time.

use std::time::Duration;

use feed_store::{FeedStore, FeedStoreError, SweepPlace, Swept};
use rand::RngExt as _;
use runtime::clock::Clock;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Pause between two sweeps, up to a quarter more or less. The first one is at the start.
const INTERVAL: Duration = Duration::from_mins(1);
/// After one consumer's sweep the others' are let be for so long. Less than the shortest pause: whoever swept last is not
/// in its own way.
const TURN: Duration = Duration::from_secs(30);

/// Sweeps until `shutdown`.
pub(crate) async fn run(store: &FeedStore, clock: &Clock, metrics: &Metrics, shutdown: &CancellationToken) {
    let sweeping = async {
        let mut place = SweepPlace::default();
        loop {
            let mut swept = Swept::default();
            let ended = sweep(store, clock, &mut place, &mut swept).await;
            metrics.swept(&swept, ended.is_ok());
            tell(&swept);
            if let Err(error) = ended {
                tracing::warn!(error = &error as &dyn std::error::Error, "not swept");
            }
            let pause = INTERVAL.mul_f64(rand::rng().random_range(0.75..1.25));
            tokio::time::sleep(pause).await;
        }
    };
    let _: Option<()> = shutdown.run_until_cancelled(sweeping).await;
}

async fn sweep(
    store: &FeedStore,
    clock: &Clock,
    place: &mut SweepPlace,
    swept: &mut Swept,
) -> Result<(), FeedStoreError> {
    let versions = sweep_versions(store, clock, place, swept).await;
    // One page is read, and mostly nothing written: that is worth no turn.
    store.sweep_records(place, swept, clock.now_ms()).await.and(versions)
}

async fn sweep_versions(
    store: &FeedStore,
    clock: &Clock,
    place: &mut SweepPlace,
    swept: &mut Swept,
) -> Result<(), FeedStoreError> {
    // An idle feed is not written to.
    if !store.has_pending().await? || !store.take_sweep_turn(TURN).await? {
        return Ok(());
    }
    store.sweep(place, swept, clock.now_ms()).await
}

fn tell(swept: &Swept) {
    for key in &swept.malformed {
        tracing::error!(key, "stored record is malformed: swept past");
    }
    let Swept {
        enqueued,
        failed,
        superseded,
        gave_up,
        ..
    } = *swept;
    if enqueued + failed + superseded == 0 {
        tracing::debug!(gave_up, "nothing swept");
    } else {
        tracing::warn!(
            enqueued,
            failed,
            superseded,
            gave_up,
            "accepted writes without anybody at work on them: enqueued again, or recorded as failed or superseded"
        );
    }
}
