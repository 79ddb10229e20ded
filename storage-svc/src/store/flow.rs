//! What the store tells bit by bit: some items at a time, handed over as the reader takes them, and at last how it ended.
//! Nothing queues up for a reader that does not read: whoever tells waits, for as long as it bears with that.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use std::vec;

use tokio::sync::{mpsc, oneshot};

use super::room::Reserved;
use crate::error::StoreError;

/// The reader's end. Whoever drops it ends the telling.
#[derive(Debug)]
pub struct Flow<T> {
    handed_over: mpsc::Receiver<Parcel<T>>,
    /// What is being passed on.
    current: Option<Parcel<T>>,
    /// None: it has been told.
    end: Option<oneshot::Receiver<Result<(), StoreError>>>,
}

impl<T> Flow<T> {
    /// The next item, or the error that ended it; then none.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, StoreError>>> {
        loop {
            if let Some(item) = self.current.as_ref().and_then(Parcel::next) {
                return Poll::Ready(Some(Ok(item)));
            }
            self.current = std::task::ready!(self.handed_over.poll_recv(context));
            if self.current.is_none() {
                break;
            }
        }
        let Some(end) = &mut self.end else {
            return Poll::Ready(None);
        };
        let ended = std::task::ready!(std::pin::Pin::new(end).poll(context));
        self.end = None;
        // Who tells does not go without a word, but for a panic, which was reported where it happened.
        Poll::Ready(ended.unwrap_or(Err(StoreError::Closing)).err().map(Err))
    }
}

/// Some items that are handed over together. Both ends hold it: the reader passes them on, and the teller takes them back
/// if it gives the reader up.
#[derive(Debug)]
struct Parcel<T>(Arc<Mutex<Option<Load<T>>>>);

/// What is left of a parcel.
#[derive(Debug)]
struct Load<T> {
    items: vec::IntoIter<T>,
    _room: Option<Reserved>,
    /// Tells the teller when this is gone.
    _gone: oneshot::Sender<Infallible>,
}

impl<T> Parcel<T> {
    fn next(&self) -> Option<T> {
        let mut load = self.lock();
        let item = load.as_mut().and_then(|load| load.items.next());
        if item.is_none() {
            *load = None;
        }
        item
    }

    fn lock(&self) -> MutexGuard<'_, Option<Load<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was handed over, as its teller sees it.
#[derive(Debug)]
pub(super) struct Handed<T> {
    parcel: Parcel<T>,
    gone: oneshot::Receiver<Infallible>,
}

impl<T> Handed<T> {
    /// Waits until the reader has passed on all of it and asked for more, which a connection does before it has sent what
    /// it has.
    pub(super) async fn passed_on(&mut self) {
        // The other end is dropped, and never sends.
        let _ = (&mut self.gone).await;
    }

    /// Whether the reader has passed on all of it.
    pub(super) fn is_passed_on(&self) -> bool {
        self.parcel.lock().is_none()
    }

    /// Takes back what has not been passed on.
    pub(super) fn take_back(self) -> impl Iterator<Item = T> {
        let load = self.parcel.lock().take();
        load.into_iter().flat_map(|load| load.items)
    }
}

/// The teller's end.
#[derive(Debug)]
pub(super) struct Source<T> {
    items: mpsc::Sender<Parcel<T>>,
    end: oneshot::Sender<Result<(), StoreError>>,
}

/// Why nothing was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The reader is gone.
    Gone,
    /// It did not make room in time.
    Late,
}

/// Why somebody stops telling.
#[derive(Debug)]
pub(super) enum End {
    /// The reader is gone: there is nobody to tell.
    Gone,
    /// The reader is to know.
    Failed(StoreError),
}

impl<E: Into<StoreError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Both ends.
pub(super) fn flow<T>() -> (Source<T>, Flow<T>) {
    let (items, handed_over) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    let flow = Flow {
        handed_over,
        current: None,
        end: Some(ended),
    };
    (Source { items, end }, flow)
}

impl<T> Source<T> {
    /// Gives the next items once there is room for them, but not after `latest`. Those that come together also leave
    /// together, in few frames: a peer may take many small ones that it has no time for as an attack.
    pub(super) async fn hand_over(
        &self,
        items: Vec<T>,
        room: Option<Reserved>,
        latest: Instant,
    ) -> Result<Handed<T>, Refusal> {
        let place = tokio::select! {
            biased;
            () = tokio::time::sleep_until(latest.into()) => return Err(Refusal::Late),
            place = self.items.reserve() => place.map_err(|_| Refusal::Gone)?,
        };
        let (told, gone) = oneshot::channel();
        let load = Load {
            items: items.into_iter(),
            _room: room,
            _gone: told,
        };
        let load = Arc::new(Mutex::new(Some(load)));
        place.send(Parcel(Arc::clone(&load)));
        let parcel = Parcel(load);
        Ok(Handed { parcel, gone })
    }

    /// Asks, for as long as it is kept, whether the reader is gone.
    pub(super) fn absence(&self) -> impl Fn() -> bool + Send + 'static
    where
        T: Send + 'static,
    {
        let items = self.items.clone();
        move || items.is_closed()
    }

    /// Waits until the reader is gone.
    pub(super) async fn gone(&self) {
        self.items.closed().await;
    }

    /// Says how it ended, behind what was handed over.
    pub(super) fn end(self, ended: Result<(), End>) {
        let ended = match ended {
            Ok(()) => Ok(()),
            Err(End::Failed(error)) => Err(error),
            Err(End::Gone) => return,
        };
        // Fails if the reader has gone.
        let _ = self.end.send(ended);
    }
}
