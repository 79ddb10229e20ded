//! What an operator can set.

use std::path::PathBuf;
use std::time::Duration;

use proto::limits::{
    ANSWERS_BYTES_MAX, CONSUME_DOUBT_MAX, DELIVERIES_BYTES_MAX, SNAPSHOT_AGE_MAX, WATCH_PAGES_BYTES_MAX,
    WATCH_STALL_MAX,
};

use crate::listen::ListenArgs;

/// How long watches can go back unless an operator says otherwise, in seconds.
const HISTORY_SECONDS: u32 = 3_600;
/// And over how much changed content, in bytes.
const HISTORY_BYTES: u64 = 256 * 1024 * 1024;

/// Settings of the storage service as a process of its own.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "storage-svc",
    version,
    about = "Keys and queues over gRPC on one SQLite file"
)]
pub struct Args {
    /// Where it keeps its data.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Address of the gRPC port, or unix:/path of a socket.
    #[arg(long, env = "STORAGE_LISTEN", default_value = "127.0.0.1:50051")]
    pub storage_listen: String,
    /// Who may come in.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Where it tells its figures.
    #[command(flatten)]
    pub metrics: runtime::metrics::Args,
    /// How it logs.
    #[command(flatten)]
    pub telemetry: runtime::telemetry::Args,
}

/// Settings of the store itself, the same in a process of its own and beside the others.
#[derive(Clone, Debug, clap::Args)]
pub struct StoreArgs {
    /// The database file; it and its folder are made if they are not there.
    #[arg(long, env = "SQLITE_DB_PATH", default_value = "./data/dp1-feed.db")]
    pub sqlite_db_path: PathBuf,
    /// What an answered write survives.
    #[arg(long, env = "STORAGE_SYNC", value_enum, default_value_t = Sync::Full)]
    pub storage_sync: Sync,
    /// How long watches can go back, in seconds, 0 to 2,592,000 (30 days); 0 keeps what is needed to watch from now on.
    #[arg(long, env = "STORAGE_HISTORY_SECONDS", default_value_t = HISTORY_SECONDS, value_parser = clap::value_parser!(u32).range(0..=2_592_000))]
    pub storage_history_seconds: u32,
    /// How much changed content watches can go back over, in bytes, whatever its age.
    #[arg(long, env = "STORAGE_HISTORY_BYTES", default_value_t = HISTORY_BYTES)]
    pub storage_history_bytes: u64,
    /// What its streams bear with; not for operators.
    #[arg(skip)]
    pub streams: StreamLimits,
}

impl StoreArgs {
    /// The default settings, for a database at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            sqlite_db_path: path.into(),
            storage_sync: Sync::Full,
            storage_history_seconds: HISTORY_SECONDS,
            storage_history_bytes: HISTORY_BYTES,
            streams: StreamLimits::default(),
        }
    }
}

/// How long streams bear with clients that do not read, and how much is kept for such. The contract's, unless a test is in a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Longest age of a `ScanStream`'s snapshot.
    pub snapshot_age_max: Duration,
    /// A client of a `Watch` that takes nothing for so long is cut off.
    pub watch_stall_max: Duration,
    /// A `Consume` whose client let a lease run out, and is not heard of, is given nothing for so long.
    pub consume_doubt_max: Duration,
    /// Most that answers to calls may take in memory while their clients take them, in bytes.
    pub answers_bytes_max: usize,
    /// Most that deliveries of `Consume` streams may take so, in bytes.
    pub deliveries_bytes_max: usize,
    /// Most that pages of watches may take so, in bytes.
    pub watch_pages_bytes_max: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            snapshot_age_max: SNAPSHOT_AGE_MAX,
            watch_stall_max: WATCH_STALL_MAX,
            consume_doubt_max: CONSUME_DOUBT_MAX,
            answers_bytes_max: ANSWERS_BYTES_MAX,
            deliveries_bytes_max: DELIVERIES_BYTES_MAX,
            watch_pages_bytes_max: WATCH_PAGES_BYTES_MAX,
        }
    }
}

/// What an answered write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sync {
    /// A power cut: every commit is on the disk before it is answered.
    Full,
    /// The end of the process, but the last commits before a power cut may be lost (none is ever half there).
    Normal,
}
