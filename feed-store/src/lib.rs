//! The feed's documents in the storage service: loads the state that a write is judged on, commits what was decided, and
//! reads what lists and readers are shown.
//!
//! The one place where the domain's keys and commits become calls of the contract; the gateway and the consumer both
//! stand on it, so that they cannot read or write the same record in two ways. Knows nothing of HTTP, leases' timing or
//! SQLite.

mod commit;
mod connection;
mod items;
mod lists;
mod load;
mod operations;
mod owned;
mod snapshot;
mod sweep;

pub use commit::{Outcome, check_size};
pub use connection::StorageArgs;
pub use items::ItemList;
pub use lists::{DocumentList, Page};
pub use load::{Links, STATE_BYTES_MAX};
pub use operations::{OperationNews, OperationWatch, WithdrawError};
pub use sweep::{SWEEP_MESSAGES_MAX, SWEEP_RECORD_AGE_MIN, SWEEP_RECORDS_MAX, SWEEP_VERSIONS_MAX, SweepPlace, Swept};

use proto::client::{ClientError, StorageClient};

/// The queue that accepted writes wait in.
pub const WRITE_QUEUE: &str = "writes";

/// A handle on the feed's documents; clones share the connection.
#[derive(Clone, Debug)]
pub struct FeedStore {
    client: StorageClient,
}

/// Why documents could not be loaded or committed.
#[derive(Debug, thiserror::Error)]
pub enum FeedStoreError {
    /// The storage service failed.
    #[error("storage failed")]
    Storage(#[from] ClientError),
    /// A stored record is not what the feed writes: made by a newer version or by hand.
    #[error("stored record {key} is malformed")]
    Malformed {
        /// Namespace and key.
        key: String,
        /// What is wrong with it.
        #[source]
        fault: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The commit is larger than the storage service takes, or what it would be made of is more than anybody should hold
    /// at once. Nothing was written.
    #[error("the write is too large for one commit")]
    TooLarge,
}

impl FeedStoreError {
    /// Whether the same call can succeed later without a change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_transient())
    }
}

impl FeedStore {
    /// Documents kept by the service that this client calls.
    #[must_use]
    pub fn new(client: StorageClient) -> Self {
        Self { client }
    }

    /// The client itself, for calls that are no affair of documents.
    #[must_use]
    pub fn client(&self) -> &StorageClient {
        &self.client
    }
}
