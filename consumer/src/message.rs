//! One message, from its delivery to what became of it: it waits for its turn, is worked on within its time while its
//! lease is extended, and is settled whatever came of that.

use std::sync::Arc;
use std::time::Duration;

use feed::operation::OperationMessage;
use proto::v1;
use proto::v1::settlement::{Action, Dead, Nack};
use rand::RngExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::apply::{Applied, ApplyError, Buried, apply, bury};
use crate::lease::{Lease, duration};
use crate::metrics::Outcome;
use crate::worker::Consumer;

/// A message that failed at this attempt is given up. One less than the queue's own limit: the delivery after it is for
/// giving up a message whose consumers all died over it, so that its operation is recorded as failed.
const ATTEMPTS_MAX: u32 = 9;
/// First pause after storage was away, while the message is in hand.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It was tried, and says so.
    #[error(transparent)]
    Apply(ApplyError),
    /// Storage was away, and it is too late to try again.
    #[error("stopping")]
    Leaving,
    /// It took too long.
    #[error("not done within {} ms{}", time_max.as_millis(), last(.storage.as_deref()))]
    TimeUp {
        time_max: Duration,
        /// What storage said last.
        storage: Option<String>,
    },
}

impl Failure {
    /// Whether it says something about the message.
    fn counts(&self) -> bool {
        match self {
            Self::Apply(ApplyError::Contended) | Self::Leaving => false,
            // A time that is up counts even if storage was away: a message that breaks whatever it meets looks like that
            // too.
            Self::Apply(ApplyError::Store(_)) | Self::TimeUp { .. } => true,
        }
    }
}

/// What is to be done about a message.
enum Verdict {
    /// Nothing more.
    Ended(Outcome),
    /// It is to be settled so, and has ended so then.
    Settle(Action, Outcome),
}

/// A message that was delivered.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) consumer: Consumer,
    pub(crate) message: v1::Message,
    pub(crate) lease: Lease,
    /// Once it is cancelled nothing is begun, and nothing tried again.
    pub(crate) leaving: CancellationToken,
}

impl Delivered {
    /// Applies it when there is a permit, and settles it whatever comes of it.
    pub(crate) async fn handle(self, permits: Arc<Semaphore>) {
        let v1::Message { id, attempt, .. } = self.message;
        let handling = async {
            let outcome = self.outcome(&permits).await;
            if outcome == Outcome::LeaseLost {
                tracing::warn!("lease lost: left to its new holder");
            }
            self.consumer.metrics().ended(outcome);
        };
        let span = tracing::info_span!("message", message.id = id, queue.attempt = attempt);
        handling.instrument(span).await;
    }

    async fn outcome(&self, permits: &Semaphore) -> Outcome {
        let hold = self.lease.hold();
        tokio::pin!(hold);
        let waiting = self.consumer.metrics().wait();
        let permit = tokio::select! {
            biased;
            () = self.leaving.cancelled() => None,
            () = &mut hold => return Outcome::LeaseLost,
            permit = permits.acquire() => permit.ok(),
        };
        drop(waiting);
        if permit.is_none() {
            return self.conclude(self.handed_back()).await;
        }
        let _in_flight = self.consumer.metrics().begin();
        let verdict = tokio::select! {
            verdict = self.work() => verdict,
            () = &mut hold => Verdict::Ended(Outcome::LeaseLost),
        };
        self.conclude(verdict).await
    }

    async fn work(&self) -> Verdict {
        let text = match &self.message.content {
            Some(v1::message::Content::Text(text)) => text.as_str(),
            _ => "",
        };
        match OperationMessage::parse(text) {
            Ok(operation) if self.message.attempt > ATTEMPTS_MAX => {
                self.give_up(&operation, &self.message.last_error).await
            }
            Ok(operation) => self.apply(&operation).await,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "message buried");
                let reason = error.to_string();
                Verdict::Settle(Action::Dead(Dead { reason }), Outcome::Failed)
            }
        }
    }

    async fn apply(&self, operation: &OperationMessage) -> Verdict {
        let applying = || apply(self.consumer.store(), self.consumer.clock(), operation, &self.lease);
        match self.in_time(applying).await {
            Ok(Applied::Done(tally)) => {
                tracing::debug!(
                    operation.id = %operation.operation,
                    applied = tally.applied,
                    superseded = tally.superseded,
                    "operation done"
                );
                Verdict::Ended(if tally.applied > 0 {
                    Outcome::Applied
                } else {
                    Outcome::Superseded
                })
            }
            Ok(Applied::LeaseLost) => Verdict::Ended(Outcome::LeaseLost),
            Err(Failure::Leaving) => self.handed_back(),
            Err(failure) if failure.counts() && self.message.attempt >= ATTEMPTS_MAX => {
                self.give_up(operation, &describe(&failure)).await
            }
            Err(failure) => {
                let reason = describe(&failure);
                tracing::warn!(operation.id = %operation.operation, reason, "operation put back");
                Verdict::Settle(nack(reason, !failure.counts(), None), Outcome::PutBack)
            }
        }
    }

    async fn give_up(&self, operation: &OperationMessage, reason: &str) -> Verdict {
        let burying = || {
            bury(
                self.consumer.store(),
                self.consumer.clock(),
                operation,
                &self.lease,
                reason,
            )
        };
        match self.in_time(burying).await {
            Ok(Buried::Failed) => {
                tracing::error!(operation.id = %operation.operation, reason, "operation failed for good");
                Verdict::Ended(Outcome::Failed)
            }
            Ok(Buried::Superseded) => Verdict::Ended(Outcome::Superseded),
            Ok(Buried::LeaseLost) => Verdict::Ended(Outcome::LeaseLost),
            Err(Failure::Leaving) => self.handed_back(),
            // Not even its operation can be looked at. It must not come back for ever for that.
            Err(failure) if failure.counts() => {
                tracing::error!(
                    operation.id = %operation.operation,
                    reason,
                    error = &failure as &dyn std::error::Error,
                    "operation given up, which a sweep will record"
                );
                let reason = reason.to_owned();
                Verdict::Settle(Action::Dead(Dead { reason }), Outcome::Failed)
            }
            Err(failure) => {
                tracing::warn!(
                    operation.id = %operation.operation,
                    error = &failure as &dyn std::error::Error,
                    "operation not given up; put back"
                );
                // With the reason that it is to be given up for.
                Verdict::Settle(nack(reason.to_owned(), true, None), Outcome::PutBack)
            }
        }
    }

    /// Tries again while storage is away, for as long as a message may take.
    async fn in_time<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ApplyError>>,
    {
        let time_max = self.consumer.settings().message_time_max;
        let mut storage = None;
        let trying = async {
            let mut pause = RETRY_PAUSE_MIN;
            loop {
                let error = match attempt().await {
                    Err(error) if error.is_transient() => error,
                    ended => return ended.map_err(Failure::Apply),
                };
                storage = Some(describe(&error));
                tokio::select! {
                    () = self.leaving.cancelled() => return Err(Failure::Leaving),
                    () = tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.75..1.25))) => {}
                }
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
        };
        let tried = tokio::time::timeout(time_max, trying).await;
        tried.unwrap_or_else(|_| Err(Failure::TimeUp { time_max, storage }))
    }

    /// As if it had not been delivered: what went wrong before is still told.
    fn handed_back(&self) -> Verdict {
        let nack = nack(self.message.last_error.clone(), true, Some(Duration::ZERO));
        Verdict::Settle(nack, Outcome::HandedBack)
    }

    async fn conclude(&self, verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Ended(outcome) => outcome,
            Verdict::Settle(action, outcome) => self.lease.settle(action, outcome).await,
        }
    }
}

fn nack(error: String, refund_attempt: bool, delay: Option<Duration>) -> Action {
    Action::Nack(Nack {
        delay: delay.map(duration),
        error,
        refund_attempt,
    })
}

/// What went wrong, down to its cause.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

fn last(storage: Option<&str>) -> String {
    let last = storage.map(|said| format!("; last: {said}"));
    last.unwrap_or_default()
}
