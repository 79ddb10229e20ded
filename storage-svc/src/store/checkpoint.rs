//! Moves the write-ahead log into the database beside the writer, so that no commit waits for it. Where that cannot
//! keep up, because writes or readers never pause, the log's size asks the writer to stop and do it itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::schema::{BUSY_TIMEOUT, PAGE_BYTES};
use crate::error::OpenError;

/// From a commit to the checkpoint after it; commits in between share it.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long the writer waits for readers when it stops for the log.
const LOG_PATIENCE: Duration = Duration::from_millis(250);
/// A log that has grown to this size makes the writer stop for it.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The writer's end: tells of commits, and is told when the log is too long.
#[derive(Debug)]
pub(super) struct Checkpoints {
    commits: SyncSender<()>,
    log_is_long: Arc<AtomicBool>,
}

impl Checkpoints {
    /// Starts the thread. It ends soon after the writer's end is dropped.
    pub(super) fn start(path: &Path) -> Result<(Self, JoinHandle<()>), OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .and_then(|connection| connection.busy_timeout(BUSY_TIMEOUT).map(|()| connection))
            .map_err(|source| OpenError::Unusable {
                path: path.to_owned(),
                source,
            })?;
        let (commits, told) = sync_channel(1);
        let log_is_long = Arc::new(AtomicBool::new(false));
        let says = Arc::clone(&log_is_long);
        let thread = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&connection, &told, &says))
            .map_err(OpenError::Thread)?;
        Ok((Self { commits, log_is_long }, thread))
    }

    /// There was a commit. If the thread has been told of one already it needs no other.
    pub(super) fn committed(&self) {
        let _ = self.commits.try_send(());
    }

    /// Whether the writer should stop for the log.
    pub(super) fn log_is_long(&self) -> bool {
        self.log_is_long.load(Ordering::Relaxed)
    }

    /// The writer has done what it could. If the log is long still, that will be found again.
    pub(super) fn log_was_tended(&self) {
        self.log_is_long.store(false, Ordering::Relaxed);
    }
}

fn run(connection: &Connection, commits: &Receiver<()>, log_is_long: &AtomicBool) {
    while commits.recv().is_ok() {
        let due = Instant::now() + INTERVAL;
        loop {
            match commits.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        match checkpoint(connection, "passive") {
            Ok(checkpoint) if checkpoint.log_pages * PAGE_BYTES > LOG_BYTES_MAX => {
                log_is_long.store(true, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the write-ahead log could not be moved into the database"),
        }
    }
}

/// What a checkpoint found.
pub(super) struct Checkpoint {
    /// Somebody else was in the way.
    pub(super) was_hindered: bool,
    log_pages: u64,
}

/// Moves what can be moved: `passive` as far as nobody is in the way, `truncate` all of it, emptying the log.
pub(super) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<Checkpoint> {
    connection.query_row(&format!("pragma wal_checkpoint({mode})"), (), |row| {
        Ok(Checkpoint {
            was_hindered: row.get(0)?,
            // -1: not known.
            log_pages: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
        })
    })
}

/// Moves all of the log and empties it, on the writer's connection. Waits a moment for readers that are in the way.
pub(super) fn empty_log(connection: &Connection) -> rusqlite::Result<Checkpoint> {
    connection.busy_timeout(LOG_PATIENCE)?;
    let done = checkpoint(connection, "truncate");
    connection.busy_timeout(BUSY_TIMEOUT)?;
    done
}
