//! A watch that outlives its connection: it comes back by itself, goes on after the last complete revision, and says so
//! when it cannot.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use super::connection::Transport;
use super::{CALL_TIMEOUT, ClientError, StorageClient};
use crate::limits::{VALUE_BYTES_MAX, WATCH_BATCH_BYTES, WATCH_PROGRESS_DEFAULT, WATCH_STALL_MAX};
use crate::v1;
use crate::v1::kv_service_client::KvServiceClient;
use crate::v1::watch_response::{Batch, Body, Head};

/// Pause before the watch is begun again; doubled after each attempt that fails, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Silence of so many progress intervals, and as long as the largest message may take, means that nobody is there any
/// more. A connection that is gone is noticed sooner.
const SILENT_INTERVALS: u32 = 3;
/// Longest that the service waits while a message is taken slowly.
const MESSAGE_TIME_MAX: Duration =
    Duration::from_secs(WATCH_STALL_MAX.as_secs() * (VALUE_BYTES_MAX / WATCH_BATCH_BYTES + 1) as u64);
/// No pause that a service asks for is longer.
const ASKED_PAUSE_MAX: Duration = Duration::from_mins(1);

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The watch stands: every change of a revision later than `after_revision` will be told. Comes first, and again
    /// after each interruption.
    Began {
        /// Changes up to here are not told by what follows, unless they were told before.
        after_revision: u64,
        /// The store's revision now: what is read from here on is at least this new.
        store_revision: u64,
    },
    /// Changes of one revision. With `more` set it is not all of them; if an interruption comes before the rest they are
    /// all told again.
    Changed(Batch),
    /// Everything up to this revision has been told.
    CaughtUp {
        /// Of the store.
        revision: u64,
    },
    /// The connection broke, or the service ended the watch. Until the watch stands again, and has caught up, others'
    /// changes are not heard of.
    Interrupted,
    /// What was known is worth nothing: drop it. The watch begins anew from the store as it is; `Began` follows, and
    /// whoever reads after that misses nothing.
    Reset(Reset),
}

/// Why a watch had to begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Another store is there: the file was replaced or restored.
    OtherStore,
    /// The service was started again, which may have lost the last commits in a power cut.
    OtherIncarnation,
    /// The store's history no longer reaches back to where the watch was.
    HistoryGone,
    /// The store is behind where the watch was: it went back in time.
    WentBack,
}

/// An attempt to begin.
type Opening = Pin<Box<dyn Future<Output = Result<(Streaming<v1::WatchResponse>, Head), Status>> + Send>>;

/// A watch. Dropped, it ends.
pub struct Watch {
    client: StorageClient,
    request: v1::WatchRequest,
    silence_max: Duration,
    /// When something was last heard of the stream.
    heard_at: Instant,
    stream: Option<Streaming<v1::WatchResponse>>,
    /// Under way, whoever waits for it.
    opening: Option<Opening>,
    /// Which store, and which incarnation of it, `request.after_revision` is of.
    identity: Option<(String, String)>,
    pause: Duration,
    begin_at: Instant,
}

impl StorageClient {
    /// Watches what the request selects, from its `after_revision` or, unset, from now on. Nothing is sent before
    /// [`Watch::next`] is called.
    #[must_use]
    pub fn watch(&self, request: v1::WatchRequest) -> Watch {
        let interval = request
            .progress_interval
            .filter(|interval| interval.seconds >= 0)
            .and_then(|interval| Duration::try_from(interval).ok());
        let interval = interval.unwrap_or(WATCH_PROGRESS_DEFAULT);
        Watch {
            client: self.clone(),
            request,
            silence_max: interval * SILENT_INTERVALS + MESSAGE_TIME_MAX,
            heard_at: Instant::now(),
            stream: None,
            opening: None,
            identity: None,
            pause: PAUSE_MIN,
            begin_at: Instant::now(),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Watch")
            .field("request", &self.request)
            .field("is_open", &self.stream.is_some())
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// What comes next. Waits as long as it takes, through interruptions too; may be dropped and called again without
    /// missing anything. An error is one that another attempt would meet again, such as a wrong selector or token; calling
    /// again makes one, after a pause.
    pub async fn next(&mut self) -> Result<Update, ClientError> {
        let Some(stream) = &mut self.stream else {
            return self.begin().await;
        };
        match tokio::time::timeout_at(self.heard_at + self.silence_max, stream.message()).await {
            Ok(Ok(Some(message))) => Ok(self.tell(message)),
            Ok(Ok(None)) | Err(_) => Ok(self.interrupted(Duration::ZERO)),
            Ok(Err(status)) => self.ended(status),
        }
    }

    async fn begin(&mut self) -> Result<Update, ClientError> {
        loop {
            tokio::time::sleep_until(self.begin_at).await;
            let opening = self
                .opening
                .get_or_insert_with(|| Box::pin(open(self.client.kv.clone(), self.request.clone())));
            let opened = opening.await;
            self.opening = None;
            match opened {
                Ok((stream, head)) => return Ok(self.began(stream, head)),
                Err(status) if is_passing(&status) => self.back_off(hint(&status)),
                Err(status) => return self.ended(status),
            }
        }
    }

    fn began(&mut self, stream: Streaming<v1::WatchResponse>, head: Head) -> Update {
        let found = (head.store_id, head.incarnation);
        if let Some(known) = &self.identity
            && *known != found
        {
            let why = if known.0 == found.0 {
                Reset::OtherIncarnation
            } else {
                Reset::OtherStore
            };
            return self.reset(why);
        }
        self.identity = Some(found);
        self.heard_at = Instant::now();
        self.stream = Some(stream);
        let after_revision = *self.request.after_revision.get_or_insert(head.store_revision);
        Update::Began {
            after_revision,
            store_revision: head.store_revision,
        }
    }

    fn tell(&mut self, message: v1::WatchResponse) -> Update {
        self.pause = PAUSE_MIN;
        self.heard_at = Instant::now();
        match message.body {
            Some(Body::Batch(batch)) => {
                if !batch.more {
                    self.request.after_revision = Some(batch.revision);
                }
                Update::Changed(batch)
            }
            Some(Body::Progress(progress)) => {
                self.request.after_revision = Some(progress.revision);
                Update::CaughtUp {
                    revision: progress.revision,
                }
            }
            // The contract has no such message.
            Some(Body::Head(_)) | None => self.interrupted(Duration::ZERO),
        }
    }

    fn ended(&mut self, status: Status) -> Result<Update, ClientError> {
        if status.code() == Code::OutOfRange {
            let reason = status.get_details_error_info().map(|details| details.reason);
            return Ok(self.reset(match reason.as_deref() {
                Some("REVISION_AHEAD") => Reset::WentBack,
                _ => Reset::HistoryGone,
            }));
        }
        if is_passing(&status) {
            return Ok(self.interrupted(hint(&status)));
        }
        self.stream = None;
        self.back_off(hint(&status));
        Err(status.into())
    }

    fn interrupted(&mut self, pause_min: Duration) -> Update {
        self.stream = None;
        self.back_off(pause_min);
        Update::Interrupted
    }

    /// Forgets where it was.
    fn reset(&mut self, why: Reset) -> Update {
        self.stream = None;
        self.identity = None;
        self.request.after_revision = None;
        // It is tried at once, but not for ever in a row.
        self.back_off(Duration::ZERO);
        Update::Reset(why)
    }

    fn back_off(&mut self, pause_min: Duration) {
        let pause = self.pause.mul_f64(rand::rng().random_range(0.5..1.5));
        let pause_min = pause_min.mul_f64(rand::rng().random_range(1.0..1.5));
        self.begin_at = Instant::now() + pause.max(pause_min);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

async fn open(
    mut kv: KvServiceClient<Transport>,
    request: v1::WatchRequest,
) -> Result<(Streaming<v1::WatchResponse>, Head), Status> {
    let opened = async {
        let mut stream = kv.watch(Request::new(request)).await?.into_inner();
        let first = stream.message().await?.and_then(|message| message.body);
        match first {
            Some(Body::Head(head)) => Ok((stream, head)),
            _ => Err(Status::unavailable("the watch ended before its head")),
        }
    };
    let opened = tokio::time::timeout(CALL_TIMEOUT, opened).await;
    opened.unwrap_or_else(|_| Err(Status::unavailable("the watch did not begin in time")))
}

/// The pause that the service asks for.
fn hint(status: &Status) -> Duration {
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    delay.unwrap_or_default().min(ASKED_PAUSE_MAX)
}

/// Whether it may be over at the next attempt.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::NotFound => false,
        // A slow watcher that is cut off resumes, and an overloaded service recovers.
        _ => true,
    }
}
