//! The lease of one message: held while it is worked on, and settled at its end.

use std::time::Duration;

use bytes::Bytes;
use proto::client::consume::Settler;
use proto::client::{ClientError, StorageClient};
use proto::v1;
use proto::v1::settlement::{Action, Extend};
use proto::v1::settlement_result::Status;

use crate::metrics::Outcome;

/// A lease is extended when this part of it is over.
const EXTEND_PART: u32 = 3;
/// If that failed it is tried again after this part of the pause.
const RETRY_PART: u32 = 10;

/// A message that is leased.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) client: StorageClient,
    pub(crate) receipt: Bytes,
    /// How long it is extended at a time.
    pub(crate) time: Duration,
    /// The stream that it came through, if it came through one.
    pub(crate) settler: Option<Settler>,
}

impl Lease {
    /// Extends it again and again; returns when it is lost.
    pub(crate) async fn hold(&self) {
        let part = self.time / EXTEND_PART;
        let mut pause = part;
        loop {
            tokio::time::sleep(pause).await;
            pause = part;
            let extend = Action::Extend(Extend {
                lease: Some(duration(self.time)),
            });
            // No call may last until it is too late for another.
            let settling = self.client.settle(vec![self.settlement(extend)]);
            let settled = tokio::time::timeout(part, settling).await;
            match settled.unwrap_or(Err(ClientError::Timeout)) {
                Ok(results) => match results.first().map(v1::SettlementResult::status) {
                    Some(Status::Ok) => {}
                    // Most likely by its own commit, whose answer is on the way.
                    Some(Status::Gone) => std::future::pending().await,
                    _ => return,
                },
                // The next try may still come in time; if it does not, the commit is refused.
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "lease not extended");
                    pause = part / RETRY_PART;
                }
            }
        }
    }

    /// Settles the message, which ends so; unless it is somebody else's, or storage is away.
    pub(crate) async fn settle(&self, action: Action, outcome: Outcome) -> Outcome {
        let error = match self.client.settle(vec![self.settlement(action.clone())]).await {
            Ok(results) if results.iter().all(|result| result.status() == Status::Ok) => return outcome,
            Ok(_) => return Outcome::LeaseLost,
            Err(error) => error,
        };
        // A service that stops takes settlements through its streams to the end.
        let through_stream = self.settler.as_ref();
        if through_stream.is_some_and(|settler| settler.settle(self.settlement(action))) {
            return outcome;
        }
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "message not settled; its lease will run out"
        );
        Outcome::Unsettled
    }

    /// A settlement of it.
    pub(crate) fn settlement(&self, action: Action) -> v1::Settlement {
        v1::Settlement {
            receipt: self.receipt.clone(),
            action: Some(action),
        }
    }
}

/// As the contract writes it.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).expect("a lease or a wait fits")
}
