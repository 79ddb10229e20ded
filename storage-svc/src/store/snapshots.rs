//! Whole scans from one snapshot: each on a thread and a connection of its own, so that slow clients take no reader from
//! the calls, and none for long: what a snapshot sees cannot leave the write-ahead log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::limits::SCAN_STREAMS_MAX;
use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;

use super::clock::StoreClock;
use super::flow::{End, Flow, Source, flow};
use super::stop::Stop;
use super::{kv, schema};
use crate::error::StoreError;
use crate::model::{Scan, ScanPage, Snapshot};

/// The snapshots that are held for streams.
#[derive(Debug)]
pub(super) struct Snapshots {
    path: PathBuf,
    places: Arc<Semaphore>,
    age_max: Duration,
    closing: CancellationToken,
}

impl Snapshots {
    /// Of the database at `path`, each held for `age_max` at most.
    pub(super) fn new(path: PathBuf, age_max: Duration) -> Self {
        Self {
            path,
            places: Arc::new(Semaphore::new(SCAN_STREAMS_MAX)),
            age_max,
            closing: CancellationToken::new(),
        }
    }

    /// Begins one.
    pub(super) fn begin(
        &self,
        scan: Scan,
        clock: StoreClock,
        stop: Stop,
    ) -> Result<Flow<Snapshot<ScanPage>>, StoreError> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::Closed) => return Err(StoreError::Closing),
            Err(TryAcquireError::NoPermits) => {
                return Err(StoreError::TooMany {
                    what: "scan streams",
                    most: SCAN_STREAMS_MAX,
                });
            }
        };
        let (source, flow) = flow();
        let teller = Teller {
            source,
            runtime: Handle::current(),
            age_max: self.age_max,
            stop,
            closing: self.closing.clone(),
        };
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            let ended = teller.tell(&path, scan, &clock);
            // Before anybody is told, so that who reads the end can begin another.
            drop(place);
            teller.source.end(ended);
        });
        Ok(flow)
    }

    /// Ends all of them, refuses all that come, and waits until their connections are closed.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        let every_place = u32::try_from(SCAN_STREAMS_MAX).expect("the limit is small");
        // Fails if it is closed already.
        let all = self.places.acquire_many(every_place).await;
        self.places.close();
        drop(all);
    }
}

/// One stream.
struct Teller {
    source: Source<Snapshot<ScanPage>>,
    /// Waits for the client, on a thread that may be blocked.
    runtime: Handle,
    age_max: Duration,
    stop: Stop,
    closing: CancellationToken,
}

impl Teller {
    /// All pages of the scan. The connection is closed when this returns.
    fn tell(&self, path: &Path, mut scan: Scan, clock: &StoreClock) -> Result<(), End> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        schema::set_up_reader(&connection)?;
        let latest = Instant::now() + self.age_max;
        let snapshot = connection.transaction()?;
        let store_revision = kv::store_revision(&snapshot)?;
        // One time for all, as there is one revision: what expires meanwhile is there to the end.
        let now_ms = clock.now_ms();
        loop {
            let found = kv::scan(&snapshot, now_ms, &scan)?;
            let last = found.last.clone();
            self.runtime
                .block_on(self.hand_over(Snapshot { found, store_revision }, latest))?;
            match last {
                Some(last) => scan.after = Some(last),
                None => return Ok(()),
            }
        }
    }

    async fn hand_over(&self, page: Snapshot<ScanPage>, latest: Instant) -> Result<(), End> {
        tokio::select! {
            biased;
            () = self.stop.stopped() => Err(StoreError::Closing.into()),
            () = self.closing.cancelled() => Err(StoreError::Closing.into()),
            () = tokio::time::sleep_until(latest.into()) => Err(StoreError::SnapshotTooOld.into()),
            handed_over = self.source.hand_over(vec![page], None) => handed_over.map(drop).map_err(End::from),
        }
    }
}
