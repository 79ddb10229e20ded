//! What can go wrong in the store, and its one mapping to a gRPC status.
//!
//! Clients learn what they can do about a failure, never how the store works: no SQL, no paths.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::DELETE_QUEUE_MESSAGES_MAX;
use rusqlite::ErrorCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Asked of clients that meet a full queue or a failing disk.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// Asked of clients that meet a queue with as many messages as it may hold: somebody has to work first.
const QUEUE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The domain of every `google.rpc.ErrorInfo` of this service.
const ERROR_DOMAIN: &str = "storage.dp1";

/// Why the store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The request breaks a rule.
    #[error("{field}: {rule}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What it must be.
        rule: String,
    },
    /// The entry's revision is not the expected one.
    #[error("the entry's revision is {current}, not the expected one")]
    RevisionMismatch {
        /// The entry's revision; 0: there is no entry.
        current: u64,
    },
    /// Nobody has used the queue.
    #[error("nobody has used the queue {0:?} yet")]
    QueueNotFound(String),
    /// A watch asked for a revision, or fell behind to one, whose changes are forgotten.
    #[error("changes up to revision {oldest} are forgotten")]
    HistoryGone {
        /// The lowest revision that a watch can begin after.
        oldest: u64,
        /// The store's revision.
        store_revision: u64,
    },
    /// A watch asked for a revision that the store has not reached.
    #[error("the store is at revision {store_revision} only")]
    RevisionAhead {
        /// The store's revision.
        store_revision: u64,
    },
    /// A watch has something to tell, and its client takes nothing.
    #[error("the watch was not read")]
    SlowWatcher {
        /// Up to it everything was told.
        last_revision: u64,
    },
    /// A stream's snapshot cannot be held any longer.
    #[error("the stream was read too slowly for its snapshot")]
    SnapshotTooOld,
    /// There are as many at once as there can be.
    #[error("there can be no more than {most} {what} at once")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        most: usize,
    },
    /// The queue was deleted while the caller waited at it.
    #[error("the queue was deleted")]
    QueueDeleted,
    /// The queue is there, with other settings.
    #[error("the queue {0:?} is there already, with other settings")]
    QueueExists(String),
    /// The queue holds as many messages as it may.
    #[error("the queue {queue:?} holds {depth_max} messages, as many as it may")]
    QueueFull {
        /// Which queue.
        queue: String,
        /// As many as it may hold.
        depth_max: u64,
    },
    /// The queue holds messages, and its deletion was not forced.
    #[error("the queue {queue:?} holds {messages} messages")]
    QueueNotEmpty {
        /// Which queue.
        queue: String,
        /// So many.
        messages: u64,
    },
    /// The queue holds more messages than go with it in one call.
    #[error("the queue {queue:?} holds {messages} messages, more than can be deleted with it")]
    QueueTooLarge {
        /// Which queue.
        queue: String,
        /// So many.
        messages: u64,
    },
    /// There is no such message in the queue.
    #[error("there is no message {message:?} in the queue {queue:?}")]
    MessageNotFound {
        /// Which queue.
        queue: String,
        /// Its id or dedup id.
        message: String,
    },
    /// Too much is waiting already.
    #[error("the store is overloaded")]
    Overloaded,
    /// The caller's time is up.
    #[error("the deadline has passed")]
    DeadlineExceeded,
    /// The store is shutting down.
    #[error("the store is closing")]
    Closing,
    /// The disk is full or fails, or the file is held by somebody else.
    #[error("the store cannot reach its disk")]
    Disk(#[source] Arc<rusqlite::Error>),
    /// The disk is too full for a copy of the store.
    #[error("there is no room for a copy of the store")]
    NoRoom(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// A file beside the database cannot be used.
    #[error("the store cannot use a file beside its own")]
    File(#[source] Arc<io::Error>),
    /// The caller takes nothing of what it asked for.
    #[error("the client took nothing for too long")]
    SlowClient,
    /// No connection to read with could be had.
    #[error("the store cannot be read")]
    NoReader(#[source] Arc<r2d2::Error>),
    /// The file holds what it cannot hold.
    #[error("the store's file is damaged: {0}")]
    Damaged(&'static str),
    /// The engine failed in a way that nobody foresaw.
    #[error("the storage engine failed")]
    Engine(#[source] Arc<rusqlite::Error>),
}

impl StoreError {
    /// A broken rule.
    pub(crate) fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            rule: rule.into(),
        }
    }

    /// The same, where the request lies within a field of another.
    pub(crate) fn within(self, outer: &str) -> Self {
        match self {
            Self::Invalid { field, rule } => Self::Invalid {
                field: format!("{outer}.{field}"),
                rule,
            },
            other => other,
        }
    }

    /// Whether the fault lies with the store, so that an operator must hear of it.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Disk(_) | Self::NoRoom(_) | Self::File(_) | Self::NoReader(_) | Self::Damaged(_) | Self::Engine(_)
        )
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked,
            ) => Self::Disk(Arc::new(error)),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged("the engine says so"),
            _ => Self::Engine(Arc::new(error)),
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        let (code, details) = match error {
            StoreError::Invalid { field, rule } => (
                Code::InvalidArgument,
                ErrorDetails::with_bad_request_violation(field, rule),
            ),
            StoreError::RevisionMismatch { current } => (
                Code::Aborted,
                ErrorDetails::with_error_info(
                    "REVISION_MISMATCH",
                    ERROR_DOMAIN,
                    HashMap::from([("current_revision".to_owned(), current.to_string())]),
                ),
            ),
            StoreError::QueueNotFound(queue) => (
                Code::NotFound,
                ErrorDetails::with_resource_info("queue", queue, "", "nobody has used it yet"),
            ),
            StoreError::HistoryGone { oldest, store_revision } => (
                Code::OutOfRange,
                error_info(
                    "HISTORY_GONE",
                    &[("oldest_revision", oldest), ("store_revision", store_revision)],
                ),
            ),
            StoreError::RevisionAhead { store_revision } => (
                Code::OutOfRange,
                error_info("REVISION_AHEAD", &[("store_revision", store_revision)]),
            ),
            StoreError::SlowWatcher { last_revision } => (
                Code::ResourceExhausted,
                error_info("SLOW_WATCHER", &[("last_revision", last_revision)]),
            ),
            StoreError::SnapshotTooOld => (Code::Aborted, error_info("SNAPSHOT_TOO_OLD", &[])),
            StoreError::QueueDeleted => (
                Code::NotFound,
                ErrorDetails::with_resource_info("queue", "", "", "it was deleted"),
            ),
            StoreError::QueueExists(queue) => (
                Code::AlreadyExists,
                ErrorDetails::with_resource_info("queue", queue, "", "its settings are others"),
            ),
            StoreError::QueueFull { queue, depth_max } => {
                let rule = format!("holds at most {depth_max} messages");
                let mut details = ErrorDetails::with_quota_failure_violation(format!("queue:{queue}"), rule);
                details.set_retry_info(Some(QUEUE_RETRY_DELAY));
                (Code::ResourceExhausted, details)
            }
            StoreError::QueueNotEmpty { queue, messages } => (
                Code::FailedPrecondition,
                ErrorDetails::with_precondition_failure_violation(
                    "QUEUE_NOT_EMPTY",
                    format!("queue:{queue}"),
                    format!("it holds {messages} messages: purge them, or force the deletion"),
                ),
            ),
            StoreError::QueueTooLarge { queue, messages } => (
                Code::FailedPrecondition,
                ErrorDetails::with_precondition_failure_violation(
                    "QUEUE_TOO_LARGE",
                    format!("queue:{queue}"),
                    format!(
                        "it holds {messages} messages, and {DELETE_QUEUE_MESSAGES_MAX} can go with it: purge first"
                    ),
                ),
            ),
            StoreError::MessageNotFound { queue, message } => (
                Code::NotFound,
                ErrorDetails::with_resource_info("message", message, queue, "it is not there"),
            ),
            StoreError::Overloaded | StoreError::TooMany { .. } => (
                Code::ResourceExhausted,
                ErrorDetails::with_retry_info(Some(RETRY_DELAY)),
            ),
            StoreError::DeadlineExceeded => (Code::DeadlineExceeded, error_info("DEADLINE_EXCEEDED", &[])),
            StoreError::SlowClient => (Code::ResourceExhausted, error_info("SLOW_CLIENT", &[])),
            StoreError::NoRoom(_) => (
                Code::FailedPrecondition,
                ErrorDetails::with_precondition_failure_violation(
                    "DISK_FULL",
                    "store",
                    "the copy takes as much as the store",
                ),
            ),
            StoreError::Disk(error) => (Code::Unavailable, disk(&error)),
            StoreError::Closing | StoreError::File(_) | StoreError::NoReader(_) => {
                (Code::Unavailable, ErrorDetails::with_retry_info(Some(RETRY_DELAY)))
            }
            StoreError::Damaged(_) => (Code::DataLoss, error_info("STORE_DAMAGED", &[])),
            StoreError::Engine(_) => (Code::Internal, error_info("ENGINE_FAILED", &[])),
        };
        Status::with_error_details(code, message, details)
    }
}

/// What a client can tell one failure from another by.
fn error_info(reason: impl Into<String>, metadata: &[(&str, u64)]) -> ErrorDetails {
    let metadata = metadata
        .iter()
        .map(|(name, number)| ((*name).to_owned(), number.to_string()));
    ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata.collect::<HashMap<_, _>>())
}

/// A disk that is full may have room again, and one that fails may be another one soon: the store goes on by itself then.
fn disk(error: &rusqlite::Error) -> ErrorDetails {
    let is_full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
    let mut details = error_info(if is_full { "DISK_FULL" } else { "DISK_FAILS" }, &[]);
    details.set_retry_info(Some(RETRY_DELAY));
    details
}

/// Why a call was not let in to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A message is longer than the method takes.
    #[error("a message may have at most {bytes_max} bytes")]
    MessageTooLarge {
        /// What it takes.
        bytes_max: usize,
    },
    /// A message is compressed.
    #[error("messages are taken uncompressed only")]
    Compressed,
    /// No token, or a wrong one: which of the two is not told.
    #[error("the call needs a valid token")]
    Unauthenticated,
    /// The token is good, but not for this.
    #[error("the call needs the admin token")]
    AdminOnly,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, details) = match refusal {
            // No RetryInfo: it will not be shorter the next time.
            Refusal::MessageTooLarge { bytes_max } => (
                Code::ResourceExhausted,
                error_info("MESSAGE_TOO_LARGE", &[("bytes_max", bytes_max as u64)]),
            ),
            Refusal::Unauthenticated => (Code::Unauthenticated, error_info("UNAUTHENTICATED", &[])),
            Refusal::AdminOnly => (Code::PermissionDenied, error_info("ADMIN_TOKEN_NEEDED", &[])),
            Refusal::Compressed => (Code::Unimplemented, error_info("COMPRESSION_NOT_SUPPORTED", &[])),
        };
        Status::with_error_details(code, refusal.to_string(), details)
    }
}

/// The same refusal with details: what the server itself refuses, such as a method that is not there, has none.
pub(crate) fn with_details(status: &Status) -> Status {
    let code = status.code();
    Status::with_error_details(code, status.message(), error_info(code_name(code), &[]))
}

/// A code as the protocol's documents spell it: INVALID_ARGUMENT.
pub(crate) fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder of the database is not there and cannot be made.
    #[error("the folder {} cannot be made", path.display())]
    Folder {
        /// Of the folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The lock file beside the database cannot be used.
    #[error("the lock file {} cannot be opened", path.display())]
    LockFile {
        /// Of the lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process has the database open.
    #[error("the database {} is in use by another process", path.display())]
    InUse {
        /// Of the database.
        path: PathBuf,
    },
    /// The engine cannot open the file.
    #[error("the database {} cannot be opened", path.display())]
    Unusable {
        /// Of the database.
        path: PathBuf,
        /// What the engine said.
        #[source]
        source: rusqlite::Error,
    },
    /// The file may be read only.
    #[error("the database {} cannot be written", path.display())]
    ReadOnly {
        /// Of the database.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error(
        "the database {} is damaged ({found}): restore a backup, or rescue what is left with `.recover` of a sqlite3 \
         of at least 3.51.3 into a new file, and keep the damaged one",
        path.display()
    )]
    Damaged {
        /// Of the database.
        path: PathBuf,
        /// The first fault, as the engine says it.
        found: String,
    },
    /// The file is not there, or is another than the one whose write-ahead log lies beside it: with that log the engine
    /// would damage it.
    #[error(
        "beside the database {} lies the write-ahead log of another: put back the file that the log belongs to, or move \
         the log away",
        path.display()
    )]
    LogOfAnother {
        /// Of the database.
        path: PathBuf,
    },
    /// The file is no database, or its first bytes are damaged.
    #[error("{} is not a SQLite database; if it was one, restore a backup", path.display())]
    NotADatabase {
        /// Of the file.
        path: PathBuf,
    },
    /// The file is a database that this service did not make.
    #[error("{} is a database of another application", path.display())]
    Foreign {
        /// Of the database.
        path: PathBuf,
    },
    /// The file was written by a later version of this service.
    #[error("the database {} has schema {found}, and this version knows only up to {known}", path.display())]
    Newer {
        /// Of the database.
        path: PathBuf,
        /// The file's schema.
        found: u32,
        /// The last one known here.
        known: u32,
    },
    /// The engine refuses the write-ahead log, as it does on some network file systems.
    #[error("the database {} cannot use a write-ahead log: its journal stays {mode:?}", path.display())]
    NoWriteAheadLog {
        /// Of the database.
        path: PathBuf,
        /// What the journal is instead.
        mode: String,
    },
    /// A migration failed; the file is as it was before it.
    #[error("migration {number} of the database {} failed", path.display())]
    Migration {
        /// Of the database.
        path: PathBuf,
        /// Of the migration.
        number: u32,
        /// What the engine said.
        #[source]
        source: rusqlite::Error,
    },
    /// The pool of reading connections cannot be filled.
    #[error("the database {} cannot be opened for reading", path.display())]
    Readers {
        /// Of the database.
        path: PathBuf,
        /// What the pool said.
        #[source]
        source: r2d2::Error,
    },
    /// The engine has a known fault that can damage the file.
    #[error("SQLite {version} can damage a database; 3.51.3 is the first that is safe")]
    UnsafeEngine {
        /// Of the engine.
        version: &'static str,
    },
    /// The system gives no thread.
    #[error("a thread for the database cannot be started")]
    Thread(#[source] io::Error),
}
