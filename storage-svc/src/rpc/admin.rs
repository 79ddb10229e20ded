//! AdminService.

use std::collections::HashMap;
use std::time::Duration;

use proto::limits;
use proto::v1;
use proto::v1::admin_service_server::AdminService;
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::admission::{ARRIVING_BYTES_MAX, CALLS_MAX, STREAMS_MAX, deadline};
use super::{convert, status, streamed};
use crate::model::StoreInfo;
use crate::store::{SCAN_KEYS_MAX, Store, WRITES_WAITING_BYTES_MAX, WRITES_WAITING_MAX};

/// What this build offers beyond the calls it lists.
const CAPABILITIES: [&str; 13] = [
    "commit_enqueue",
    "commit_settle",
    "consume",
    "dead_letters",
    "dedup",
    "ordering_keys",
    "prefix_check",
    "queue_settings",
    "request_id",
    "scan_dereference",
    "scan_reverse",
    "scan_stream",
    "watch",
];

/// Questions about the service itself.
#[derive(Debug)]
pub(super) struct Admin {
    store: Store,
    /// Cancelled when the service begins to stop.
    draining: CancellationToken,
}

impl Admin {
    pub(super) fn new(store: Store, draining: CancellationToken) -> Self {
        Self { store, draining }
    }

    /// Watches and `Consume` streams that are open.
    fn open_streams(&self) -> (u64, u64) {
        (self.store.watches() as u64, self.store.consumers() as u64)
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_server_info(
        &self,
        request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let info = self.store.info(deadline(&request)).await.map_err(status)?;
        Ok(Response::new(v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: "sqlite".to_owned(),
            limits: limits(&info),
            engine_version: info.engine_version,
            schema_version: info.schema_version,
            store_id: info.store_id,
            store_revision: info.store_revision,
            capabilities: CAPABILITIES.map(str::to_owned).into(),
            incarnation: info.incarnation,
            oldest_watch_revision: info.history_revision,
        }))
    }

    async fn get_store_stats(
        &self,
        request: Request<v1::GetStoreStatsRequest>,
    ) -> Result<Response<v1::GetStoreStatsResponse>, Status> {
        let stats = self.store.stats(deadline(&request)).await.map_err(status)?;
        let (watches, consumers) = self.open_streams();
        Ok(Response::new(convert::store_stats(&stats, watches, consumers)))
    }

    type BackupStream = BoxStream<v1::BackupResponse>;

    async fn backup(&self, _: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let parts = self.store.backup(&self.draining).map_err(status)?;
        Ok(streamed::answer_flow(parts, convert::backup_part))
    }

    async fn checkpoint(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::CheckpointResponse>, Status> {
        let left = self.store.checkpoint(deadline(&request)).await.map_err(status)?;
        Ok(Response::new(v1::CheckpointResponse {
            hindered: left.hindered,
            wal_bytes: left.wal_bytes,
        }))
    }

    type IntegrityCheckStream = BoxStream<v1::IntegrityCheckResponse>;

    async fn integrity_check(
        &self,
        _: Request<v1::IntegrityCheckRequest>,
    ) -> Result<Response<Self::IntegrityCheckStream>, Status> {
        let reports = self.store.check(&self.draining).map_err(status)?;
        Ok(streamed::answer_flow(reports, convert::check_report))
    }

    async fn compact(&self, request: Request<v1::CompactRequest>) -> Result<Response<v1::CompactResponse>, Status> {
        let deadline = deadline(&request);
        let keep = convert::compact_keep(request.get_ref()).map_err(status)?;
        let oldest_watch_revision = self.store.compact_history(keep).await.map_err(status)?;
        let freed_bytes = self.store.give_back_space(deadline).await.map_err(status)?;
        Ok(Response::new(v1::CompactResponse {
            oldest_watch_revision,
            freed_bytes,
        }))
    }
}

/// Every limit that a caller can meet.
fn limits(info: &StoreInfo) -> HashMap<String, u64> {
    let sizes = [
        ("namespace_chars", limits::NAMESPACE_CHARS_MAX),
        ("namespaces", limits::NAMESPACES_MAX),
        ("key_bytes", limits::KEY_BYTES_MAX),
        ("value_bytes", limits::VALUE_BYTES_MAX),
        ("metadata_bytes", limits::METADATA_BYTES_MAX),
        ("request_id_chars", limits::REQUEST_ID_CHARS_MAX),
        ("commit_mutations", limits::COMMIT_MUTATIONS_MAX),
        ("commit_bytes", limits::COMMIT_BYTES_MAX),
        ("commit_checks", limits::COMMIT_CHECKS_MAX),
        ("commit_enqueues", limits::COMMIT_ENQUEUES_MAX),
        ("commit_settlements", limits::COMMIT_SETTLEMENTS_MAX),
        ("prefix_check_keys", limits::PREFIX_CHECK_KEYS_MAX),
        ("batch_get_keys", limits::BATCH_GET_KEYS_MAX),
        ("batch_get_bytes", limits::BATCH_GET_BYTES),
        ("scan_rows", limits::SCAN_ROWS_MAX),
        ("scan_rows_default", limits::SCAN_ROWS_DEFAULT),
        ("scan_bytes", limits::SCAN_BYTES),
        ("scan_examined_keys", SCAN_KEYS_MAX),
        ("scan_streams", limits::SCAN_STREAMS_MAX),
        ("watches", limits::WATCHES_MAX),
        ("watch_selectors", limits::WATCH_SELECTORS_MAX),
        ("watch_batch_bytes", limits::WATCH_BATCH_BYTES),
        ("queue_name_chars", limits::QUEUE_NAME_CHARS_MAX),
        ("queues", limits::QUEUES_MAX),
        ("message_body_bytes", limits::MESSAGE_BODY_BYTES_MAX),
        ("message_attributes_bytes", limits::MESSAGE_ATTRIBUTES_BYTES_MAX),
        ("ordering_key_bytes", limits::ORDERING_KEY_BYTES_MAX),
        ("dedup_id_bytes", limits::DEDUP_ID_BYTES_MAX),
        ("failures_kept", limits::FAILURES_KEPT),
        ("swept_messages", limits::SWEPT_MESSAGES_MAX),
        ("list_rows", limits::LIST_ROWS_MAX),
        ("list_rows_default", limits::LIST_ROWS_DEFAULT),
        ("list_bytes", limits::LIST_BYTES),
        ("receive_messages", limits::RECEIVE_MESSAGES_MAX),
        ("window_messages", limits::WINDOW_MESSAGES_MAX),
        (
            "window_bytes",
            usize::try_from(limits::WINDOW_BYTES_MAX).unwrap_or(usize::MAX),
        ),
        ("consumers", limits::CONSUMERS_MAX),
        ("consume_settles_ahead", limits::CONSUME_SETTLES_AHEAD_MAX),
        ("error_text_bytes", limits::ERROR_TEXT_BYTES_MAX),
        ("backup_chunk_bytes", limits::BACKUP_CHUNK_BYTES_MAX),
        ("check_problems", limits::CHECK_PROBLEMS_MAX),
        ("answers_bytes", limits::ANSWERS_BYTES_MAX),
        ("deliveries_bytes", limits::DELIVERIES_BYTES_MAX),
        ("watch_pages_bytes", limits::WATCH_PAGES_BYTES_MAX),
        ("grpc_message_bytes", limits::GRPC_MESSAGE_BYTES_MAX),
        ("calls_in_flight", CALLS_MAX),
        ("streams_in_flight", STREAMS_MAX),
        ("requests_arriving_bytes", ARRIVING_BYTES_MAX),
        ("writes_waiting", WRITES_WAITING_MAX),
        ("writes_waiting_bytes", WRITES_WAITING_BYTES_MAX),
    ];
    let times = [
        ("ttl_seconds", limits::TTL_MAX),
        ("request_id_kept_seconds", limits::REQUEST_ID_KEPT),
        ("message_delay_seconds", limits::MESSAGE_DELAY_MAX),
        ("receive_wait_seconds", limits::RECEIVE_WAIT_MAX),
        ("lease_seconds", limits::LEASE_MAX),
        ("snapshot_age_seconds", limits::SNAPSHOT_AGE_MAX),
        ("watch_progress_seconds", limits::WATCH_PROGRESS_MAX),
        ("watch_stall_seconds", limits::WATCH_STALL_MAX),
        ("dedup_window_seconds", limits::DEDUP_WINDOW_MAX),
        ("dead_retention_seconds", limits::DEAD_RETENTION_MAX),
        ("consume_heartbeat_seconds", limits::CONSUME_HEARTBEAT),
        ("consume_stall_seconds", limits::CONSUME_STALL_MAX),
        ("consume_doubt_seconds", limits::CONSUME_DOUBT_MAX),
        ("errand_stall_seconds", limits::ERRAND_STALL_MAX),
    ];
    let sizes = sizes.map(|(name, size)| (name, size as u64));
    let times = times.map(|(name, time): (_, Duration)| (name, time.as_secs()));
    let least = [
        ("lease_min_milliseconds", limits::LEASE_MIN),
        ("watch_progress_min_milliseconds", limits::WATCH_PROGRESS_MIN),
    ];
    let least = least.map(|(name, time)| (name, u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
    let others = [
        ("backoff_jitter_percent", u64::from(limits::BACKOFF_JITTER_PERCENT_MAX)),
        ("queue_attempts", u64::from(limits::QUEUE_ATTEMPTS_MAX)),
        ("queue_depth", limits::QUEUE_DEPTH_MAX),
        ("delete_queue_messages", limits::DELETE_QUEUE_MESSAGES_MAX),
        ("history_seconds", u64::from(info.history_seconds)),
        ("history_bytes", info.history_bytes),
    ];
    let all = sizes.into_iter().chain(times).chain(least).chain(others);
    all.map(|(name, limit)| (name.to_owned(), limit)).collect()
}
