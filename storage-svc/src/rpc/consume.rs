//! Consume: one stream of deliveries, from its opening to its end.
//!
//! Each stream has a task, which talks to the store, and a body, which hands to the connection what the task has put in
//! its one place. What the body took counts as sent. A client that takes nothing for long is cut off; what is on its way
//! to clients takes room, which they share.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proto::limits::{CONSUME_HEARTBEAT, CONSUME_SETTLES_AHEAD_MAX, CONSUME_STALL_MAX};
use proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::convert::{self, Wish};
use super::status;
use crate::error::StoreError;
use crate::model::{Delivery, QueueName, Settled, Settlement};
use crate::store::{Asking, Consumer, Parcel, Place, Reserved, Settling, Store};

/// How long a stream may be there before its first request.
const OPEN_TIME_MAX: Duration = Duration::from_secs(10);
/// For settlements, once the service is told to stop.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(8);
/// Pause before the writer is asked again after its line was full.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Begins a stream; what comes of it is told in its body.
pub(super) fn consume(
    store: Store,
    requests: Streaming<v1::ConsumeRequest>,
    draining: CancellationToken,
    place: Place,
) -> impl Stream<Item = Result<v1::ConsumeResponse, Status>> + Send + 'static {
    let (outbox, inbox) = mpsc::channel(1);
    Body {
        inbox,
        store: store.clone(),
        room: None,
        task: Some(tokio::spawn(run(store, requests, draining, place, outbox))),
    }
}

/// What the task hands to the body.
enum Letter {
    Response(v1::ConsumeResponse),
    Deliveries(QueueName, Parcel),
}

/// The stream's way out.
struct Body {
    inbox: mpsc::Receiver<Letter>,
    store: Store,
    /// Of the last deliveries, until more is asked for.
    room: Option<Reserved>,
    /// None: its end was told.
    task: Option<JoinHandle<Result<(), Status>>>,
}

impl Stream for Body {
    type Item = Result<v1::ConsumeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.room = None;
        while let Some(letter) = ready!(self.inbox.poll_recv(context)) {
            let response = match letter {
                Letter::Response(response) => response,
                Letter::Deliveries(queue, parcel) => {
                    let (deliveries, room) = parcel.open();
                    // Their leases ran out on the way.
                    if deliveries.is_empty() {
                        continue;
                    }
                    self.room = room;
                    let seals = self.store.seals();
                    let deliveries = deliveries.into_iter();
                    let deliveries = deliveries.map(|delivery| convert::delivery(delivery, &queue, seals));
                    convert::deliveries(deliveries.collect())
                }
            };
            return Poll::Ready(Some(Ok(response)));
        }
        let Some(task) = &mut self.task else {
            return Poll::Ready(None);
        };
        let ended = ready!(Pin::new(task).poll(context));
        self.task = None;
        // A panic was reported where it happened.
        let ended = ended.unwrap_or_else(|_| Err(Status::internal("the stream broke")));
        Poll::Ready(ended.err().map(Err))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The task of a stream: what is out when it ends, or is dropped, goes back.
async fn run(
    store: Store,
    mut requests: Streaming<v1::ConsumeRequest>,
    draining: CancellationToken,
    place: Place,
    outbox: mpsc::Sender<Letter>,
) -> Result<(), Status> {
    let first = tokio::select! {
        first = tokio::time::timeout(OPEN_TIME_MAX, requests.message()) => {
            first.map_err(|_| status(StoreError::DeadlineExceeded))??
        }
        () = draining.cancelled() => return Err(status(StoreError::Closing)),
    };
    let consume = convert::open(first).map_err(status)?;
    let queue = consume.queue.clone();
    let consumer = store.consume(consume, place).await.map_err(status)?;
    let now = Instant::now();
    let mut talk = Talk {
        hand: None,
        hand_at: now,
        said_at: now,
        outbox,
        asking: None,
        parcel: None,
        crowded: None,
        settling: VecDeque::new(),
        unsent: None,
        retry_at: now,
        is_drained: false,
        is_heard_out: false,
        leaves_at: None,
        store,
        queue,
        consumer,
    };
    talk.say_opened().await?;
    talk.go_on(&mut requests, &draining).await
}

/// An open stream.
struct Talk {
    /// The right to put one letter into the outbox: got back when the body has taken the one before.
    hand: Option<mpsc::OwnedPermit<Letter>>,
    /// Since when it has been there, or away.
    hand_at: Instant,
    /// When something was last said.
    said_at: Instant,
    outbox: mpsc::Sender<Letter>,
    asking: Option<Asking>,
    /// Messages to be told next.
    parcel: Option<Parcel>,
    /// The next message did not fit, or was not given: no use to ask before this count of releases has changed.
    crowded: Option<u64>,
    /// Settlements whose results are to be told, in order.
    settling: VecDeque<Settling>,
    /// Settlements that the writer had no room for.
    unsent: Option<Arc<[Settlement]>>,
    retry_at: Instant,
    /// No more messages.
    is_drained: bool,
    /// The client has said its last.
    is_heard_out: bool,
    /// The service stops: when the stream ends at the latest.
    leaves_at: Option<Instant>,
    store: Store,
    queue: QueueName,
    consumer: Consumer,
}

impl Talk {
    async fn say_opened(&mut self) -> Result<(), Status> {
        let hand = self.outbox.clone().reserve_owned().await.map_err(|_| gone())?;
        hand.send(Letter::Response(convert::opened(self.consumer.lease_ms())));
        Ok(())
    }

    async fn go_on(
        &mut self,
        requests: &mut Streaming<v1::ConsumeRequest>,
        draining: &CancellationToken,
    ) -> Result<(), Status> {
        loop {
            self.settle_unsent()?;
            self.ask()?;
            if let Some(end) = self.end() {
                return end;
            }
            let has_hand = self.hand.is_some();
            let doubt_ends = self.consumer.doubt_ends().map(Instant::from_std);
            let listens =
                !self.is_heard_out && self.unsent.is_none() && self.settling.len() < CONSUME_SETTLES_AHEAD_MAX;
            tokio::select! {
                // What has been done is told before what is new.
                biased;
                () = until(self.leaves_at) => return Err(status(StoreError::Closing)),
                hand = self.outbox.clone().reserve_owned(), if !has_hand => {
                    self.hand = Some(hand.map_err(|_| gone())?);
                    self.hand_at = Instant::now();
                }
                () = tokio::time::sleep_until(self.hand_at + CONSUME_STALL_MAX), if !has_hand => {
                    return Err(status(StoreError::SlowClient));
                }
                () = draining.cancelled(), if has_hand && self.leaves_at.is_none() => self.leave(),
                results = first(&mut self.settling), if has_hand => {
                    self.settling.pop_front();
                    let results = results.map_err(status)?.into_iter().map(convert::settled);
                    self.say(Letter::Response(convert::settled_on_stream(results.collect())));
                }
                deliveries = answered(&mut self.asking) => self.pack(deliveries)?,
                () = std::future::ready(()), if has_hand && self.parcel.is_some() => self.deliver(),
                request = requests.message(), if listens => self.hear(request?)?,
                () = self.consumer.released() => {}
                () = until(doubt_ends) => self.consumer.trust(),
                () = tokio::time::sleep_until(self.said_at + CONSUME_HEARTBEAT), if has_hand => {
                    self.say(Letter::Response(convert::heartbeat()));
                }
                () = tokio::time::sleep_until(self.retry_at), if self.is_paused() => {}
            }
        }
    }

    /// Whether all is done.
    fn end(&self) -> Option<Result<(), Status>> {
        let is_done = self.consumer.is_empty() && self.settling.is_empty() && self.unsent.is_none();
        match is_done {
            true if self.is_drained => Some(Ok(())),
            true if self.leaves_at.is_some() => Some(Err(status(StoreError::Closing))),
            _ => None,
        }
    }

    /// Stands in line for messages, if there is room for them here and on the way.
    fn ask(&mut self) -> Result<(), Status> {
        let delivers = !self.is_drained && self.leaves_at.is_none() && self.hand.is_some();
        let is_crowded = self.crowded == Some(self.consumer.releases());
        if !delivers
            || is_crowded
            || self.asking.is_some()
            || self.parcel.is_some()
            || self.is_paused()
            || !self.consumer.has_room()
        {
            return Ok(());
        }
        self.asking = self.unless_overloaded(|talk| talk.consumer.ask())?;
        Ok(())
    }

    fn pack(&mut self, deliveries: Result<Vec<Delivery>, StoreError>) -> Result<(), Status> {
        let releases = self.asking.take().map(|asking| asking.releases());
        let deliveries = deliveries.map_err(status)?;
        self.crowded = releases.filter(|_| deliveries.is_empty());
        if !deliveries.is_empty() {
            self.parcel = Some(self.consumer.parcel(deliveries).map_err(status)?);
        }
        Ok(())
    }

    fn deliver(&mut self) {
        if let Some(parcel) = self.parcel.take() {
            self.say(Letter::Deliveries(self.queue.clone(), parcel));
        }
    }

    fn hear(&mut self, request: Option<v1::ConsumeRequest>) -> Result<(), Status> {
        let Some(request) = request else {
            self.is_heard_out = true;
            self.drain();
            return Ok(());
        };
        self.consumer.trust();
        match convert::wish(request, self.store.seals()).map_err(status)? {
            Wish::Settle(settlements) => self.unsent = Some(settlements.into()),
            Wish::Drain => self.drain(),
        }
        Ok(())
    }

    /// Passes on what the client has settled.
    fn settle_unsent(&mut self) -> Result<(), Status> {
        if let Some(settlements) = self.unsent.take_if(|_| self.retry_at <= Instant::now()) {
            match self.unless_overloaded(|talk| talk.consumer.settle(&settlements))? {
                Some(settling) => self.settling.push_back(settling),
                None => self.unsent = Some(settlements),
            }
        }
        Ok(())
    }

    /// None, and a pause, if the writer has no room.
    fn unless_overloaded<T>(&mut self, work: impl FnOnce(&Self) -> Result<T, StoreError>) -> Result<Option<T>, Status> {
        match work(self) {
            Ok(done) => Ok(Some(done)),
            Err(StoreError::Overloaded) => {
                self.retry_at = Instant::now() + RETRY_PAUSE;
                Ok(None)
            }
            Err(error) => Err(status(error)),
        }
    }

    fn is_paused(&self) -> bool {
        self.retry_at > Instant::now()
    }

    /// No more messages; those that are on the way from the writer go back.
    fn drain(&mut self) {
        self.is_drained = true;
        self.asking = None;
    }

    /// The service stops.
    fn leave(&mut self) {
        self.asking = None;
        self.leaves_at = Some(Instant::now() + DRAIN_GRACE);
        let grace_ms = i64::try_from(DRAIN_GRACE.as_millis()).expect("it is seconds");
        self.say(Letter::Response(convert::draining(grace_ms)));
    }

    /// To be called with the hand free.
    fn say(&mut self, letter: Letter) {
        if let Some(hand) = self.hand.take() {
            hand.send(letter);
            self.said_at = Instant::now();
            self.hand_at = self.said_at;
        }
    }
}

/// Nobody is there to be told.
fn gone() -> Status {
    Status::cancelled("the client is gone")
}

/// The results of the first; never if there are none.
async fn first(settling: &mut VecDeque<Settling>) -> Result<Vec<Settled>, StoreError> {
    match settling.front_mut() {
        Some(first) => first.await.map_err(|_| StoreError::Closing)?,
        None => std::future::pending().await,
    }
}

/// What was asked for; never if nothing was.
async fn answered(asking: &mut Option<Asking>) -> Result<Vec<Delivery>, StoreError> {
    match asking {
        Some(asking) => asking.answered().await,
        None => std::future::pending().await,
    }
}

/// Waits for a time; never if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
