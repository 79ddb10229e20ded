//! An older backup restored in the place of the store, on the same port, under a live watcher.

use std::collections::BTreeMap;
use std::path::Path;

use proto::v1;
use proto::v1::admin_service_client::AdminServiceClient;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::watch_event::Kind;
use proto::v1::watch_response::{Body, Head};
use runtime::clock::Clock;
use storage_svc::Store;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::backup::back_up;
use crate::support::{START_MS, put, store_args, within};

/// A service that is stopped and started on one port.
struct Running {
    store: Store,
    shutdown: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn start(folder: &Path, address: &str) -> (Self, String) {
        let store = Store::open(&store_args(folder), Clock::manual(START_MS)).expect("the store opens");
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(storage_svc::serve(listener, store.clone(), shutdown.clone()));
        let running = Self {
            store,
            shutdown,
            serving,
        };
        (running, address)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        within(self.serving)
            .await
            .expect("it did not panic")
            .expect("it ended well");
        self.store.close().await;
    }
}

/// What a client knows of the keys, and how far it has come.
struct Cache {
    entries: BTreeMap<String, String>,
    revision: u64,
}

impl Cache {
    /// Reads all of it.
    async fn read(kv: &mut KvServiceClient<Channel>) -> Self {
        let scan = v1::ScanRequest {
            selector: Some(everything()),
            ..Default::default()
        };
        let pages = kv.scan_stream(v1::ScanStreamRequest { scan: Some(scan) }).await;
        let mut pages = pages.expect("it scans").into_inner();
        let mut cache = Self {
            entries: BTreeMap::new(),
            revision: 0,
        };
        while let Some(page) = within(pages.message()).await.expect("it scans") {
            cache.revision = page.store_revision;
            for entry in page.rows.into_iter().filter_map(|row| row.entry) {
                cache
                    .entries
                    .insert(entry.key.clone(), entry.text().expect("it is text").to_owned());
            }
        }
        cache
    }

    /// Follows a watch up to a revision.
    async fn follow(&mut self, stream: &mut Streaming<v1::WatchResponse>, revision: u64) {
        while self.revision < revision {
            let message = within(stream.message()).await.expect("the watch goes on");
            match message.and_then(|message| message.body).expect("it says something") {
                Body::Batch(batch) => {
                    assert!(batch.revision > self.revision);
                    for event in batch.events {
                        let kind = event.kind();
                        let entry = event.entry.expect("an event names its key");
                        assert_eq!(kind, Kind::Put);
                        let text = entry.text().expect("it is text").to_owned();
                        self.entries.insert(entry.key, text);
                    }
                    self.revision = batch.revision;
                }
                Body::Progress(mark) => self.revision = mark.revision,
                Body::Head(head) => panic!("a second head: {head:?}"),
            }
        }
    }
}

fn everything() -> v1::Selector {
    v1::Selector {
        namespace: "n".to_owned(),
        keys: None,
    }
}

async fn watch(
    kv: &mut KvServiceClient<Channel>,
    after_revision: u64,
) -> Result<(Head, Streaming<v1::WatchResponse>), Status> {
    let request = v1::WatchRequest {
        selectors: vec![everything()],
        after_revision: Some(after_revision),
        ..Default::default()
    };
    let mut stream = within(kv.watch(request)).await?.into_inner();
    let first = within(stream.message()).await?.and_then(|message| message.body);
    let Some(Body::Head(head)) = first else {
        panic!("a watch begins with {first:?}");
    };
    Ok((head, stream))
}

#[tokio::test]
async fn a_watcher_sees_that_an_older_backup_was_restored() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (running, address) = Running::start(folder.path(), "127.0.0.1:0").await;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is an address");
    // One channel for all of it: it connects anew by itself.
    let channel = endpoint.connect_lazy();
    let mut kv = KvServiceClient::new(channel.clone());
    let mut admin = AdminServiceClient::new(channel);
    for number in 1..=5 {
        kv.put(put(&format!("early/{number}"), "1"))
            .await
            .expect("it is written");
    }
    let (header, file) = back_up(&mut admin).await.expect("there is room");
    assert_eq!(header.store_revision, 5);

    let mut cache = Cache::read(&mut kv).await;
    let (first, mut stream) = watch(&mut kv, cache.revision).await.expect("it begins");
    for number in 6..=9 {
        kv.put(put(&format!("lost/{number}"), "1"))
            .await
            .expect("it is written");
    }
    cache.follow(&mut stream, 9).await;
    assert_eq!(cache.entries.len(), 9);

    let last_word = tokio::spawn(async move {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a watch does not end without a word"),
                Err(status) => return status,
            }
        }
    });
    running.stop().await;
    let status = within(last_word).await.expect("it did not panic");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    std::fs::write(store_args(folder.path()).sqlite_db_path, file).expect("the backup takes the store's place");
    let (running, _) = Running::start(folder.path(), &address).await;

    // As long as the restored store is behind the watcher, it is told so.
    let ahead = watch(&mut kv, cache.revision).await.expect_err("the store is at 5");
    assert_eq!(ahead.code(), Code::OutOfRange, "{ahead:?}");
    let info = ahead.get_details_error_info().expect("it says why");
    assert_eq!(info.reason, "REVISION_AHEAD");
    // Later its revisions are others: only the head says so.
    for number in 6..=12 {
        kv.put(put(&format!("late/{number}"), "2"))
            .await
            .expect("it is written");
    }
    let (second, mut stream) = watch(&mut kv, cache.revision)
        .await
        .expect("the revision is there, too");
    assert_ne!(second.store_id, first.store_id);
    assert_ne!(second.incarnation, first.incarnation);
    assert_eq!(second.store_revision, 12);
    cache.follow(&mut stream, 12).await;
    let anew = Cache::read(&mut kv).await;
    assert_ne!(cache.entries, anew.entries, "who goes on regardless is wrong");

    let mut cache = anew;
    let (third, mut stream) = watch(&mut kv, cache.revision).await.expect("it begins");
    assert_eq!(
        (third.store_id, third.incarnation),
        (second.store_id, second.incarnation)
    );
    kv.put(put("late/13", "2")).await.expect("it is written");
    cache.follow(&mut stream, 13).await;
    assert_eq!(cache.entries, Cache::read(&mut kv).await.entries);
    assert!(cache.entries.keys().all(|key| !key.starts_with("lost/")));
    running.stop().await;
}
