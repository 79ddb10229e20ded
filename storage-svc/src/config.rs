//! What an operator can set.

use std::path::PathBuf;

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
    /// Address of the gRPC port.
    #[arg(long, env = "STORAGE_LISTEN", default_value = "127.0.0.1:50051")]
    pub storage_listen: String,
    /// Open the port on an address that is not loopback, to whoever can reach it.
    #[arg(long, env = "STORAGE_INSECURE")]
    pub storage_insecure: bool,
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
}

/// What an answered write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sync {
    /// A power cut: every commit is on the disk before it is answered.
    Full,
    /// The end of the process, but the last commits before a power cut may be lost (none is ever half there).
    Normal,
}
