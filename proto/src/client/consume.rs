//! A stream of messages that outlives its connection: it comes back by itself, and says when it stands and when it does
//! not.

use std::pin::Pin;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::{CALL_TIMEOUT, ClientError, StorageClient};
use crate::limits::{CONSUME_HEARTBEAT, WINDOW_MESSAGES_MAX};
use crate::v1;
use crate::v1::consume_request::{Body as Ask, Drain, Open};
use crate::v1::consume_response::Body;

/// Pause before the stream is opened again; doubled after each one that told nothing, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Silence of so many heartbeats means that nobody is there any more.
const SILENT_HEARTBEATS: u32 = 3;
/// Requests that can wait for the connection: what opens, what drains, and a settlement of each message that can be out.
const REQUESTS_AHEAD: usize = WINDOW_MESSAGES_MAX + 2;

/// What a stream tells.
#[derive(Debug)]
pub enum Update {
    /// The stream stands. Comes first, and again after each interruption.
    Opened,
    /// Messages, leased.
    Deliveries(Vec<v1::Delivery>),
    /// The service stops. It delivers no more, and may take no other calls either: what is not going to be done is best
    /// given back through the stream, while it lasts.
    Draining,
    /// The stream ended, or could not be opened; it is opened again after a pause. What was delivered through it and is
    /// not settled may be somebody else's already: the service gives it back as soon as it notices, unless it was
    /// killed.
    Interrupted(ClientError),
}

/// A stream of the messages of one queue. Dropped, it ends, and what is still out goes back.
pub struct Consume {
    client: StorageClient,
    open: Open,
    state: State,
    pause: Duration,
}

/// What is left of a stream that was asked to drain. Dropped, it ends.
#[derive(Debug)]
pub struct Rest(Option<Box<Stream>>);

/// Settles messages through the stream that delivered them; clones settle through the same.
#[derive(Clone, Debug)]
pub struct Settler(mpsc::Sender<v1::ConsumeRequest>);

enum State {
    /// To be opened then.
    Closed(Instant),
    /// Kept here, so that nobody who stops waiting for it breaks it off.
    Opening(Pin<Box<dyn Future<Output = Result<Box<Stream>, ClientError>> + Send>>),
    Open(Box<Stream>),
}

#[derive(Debug)]
struct Stream {
    requests: mpsc::Sender<v1::ConsumeRequest>,
    responses: Streaming<v1::ConsumeResponse>,
    heard_at: Instant,
}

impl StorageClient {
    /// Messages of a queue as they become ready. Nothing is sent before [`Consume::next`] is called.
    #[must_use]
    pub fn consume(&self, open: Open) -> Consume {
        Consume {
            client: self.clone(),
            open,
            state: State::Closed(Instant::now()),
            pause: PAUSE_MIN,
        }
    }
}

impl Consume {
    /// What comes next. Waits as long as it takes; may be dropped and called again without missing anything.
    pub async fn next(&mut self) -> Update {
        loop {
            match &mut self.state {
                State::Closed(open_at) => {
                    tokio::time::sleep_until(*open_at).await;
                    self.state = State::Opening(Box::pin(open(self.client.clone(), self.open.clone())));
                }
                State::Opening(opening) => match opening.await {
                    Ok(stream) => {
                        self.state = State::Open(stream);
                        return Update::Opened;
                    }
                    Err(error) => return self.interrupted(error),
                },
                State::Open(stream) => {
                    let body = match stream.next().await {
                        Ok(body) => body,
                        Err(error) => return self.interrupted(error),
                    };
                    // One that is opened and ends at once is no better than one that cannot be opened.
                    self.pause = PAUSE_MIN;
                    match body {
                        Body::Deliveries(more) => return Update::Deliveries(more.deliveries),
                        Body::Draining(_) => return Update::Draining,
                        Body::Settled(_) | Body::Heartbeat(_) | Body::Opened(_) => {}
                    }
                }
            }
        }
    }

    /// A way to settle through the stream as it stands; none if it does not.
    #[must_use]
    pub fn settler(&self) -> Option<Settler> {
        match &self.state {
            State::Open(stream) => Some(Settler(stream.requests.clone())),
            State::Closed(_) | State::Opening(_) => None,
        }
    }

    /// Asks for no more messages.
    #[must_use]
    pub fn drain(self) -> Rest {
        let State::Open(stream) = self.state else {
            return Rest(None);
        };
        let is_asked = stream.send(Ask::Drain(Drain {}));
        Rest(is_asked.then_some(stream))
    }

    fn interrupted(&mut self, error: ClientError) -> Update {
        let pause = self.pause.mul_f64(rand::rng().random_range(0.5..1.5));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.state = State::Closed(Instant::now() + pause);
        Update::Interrupted(error)
    }
}

impl Rest {
    /// Messages that were on their way; none once the stream has ended, which it does when all that is out is settled.
    /// May be dropped and called again without missing anything.
    pub async fn next(&mut self) -> Option<Vec<v1::Delivery>> {
        loop {
            match self.0.as_mut()?.next().await {
                Ok(Body::Deliveries(more)) => return Some(more.deliveries),
                Ok(_) => {}
                Err(_) => self.0 = None,
            }
        }
    }

    /// A way to settle through the stream; none if it has ended.
    #[must_use]
    pub fn settler(&self) -> Option<Settler> {
        self.0.as_ref().map(|stream| Settler(stream.requests.clone()))
    }
}

impl Settler {
    /// Sends a settlement, and waits for no result; false if the stream has ended. For when other calls are not taken.
    #[must_use]
    pub fn settle(&self, settlement: v1::Settlement) -> bool {
        let settlements = vec![settlement];
        send(&self.0, Ask::Settle(v1::SettleRequest { settlements }))
    }
}

impl Stream {
    /// The next response.
    async fn next(&mut self) -> Result<Body, ClientError> {
        let silent_at = self.heard_at + CONSUME_HEARTBEAT * SILENT_HEARTBEATS;
        let told = tokio::time::timeout_at(silent_at, self.responses.message()).await;
        let response = told.map_err(|_| ClientError::Timeout)??;
        self.heard_at = Instant::now();
        let ended = || ClientError::Unavailable(Box::new(Status::unavailable("the stream ended")));
        let response = response.ok_or_else(ended)?;
        response.body.ok_or(ClientError::Contract("a response tells something"))
    }

    fn send(&self, body: Ask) -> bool {
        send(&self.requests, body)
    }
}

fn send(requests: &mpsc::Sender<v1::ConsumeRequest>, body: Ask) -> bool {
    requests.try_send(v1::ConsumeRequest { body: Some(body) }).is_ok()
}

async fn open(client: StorageClient, open: Open) -> Result<Box<Stream>, ClientError> {
    let (requests, sent) = mpsc::channel(REQUESTS_AHEAD);
    send(&requests, Ask::Open(open));
    let opening = async {
        let mut queue = client.queue;
        let responses = queue
            .consume(Request::new(ReceiverStream::new(sent)))
            .await?
            .into_inner();
        let mut stream = Box::new(Stream {
            requests,
            responses,
            heard_at: Instant::now(),
        });
        match stream.next().await? {
            Body::Opened(_) => Ok(stream),
            _ => Err(ClientError::Contract("the first response says that the stream is open")),
        }
    };
    let opened = tokio::time::timeout(CALL_TIMEOUT, opening).await;
    opened.unwrap_or(Err(ClientError::Timeout))
}
