//! The loop: takes messages as they become ready, no more at a time than it has permits for, comes back when storage
//! was away, and hands back what it has not begun when it is told to stop.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use feed_store::{FeedStore, WRITE_QUEUE};
use proto::client::ClientError;
use proto::client::consume::{Consume, Rest, Settler, Update};
use proto::v1;
use runtime::clock::Clock;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::lease::{Lease, duration};
use crate::message::{Delivered, describe};
use crate::metrics::Metrics;
use crate::state::{NotReady, State};
use crate::sweep;

/// When told to stop, what is being worked on may take this long; what is left then goes back to the queue.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Messages in hand, worked on or waiting for a permit, for each permit: with so many no more are taken. Some wait when
/// others had been delivered by a stream that broke, and are still worked on.
const IN_HAND_PER_PERMIT: usize = 2;
/// Whoever asks whether the consumer is ready, or for its figures, waits for storage so long.
const ASKED_TIME_MAX: Duration = Duration::from_secs(2);

/// How a consumer works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Messages worked on at once.
    pub concurrency: NonZeroU32,
    /// How long a message is leased at a time.
    pub lease: Duration,
    /// How long a message may be worked on before it is put back, its attempt counted.
    pub message_time_max: Duration,
}

/// A consumer; clones are the same one.
#[derive(Clone, Debug)]
pub struct Consumer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: FeedStore,
    settings: Settings,
    clock: Clock,
    metrics: Metrics,
    state: State,
}

/// What was delivered and has not ended.
#[derive(Debug)]
struct InHand {
    consumer: Consumer,
    permits: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Consumer {
    /// A consumer that does nothing yet.
    #[must_use]
    pub fn new(store: FeedStore, settings: Settings, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            store,
            settings,
            clock,
            metrics: Metrics::new(),
            state: State::default(),
        }))
    }

    /// Applies messages until `shutdown`, then finishes what it began, for at most [`DRAIN_MAX`], and hands back the rest.
    /// Beside that it looks after writes that have lost their messages.
    pub async fn run(&self, shutdown: CancellationToken) {
        let sweeping = sweep::run(self.store(), self.clock(), self.metrics(), &shutdown);
        tokio::join!(self.work(shutdown.clone()), sweeping);
    }

    async fn work(&self, shutdown: CancellationToken) {
        let mut stream = self.store().client().consume(self.open());
        let mut in_hand = InHand::new(self);
        // Of the stream that stands: cancelled when either end of it stops.
        let mut leaving = shutdown.child_token();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = in_hand.tasks.join_next() => look_after(ended),
                update = stream.next(), if in_hand.has_room() => match update {
                    Update::Opened => {
                        leaving = shutdown.child_token();
                        self.0.state.set(Ok(()));
                    }
                    Update::Deliveries(deliveries) => in_hand.take(deliveries, stream.settler().as_ref(), &leaving),
                    Update::Draining => {
                        leaving.cancel();
                        self.0.state.set(Err(NotReady::StorageStopping));
                    }
                    Update::Interrupted(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "no messages");
                        self.0.state.set(Err(NotReady::Interrupted(describe(&error))));
                    }
                },
            }
        }
        self.0.state.set(Err(NotReady::Stopping));
        self.stop(stream, in_hand, &leaving).await;
    }

    async fn stop(&self, stream: Consume, mut in_hand: InHand, leaving: &CancellationToken) {
        let mut rest = stream.drain();
        if tokio::time::timeout(DRAIN_MAX, in_hand.finish(&mut rest, leaving))
            .await
            .is_err()
        {
            tracing::warn!(
                messages = in_hand.tasks.len(),
                "stopped with messages at work; they go back to the queue"
            );
        }
    }

    /// Applies what is ready now, one message after the other, and returns how many that were.
    pub async fn drain(&self) -> Result<usize, ClientError> {
        let mut in_hand = InHand::new(self);
        let mut handled = 0;
        loop {
            let request = v1::ReceiveRequest {
                queue: WRITE_QUEUE.to_owned(),
                lease: Some(duration(self.settings().lease)),
                ..Default::default()
            };
            let deliveries = self.store().client().receive(request).await?;
            if deliveries.is_empty() {
                return Ok(handled);
            }
            handled += deliveries.len();
            in_hand.take(deliveries, None, &CancellationToken::new());
            while let Some(ended) = in_hand.tasks.join_next().await {
                look_after(ended);
            }
        }
    }

    /// Whether messages can come and storage answers; if not, why.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.0.state.get()?;
        match tokio::time::timeout(ASKED_TIME_MAX, self.store().client().server_info()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(NotReady::NoAnswer(describe(&error))),
            Err(_) => Err(NotReady::NoAnswer(describe(&ClientError::Timeout))),
        }
    }

    /// All figures, as OpenMetrics text without its end. Without those of the queue if storage does not answer.
    pub async fn figures(&self) -> String {
        let asked = self.store().client().queue_stats(WRITE_QUEUE);
        let oldest_ready = match tokio::time::timeout(ASKED_TIME_MAX, asked).await {
            // Nobody has used the queue, or nothing is ready.
            Ok(Ok(stats)) => {
                let age = stats.and_then(|stats| stats.oldest_ready_age);
                Some(age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default())
            }
            Ok(Err(_)) | Err(_) => None,
        };
        self.metrics().text(self.0.state.get().is_ok(), oldest_ready)
    }

    fn open(&self) -> v1::consume_request::Open {
        v1::consume_request::Open {
            queue: WRITE_QUEUE.to_owned(),
            max_outstanding_messages: self.settings().concurrency.get(),
            lease: Some(duration(self.settings().lease)),
            ..Default::default()
        }
    }

    pub(crate) fn store(&self) -> &FeedStore {
        &self.0.store
    }

    pub(crate) fn settings(&self) -> Settings {
        self.0.settings
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

impl InHand {
    fn new(consumer: &Consumer) -> Self {
        Self {
            consumer: consumer.clone(),
            permits: Arc::new(Semaphore::new(consumer.settings().concurrency.get() as usize)),
            tasks: JoinSet::new(),
        }
    }

    /// Whether more may be taken. What comes at once, a window at most, is taken whole.
    fn has_room(&self) -> bool {
        self.tasks.len() < self.consumer.settings().concurrency.get() as usize * IN_HAND_PER_PERMIT
    }

    fn take(&mut self, deliveries: Vec<v1::Delivery>, settler: Option<&Settler>, leaving: &CancellationToken) {
        for v1::Delivery { message, receipt, .. } in deliveries {
            let delivered = Delivered {
                consumer: self.consumer.clone(),
                message: message.unwrap_or_default(),
                lease: Lease {
                    client: self.consumer.store().client().clone(),
                    receipt,
                    time: self.consumer.settings().lease,
                    settler: settler.cloned(),
                },
                leaving: leaving.clone(),
            };
            self.tasks.spawn(delivered.handle(Arc::clone(&self.permits)));
        }
    }

    /// Waits for the end of what was begun, and of the stream; what it still brings goes back.
    async fn finish(&mut self, rest: &mut Rest, leaving: &CancellationToken) {
        let mut has_ended = false;
        while !has_ended || !self.tasks.is_empty() {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => look_after(ended),
                deliveries = rest.next(), if !has_ended => match deliveries {
                    Some(deliveries) => self.take(deliveries, rest.settler().as_ref(), leaving),
                    None => has_ended = true,
                },
            }
        }
    }
}

/// A task that panicked said so where it did; its message comes back when its lease has run out.
fn look_after(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a message was dropped; its lease will run out"
        );
    }
}
