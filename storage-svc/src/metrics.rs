//! What the service tells a collector of figures: its calls, its writer, its file, its queues. Told as OpenMetrics text,
//! which Prometheus reads.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use proto::limits::QUEUES_MAX;
use tonic::Code;

use crate::error::{StoreError, code_name};
use crate::model::{QueueInfo, QueueList, StoreStats};
use crate::store::Store;

/// What precedes the name of each figure.
const PREFIX: &str = "storage";
/// The store's own figures are waited for this long, and so is the answer whether it can be read.
const FIGURES_TIME_MAX: Duration = Duration::from_secs(5);
/// Upper bounds of the times of calls, in seconds.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];
/// Upper bounds of the sizes of group commits, in requests.
const REQUESTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The figures that are counted as things happen; clones count the same.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    calls: Family<CallLabels, Counter>,
    seconds: Family<MethodLabels, Histogram>,
    in_flight: Family<MethodLabels, Gauge>,
    registry: Registry,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    queue: String,
    state: &'static str,
}

/// The sizes of group commits, in requests.
pub(crate) fn group_sizes() -> Histogram {
    Histogram::new(REQUESTS)
}

impl Metrics {
    /// Figures that begin at nothing, beside the sizes that the writer counts.
    pub(crate) fn new(group_sizes: Histogram) -> Self {
        let calls = Family::default();
        let seconds = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        let in_flight = Family::default();
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register("calls", "Calls that ended, by method and code", calls.clone());
        registry.register_with_unit(
            "call",
            "Time from a call's arrival to the last of its answer",
            Unit::Seconds,
            seconds.clone(),
        );
        registry.register("calls_in_flight", "Calls and streams under way", in_flight.clone());
        registry.register("group_commit_requests", "Requests that share one commit", group_sizes);
        Self(Arc::new(Counted {
            calls,
            seconds,
            in_flight,
            registry,
        }))
    }

    /// A call came in.
    pub(crate) fn call_began(&self, method: &str) {
        self.0.in_flight.get_or_create(&labels(method)).inc();
    }

    /// It ended.
    pub(crate) fn call_ended(&self, method: &str, code: Code, began: Instant) {
        let labels = labels(method);
        self.0.in_flight.get_or_create(&labels).dec();
        let seconds = self.0.seconds.get_or_create(&labels);
        seconds.observe(began.elapsed().as_secs_f64());
        let code = code_name(code);
        let method = labels.method.clone();
        self.0.calls.get_or_create(&CallLabels { method, code }).inc();
    }
}

fn labels(method: &str) -> MethodLabels {
    MethodLabels {
        method: method.to_owned(),
    }
}

impl Store {
    /// Whether it can be read now; if not, why.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + FIGURES_TIME_MAX;
        self.history(Some(deadline)).await.map(|_| ())
    }

    /// All figures, as OpenMetrics text without its end. Without those of the file and the queues if they cannot be read
    /// now.
    pub async fn figures(&self) -> String {
        let deadline = Instant::now() + FIGURES_TIME_MAX;
        let read = async {
            let stats = self.stats(Some(deadline)).await?;
            let all = QueueList {
                rows_max: QUEUES_MAX,
                after: None,
            };
            let queues = self.list_queues(all, Some(deadline)).await?.queues;
            Ok::<_, StoreError>((stats, queues))
        };
        let read = tokio::time::timeout_at(deadline.into(), read).await;
        let mut registry = Registry::with_prefix(PREFIX);
        match read.unwrap_or(Err(StoreError::DeadlineExceeded)) {
            Ok((stats, queues)) => {
                self.register_store(&mut registry, &stats);
                register_queues(&mut registry, queues);
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the store's figures are not told"
            ),
        }
        let mut text = String::new();
        encode_registry(&mut text, &self.metrics().0.registry)
            .and_then(|()| encode_registry(&mut text, &registry))
            .expect("text takes all that is written to it");
        text
    }

    fn register_store(&self, registry: &mut Registry, stats: &StoreStats) {
        let mut gauge = |name, help, value: u64| {
            registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
        };
        gauge(
            "writes_waiting",
            "Requests that wait for the writer",
            stats.writes_waiting,
        );
        gauge("file_bytes", "Size of the database file", stats.file_bytes);
        gauge("wal_bytes", "Size of the write-ahead log", stats.wal_bytes);
        gauge(
            "history_bytes",
            "Size of the changes that watches can go back over",
            stats.history_bytes,
        );
        gauge("queues", "Queues that there are", stats.queues);
        gauge("watches", "Watches that are open", self.watches() as u64);
        gauge("consumers", "Consume streams that are open", self.consumers() as u64);
    }
}

fn register_queues(registry: &mut Registry, queues: Vec<QueueInfo>) {
    let messages = Family::<StateLabels, Gauge>::default();
    let oldest = Family::<QueueLabels, Gauge<f64, AtomicU64>>::default();
    for QueueInfo { name, stats, .. } in queues {
        let queue = name.as_str().to_owned();
        let states = [
            ("ready", stats.ready),
            ("delayed", stats.delayed),
            ("leased", stats.leased),
            ("dead", stats.dead),
            ("blocked", stats.blocked),
        ];
        for (state, count) in states {
            let queue = queue.clone();
            let gauge = messages.get_or_create(&StateLabels { queue, state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let age = u64::try_from(stats.oldest_ready_ms.unwrap_or(0)).unwrap_or(0);
        let age = Duration::from_millis(age).as_secs_f64();
        oldest.get_or_create(&QueueLabels { queue }).set(age);
    }
    registry.register("queue_messages", "Messages of a queue, by state", messages);
    registry.register_with_unit(
        "queue_oldest_ready",
        "Age of the oldest message that is ready; 0 if none is",
        Unit::Seconds,
        oldest,
    );
}
