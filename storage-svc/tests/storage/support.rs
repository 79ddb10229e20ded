//! A service on a port of its own over a folder of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::v1;
use proto::v1::admin_service_client::AdminServiceClient;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::queue_service_client::QueueServiceClient;
use runtime::clock::Clock;
use storage_svc::{Store, StoreArgs, Sync};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Where the clocks of the tests begin.
pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// Settings of a store in a folder. What a test writes need not survive a power cut.
pub(crate) fn store_args(folder: &Path) -> StoreArgs {
    StoreArgs {
        storage_sync: Sync::Normal,
        ..StoreArgs::at(folder.join("store.db"))
    }
}

/// A running service and clients of it.
pub(crate) struct Service {
    pub(crate) clock: Clock,
    pub(crate) channel: Channel,
    pub(crate) kv: KvServiceClient<Channel>,
    pub(crate) queue: QueueServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
    pub(crate) address: String,
    store: Store,
    shutdown: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
    folder: TempDir,
}

impl Service {
    /// Over an empty folder.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        Self::start_in(folder, Clock::manual(START_MS)).await
    }

    /// Over a folder that may hold a store.
    pub(crate) async fn start_in(folder: TempDir, clock: Clock) -> Self {
        Self::start_with(folder, clock, |_| {}).await
    }

    /// The same, with other settings than the default ones.
    pub(crate) async fn start_with(folder: TempDir, clock: Clock, set: impl FnOnce(&mut StoreArgs)) -> Self {
        let mut args = store_args(folder.path());
        set(&mut args);
        let store = Store::open(&args, clock.clone()).expect("the store opens");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(storage_svc::serve(listener, store.clone(), shutdown.clone()));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("the address is good");
        let channel = endpoint.connect_lazy();
        let max = proto::limits::GRPC_MESSAGE_BYTES_MAX;
        Self {
            clock,
            kv: KvServiceClient::new(channel.clone()).max_decoding_message_size(max),
            queue: QueueServiceClient::new(channel.clone()).max_decoding_message_size(max),
            admin: AdminServiceClient::new(channel.clone()),
            channel,
            address,
            store,
            shutdown,
            serving,
            folder,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        store_args(self.folder.path()).sqlite_db_path
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Begins to stop, without waiting for it.
    pub(crate) fn begin_stop(&self) {
        self.shutdown.cancel();
    }

    /// Stops and closes the file.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        let served = within(self.serving).await.expect("serving did not panic");
        served.expect("serving ended well");
        self.store.close().await;
        self.folder
    }

    pub(crate) async fn restart(self) -> Self {
        let clock = self.clock.clone();
        let folder = self.stop().await;
        Self::start_in(folder, clock).await
    }

    pub(crate) async fn put(&mut self, key: &str, text: &str) -> u64 {
        let answer = self.kv.put(put(key, text)).await.expect("it is written");
        answer.into_inner().revision
    }

    pub(crate) async fn get(&mut self, key: &str) -> Option<v1::Entry> {
        let request = v1::GetRequest {
            namespace: "n".to_owned(),
            key: key.to_owned(),
            ..Default::default()
        };
        self.kv.get(request).await.expect("it reads").into_inner().entry
    }

    pub(crate) async fn enqueue(&mut self, text: &str) -> u64 {
        let request = v1::EnqueueRequest {
            messages: vec![message(text)],
            request_id: String::new(),
        };
        let answer = self.queue.enqueue(request).await.expect("it is enqueued");
        answer.into_inner().results[0].id
    }

    pub(crate) async fn receive(&mut self) -> Vec<v1::Delivery> {
        let answer = self.queue.receive(receive()).await.expect("it receives");
        answer.into_inner().deliveries
    }

    pub(crate) async fn settle(
        &mut self,
        receipt: &bytes::Bytes,
        action: v1::settlement::Action,
    ) -> v1::settlement_result::Status {
        let request = v1::SettleRequest {
            settlements: vec![settlement(receipt, action)],
        };
        let answer = self.queue.settle(request).await.expect("it settles").into_inner();
        answer.results[0].status()
    }

    pub(crate) async fn stats(&mut self) -> v1::QueueStats {
        let request = v1::GetQueueStatsRequest { queue: "q".to_owned() };
        let answer = self.queue.get_queue_stats(request).await.expect("the queue is there");
        answer.into_inner().stats.expect("there are figures")
    }
}

pub(crate) fn put(key: &str, text: &str) -> v1::PutRequest {
    v1::PutRequest {
        namespace: "n".to_owned(),
        key: key.to_owned(),
        content: Some(v1::put_request::Content::Text(text.to_owned())),
        ..Default::default()
    }
}

pub(crate) fn message(text: &str) -> v1::NewMessage {
    v1::NewMessage {
        queue: "q".to_owned(),
        content: Some(v1::new_message::Content::Text(text.to_owned())),
        ..Default::default()
    }
}

pub(crate) fn receive() -> v1::ReceiveRequest {
    v1::ReceiveRequest {
        queue: "q".to_owned(),
        max_messages: 100,
        ..Default::default()
    }
}

pub(crate) fn settlement(receipt: &bytes::Bytes, action: v1::settlement::Action) -> v1::Settlement {
    v1::Settlement {
        receipt: receipt.clone(),
        action: Some(action),
    }
}

pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// Nothing here takes long; what does not end is a fault.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .expect("it ends in time")
}

/// Waits for a state.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asserts that a call was refused because of one field.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, field: &str) {
    let status = answer.expect_err(field);
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    let details = status.get_details_bad_request().expect("it names the field");
    let fields: Vec<_> = details
        .field_violations
        .iter()
        .map(|violation| &violation.field)
        .collect();
    assert_eq!(fields, [field]);
}
