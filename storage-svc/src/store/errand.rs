//! Errands: long work for an operator, on a thread and a connection of its own, told bit by bit to whoever asked. Owns
//! how many there are, and when one ends early: the reader goes away or takes nothing, or the service or the store ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::limits::ERRAND_STALL_MAX;
use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;

use super::flow::{End, Flow, Source, flow};
use super::schema;
use super::stop::Stop;
use crate::error::StoreError;

/// How often a statement looks whether it is still wanted, in instructions of the engine.
const STEPS_BETWEEN_LOOKS: i32 = 1_000;

/// The errands of a store.
#[derive(Debug)]
pub(super) struct Errands {
    path: PathBuf,
    /// With a reader that takes nothing.
    patience: Duration,
    closing: CancellationToken,
    copy: Arc<Semaphore>,
    check: Arc<Semaphore>,
}

/// Those that there can be; of each one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    Copy,
    Check,
}

impl Errands {
    /// For the database at `path`.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            patience: ERRAND_STALL_MAX,
            closing: CancellationToken::new(),
            copy: Arc::new(Semaphore::new(1)),
            check: Arc::new(Semaphore::new(1)),
        }
    }

    /// Begins an errand, unless one of its kind is under way.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        errand: Errand,
        stop: Stop,
        work: impl FnOnce(&Path, &Teller<T>) -> Result<(), End> + Send + 'static,
    ) -> Result<Flow<T>, StoreError> {
        let (turn, what) = match errand {
            Errand::Copy => (&self.copy, "backups"),
            Errand::Check => (&self.check, "integrity checks"),
        };
        let turn = Arc::clone(turn).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::NoPermits => StoreError::TooMany { what, most: 1 },
            TryAcquireError::Closed => StoreError::Closing,
        })?;
        let (source, flow) = flow();
        let path = self.path.clone();
        let teller = Teller {
            source,
            patience: self.patience,
            stop,
            closing: self.closing.clone(),
            runtime: Handle::current(),
        };
        tokio::task::spawn_blocking(move || {
            // What was interrupted says no more than that.
            let ended = work(&path, &teller).map_err(|end| teller.unwanted().unwrap_or(end));
            // Before anybody is told, so that who reads the end can begin another.
            drop(turn);
            teller.source.end(ended);
        });
        Ok(flow)
    }

    /// Ends what is under way, lets nothing begin, and waits until their connections are closed.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        for turn in [&self.copy, &self.check] {
            // Fails if it is closed already.
            let ended = turn.acquire().await;
            turn.close();
            drop(ended);
        }
    }
}

/// An errand's way to its reader.
pub(super) struct Teller<T> {
    source: Source<T>,
    patience: Duration,
    stop: Stop,
    closing: CancellationToken,
    /// Waits for the reader, on a thread that may be blocked.
    runtime: Handle,
}

impl<T: Send + 'static> Teller<T> {
    /// Waits until there is room. Fails if the errand is not wanted any more.
    pub(super) fn tell(&self, item: T) -> Result<(), End> {
        if let Some(end) = self.unwanted() {
            return Err(end);
        }
        let latest = Instant::now() + self.patience;
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.stopped() => Err(StoreError::Closing.into()),
                () = self.closing.cancelled() => Err(StoreError::Closing.into()),
                () = tokio::time::sleep_until(latest.into()) => Err(StoreError::SlowClient.into()),
                handed_over = self.source.hand_over(vec![item], None) => handed_over.map(drop).map_err(End::from),
            }
        })
    }

    /// A connection whose statements end, interrupted, once the errand is not wanted any more.
    pub(super) fn connection(&self, path: &Path) -> Result<Connection, End> {
        let connection = schema::open_aside(path)?;
        let (stop, closing, is_gone) = (self.stop.clone(), self.closing.clone(), self.source.absence());
        let unwanted = move || closing.is_cancelled() || stop.is_stopped() || is_gone();
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(unwanted))?;
        Ok(connection)
    }

    /// How the errand ends if nobody wants it any more.
    fn unwanted(&self) -> Option<End> {
        if self.closing.is_cancelled() || self.stop.is_stopped() {
            Some(StoreError::Closing.into())
        } else if self.source.absence()() {
            Some(End::Gone)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::Poll;

    use super::*;

    fn never() -> Stop {
        Stop {
            draining: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    async fn next<T>(flow: &mut Flow<T>) -> Option<Result<T, StoreError>> {
        std::future::poll_fn(|context| flow.poll_next(context)).await
    }

    /// Tells without an end.
    fn tells(_: &Path, teller: &Teller<usize>) -> Result<(), End> {
        for number in 0.. {
            teller.tell(number)?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_given_up_and_can_read_why() {
        let errands = Errands {
            patience: Duration::from_millis(50),
            ..Errands::new(Path::new("nowhere"))
        };
        let mut flow = errands.begin(Errand::Copy, never(), tells).expect("there is none yet");
        let second = errands.begin(Errand::Copy, never(), tells);
        assert!(matches!(second, Err(StoreError::TooMany { most: 1, .. })));
        // Its turn is over although nothing was taken.
        drop(errands.copy.acquire().await.expect("nobody closes it"));
        let first = next(&mut flow).await.expect("it was told");
        assert_eq!(first.expect("it is a number"), 0);
        let last = next(&mut flow).await.expect("it says why");
        assert!(matches!(last, Err(StoreError::SlowClient)), "{last:?}");
        assert!(next(&mut flow).await.is_none());
    }

    #[tokio::test]
    async fn an_errand_ends_when_nobody_reads_and_when_the_service_or_the_store_ends() {
        let errands = Errands::new(Path::new("nowhere"));
        drop(errands.begin(Errand::Check, never(), tells).expect("there is none yet"));
        drop(errands.check.acquire().await.expect("nobody closes it"));

        let stop = never();
        let told = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&told);
        let flow = errands.begin(Errand::Check, stop.clone(), move |_, teller| {
            for number in 0.. {
                teller.tell(number)?;
                counts.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
        let flow = flow.expect("the one before has ended");
        while told.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.draining.cancel();
        // Although nobody takes what it tells.
        let ended = tokio::time::timeout(ERRAND_STALL_MAX / 3, errands.check.acquire()).await;
        drop(ended.expect("it ends at once").expect("nobody closes it"));
        ends_closing(flow).await;

        let mut flow = errands
            .begin(Errand::Check, never(), tells)
            .expect("the one before has ended");
        next(&mut flow).await.expect("it tells").expect("it is a number");
        errands.close().await;
        ends_closing(flow).await;
        let refused = errands.begin(Errand::Check, never(), tells);
        assert!(matches!(refused, Err(StoreError::Closing)));
    }

    #[tokio::test]
    async fn a_statement_under_way_is_interrupted() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("store.db");
        Connection::open(&path).expect("it is made");
        let errands = Errands::new(&path);
        let finished = Arc::new(AtomicBool::new(false));
        let at_end = Arc::clone(&finished);
        let counts = move |path: &Path, teller: &Teller<usize>| {
            // Long, and not without an end: so that a test which fails ends, too.
            let long = "with recursive n (i) as (select 1 union all select i from n limit 20000000) \
                        select max(i) from n";
            teller.tell(0)?;
            teller.connection(path)?.query_row(long, (), |_| Ok(()))?;
            at_end.store(true, Ordering::SeqCst);
            Ok(())
        };
        let mut flow = errands
            .begin(Errand::Check, never(), counts.clone())
            .expect("there is none yet");
        next(&mut flow).await.expect("it tells").expect("it is a number");
        drop(flow);
        drop(errands.check.acquire().await.expect("nobody closes it"));

        let stop = never();
        let flow = errands
            .begin(Errand::Check, stop.clone(), counts.clone())
            .expect("the one before has ended");
        stop.draining.cancel();
        ends_closing(flow).await;
        let flow = errands
            .begin(Errand::Check, never(), counts)
            .expect("the one before has ended");
        errands.close().await;
        ends_closing(flow).await;
        assert!(!finished.load(Ordering::SeqCst), "all three were interrupted");
    }

    async fn ends_closing(mut flow: Flow<usize>) {
        let mut last = None;
        while let Some(item) = next(&mut flow).await {
            last = Some(item);
        }
        assert!(matches!(last, Some(Err(StoreError::Closing))), "{last:?}");
        let over = std::future::poll_fn(|context| Poll::Ready(flow.poll_next(context).is_ready())).await;
        assert!(over, "an end is an end");
    }
}
