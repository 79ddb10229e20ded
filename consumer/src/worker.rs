//! The lease loop: asks for no more messages than it can start, extends leases while it works, backs off while storage
//! is away, and drains when it is told to stop.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use feed::operation::OperationMessage;
use feed_store::{FeedStore, WRITE_QUEUE};
use proto::client::{ClientError, StorageClient};
use proto::v1;
use proto::v1::settlement::{Action, Dead, Extend, Nack};
use proto::v1::settlement_result::Status;
use rand::RngExt as _;
use runtime::clock::Clock;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::apply::{Applied, ApplyError, apply, bury, settlement};

/// How long one call waits for a message.
const RECEIVE_WAIT: Duration = Duration::from_secs(20);
/// First pause after storage failed.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause while storage fails.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A lease is extended when this part of it is over.
const EXTEND_PART: u32 = 3;
/// A message that failed at this attempt is given up. One less than the queue's own limit: the delivery after it is for
/// giving up a message whose consumers all died over it, so that its operation is recorded as failed.
const ATTEMPTS_MAX: u32 = 9;
/// When told to stop, what is being worked on may take this long; what is left then is applied by another consumer when
/// its lease has run out.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How a consumer works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Messages worked on at once.
    pub concurrency: NonZeroU32,
    /// How long a message is leased at a time.
    pub lease: Duration,
}

#[derive(Clone, Debug)]
struct Worker {
    store: FeedStore,
    settings: Settings,
    clock: Clock,
}

/// Applies messages until `shutdown`, then finishes what it began, for at most [`DRAIN_MAX`].
pub async fn run(store: FeedStore, settings: Settings, clock: Clock, shutdown: CancellationToken) {
    let worker = Worker { store, settings, clock };
    let permits = Arc::new(Semaphore::new(settings.concurrency.get() as usize));
    let mut tasks = JoinSet::new();
    let mut pause = BACKOFF_MIN;
    loop {
        while tasks.try_join_next().is_some() {}
        let free = tokio::select! {
            () = shutdown.cancelled() => break,
            // All that are free, so that one call leases as many messages as can be started.
            permit = Arc::clone(&permits).acquire_owned() => {
                let mut free = permit.expect("the semaphore is never closed");
                while let Ok(another) = Arc::clone(&permits).try_acquire_owned() {
                    free.merge(another);
                }
                free
            }
        };
        let received = tokio::select! {
            () = shutdown.cancelled() => break,
            received = worker.receive(free.num_permits(), RECEIVE_WAIT) => received,
        };
        match received {
            Ok(deliveries) => {
                pause = BACKOFF_MIN;
                let mut free = free;
                for delivery in deliveries {
                    let permit = free.split(1);
                    let worker = worker.clone();
                    tasks.spawn(async move {
                        worker.handle(delivery).await;
                        drop(permit);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    pause_ms = pause.as_millis(),
                    "no messages"
                );
                drop(free);
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(jittered(pause)) => {}
                }
                pause = (pause * 2).min(BACKOFF_MAX);
            }
        }
    }
    let finish = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_MAX, finish).await.is_err() {
        tracing::warn!(
            messages = tasks.len(),
            "stopped with messages at work; their leases will run out"
        );
    }
}

/// Applies what is ready now, one message after the other, and returns how many that were.
pub async fn drain(store: FeedStore, settings: Settings, clock: Clock) -> Result<usize, ClientError> {
    let worker = Worker { store, settings, clock };
    let mut handled = 0;
    loop {
        let deliveries = worker.receive(1, Duration::ZERO).await?;
        if deliveries.is_empty() {
            return Ok(handled);
        }
        for delivery in deliveries {
            worker.clone().handle(delivery).await;
            handled += 1;
        }
    }
}

impl Worker {
    async fn receive(&self, messages: usize, wait: Duration) -> Result<Vec<v1::Delivery>, ClientError> {
        self.store
            .client()
            .receive(v1::ReceiveRequest {
                queue: WRITE_QUEUE.to_owned(),
                max_messages: u32::try_from(messages).unwrap_or(u32::MAX),
                wait: Some(duration(wait)),
                lease: Some(duration(self.settings.lease)),
            })
            .await
    }

    /// Applies one message, holding its lease meanwhile, and settles it whatever comes of it.
    async fn handle(self, delivery: v1::Delivery) {
        let v1::Delivery { message, receipt, .. } = delivery;
        let message = message.unwrap_or_default();
        let span = tracing::info_span!("message", message.id = message.id, queue.attempt = message.attempt);
        self.handle_message(message, receipt).instrument(span).await;
    }

    async fn handle_message(self, message: v1::Message, receipt: Bytes) {
        let text = match &message.content {
            Some(v1::message::Content::Text(text)) => text.as_str(),
            _ => "",
        };
        match OperationMessage::parse(text) {
            Ok(operation) if message.attempt > ATTEMPTS_MAX => {
                self.give_up(&operation, &receipt, &message.last_error).await;
            }
            Ok(operation) => self.handle_operation(&operation, message.attempt, &receipt).await,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "message buried");
                self.settle(
                    &receipt,
                    Action::Dead(Dead {
                        reason: error.to_string(),
                    }),
                )
                .await;
            }
        }
    }

    async fn handle_operation(self, operation: &OperationMessage, attempt: u32, receipt: &[u8]) {
        let applied = tokio::select! {
            applied = apply(&self.store, &self.clock, operation, receipt) => applied,
            () = hold_lease(self.store.client().clone(), self.settings.lease, receipt) => Ok(Applied::LeaseLost),
        };
        let error = match applied {
            Ok(Applied::Done(tally)) => {
                tracing::debug!(
                    operation.id = %operation.operation,
                    applied = tally.applied,
                    superseded = tally.superseded,
                    "operation done"
                );
                return;
            }
            Ok(Applied::LeaseLost) => {
                tracing::warn!(operation.id = %operation.operation, "lease lost: left to its new holder");
                return;
            }
            Err(error) => error,
        };
        let reason = describe(&error);
        if attempt >= ATTEMPTS_MAX && !is_transient(&error) {
            self.give_up(operation, receipt, &reason).await;
        } else {
            tracing::warn!(operation.id = %operation.operation, reason, "operation put back");
            self.settle(
                receipt,
                Action::Nack(Nack {
                    delay: None,
                    error: reason,
                    refund_attempt: is_transient(&error),
                }),
            )
            .await;
        }
    }

    async fn give_up(&self, operation: &OperationMessage, receipt: &[u8], reason: &str) {
        tracing::error!(operation.id = %operation.operation, reason, "operation failed for good");
        if let Err(error) = bury(&self.store, &self.clock, operation, receipt, reason).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "message not buried; its lease will run out"
            );
        }
    }

    async fn settle(&self, receipt: &[u8], action: Action) {
        if let Err(error) = self.store.client().settle(vec![settlement(receipt, action)]).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "message not settled; its lease will run out"
            );
        }
    }
}

/// Extends the lease again and again; returns when it is lost.
async fn hold_lease(client: StorageClient, lease: Duration, receipt: &[u8]) {
    loop {
        tokio::time::sleep(lease / EXTEND_PART).await;
        let extend = Action::Extend(Extend {
            lease: Some(duration(lease)),
        });
        match client.settle(vec![settlement(receipt, extend)]).await {
            Ok(results) if results.iter().all(|result| result.status() == Status::Ok) => {}
            Ok(_) => return,
            // The next try may still come in time; if it does not, the commit is refused.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "lease not extended"),
        }
    }
}

/// Storage being away says nothing about the message: it does not count as an attempt.
fn is_transient(error: &ApplyError) -> bool {
    match error {
        ApplyError::Store(error) => error.is_transient(),
        ApplyError::Contended => true,
    }
}

fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).expect("a lease or a wait fits")
}

/// Up to a quarter more or less, so that consumers do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.75..1.25))
}
