//! What the store tells bit by bit: some items at a time, handed over as the reader takes them, and at last how it ended.
//! Nothing queues up for a reader that does not read: whoever tells waits, for as long as it bears with that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::vec;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::room::Reserved;
use super::way::Way;
use crate::error::StoreError;

/// The reader's end. Whoever drops it ends the telling.
#[derive(Debug)]
pub struct Flow<T> {
    handed_over: mpsc::Receiver<Parcel<T>>,
    /// What is being passed on.
    current: Option<Parcel<T>>,
    /// None: it has been told.
    end: Option<oneshot::Receiver<Result<(), StoreError>>>,
    way: Way,
}

impl<T> Flow<T> {
    /// The way on which this is to be passed on: so the teller learns how far it gets.
    pub(crate) fn way(&self) -> Way {
        self.way.clone()
    }

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
    _gone: DropGuard,
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
    gone: CancellationToken,
}

impl<T> Handed<T> {
    /// Waits until the reader has passed on all of it and asked for more.
    pub(super) async fn passed_on(&self) {
        self.gone.cancelled().await;
    }

    /// Whether the reader has passed on all of it.
    pub(super) fn is_passed_on(&self) -> bool {
        self.parcel.lock().is_none()
    }

    /// Takes back what has not been passed on, and returns how many items that is.
    pub(super) fn take_back(&self) -> usize {
        let load = self.parcel.lock().take();
        load.map_or(0, |load| load.items.len())
    }
}

/// The teller's end.
#[derive(Debug)]
pub(super) struct Source<T> {
    items: mpsc::Sender<Parcel<T>>,
    end: oneshot::Sender<Result<(), StoreError>>,
    way: Way,
}

/// The reader is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// Why somebody stops telling.
#[derive(Debug)]
pub(super) enum End {
    /// The reader is gone: there is nobody to tell.
    Gone,
    /// The reader is to know.
    Failed(StoreError),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
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
    let way = Way::default();
    let flow = Flow {
        handed_over,
        current: None,
        end: Some(ended),
        way: way.clone(),
    };
    (Source { items, end, way }, flow)
}

impl<T> Source<T> {
    /// Gives the next items once there is room for them. Those that come together also leave together.
    pub(super) async fn hand_over(&self, items: Vec<T>, room: Option<Reserved>) -> Result<Handed<T>, Gone> {
        let place = self.items.reserve().await.map_err(|_| Gone)?;
        let gone = CancellationToken::new();
        let load = Load {
            items: items.into_iter(),
            _room: room,
            _gone: gone.clone().drop_guard(),
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

    /// The way of what is handed over.
    pub(super) fn way(&self) -> &Way {
        &self.way
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
