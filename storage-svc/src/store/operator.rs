//! What an operator asks of the store: figures, a copy, a check, a shorter log, a smaller file.

use std::path::Path;

use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::checkpoint::empty_log;
use super::errand::Errand;
use super::flow::Flow;
use super::job::{Aside, Job};
use super::lock::beside;
use super::pages::{give_back_pages, pages};
use super::{Store, check, copy, history};
use crate::error::StoreError;
use crate::model::{BackupPart, CheckReport, Checkpointed, Deadline, StoreStats};

const COUNT_QUEUES: &str = "select count(*) from queue";
const COUNT_NAMESPACES: &str = "select count(*) from namespace";

impl Store {
    /// Sizes and loads.
    pub async fn stats(&self, deadline: Deadline) -> Result<StoreStats, StoreError> {
        let path = self.0.path.clone();
        let (counts, opened) = (self.0.shared.tally.counts(), self.0.opened);
        let read = move |connection: &Connection| {
            let count = |sql| connection.query_row(sql, (), |row| row.get::<_, i64>(0).map(i64::cast_unsigned));
            let pages = pages(connection)?;
            let history = history::facts(connection)?.stats;
            Ok(StoreStats {
                file_bytes: file_bytes(&path),
                wal_bytes: file_bytes(&beside(&path, "-wal")),
                page_bytes: pages.bytes,
                pages: pages.all,
                free_pages: pages.free,
                history_changes: history.changes,
                history_bytes: history.bytes,
                queues: count(COUNT_QUEUES)?,
                namespaces: count(COUNT_NAMESPACES)?,
                commits: counts.commits,
                requests: counts.requests,
                writes_waiting: counts.waiting,
                uptime: opened.elapsed(),
            })
        };
        Ok(self.0.readers.read(deadline, read).await?.found)
    }

    /// A copy of the store as of about now, in parts. One at a time. It ends when the parts are not taken any more, or
    /// when `give_up` is cancelled.
    pub fn backup(&self, give_up: &CancellationToken) -> Result<Flow<BackupPart>, StoreError> {
        self.0.errands.begin(Errand::Copy, self.stop(give_up), copy::back_up)
    }

    /// Checks the file and what its tables promise each other. One at a time. It ends when nobody listens any more, or
    /// when `give_up` is cancelled.
    pub fn check(&self, give_up: &CancellationToken) -> Result<Flow<CheckReport>, StoreError> {
        self.0.errands.begin(Errand::Check, self.stop(give_up), check::check)
    }

    /// Moves the write-ahead log into the database and empties it, as far as readers let it.
    pub async fn checkpoint(&self, deadline: Deadline) -> Result<Checkpointed, StoreError> {
        let wal = beside(&self.0.path, "-wal");
        self.aside(deadline, move |connection| {
            let done = empty_log(connection)?;
            Ok(Checkpointed {
                hindered: done.was_hindered,
                wal_bytes: file_bytes(&wal),
            })
        })
        .await
    }

    /// Gives all free pages back to the file system, some at a time, with the writes of others in between. Answers how
    /// many bytes they were.
    pub async fn give_back_space(&self, deadline: Deadline) -> Result<u64, StoreError> {
        let found = self.aside(deadline, |connection| Ok(pages(connection)?)).await?;
        let mut given = 0;
        // What others set free meanwhile is left for the next time: this ends.
        while given < found.free {
            let more = self
                .aside(deadline, |connection| Ok(give_back_pages(connection, 0)?))
                .await?;
            if more == 0 {
                break;
            }
            given += more;
        }
        if given > 0 {
            self.checkpoint(deadline).await?;
        }
        Ok(given * found.bytes)
    }

    /// Works on the writer's connection between two batches.
    async fn aside<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.submit(Job::Aside(Aside::new(work, deadline, answer)))?;
        answered.await.map_err(|_| StoreError::Closing)?
    }
}

/// 0 if it is not there.
fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}
