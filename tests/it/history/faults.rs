//! What befalls processes and the connections between them, drawn at random.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use tokio::time::Instant;

use crate::support::{FeedClient, Form, Link, Part, TestFeed};

/// From one fault to the next.
const INTERVAL: std::ops::Range<Duration> = Duration::from_millis(10)..Duration::from_millis(150);
/// How long a process is away.
const KILLED: std::ops::Range<Duration> = Duration::ZERO..Duration::from_millis(300);
/// How long one is frozen. A consumer's leases run out meanwhile, or do not.
const FROZEN: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_millis(1_500);
const VARIABLES: [(&str, &str); 1] = [("CONSUMER_LEASE_MS", "500")];
const GATEWAYS: usize = 2;

/// Of consumers, in a feed of several processes.
const CONSUMERS: std::ops::RangeInclusive<usize> = 1..=8;
/// Of feeds, those that are one process.
const ONE_PROCESS: f64 = 0.2;

/// A feed of which every connection can be cut.
pub(super) struct Harness {
    feed: TestFeed,
    /// Each as often as it is to be drawn.
    parts: Vec<Part>,
    gateways: usize,
    /// Between clients and gateways, and between gateways, all consumers, and storage.
    links: Vec<Link>,
}

/// How often each kind of fault happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) kills: usize,
    pub(super) freezes: usize,
    pub(super) cuts: usize,
}

/// How a process is at the moment, if it does not run.
enum Away {
    Killed,
    Frozen,
}

impl Harness {
    /// One process, or two gateways and some consumers.
    pub(super) async fn start(rng: &mut SmallRng) -> Self {
        if rng.random_bool(ONE_PROCESS) {
            return Self {
                feed: TestFeed::start_with(Form::OneProcess, &VARIABLES).await,
                parts: vec![Part::Whole],
                gateways: 1,
                links: Vec::new(),
            };
        }
        let form = Form::Processes {
            gateways: 0,
            consumers: 0,
        };
        let mut feed = TestFeed::start_with(form, &VARIABLES).await;
        let mut links = Vec::new();
        let gateways = (0..GATEWAYS).map(Part::Gateway);
        for part in gateways.clone() {
            let link = Link::to(&feed.storage_url()).await;
            feed.lead(part, link.url());
            links.push(link);
            feed.launch(part).await;
        }
        let link = Link::to(&feed.storage_url()).await;
        let consumers = rng.random_range(CONSUMERS);
        for part in (0..consumers).map(Part::Consumer) {
            feed.lead(part, link.url());
            feed.launch(part).await;
        }
        links.push(link);
        // Storage and gateways as often as all consumers together, however many those are.
        let others = std::iter::once(Part::Storage).chain(gateways).cycle();
        let others = others.take(consumers.max(1 + GATEWAYS));
        Self {
            feed,
            parts: others.chain((0..consumers).map(Part::Consumer)).collect(),
            gateways: GATEWAYS,
            links,
        }
    }

    pub(super) fn feed(&self) -> &TestFeed {
        &self.feed
    }

    /// Clients of each gateway, over connections that can be cut.
    pub(super) async fn clients(&mut self) -> Vec<FeedClient> {
        let mut clients = Vec::new();
        for number in 0..self.gateways {
            let link = Link::to(&self.feed.gateway_url(number)).await;
            clients.push(FeedClient::new(&link.url(), self.feed.secret()));
            self.links.push(link);
        }
        clients
    }

    /// Faults, one after the other and beside each other, until `work` is done; then everything runs.
    pub(super) async fn disturb<T>(&mut self, rng: &mut SmallRng, work: impl Future<Output = T>) -> (T, Faults) {
        let mut faults = Faults::default();
        let mut away: BTreeMap<Part, Away> = BTreeMap::new();
        let mut backs: BTreeSet<(Instant, Part)> = BTreeSet::new();
        let mut next = Instant::now();
        tokio::pin!(work);
        let worked = loop {
            let due = backs.first().map_or(next, |(back, _)| next.min(*back));
            tokio::select! {
                worked = &mut work => break worked,
                () = tokio::time::sleep_until(due) => {}
            }
            if let Some((_, part)) = backs.first().copied().filter(|(back, _)| *back <= due) {
                backs.pop_first();
                self.bring_back(part, &mut away).await;
                continue;
            }
            next = Instant::now() + rng.random_range(INTERVAL);
            let part = *self.parts.choose(rng).expect("there are some");
            let is_here = !away.contains_key(&part);
            match rng.random_range(0..5) {
                0 | 1 if is_here => {
                    faults.kills += 1;
                    self.feed.kill(part);
                    away.insert(part, Away::Killed);
                    backs.insert((Instant::now() + rng.random_range(KILLED), part));
                }
                2 | 3 if is_here => {
                    faults.freezes += 1;
                    self.feed.freeze(part);
                    away.insert(part, Away::Frozen);
                    backs.insert((Instant::now() + rng.random_range(FROZEN), part));
                }
                4 => {
                    faults.cuts += 1;
                    self.links.choose(rng).expect("there are some").cut();
                }
                _ => {}
            }
        };
        for (_, part) in backs {
            self.bring_back(part, &mut away).await;
        }
        (worked, faults)
    }

    /// Checks what is left, and stops everything.
    pub(super) async fn finish(self) {
        self.feed.finish().await;
    }

    async fn bring_back(&mut self, part: Part, away: &mut BTreeMap<Part, Away>) {
        match away.remove(&part) {
            Some(Away::Killed) => self.feed.launch(part).await,
            Some(Away::Frozen) => self.feed.thaw(part),
            None => {}
        }
    }
}
