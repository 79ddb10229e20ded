//! Many queued writes, and consumers that are started and killed at random until the last one is applied.
//!
//! `QUEUED_WRITES` says how many.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use proto::v1;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::check::Figures;
use super::clients::Clients;
use super::{judge, number};
use crate::support::{Form, Part, TestFeed};

const QUEUED_WRITES: u64 = 1_000;
/// Writes in flight while they are queued.
const IN_FLIGHT: usize = 32;
const CONSUMERS: [Part; 4] = [
    Part::Consumer(0),
    Part::Consumer(1),
    Part::Consumer(2),
    Part::Consumer(3),
];
const LEASE_MS: &str = "500";
/// From one start or kill to the next.
const INTERVAL: std::ops::Range<Duration> = Duration::from_millis(10)..Duration::from_millis(120);

#[derive(Debug, Default)]
struct Kills {
    consumers: usize,
    /// Messages that were out, or had just come back, when all consumers were dead.
    messages: u64,
}

#[tokio::test]
async fn queued_writes_are_applied_once_though_consumers_are_killed_throughout() {
    let seed = number("HISTORY_SEED").unwrap_or_else(|| rand::rng().random());
    println!("HISTORY_SEED={seed}");
    let count = number("QUEUED_WRITES").unwrap_or(QUEUED_WRITES);
    let form = Form::Processes {
        gateways: 1,
        consumers: 0,
    };
    let mut feed = TestFeed::start_with(form, &[("CONSUMER_LEASE_MS", LEASE_MS)]).await;
    let clients = Clients::new(vec![feed.client()]);
    let queued = futures_util::stream::iter(0..count);
    queued
        .for_each_concurrent(IN_FLIGHT, async |_| drop(clients.queue().await))
        .await;

    let kills = kill_until_applied(&mut feed, &mut SmallRng::seed_from_u64(seed)).await;
    let figures = judge(&feed, clients).await;
    println!("{kills:?} {figures:?}");
    let all = usize::try_from(count).expect("a test is small");
    let expected = Figures {
        versions: all,
        answered: all,
        applied: all,
        ..Figures::default()
    };
    assert_eq!(figures, expected);
    assert!(kills.consumers > 0, "{kills:?}");
    feed.finish().await;
}

/// Ends when no message is left.
async fn kill_until_applied(feed: &mut TestFeed, rng: &mut SmallRng) -> Kills {
    let mut kills = Kills::default();
    let mut running = BTreeSet::new();
    loop {
        let stats = stats(feed).await;
        if stats.ready + stats.delayed + stats.leased == 0 {
            return kills;
        }
        let part = *CONSUMERS.choose(rng).expect("there are some");
        match rng.random_range(0..8) {
            // All of them: what is leased now was theirs.
            0 => {
                kills.consumers += running.len();
                for part in std::mem::take(&mut running) {
                    feed.kill(part);
                }
                let stats = self::stats(feed).await;
                kills.messages += stats.leased + stats.delayed;
            }
            1..4 if running.remove(&part) => {
                kills.consumers += 1;
                feed.kill(part);
            }
            _ if running.insert(part) => feed.launch(part).await,
            _ => {}
        }
        tokio::time::sleep(rng.random_range(INTERVAL)).await;
    }
}

async fn stats(feed: &TestFeed) -> v1::QueueStats {
    let stats = feed.storage().queue_stats(feed_store::WRITE_QUEUE).await;
    stats.expect("storage answers").expect("the queue is used")
}
