//! A stream's hold on its queue: asks for messages while its window has room, and gives back what is out when it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::limits::{ANSWER_FREE_BYTES, CONSUMERS_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

use super::effects::Moment;
use super::queue::{self, Lately};
use super::room::Reserved;
use super::waiting::{Asked, Claim, Claimed, Patience, Returns};
use super::window::Window;
use super::{Job, Store, Write};
use crate::error::StoreError;
use crate::model::{Consume, Delivery, QueueName, Settled, Settlement};

/// How long a store that closes waits for the streams to give back what they hold; their calls have ended by then.
const STREAMS_GONE_MAX: Duration = Duration::from_secs(1);

/// The places of streams; clones count the same ones.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Semaphore>);

/// A stream's place among those that there may be.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(CONSUMERS_MAX)))
    }

    fn take(&self) -> Result<Place, StoreError> {
        let permit = Arc::clone(&self.0).try_acquire_owned();
        let place = permit.map(|permit| Place { _permit: permit });
        place.map_err(|error| match error {
            TryAcquireError::NoPermits => StoreError::TooMany {
                what: "Consume streams",
                most: CONSUMERS_MAX,
            },
            TryAcquireError::Closed => StoreError::Closing,
        })
    }

    fn taken(&self) -> usize {
        CONSUMERS_MAX - self.0.available_permits()
    }

    /// Waits until no stream is left, but not for ever; none can come any more.
    pub(super) async fn emptied(&self) {
        let every_place = u32::try_from(CONSUMERS_MAX).expect("the limit is small");
        let emptied = tokio::time::timeout(STREAMS_GONE_MAX, self.0.acquire_many(every_place)).await;
        if emptied.is_err() {
            tracing::warn!("streams outlive the store: what they hold waits for the end of its leases");
        }
        self.0.close();
    }
}

/// A stream of deliveries. Dropped, it gives back what is out: what was told as after a nack, the rest uncounted.
#[derive(Debug)]
pub(crate) struct Consumer {
    store: Store,
    queue: QueueName,
    lease_ms: i64,
    window: Arc<Window>,
    returns: Returns,
    /// Given up last: whoever has all places knows that everything was given back.
    _place: Place,
}

/// A question for messages that waits for its answer. Dropped, nothing stays leased for it.
#[derive(Debug)]
pub(crate) struct Asking {
    answered: oneshot::Receiver<Result<Claimed, StoreError>>,
    releases: u64,
}

/// Messages on their way to the client of a stream.
#[derive(Debug)]
pub(crate) struct Parcel {
    window: Arc<Window>,
    deliveries: Vec<Delivery>,
    room: Option<Reserved>,
}

/// Settlements on their way; the receiver has the results.
pub(crate) type Settling = oneshot::Receiver<Result<Vec<Settled>, StoreError>>;

impl Store {
    /// A place for a stream; refused if there are too many.
    pub(crate) fn consumer_place(&self) -> Result<Place, StoreError> {
        self.0.places.take()
    }

    /// Streams that are open now.
    #[must_use]
    pub fn consumers(&self) -> usize {
        self.0.places.taken()
    }

    /// Opens a stream. An unknown queue is made.
    pub(crate) async fn consume(&self, consume: Consume, place: Place) -> Result<Consumer, StoreError> {
        let name = consume.queue.clone();
        let resolve = move |connection: &_, moment: Moment| {
            let mut lately = Lately::default();
            let field = || "open.queue".to_owned();
            let queue = queue::resolve(connection, moment.now_ms, &name, field, &mut lately)?;
            Ok(((queue.id, queue.settings.lease_ms), lately.finish(connection)?))
        };
        let (queue_id, usual_ms) = self.write(None, resolve).await?;
        Ok(Consumer {
            window: Arc::new(Window::new(queue_id, &consume)),
            store: self.clone(),
            lease_ms: consume.lease_ms.unwrap_or(usual_ms),
            queue: consume.queue,
            returns: self.returns(),
            _place: place,
        })
    }
}

impl Consumer {
    /// How long its messages are leased; the queue's setting, unless the client said otherwise, when it was opened.
    pub(crate) fn lease_ms(&self) -> i64 {
        self.lease_ms
    }

    /// Whether the window could hold one more message, and would be given it.
    pub(crate) fn has_room(&self) -> bool {
        self.window.has_room()
    }

    /// Whether nothing is out.
    pub(crate) fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// When the stream is no longer in doubt, whether or not its client is heard of; none if it is not in doubt.
    pub(crate) fn doubt_ends(&self) -> Option<Instant> {
        let since = self.window.in_doubt_since();
        since.map(|since| since + self.store.consume_doubt_max())
    }

    /// The client is there, or is to be believed so: it is given messages again.
    pub(crate) fn trust(&self) {
        self.window.trust();
    }

    /// How often a message has left the window, or a doubt has ended.
    pub(crate) fn releases(&self) -> u64 {
        self.window.releases()
    }

    /// Waits until one of these happens.
    pub(crate) async fn released(&self) {
        self.window.released().await;
    }

    /// Stands in the queue's line for as much as the window has room for when its turn comes. One question at a time.
    pub(crate) fn ask(&self) -> Result<Asking, StoreError> {
        let releases = self.window.releases();
        let (answer, answered) = oneshot::channel();
        self.store.submit(Job::Claim(Claim {
            queue: self.queue.clone(),
            asked: Asked::Window(Arc::clone(&self.window)),
            patience: Patience::UntilItGoesAway,
            deadline: None,
            returns: self.returns.clone(),
            answer,
        }))?;
        Ok(Asking { answered, releases })
    }

    /// Wraps what was received for the way to the client; refused if there is no room for it.
    pub(crate) fn parcel(&self, deliveries: Vec<Delivery>) -> Result<Parcel, StoreError> {
        let bytes = deliveries.iter().map(|delivery| delivery.body.as_bytes().len()).sum();
        let room = (bytes >= ANSWER_FREE_BYTES).then(|| self.store.deliveries().try_take(bytes));
        Ok(Parcel {
            window: Arc::clone(&self.window),
            deliveries,
            room: room.transpose()?,
        })
    }

    /// Sends settlements to the writer, behind those before.
    pub(crate) fn settle(&self, settlements: &Arc<[Settlement]>) -> Result<Settling, StoreError> {
        let (answer, answered) = oneshot::channel();
        let settlements = Arc::clone(settlements);
        self.store
            .submit(Job::Write(Write::settle(settlements, None, answer)))?;
        Ok(answered)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let rest = self.window.end();
        self.returns.add(rest.untold, rest.told);
    }
}

impl Asking {
    /// The messages; none if the next one did not fit, or the stream is in doubt: then it is no use to ask before one has
    /// left or the doubt has ended, which it has if the window's count of those is not the one told here.
    pub(crate) async fn answered(&mut self) -> Result<Vec<Delivery>, StoreError> {
        let answered = (&mut self.answered).await;
        Ok(answered.map_err(|_| StoreError::Closing)??.take())
    }

    /// How often that had happened when this was asked.
    pub(crate) fn releases(&self) -> u64 {
        self.releases
    }
}

impl Parcel {
    /// The messages, told from now on: those that are still out. And the room that they take until they have left.
    pub(crate) fn open(mut self) -> (Vec<Delivery>, Option<Reserved>) {
        self.deliveries.retain(|delivery| self.window.tell(delivery.lease));
        (self.deliveries, self.room)
    }
}
