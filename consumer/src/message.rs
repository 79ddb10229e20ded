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

use crate::apply::{Applied, ApplyError, apply, bury};
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
            Self::Apply(ApplyError::Contended) => false,
            Self::Apply(error) => !error.is_transient(),
            // Even if storage was away: a message that breaks whatever it meets looks like that too.
            Self::TimeUp { .. } => true,
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

impl Consumer {
    /// Applies one message when there is a permit for it, and settles it whatever comes of it. Once `leaving` is
    /// cancelled nothing is begun, and nothing tried again.
    pub(crate) async fn handle(
        &self,
        message: v1::Message,
        lease: Lease,
        permits: Arc<Semaphore>,
        leaving: CancellationToken,
    ) {
        let span = tracing::info_span!("message", message.id = message.id, queue.attempt = message.attempt);
        let handling = async {
            let outcome = self.outcome(&message, &lease, &permits, &leaving).await;
            if outcome == Outcome::LeaseLost {
                tracing::warn!("lease lost: left to its new holder");
            }
            self.metrics().ended(outcome);
        };
        handling.instrument(span).await;
    }

    async fn outcome(
        &self,
        message: &v1::Message,
        lease: &Lease,
        permits: &Semaphore,
        leaving: &CancellationToken,
    ) -> Outcome {
        let hold = lease.hold();
        tokio::pin!(hold);
        let permit = tokio::select! {
            biased;
            () = leaving.cancelled() => None,
            () = &mut hold => return Outcome::LeaseLost,
            permit = permits.acquire() => permit.ok(),
        };
        if permit.is_none() {
            return lease.settle(hand_back(message), Outcome::HandedBack).await;
        }
        let _in_flight = self.metrics().begin();
        let verdict = tokio::select! {
            verdict = self.work(message, lease, leaving) => verdict,
            () = &mut hold => Verdict::Ended(Outcome::LeaseLost),
        };
        match verdict {
            Verdict::Ended(outcome) => outcome,
            Verdict::Settle(action, outcome) => lease.settle(action, outcome).await,
        }
    }

    async fn work(&self, message: &v1::Message, lease: &Lease, leaving: &CancellationToken) -> Verdict {
        let text = match &message.content {
            Some(v1::message::Content::Text(text)) => text.as_str(),
            _ => "",
        };
        match OperationMessage::parse(text) {
            Ok(operation) if message.attempt > ATTEMPTS_MAX => {
                self.give_up(&operation, lease, &message.last_error, leaving).await
            }
            Ok(operation) => self.apply(&operation, message.attempt, lease, leaving).await,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "message buried");
                let reason = error.to_string();
                Verdict::Settle(Action::Dead(Dead { reason }), Outcome::Failed)
            }
        }
    }

    async fn apply(
        &self,
        operation: &OperationMessage,
        attempt: u32,
        lease: &Lease,
        leaving: &CancellationToken,
    ) -> Verdict {
        let applying = || apply(self.store(), self.clock(), operation, lease);
        match self.in_time(leaving, applying).await {
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
            Err(failure) if failure.counts() && attempt >= ATTEMPTS_MAX => {
                self.give_up(operation, lease, &describe(&failure), leaving).await
            }
            Err(failure) => put_back(operation, &failure),
        }
    }

    async fn give_up(
        &self,
        operation: &OperationMessage,
        lease: &Lease,
        reason: &str,
        leaving: &CancellationToken,
    ) -> Verdict {
        let burying = || bury(self.store(), self.clock(), operation, lease, reason);
        match self.in_time(leaving, burying).await {
            Ok(true) => {
                tracing::error!(operation.id = %operation.operation, reason, "operation failed for good");
                Verdict::Ended(Outcome::Failed)
            }
            Ok(false) => Verdict::Ended(Outcome::LeaseLost),
            Err(failure) => {
                tracing::warn!(
                    error = &failure as &dyn std::error::Error,
                    "operation not given up; put back"
                );
                // With the reason that it is to be given up for.
                Verdict::Settle(nack(reason.to_owned(), true, None), Outcome::PutBack)
            }
        }
    }

    /// Tries again while storage is away, for as long as a message may take.
    async fn in_time<T, F>(&self, leaving: &CancellationToken, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ApplyError>>,
    {
        let time_max = self.settings().message_time_max;
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
                    () = leaving.cancelled() => return Err(Failure::Apply(error)),
                    () = tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.75..1.25))) => {}
                }
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
        };
        let tried = tokio::time::timeout(time_max, trying).await;
        tried.unwrap_or_else(|_| Err(Failure::TimeUp { time_max, storage }))
    }
}

fn put_back(operation: &OperationMessage, failure: &Failure) -> Verdict {
    let reason = describe(failure);
    tracing::warn!(operation.id = %operation.operation, reason, "operation put back");
    Verdict::Settle(nack(reason, !failure.counts(), None), Outcome::PutBack)
}

/// As if it had not been delivered: what went wrong before is still told.
fn hand_back(message: &v1::Message) -> Action {
    nack(message.last_error.clone(), true, Some(Duration::ZERO))
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
