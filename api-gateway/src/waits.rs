//! Who waits for the result of a queued write (`Prefer: respond-async, wait=N`).
//!
//! One watch on the records of operations wakes all that wait in this gateway, however many they are; it stands only while
//! somebody waits. Being woken is a hint: whoever is woken reads the record. So a watch that is not there costs an answer
//! of 202 where there could have been another, and is never the cause of a wrong one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use feed::operation::{OperationRecord, OperationState};
use feed::state::OperationId;
use feed_store::{FeedStore, OperationNews};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests that wait at once; one more is answered without a wait.
const WAITING_MAX: usize = 1024;
/// What the answers of those requests may take in memory together, in KiB; what would be more is answered without a wait.
const WAITING_KIB_MAX: usize = 64 * 1024;
/// The watch is kept for so long after the last one has gone, so that writes one after the other do not begin it each
/// time.
const LINGER: Duration = Duration::from_secs(10);

/// Those who wait in one gateway.
#[derive(Clone, Debug)]
pub(crate) struct Waits(Arc<Desk>);

#[derive(Debug)]
struct Desk {
    places: Arc<Semaphore>,
    room_kib: Arc<Semaphore>,
    /// Who wakes those that wait for an operation.
    waiting: Mutex<HashMap<OperationId, watch::Sender<()>>>,
    /// How many operations are waited for.
    count: watch::Sender<usize>,
    /// Nobody waits any more.
    closed: CancellationToken,
}

/// A place among those who wait.
#[derive(Debug)]
pub(crate) struct Waiter {
    desk: Arc<Desk>,
    operation: OperationId,
    /// There until the waiter goes.
    woken: Option<watch::Receiver<()>>,
    _place: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
}

impl Default for Waits {
    fn default() -> Self {
        Self(Arc::new(Desk {
            places: Arc::new(Semaphore::new(WAITING_MAX)),
            room_kib: Arc::new(Semaphore::new(WAITING_KIB_MAX)),
            waiting: Mutex::default(),
            count: watch::Sender::new(0),
            closed: CancellationToken::new(),
        }))
    }
}

impl Waits {
    /// A place to wait for an operation's end with an answer of so many bytes at hand; none if there is no room.
    pub(crate) fn enter(&self, operation: OperationId, answer_bytes: usize) -> Option<Waiter> {
        let kib = u32::try_from(answer_bytes.div_ceil(1024)).ok()?;
        let place = Arc::clone(&self.0.places).try_acquire_owned().ok()?;
        let room = Arc::clone(&self.0.room_kib).try_acquire_many_owned(kib).ok()?;
        let woken = self.0.with(|waiting| waiting.entry(operation).or_default().subscribe());
        Some(Waiter {
            desk: Arc::clone(&self.0),
            operation,
            woken: Some(woken),
            _place: place,
            _room: room,
        })
    }

    /// Wakes those who wait, until `shutdown`; then nobody waits any more.
    pub(crate) async fn serve(&self, store: &FeedStore, shutdown: &CancellationToken) {
        let mut count = self.0.count.subscribe();
        let waking = async {
            while count.wait_for(|count| *count > 0).await.is_ok() {
                tokio::select! {
                    () = self.0.watch(store) => {}
                    () = idle(&mut count) => {}
                }
            }
        };
        shutdown.run_until_cancelled(waking).await;
        self.0.closed.cancel();
    }
}

impl Desk {
    /// Tells those who wait of each record that is written. Does not end by itself.
    async fn watch(&self, store: &FeedStore) {
        let mut records = store.watch_operations();
        loop {
            match records.next().await {
                Ok(OperationNews::Began) => self.with(|waiting| waiting.values().for_each(wake)),
                Ok(OperationNews::Written(operations)) => self.with(|waiting| {
                    let waited_for = operations.iter().filter_map(|operation| waiting.get(operation));
                    waited_for.for_each(wake);
                }),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "results of queued writes are not heard of"
                    );
                }
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<OperationId, watch::Sender<()>>) -> T) -> T {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut waiting);
        self.count
            .send_if_modified(|count| std::mem::replace(count, waiting.len()) != waiting.len());
        result
    }
}

impl Waiter {
    /// The record of the operation once it has ended; none if that is not known in time, or the gateway stops.
    pub(crate) async fn end(mut self, store: &FeedStore, until: Instant) -> Option<OperationRecord> {
        let closed = self.desk.closed.clone();
        let ended = async {
            loop {
                let woken = self.woken.as_mut()?;
                woken.borrow_and_update();
                match store.operation(self.operation).await {
                    Ok(Some(record)) if record.state != OperationState::Accepted => return Some(record),
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(error) => {
                        // When storage is back the watch begins anew, and wakes all.
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "result of a queued write not read"
                        );
                    }
                }
                woken.changed().await.ok()?;
            }
        };
        let ended = closed.run_until_cancelled(tokio::time::timeout_at(until, ended));
        ended.await?.ok()?
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let (operation, woken) = (self.operation, self.woken.take());
        self.desk.with(|waiting| {
            // In here, so that of those that go at the same time one is the last.
            drop(woken);
            if waiting
                .get(&operation)
                .is_some_and(|sender| sender.receiver_count() == 0)
            {
                waiting.remove(&operation);
            }
        });
    }
}

fn wake(sender: &watch::Sender<()>) {
    sender.send_replace(());
}

/// Returns when nobody has waited for a while.
async fn idle(count: &mut watch::Receiver<usize>) {
    while count.wait_for(|count| *count == 0).await.is_ok() {
        let arrives = count.wait_for(|count| *count > 0);
        if tokio::time::timeout(LINGER, arrives).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_room_are_bounded_and_come_back() {
        let waits = Waits::default();
        let enter = |bytes| waits.enter(OperationId::new_v4(), bytes);
        let mut waiting: Vec<_> = (0..WAITING_MAX).filter_map(|_| enter(0)).collect();
        assert_eq!(waiting.len(), WAITING_MAX);
        assert!(enter(0).is_none());
        assert_eq!(*waits.0.count.borrow(), WAITING_MAX);
        waiting.pop();
        assert!(enter(WAITING_KIB_MAX * 1024 + 1).is_none());
        let large = enter(WAITING_KIB_MAX * 1024).expect("room for all");
        waiting.pop();
        assert!(enter(1).is_none());
        drop(large);
        assert!(enter(1).is_some());
        drop(waiting);
        assert_eq!(*waits.0.count.borrow(), 0);
        assert!(waits.0.with(|waiting| waiting.is_empty()));
    }

    #[test]
    fn two_may_wait_for_one_operation_and_one_may_go() {
        let waits = Waits::default();
        let operation = OperationId::new_v4();
        let first = waits.enter(operation, 0).expect("a place");
        let second = waits.enter(operation, 0).expect("a place");
        drop(first);
        waits.0.with(|waiting| waiting.values().for_each(wake));
        let woken = second.woken.as_ref().expect("it is there");
        assert!(woken.has_changed().expect("it is still waited for"));
    }

    #[test]
    fn of_those_that_go_at_the_same_time_nothing_is_left() {
        for _ in 0..1_000 {
            let waits = Waits::default();
            let operation = OperationId::new_v4();
            let waiters = [(); 4].map(|()| waits.enter(operation, 0).expect("a place"));
            std::thread::scope(|scope| {
                for waiter in waiters {
                    scope.spawn(move || drop(waiter));
                }
            });
            assert!(waits.0.with(|waiting| waiting.is_empty()));
        }
    }
}
