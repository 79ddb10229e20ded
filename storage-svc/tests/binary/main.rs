//! The service's own binary: how it starts, how it stops, and what is left when it is stopped the hard way.

mod grpcurl;
#[path = "../process/idler.rs"]
mod idler;
mod memory;
#[path = "../process/mod.rs"]
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::limits::GRPC_MESSAGE_BYTES_MAX;
use proto::v1;
use proto::v1::admin_service_client::AdminServiceClient;
use proto::v1::commit_response::Outcome;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::queue_service_client::QueueServiceClient;
use rusqlite::Connection;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use self::process::{Service, spawn, within};

impl Service {
    async fn start(path: &Path) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_storage-svc")), path).await
    }

    async fn start_by(command: Command, path: &Path) -> Self {
        Self::ready(spawn(command, "127.0.0.1:0", path)).await
    }

    fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("it is an address");
        endpoint.connect_lazy()
    }
}

/// The one line that a failed start says.
async fn failed_start(arguments: &[&str], path: &Path) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_storage-svc"))
        .args(arguments)
        .args(["--log-level", "off", "--sqlite-db-path"])
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let status = within(child.wait()).await.expect("it ends");
    assert!(!status.success());
    let mut said = String::new();
    child
        .stdout
        .take()
        .expect("it is piped")
        .read_to_string(&mut said)
        .await
        .expect("it reads");
    assert_eq!(said, "", "it was never ready");
    child
        .stderr
        .take()
        .expect("it is piped")
        .read_to_string(&mut said)
        .await
        .expect("it reads");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("storage-svc: "), "{said}");
    said
}

fn store_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("data/store.db")
}

#[tokio::test]
async fn it_says_that_it_is_ready_and_ends_well() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let service = Service::start(&store_in(&folder)).await;
    let request = v1::PutRequest {
        namespace: "n".to_owned(),
        key: "k".to_owned(),
        ..Default::default()
    };
    KvServiceClient::new(service.channel())
        .put(request)
        .await
        .expect("it is written");
    // Somebody waits for messages all the while.
    let mut queue = QueueServiceClient::new(service.channel());
    let waits = tokio::spawn(async move { queue.receive(receive()).await });
    let mut queue = QueueServiceClient::new(service.channel());
    let stats = v1::GetQueueStatsRequest { queue: "q".to_owned() };
    within(async {
        while queue.get_queue_stats(stats.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(service.terminate().await.code(), Some(0));
    let answer = waits.await.expect("it did not panic").expect("the drain answers");
    assert!(answer.into_inner().deliveries.is_empty());
}

#[tokio::test]
async fn a_start_that_fails_says_why_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = store_in(&folder);
    let service = Service::start(&path).await;
    let said = failed_start(&["--storage-listen", &service.address], &folder.path().join("other.db")).await;
    assert!(said.contains(&service.address), "{said}");
    let said = failed_start(&["--storage-listen", "127.0.0.1:0"], &path).await;
    assert!(said.contains("is in use by another process"), "{said}");
    assert_eq!(service.terminate().await.code(), Some(0));

    let text = folder.path().join("text.db");
    std::fs::write(&text, "no database").expect("it is written");
    let said = failed_start(&["--storage-listen", "127.0.0.1:0"], &text).await;
    assert!(said.contains("is not a SQLite database"), "{said}");
    let said = failed_start(&["--storage-listen", "127.0.0.1:0"], &text.join("store.db")).await;
    assert!(said.contains(&text.display().to_string()), "{said}");
    let said = failed_start(&["--storage-listen", "0.0.0.0:0"], &path).await;
    assert!(said.contains("STORAGE_INSECURE"), "{said}");
}

fn receive() -> v1::ReceiveRequest {
    v1::ReceiveRequest {
        queue: "q".to_owned(),
        max_messages: 10,
        wait: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        lease: None,
    }
}

/// What the service has answered, over all its lives.
#[derive(Default)]
struct Answered {
    /// The revision of each key whose commit was answered, and the id of the message enqueued with it.
    commits: BTreeMap<String, (u64, u64)>,
    /// Messages whose ack was sent, and those of them whose ack was answered.
    ack_sent: BTreeSet<u64>,
    acked: BTreeSet<u64>,
}

/// Commits until the service goes away.
async fn produce(channel: Channel, prefix: String, answered: Arc<Mutex<Answered>>) {
    let mut kv = KvServiceClient::new(channel);
    for number in 0.. {
        let key = format!("{prefix}/{number}");
        let request = v1::CommitRequest {
            mutations: vec![v1::Mutation::put_text("n", &key, "x".repeat(500), [].into())],
            enqueues: vec![v1::NewMessage {
                queue: "q".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let Ok(answer) = kv.commit(request).await else { return };
        let Some(Outcome::Committed(committed)) = answer.into_inner().outcome else {
            panic!("there is nothing to conflict with");
        };
        let id = committed.enqueued[0].id;
        answered
            .lock()
            .expect("nobody panicked")
            .commits
            .insert(key, (committed.revision, id));
    }
}

/// Receives and acks until the service goes away.
async fn consume(channel: Channel, answered: Arc<Mutex<Answered>>) {
    let mut queue = QueueServiceClient::new(channel);
    while let Ok(answer) = queue.receive(receive()).await {
        let deliveries = answer.into_inner().deliveries;
        let ids: Vec<u64> = deliveries
            .iter()
            .flat_map(|delivery| &delivery.message)
            .map(|message| message.id)
            .collect();
        {
            let mut answered = answered.lock().expect("nobody panicked");
            for id in &ids {
                assert!(!answered.acked.contains(id), "message {id} was acked and came again");
            }
            answered.ack_sent.extend(&ids);
        }
        let settlements = deliveries.into_iter().map(|delivery| v1::Settlement {
            receipt: delivery.receipt,
            action: Some(v1::settlement::Action::Ack(v1::settlement::Ack {})),
        });
        let request = v1::SettleRequest {
            settlements: settlements.collect(),
        };
        if queue.settle(request).await.is_err() {
            return;
        }
        answered.lock().expect("nobody panicked").acked.extend(&ids);
    }
}

#[tokio::test]
async fn what_was_answered_outlives_kill_9_under_load() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = store_in(&folder);
    let answered = Arc::new(Mutex::new(Answered::default()));
    let mut last_revision = 0;
    for life in 0..6 {
        let service = Service::start(&path).await;
        let mut admin = AdminServiceClient::new(service.channel());
        let info = admin
            .get_server_info(v1::GetServerInfoRequest {})
            .await
            .expect("it answers");
        let revision = info.into_inner().store_revision;
        assert!(revision >= last_revision, "{revision} after {last_revision}");
        let mut load = JoinSet::new();
        for worker in 0..4 {
            load.spawn(produce(
                service.channel(),
                format!("{life}/{worker}"),
                Arc::clone(&answered),
            ));
        }
        load.spawn(consume(service.channel(), Arc::clone(&answered)));
        let before = answered.lock().expect("nobody panicked").commits.len();
        // Each life ends at another point of its work.
        within(async {
            while answered.lock().expect("nobody panicked").commits.len() < before + 40 + 37 * life {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        service.kill().await;
        while let Some(ended) = within(load.join_next()).await {
            ended.expect("the load did not panic");
        }
        let answered = answered.lock().expect("nobody panicked");
        last_revision = answered
            .commits
            .values()
            .map(|(revision, _)| *revision)
            .max()
            .expect("there was work");
    }

    let service = Service::start(&path).await;
    let answered = std::mem::take(&mut *answered.lock().expect("nobody panicked"));
    let mut kv = KvServiceClient::new(service.channel());
    let keys: Vec<v1::KeyRef> = answered
        .commits
        .keys()
        .map(|key| v1::KeyRef {
            namespace: "n".to_owned(),
            key: key.clone(),
        })
        .collect();
    let mut found = Vec::new();
    for part in keys.chunks(2_048) {
        let request = v1::BatchGetRequest {
            keys: part.to_vec(),
            ..Default::default()
        };
        let answer = kv.batch_get(request).await.expect("it reads").into_inner();
        found.extend(answer.items.into_iter().map(|item| item.entry));
    }
    assert_eq!(found.len(), keys.len());
    for (entry, (key, (revision, _))) in found.iter().zip(&answered.commits) {
        let entry = entry
            .as_ref()
            .unwrap_or_else(|| panic!("{key} was answered and is lost"));
        assert_eq!(entry.revision, *revision, "{key}");
        assert_eq!(entry.text().map(str::len), Some(500), "{key}");
    }
    assert_eq!(service.terminate().await.code(), Some(0));

    let file = Connection::open(&path).expect("it opens");
    let check: String = file
        .query_row("pragma quick_check", (), |row| row.get(0))
        .expect("it checks");
    assert_eq!(check, "ok");
    let mut statement = file.prepare("select id from message").expect("the table is there");
    let ids = statement.query_map((), |row| row.get::<_, i64>(0)).expect("it reads");
    let kept: BTreeSet<u64> = ids.map(|id| id.expect("it reads").cast_unsigned()).collect();
    for (_, id) in answered.commits.values() {
        assert!(
            kept.contains(id) || answered.ack_sent.contains(id),
            "message {id} is lost"
        );
    }
    assert_eq!(
        kept.intersection(&answered.acked).count(),
        0,
        "an acked message is there"
    );
}

/// A binary whose files can be limited in size: that stands for the full disk. Without the trap the limit would kill the
/// process instead.
async fn start_limitable(path: &Path) -> Service {
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "trap '' XFSZ; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_storage-svc"),
    ]);
    Service::start_by(shell, path).await
}

/// Lets no file of the service grow beyond so many bytes, or any again.
async fn limit_files(service: &Service, bytes: &str) {
    let limited = Command::new("prlimit")
        .args(["--pid", &service.pid(), &format!("--fsize={bytes}:")])
        .status();
    assert!(limited.await.expect("there is a prlimit").success());
}

fn put(key: &str, bytes: usize) -> v1::PutRequest {
    v1::PutRequest {
        namespace: "n".to_owned(),
        key: key.to_owned(),
        content: Some(v1::put_request::Content::Text("x".repeat(bytes))),
        ..Default::default()
    }
}

fn get(key: &str) -> v1::GetRequest {
    v1::GetRequest {
        namespace: "n".to_owned(),
        key: key.to_owned(),
        omit_value: true,
        ..Default::default()
    }
}

/// A whole backup.
async fn back_up(channel: Channel) -> Result<Vec<u8>, Status> {
    let mut admin = AdminServiceClient::new(channel);
    let parts = admin.backup(v1::BackupRequest {}).await?.into_inner();
    finish(parts).await.map(|(file, _)| file)
}

/// The rest of a backup: the chunks, and whether the trailer came.
async fn finish(mut parts: Streaming<v1::BackupResponse>) -> Result<(Vec<u8>, bool), Status> {
    let mut file = Vec::new();
    let mut is_whole = false;
    while let Some(part) = within(parts.message()).await? {
        match part.body {
            Some(v1::backup_response::Body::Chunk(chunk)) => file.extend(chunk),
            Some(v1::backup_response::Body::Trailer(_)) => is_whole = true,
            Some(v1::backup_response::Body::Header(_)) | None => {}
        }
    }
    Ok((file, is_whole))
}

fn check_file(path: &Path) {
    let file = Connection::open(path).expect("it opens");
    let check: String = file
        .query_row("pragma quick_check", (), |row| row.get(0))
        .expect("it checks");
    assert_eq!(check, "ok");
}

/// Files beside the database that backups have made.
fn leftovers(path: &Path) -> usize {
    let files = std::fs::read_dir(path.parent().expect("it is in a folder")).expect("it lists");
    let names = files.map(|file| file.expect("it lists").file_name());
    names.filter(|name| name.to_string_lossy().contains(".backup-")).count()
}

#[tokio::test]
async fn a_disk_that_takes_no_more_fails_what_writes_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = store_in(&folder);
    let service = start_limitable(&path).await;
    let mut kv = KvServiceClient::new(service.channel());
    let mut queue = QueueServiceClient::new(service.channel());
    let mut admin = AdminServiceClient::new(service.channel());
    let enqueue = v1::EnqueueRequest {
        messages: vec![v1::NewMessage {
            queue: "q".to_owned(),
            ..Default::default()
        }],
        request_id: String::new(),
    };
    kv.put(put("before", 10_000)).await.expect("there is room");
    queue.enqueue(enqueue.clone()).await.expect("there is room");
    limit_files(&service, "4096").await;
    for _ in 0..3 {
        let refusals = [
            kv.put(put("during", 10_000)).await.expect_err("there is no room"),
            queue.enqueue(enqueue.clone()).await.expect_err("there is no room"),
            queue.receive(receive()).await.expect_err("a lease is a write"),
        ];
        for status in refusals {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert!(status.get_details_retry_info().is_some(), "{status:?}");
            let info = status.get_details_error_info().expect("it says what is wrong");
            assert!(info.reason.starts_with("DISK_"), "{info:?}");
        }
    }
    let there = kv.get(get("before")).await.expect("it reads still").into_inner();
    assert_eq!(there.entry.map(|entry| entry.revision), Some(1));
    let gone = kv.get(get("during")).await.expect("it reads still").into_inner();
    assert_eq!((gone.entry, gone.store_revision), (None, 1));
    let request = v1::GetQueueStatsRequest { queue: "q".to_owned() };
    let figures = queue
        .get_queue_stats(request)
        .await
        .expect("it reads still")
        .into_inner()
        .stats;
    assert_eq!(figures.expect("there are figures").ready, 1);
    admin
        .get_store_stats(v1::GetStoreStatsRequest {})
        .await
        .expect("it reads still");
    let status = back_up(service.channel()).await.expect_err("a copy takes room");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let details = status
        .get_details_precondition_failure()
        .expect("it says what is missing");
    assert_eq!(details.violations[0].r#type, "DISK_FULL");
    assert_eq!(leftovers(&path), 0);

    limit_files(&service, "unlimited").await;
    let after = kv
        .put(put("after", 10_000))
        .await
        .expect("there is room again")
        .into_inner();
    assert_eq!(after.revision, 2, "what failed took no revision");
    let received = queue
        .receive(receive())
        .await
        .expect("there is room again")
        .into_inner();
    assert_eq!(received.deliveries.len(), 1, "what failed left no lease");
    back_up(service.channel()).await.expect("there is room again");
    assert_eq!(service.terminate().await.code(), Some(0));
    check_file(&path);
}

#[tokio::test]
async fn a_full_disk_and_a_backup_do_not_harm_each_other() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = store_in(&folder);
    let service = start_limitable(&path).await;
    let mut kv = KvServiceClient::new(service.channel()).max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    let mut admin = AdminServiceClient::new(service.channel());
    for number in 0..8 {
        kv.put(put(&number.to_string(), 1024 * 1024))
            .await
            .expect("there is room");
    }
    admin.checkpoint(v1::CheckpointRequest {}).await.expect("there is room");

    // Room for what is written, and not for a copy.
    limit_files(&service, "4194304").await;
    let (status, written) = tokio::join!(back_up(service.channel()), async {
        for number in 0..20 {
            kv.put(put(&format!("while/{number}"), 1_000))
                .await
                .expect("there is room for this");
        }
        20
    });
    let status = status.expect_err("there is no room for a copy");
    assert_eq!((status.code(), written), (Code::FailedPrecondition, 20), "{status:?}");
    assert_eq!(leftovers(&path), 0);

    // A copy that is made already is sent whole.
    limit_files(&service, "unlimited").await;
    let mut parts = admin
        .backup(v1::BackupRequest {})
        .await
        .expect("there is none")
        .into_inner();
    within(parts.message())
        .await
        .expect("it is made")
        .expect("there is a header");
    limit_files(&service, "4096").await;
    let status = kv.put(put("during", 10_000)).await.expect_err("there is no room");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let (file, is_whole) = finish(parts).await.expect("it goes on");
    assert!(is_whole);
    limit_files(&service, "unlimited").await;
    kv.put(put("after", 10_000)).await.expect("there is room again");
    let copy = folder.path().join("copy.db");
    std::fs::write(&copy, file).expect("it is written");
    check_file(&copy);
    assert_eq!(service.terminate().await.code(), Some(0));
    check_file(&path);
}

#[tokio::test]
async fn a_file_damaged_in_an_unclean_end_is_not_served() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = store_in(&folder);
    let service = Service::start(&path).await;
    let mut kv = KvServiceClient::new(service.channel());
    for number in 0..100 {
        kv.put(put(&number.to_string(), 500)).await.expect("it is written");
    }
    let mut admin = AdminServiceClient::new(service.channel());
    admin.checkpoint(v1::CheckpointRequest {}).await.expect("it answers");
    service.kill().await;
    let good = std::fs::read(&path).expect("it reads");
    let mut bad = good.clone();
    let last = bad.len() - 8_192;
    bad[last..].fill(0xab);
    std::fs::write(&path, bad).expect("it is written");
    for _ in 0..2 {
        let said = failed_start(&["--storage-listen", "127.0.0.1:0"], &path).await;
        assert!(
            said.contains("is damaged") && said.contains("restore a backup"),
            "{said}"
        );
    }
    std::fs::write(&path, good).expect("it is written");
    let service = Service::start(&path).await;
    let mut kv = KvServiceClient::new(service.channel());
    let there = kv.get(get("99")).await.expect("it reads").into_inner();
    assert!(there.entry.is_some());
    assert_eq!(service.terminate().await.code(), Some(0));
}
