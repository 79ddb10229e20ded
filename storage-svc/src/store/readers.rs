//! Reads: a pool of connections that can only read, one snapshot a request. No connection is held over an await.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use r2d2::Pool;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::{kv, schema};
use crate::error::{OpenError, StoreError};
use crate::model::{Deadline, Snapshot};

/// Fewest and most connections; between them as many as there are processors.
const READERS: (u32, u32) = (4, 16);
/// How long a reader waits for a connection to be opened.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The pool; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    /// None: closed.
    pool: Arc<RwLock<Option<Pool<SqliteConnectionManager>>>>,
    /// As many as there are connections, so that a thread that reads never waits for one.
    turns: Arc<Semaphore>,
    count: u32,
}

impl Readers {
    /// Opens a first connection to the database at `path`, which exists.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let (fewest, most) = READERS;
        let count = available_parallelism().map_or(fewest, |processors| {
            let processors = u32::try_from(processors.get()).unwrap_or(u32::MAX);
            processors.clamp(fewest, most)
        });
        let manager = SqliteConnectionManager::file(path)
            .with_flags(OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .with_init(|connection| schema::set_up_reader(connection));
        let pool = Pool::builder()
            .max_size(count)
            .min_idle(Some(1))
            .max_lifetime(None)
            .idle_timeout(None)
            .test_on_check_out(false)
            .connection_timeout(CONNECTION_TIMEOUT)
            .build(manager)
            .map_err(|source| OpenError::Readers {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            pool: Arc::new(RwLock::new(Some(pool))),
            turns: Arc::new(Semaphore::new(count as usize)),
            count,
        })
    }

    /// Runs `work` on one snapshot. A read whose deadline has passed while it waited for its turn is not begun.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Snapshot<T>, StoreError> {
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closing)?;
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(StoreError::DeadlineExceeded);
        }
        let pool = self.pool.read().unwrap_or_else(PoisonError::into_inner).clone();
        let pool = pool.ok_or(StoreError::Closing)?;
        let reading = tokio::task::spawn_blocking(move || {
            // Held until the read is over, even if nobody waits for it any more.
            let _turn = turn;
            let mut connection = pool.get().map_err(|error| StoreError::NoReader(Arc::new(error)))?;
            let transaction = connection.transaction()?;
            let store_revision = kv::store_revision(&transaction)?;
            let found = work(&transaction)?;
            Ok(Snapshot { found, store_revision })
        });
        match reading.await {
            Ok(answer) => answer,
            Err(failure) => match failure.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::Closing),
            },
        }
    }

    /// Lets the reads under way end, refuses those that wait and all that come, and closes the connections: as long as
    /// one is open, the engine leaves the write-ahead log beside the database.
    pub(super) async fn close(&self) {
        // Fails if it is closed already.
        let all = self.turns.acquire_many(self.count).await;
        self.turns.close();
        self.pool.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(all);
    }
}
