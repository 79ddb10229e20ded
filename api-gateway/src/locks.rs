//! Writes of one document wait for each other here, instead of losing to each other in storage.
//!
//! This spares work and is fair; it keeps nothing correct. Other gateways write too, and the checks of each commit alone
//! decide.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use feed::id::DocumentKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Writes of one document that wait or are at work.
const QUEUED_MAX: usize = 1024;

/// The documents that are being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct DocumentLocks(Arc<Mutex<HashMap<DocumentKey, Queue>>>);

#[derive(Debug)]
struct Queue {
    turn: Arc<Semaphore>,
    length: usize,
}

/// Too many writes of one document wait already.
#[derive(Debug)]
pub(crate) struct QueueFull;

/// The right to write one document; ends when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    // Dropped in this order: the next one may begin before this place is given up.
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

#[derive(Debug)]
struct Place {
    locks: DocumentLocks,
    document: DocumentKey,
}

impl DocumentLocks {
    /// Waits until no other write of the document is at work.
    pub(crate) async fn turn(&self, document: DocumentKey) -> Result<Turn, QueueFull> {
        let (place, turn) = self.enqueue(document)?;
        let permit = turn.acquire_owned().await.expect("the semaphore is never closed");
        Ok(Turn {
            _permit: permit,
            _place: place,
        })
    }

    fn enqueue(&self, document: DocumentKey) -> Result<(Place, Arc<Semaphore>), QueueFull> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(document).or_insert_with(|| Queue {
            turn: Arc::new(Semaphore::new(1)),
            length: 0,
        });
        if queue.length == QUEUED_MAX {
            return Err(QueueFull);
        }
        queue.length += 1;
        let place = Place {
            locks: self.clone(),
            document,
        };
        Ok((place, Arc::clone(&queue.turn)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.locks.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get_mut(&self.document) {
            queue.length -= 1;
            if queue.length == 0 {
                queues.remove(&self.document);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use feed::id::{DocumentId, Kind};

    use super::*;

    fn document() -> DocumentKey {
        DocumentKey {
            kind: Kind::Playlist,
            id: DocumentId::random(&mut rand::rng()),
        }
    }

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left_behind() {
        let (locks, document) = (DocumentLocks::default(), document());
        let first = locks.turn(document).await.expect("the queue is empty");
        let mut second = Box::pin(locks.turn(document));
        assert!(poll_once(&mut second).await.is_none(), "the first is at work");
        let other = locks.turn(self::document()).await;
        assert!(other.is_ok(), "another document waits for nobody");
        drop((first, other));
        drop(second.await.expect("its turn"));
        assert!(locks.0.lock().expect("no panic").is_empty());
    }

    #[tokio::test]
    async fn a_full_queue_takes_no_more_and_one_that_is_left_early_does() {
        let (locks, document) = (DocumentLocks::default(), document());
        let mut places: Vec<_> = (0..QUEUED_MAX)
            .map(|_| locks.enqueue(document).expect("there is room"))
            .collect();
        assert!(locks.turn(document).await.is_err());
        places.pop();
        assert!(locks.turn(document).await.is_ok());
        drop(places);
        assert!(locks.0.lock().expect("no panic").is_empty());
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
