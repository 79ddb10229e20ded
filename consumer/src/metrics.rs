//! What a consumer tells a collector of figures: what became of messages, how long each took, what waits, and what sweeps
//! found.

use std::sync::Arc;
use std::time::{Duration, Instant};

use feed_store::Swept;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What precedes the name of each figure.
const PREFIX: &str = "consumer";
/// Upper bounds of the times of messages, in seconds.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0,
];

/// What became of a message that was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// At least one of its operation's documents was applied.
    Applied,
    /// All of them had been replaced by newer versions, or taken back.
    Superseded,
    /// It was given up: the message is dead, its operation is recorded as failed, if need be by a sweep.
    Failed,
    /// It is to be tried again later.
    PutBack,
    /// It was not begun, or could not be done, because the consumer or its storage stops: another one has it at once, as
    /// if it had not been here.
    HandedBack,
    /// It was somebody else's when its turn or its end came, or was settled already; nothing was changed.
    LeaseLost,
    /// Storage was away when it was to be settled: it comes back when its lease has run out.
    Unsettled,
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::Applied,
        Self::Superseded,
        Self::Failed,
        Self::PutBack,
        Self::HandedBack,
        Self::LeaseLost,
        Self::Unsettled,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
            Self::PutBack => "put_back",
            Self::HandedBack => "handed_back",
            Self::LeaseLost => "lease_lost",
            Self::Unsettled => "unsettled",
        }
    }
}

/// What a sweep found of an operation, and did about it.
const ENQUEUED: &str = "enqueued";
const FAILED: &str = "failed";
const SUPERSEDED: &str = "superseded";
/// How a sweep ended.
const DONE: &str = "done";
const GAVE_UP: &str = "gave_up";

/// The figures that are counted as things happen; clones count the same.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    messages: Family<OutcomeLabels, Counter>,
    sweeps: Family<OutcomeLabels, Counter>,
    swept: Family<OutcomeLabels, Counter>,
    seconds: Histogram,
    waiting: Gauge,
    in_flight: Gauge,
    registry: Registry,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// A message that waits for its turn, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Gauge);

/// A message that is being worked on, until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    metrics: Metrics,
    began: Instant,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let messages = counters(Outcome::ALL.map(Outcome::name));
        let sweeps = counters([DONE, GAVE_UP, FAILED]);
        let swept = counters([ENQUEUED, FAILED, SUPERSEDED]);
        let seconds = Histogram::new(SECONDS);
        let (waiting, in_flight) = (Gauge::default(), Gauge::default());
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "messages",
            "Messages that were delivered, by what became of them",
            messages.clone(),
        );
        registry.register_with_unit(
            "message",
            "Time from a message's begin to what became of it",
            Unit::Seconds,
            seconds.clone(),
        );
        registry.register(
            "messages_waiting",
            "Messages that were delivered and wait for others to end",
            waiting.clone(),
        );
        registry.register(
            "messages_in_flight",
            "Messages that are being worked on",
            in_flight.clone(),
        );
        registry.register(
            "sweeps",
            "Looks for writes that nobody is at work on, by how they ended",
            sweeps.clone(),
        );
        registry.register(
            "swept",
            "Operations that sweeps found without anybody at work on them, by what became of them",
            swept.clone(),
        );
        Self(Arc::new(Counted {
            messages,
            sweeps,
            swept,
            seconds,
            waiting,
            in_flight,
            registry,
        }))
    }

    /// A message was delivered.
    pub(crate) fn wait(&self) -> Waiting {
        self.0.waiting.inc();
        Waiting(self.0.waiting.clone())
    }

    /// A message is begun.
    pub(crate) fn begin(&self) -> InFlight {
        self.0.in_flight.inc();
        InFlight {
            metrics: self.clone(),
            began: Instant::now(),
        }
    }

    /// A message has ended so.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.0.messages.get_or_create(&labels(outcome.name())).inc();
    }

    /// A sweep came to this, and to its end or not.
    pub(crate) fn swept(&self, swept: &Swept, is_done: bool) {
        let ended = match swept {
            _ if !is_done => FAILED,
            Swept { gave_up: true, .. } => GAVE_UP,
            _ => DONE,
        };
        self.0.sweeps.get_or_create(&labels(ended)).inc();
        for (outcome, count) in [
            (ENQUEUED, swept.enqueued),
            (FAILED, swept.failed),
            (SUPERSEDED, swept.superseded),
        ] {
            self.0.swept.get_or_create(&labels(outcome)).inc_by(count as u64);
        }
    }

    /// All figures as OpenMetrics text, without its end. The age of the oldest message that is ready is left out if it is
    /// not known.
    pub(crate) fn text(&self, is_open: bool, oldest_ready: Option<Duration>) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register(
            "stream_open",
            "Whether the stream of messages is open",
            ConstGauge::new(i64::from(is_open)),
        );
        if let Some(oldest_ready) = oldest_ready {
            registry.register_with_unit(
                "queue_oldest_ready",
                "Age of the oldest write that is ready to be applied; 0 if none is",
                Unit::Seconds,
                ConstGauge::new(oldest_ready.as_secs_f64()),
            );
        }
        let mut text = String::new();
        encode_registry(&mut text, &self.0.registry)
            .and_then(|()| encode_registry(&mut text, &registry))
            .expect("text takes all that is written to it");
        text
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.0.in_flight.dec();
        self.metrics.0.seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

/// Counters that are there from the start: what appears at its first loss has no rate before.
fn counters<const N: usize>(outcomes: [&'static str; N]) -> Family<OutcomeLabels, Counter> {
    let family = Family::<OutcomeLabels, Counter>::default();
    for outcome in outcomes {
        drop(family.get_or_create(&labels(outcome)));
    }
    family
}

fn labels(outcome: &'static str) -> OutcomeLabels {
    OutcomeLabels { outcome }
}
