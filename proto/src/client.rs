//! The typed client: the same calls over a connection or in memory, each with a deadline, failures told apart by what
//! a caller can do about them.

mod connection;
pub mod consume;
mod queues;
mod retry;
pub mod watch;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

pub use self::connection::Connection;
use self::connection::{Transport, in_memory};
use self::retry::{Repeat, is_broken, within};
use crate::limits::{BATCH_GET_KEYS_MAX, GRPC_MESSAGE_BYTES_MAX};
use crate::v1;
use crate::v1::admin_service_client::AdminServiceClient;
use crate::v1::kv_service_client::KvServiceClient;
use crate::v1::queue_service_client::QueueServiceClient;

/// Deadline of every call but a waiting `receive`, which gets its wait on top; further attempts are made within it.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call to the storage service failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service's address is not a URL.
    #[error("storage address {address:?} is not a URL")]
    Address {
        /// As given.
        address: String,
        /// What the parser said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The settings do not go together.
    #[error("storage cannot be called so: {0}")]
    Settings(&'static str),
    /// The certificates cannot be used.
    #[error("storage's certificates cannot be used")]
    Tls(#[source] tonic::transport::Error),
    /// The service cannot be reached, is draining or out of space. Try again later; whether the call took effect is not
    /// known.
    #[error("storage is unavailable")]
    Unavailable(#[source] Box<Status>),
    /// The service has too much to do, and has done nothing. Try again later.
    #[error("storage is overloaded")]
    Overloaded(#[source] Box<Status>),
    /// The service does not know the token, or it is not for this. Nothing was done; who runs the services can mend it.
    #[error("storage does not let this client in")]
    Unauthorized(#[source] Box<Status>),
    /// The call's deadline passed. Whether it took effect is not known.
    #[error("storage did not answer in time")]
    Timeout,
    /// The service refused the request: a fault of ours, to be mended in code.
    #[error("storage refused the request")]
    Refused(#[source] Box<Status>),
    /// The service answered something that the contract does not allow.
    #[error("storage broke its contract: {0}")]
    Contract(&'static str),
}

impl ClientError {
    /// Whether the same call can succeed later without a change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::Overloaded(_) | Self::Unauthorized(_) | Self::Timeout
        )
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        match status.code() {
            // Unknown and Internal are what a connection that breaks under a call looks like.
            Code::Unavailable | Code::Aborted | Code::Unknown | Code::Internal => Self::Unavailable(Box::new(status)),
            Code::ResourceExhausted if is_broken(&status) => Self::Unavailable(Box::new(status)),
            // Without a hint when to retry it is a limit that the same call meets again.
            Code::ResourceExhausted if status.get_details_retry_info().is_some() => Self::Overloaded(Box::new(status)),
            Code::Unauthenticated | Code::PermissionDenied => Self::Unauthorized(Box::new(status)),
            Code::DeadlineExceeded | Code::Cancelled => Self::Timeout,
            _ => Self::Refused(Box::new(status)),
        }
    }
}

/// Whether a read carries content or only revisions and metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// With the values.
    Included,
    /// Without.
    Omitted,
}

/// A handle on the storage service; clones share the connection.
#[derive(Clone, Debug)]
pub struct StorageClient {
    kv: KvServiceClient<Transport>,
    queue: QueueServiceClient<Transport>,
    admin: AdminServiceClient<Transport>,
}

impl StorageClient {
    /// A client of the service there. Connects at the first call and again whenever the connection is lost.
    pub fn connect_lazy(connection: &Connection) -> Result<Self, ClientError> {
        Ok(Self::over(connection.open()?))
    }

    /// A client of services in this process: calls are passed in memory.
    #[must_use]
    pub fn in_process(routes: Routes) -> Self {
        Self::over(in_memory(routes))
    }

    fn over(transport: Transport) -> Self {
        Self {
            kv: KvServiceClient::new(transport.clone())
                .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX),
            queue: QueueServiceClient::new(transport.clone())
                .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX),
            admin: AdminServiceClient::new(transport),
        }
    }

    /// Reads one key.
    pub async fn get(&self, namespace: &str, key: &str) -> Result<Option<v1::Entry>, ClientError> {
        let message = v1::GetRequest {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            ..Default::default()
        };
        Ok(within(CALL_TIMEOUT, Repeat::Harmless, message, |request| {
            let mut kv = self.kv.clone();
            async move { kv.get(request).await }
        })
        .await?
        .entry)
    }

    /// Reads 1 to [`BATCH_GET_KEYS_MAX`] keys from one snapshot: what the first of them held, in order, at least one, and
    /// all unless they are more than one answer takes (it ends after the one that reaches
    /// [`BATCH_GET_BYTES`](crate::limits::BATCH_GET_BYTES)). Asking for the rest reads a later snapshot.
    pub async fn batch_get(
        &self,
        keys: Vec<v1::KeyRef>,
        content: Content,
    ) -> Result<Vec<Option<v1::Entry>>, ClientError> {
        debug_assert!(
            (1..=BATCH_GET_KEYS_MAX).contains(&keys.len()),
            "the caller bounds its batches"
        );
        let asked = keys.len();
        let message = v1::BatchGetRequest {
            keys,
            omit_values: content == Content::Omitted,
            as_bytes: false,
        };
        let answer = within(CALL_TIMEOUT, Repeat::Harmless, message, |request| {
            let mut kv = self.kv.clone();
            async move { kv.batch_get(request).await }
        })
        .await?;
        if answer.items.is_empty() || answer.items.len() > asked {
            return Err(ClientError::Contract(
                "a batch answers at least one and at most all of its keys",
            ));
        }
        Ok(answer.items.into_iter().map(|item| item.entry).collect())
    }

    /// One page of a prefix or range.
    pub async fn scan(&self, message: v1::ScanRequest) -> Result<v1::ScanResponse, ClientError> {
        within(CALL_TIMEOUT, Repeat::Harmless, message, |request| {
            let mut kv = self.kv.clone();
            async move { kv.scan(request).await }
        })
        .await
    }

    /// All or nothing; a conflict is an answer. With a `request_id` it is sent again if its answer is lost: it happens
    /// at most once.
    pub async fn commit(&self, message: v1::CommitRequest) -> Result<v1::commit_response::Outcome, ClientError> {
        let repeat = if message.request_id.is_empty() {
            Repeat::IfRefused
        } else {
            Repeat::Harmless
        };
        within(CALL_TIMEOUT, repeat, message, |request| {
            let mut kv = self.kv.clone();
            async move { kv.commit(request).await }
        })
        .await?
        .outcome
        .ok_or(ClientError::Contract("a commit has an outcome"))
    }

    /// Leases messages, waiting up to the request's `wait`. Not repeated once it may have leased some.
    pub async fn receive(&self, message: v1::ReceiveRequest) -> Result<Vec<v1::Delivery>, ClientError> {
        let wait = message
            .wait
            // The conversion negates what is less than nothing, and the least number has no negation.
            .filter(|wait| wait.seconds >= 0)
            .and_then(|wait| Duration::try_from(wait).ok())
            .unwrap_or_default();
        Ok(within(wait + CALL_TIMEOUT, Repeat::IfRefused, message, |request| {
            let mut queue = self.queue.clone();
            async move { queue.receive(request).await }
        })
        .await?
        .deliveries)
    }

    /// Settles leased messages; one result for each. Not repeated once it may have settled some: the second time would be
    /// told that they are settled already.
    pub async fn settle(&self, settlements: Vec<v1::Settlement>) -> Result<Vec<v1::SettlementResult>, ClientError> {
        let message = v1::SettleRequest { settlements };
        Ok(within(CALL_TIMEOUT, Repeat::IfRefused, message, |request| {
            let mut queue = self.queue.clone();
            async move { queue.settle(request).await }
        })
        .await?
        .results)
    }

    /// Figures of a queue; none if nobody has used it yet.
    pub async fn queue_stats(&self, queue_name: &str) -> Result<Option<v1::QueueStats>, ClientError> {
        let message = v1::GetQueueStatsRequest {
            queue: queue_name.to_owned(),
        };
        match within(CALL_TIMEOUT, Repeat::Harmless, message, |request| {
            let mut queue = self.queue.clone();
            async move { queue.get_queue_stats(request).await }
        })
        .await
        {
            Ok(answer) => Ok(answer.stats),
            Err(ClientError::Refused(status)) if status.code() == Code::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Versions, limits and identity of the store.
    pub async fn server_info(&self) -> Result<v1::GetServerInfoResponse, ClientError> {
        let message = v1::GetServerInfoRequest {};
        within(CALL_TIMEOUT, Repeat::Harmless, message, |request| {
            let mut admin = self.admin.clone();
            async move { admin.get_server_info(request).await }
        })
        .await
    }
}

impl v1::Entry {
    /// The value, if it was written as text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Some(v1::entry::Content::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The value's bytes, whatever kind was written; none if it was left out.
    #[must_use]
    pub fn into_bytes(self) -> Option<Bytes> {
        match self.content? {
            v1::entry::Content::Text(text) => Some(Bytes::from(text)),
            v1::entry::Content::Value(bytes) => Some(bytes),
        }
    }
}

impl v1::Mutation {
    /// Writes text.
    #[must_use]
    pub fn put_text(namespace: &str, key: &str, text: String, metadata: HashMap<String, String>) -> Self {
        Self::put(namespace, key, text, metadata, None)
    }

    /// Writes text that is gone after `ttl`.
    #[must_use]
    pub fn put_text_for(
        namespace: &str,
        key: &str,
        text: String,
        metadata: HashMap<String, String>,
        ttl: prost_types::Duration,
    ) -> Self {
        Self::put(
            namespace,
            key,
            text,
            metadata,
            Some(v1::mutation::put::Expiry::Ttl(ttl)),
        )
    }

    fn put(
        namespace: &str,
        key: &str,
        text: String,
        metadata: HashMap<String, String>,
        expiry: Option<v1::mutation::put::Expiry>,
    ) -> Self {
        let put = v1::mutation::Put {
            content: Some(v1::mutation::put::Content::Text(text)),
            expiry,
            metadata,
        };
        Self {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            op: Some(v1::mutation::Op::Put(put)),
        }
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(namespace: &str, key: &str) -> Self {
        let op = v1::mutation::Op::Delete(v1::mutation::Delete {});
        Self {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            op: Some(op),
        }
    }
}
