//! Random histories of writes by many clients, at once and queued, through two gateways and to any number of consumers or
//! to one process that is all of it, while processes are killed and frozen and connections are cut: the outcome is the
//! accepted order.
//!
//! `HISTORIES` says how many; `HISTORY_SEED` draws the same ones again, as far as time lets them be the same.

mod bad_histories;
mod check;
mod clients;
mod faults;
mod in_the_way;
mod killed_consumers;
mod stream;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use self::check::{Document, Figures, check};
use self::clients::Clients;
use self::faults::Harness;
use crate::support::{FeedClient, TestFeed};

const HISTORIES: u64 = 150;
/// Histories over one set of processes.
const OF_A_ROUND: u64 = 250;
/// Histories at a time.
const BESIDE: usize = 64;
/// Reads in flight.
const READS: usize = 16;

#[tokio::test]
async fn whatever_is_accepted_takes_effect_once_in_the_order_it_was_accepted() {
    let seed = number("HISTORY_SEED").unwrap_or_else(|| rand::rng().random());
    println!("HISTORY_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let wanted = number("HISTORIES").unwrap_or(HISTORIES);
    let mut left = wanted;
    let mut total = Figures::default();
    while left > 0 {
        let histories = left.min(OF_A_ROUND);
        left -= histories;
        total = total.and(round(histories, &mut rng).await);
    }
    println!("{total:?}");
    assert!(
        total.accepted_unseen > 0 && total.superseded > 0 && total.cascaded > 0,
        "{total:?}"
    );
    let wanted = usize::try_from(wanted).expect("a test is small");
    assert!(total.answered > 2 * wanted, "histories are of some writes: {total:?}");
}

async fn round(histories: u64, rng: &mut SmallRng) -> Figures {
    let mut harness = Harness::start(rng).await;
    let clients = Clients::new(harness.clients().await);
    let seeds: Vec<u64> = (0..histories).map(|_| rng.random()).collect();
    let all = futures_util::stream::iter(seeds).for_each_concurrent(BESIDE, |seed| clients.history(seed));
    let ((), faults) = harness.disturb(rng, all).await;

    let figures = judge(harness.feed(), clients).await;
    println!("{faults:?} {figures:?}");
    harness.finish().await;
    figures
}

/// Waits for the end of all work, and fails unless its outcome is the accepted order.
async fn judge(feed: &TestFeed, clients: Clients) -> Figures {
    judge_without(feed, clients, &BTreeSet::new()).await
}

/// As [`judge`], but for commits that the test itself made, by their revisions.
async fn judge_without(feed: &TestFeed, clients: Clients, revisions: &BTreeSet<u64>) -> Figures {
    feed.drained().await;
    let mut commits = stream::commits(&feed.storage()).await;
    commits.retain(|commit| !revisions.contains(&commit.revision));
    let written = commits.iter().flat_map(|commit| commit.documents.keys());
    let last = read(&feed.client(), written.cloned().collect()).await;
    check(&clients.into_writes(), &commits, &last).unwrap_or_else(|fault| panic!("{fault}"))
}

/// What reads see of these documents.
async fn read(client: &FeedClient, documents: BTreeSet<Document>) -> BTreeMap<Document, String> {
    let read = futures_util::stream::iter(documents).map(|document| async move {
        let (kind, id) = document.split_once('/').expect("it is made so");
        let answer = client.get(&format!("/api/v1/{kind}s/{id}")).await;
        (answer.status != 404).then(|| (document, answer.expect(200).text))
    });
    read.buffer_unordered(READS)
        .filter_map(async |read| read)
        .collect()
        .await
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var_os(variable)?;
    let number = value.to_str().and_then(|value| value.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{variable} is a number")))
}
