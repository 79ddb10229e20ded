//! What the store tells bit by bit: some items at a time, handed over as the reader takes them, and at last how it ended.
//! Nothing queues up for a reader that does not read: whoever tells waits, for as long as it bears with that.

use std::task::{Context, Poll};
use std::time::Instant;
use std::vec;

use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;

/// The reader's end. Whoever drops it ends the telling.
#[derive(Debug)]
pub struct Flow<T> {
    handed_over: mpsc::Receiver<Vec<T>>,
    /// What is left of the last that were handed over.
    items: vec::IntoIter<T>,
    /// None: it has been told.
    end: Option<oneshot::Receiver<Result<(), StoreError>>>,
}

impl<T> Flow<T> {
    /// The next item, or the error that ended it; then none.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, StoreError>>> {
        loop {
            if let Some(item) = self.items.next() {
                return Poll::Ready(Some(Ok(item)));
            }
            match std::task::ready!(self.handed_over.poll_recv(context)) {
                Some(items) => self.items = items.into_iter(),
                None => break,
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

/// The teller's end.
#[derive(Debug)]
pub(super) struct Source<T> {
    items: mpsc::Sender<Vec<T>>,
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
        items: Vec::new().into_iter(),
        end: Some(ended),
    };
    (Source { items, end }, flow)
}

impl<T> Source<T> {
    /// Gives the next items once there is room for them, but not after `latest`. Those that come together also leave
    /// together, in few frames: a peer may take many small ones that it has no time for as an attack.
    pub(super) async fn hand_over(&self, items: Vec<T>, latest: Instant) -> Result<(), Refusal> {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(latest.into()) => Err(Refusal::Late),
            room = self.items.reserve() => room.map(|room| room.send(items)).map_err(|_| Refusal::Gone),
        }
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
