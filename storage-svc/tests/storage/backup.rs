//! Backup: what a copy holds, who gets one, and what is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::limits::BACKUP_CHUNK_BYTES_MAX;
use proto::v1;
use proto::v1::admin_service_client::AdminServiceClient;
use proto::v1::backup_response::{Body, Header};
use proto::v1::commit_response::Outcome;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::queue_service_client::QueueServiceClient;
use runtime::clock::Clock;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::admin::assert_in_order;
use crate::support::{START_MS, Service, message, receive, settlement, store_args, within};

/// A whole backup: the header, and the file.
pub(crate) async fn back_up(admin: &mut AdminServiceClient<Channel>) -> Result<(Header, Vec<u8>), Status> {
    let mut parts = admin.backup(v1::BackupRequest {}).await?.into_inner();
    let first = within(parts.message()).await?.and_then(|part| part.body);
    let Some(Body::Header(header)) = first else {
        panic!("a backup begins with {first:?}");
    };
    let mut file = Vec::new();
    while let Some(part) = within(parts.message()).await? {
        match part.body.expect("a part has a body") {
            Body::Chunk(chunk) => {
                assert!((1..=BACKUP_CHUNK_BYTES_MAX).contains(&chunk.len()), "{}", chunk.len());
                file.extend(chunk);
            }
            Body::Trailer(trailer) => {
                assert_eq!(trailer.sha256, *Sha256::digest(&file), "the digest is of the chunks");
                assert_eq!(file.len() as u64, header.total_bytes);
                assert!(within(parts.message()).await?.is_none(), "the trailer is the last");
                return Ok((header, file));
            }
            Body::Header(_) => panic!("there is one header"),
        }
    }
    panic!("a backup that ends without a trailer");
}

/// A service over a store that was a backup.
async fn restore(file: &[u8]) -> Service {
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::write(store_args(folder.path()).sqlite_db_path, file).expect("it is written");
    Service::start_in(folder, Clock::manual(START_MS)).await
}

/// Files beside the database that backups have made.
fn leftovers(path: &Path) -> Vec<PathBuf> {
    let folder = path.parent().expect("it is in a folder");
    let files = std::fs::read_dir(folder).expect("it lists");
    let paths = files.map(|file| file.expect("it lists").path());
    paths
        .filter(|path| path.to_string_lossy().contains(".backup-"))
        .collect()
}

/// Entries enough that a copy takes a while and more chunks than fit the way to a client.
async fn fill(service: &mut Service, megabytes: usize) {
    let text = "x".repeat(1024 * 1024);
    for number in 0..megabytes {
        service.put(&format!("fill/{number}"), &text).await;
    }
}

async fn info(service: &mut Service) -> v1::GetServerInfoResponse {
    let answer = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    answer.expect("it answers").into_inner()
}

/// What a commit was answered, and what it did.
struct Done {
    key: String,
    /// None: it was deleted.
    text: Option<String>,
    enqueued: Option<(u64, String)>,
    acked: Option<u64>,
}

/// Commits by revision, until it is told to stop: each changes a key, and enqueues a message or acks one with it.
async fn work(channel: Channel, worker: usize, stop: Arc<AtomicBool>, done: Arc<Mutex<BTreeMap<u64, Done>>>) {
    let mut kv = KvServiceClient::new(channel.clone());
    let mut queue = QueueServiceClient::new(channel);
    let mut live = BTreeSet::new();
    for round in 0_usize.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let key = format!("{worker}/{}", round % 7);
        let mut request = v1::CommitRequest::default();
        let (mut text, mut body, mut acked) = (None, None, None);
        if round % 3 == 2 {
            let one = v1::ReceiveRequest {
                max_messages: 1,
                ..receive()
            };
            let delivery = queue
                .receive(one)
                .await
                .expect("it receives")
                .into_inner()
                .deliveries
                .pop();
            let Some(delivery) = delivery else { continue };
            let ack = v1::settlement::Action::Ack(v1::settlement::Ack {});
            request.settlements = vec![settlement(&delivery.receipt, ack)];
            acked = delivery.message.map(|message| message.id);
        } else {
            body = Some(format!("message of {worker}/{round}"));
            request.enqueues = body.iter().map(|body| message(body)).collect();
        }
        // Deleting what is not there would take no revision.
        if round % 5 == 4 && live.remove(&key) {
            request.mutations = vec![v1::Mutation::delete("n", &key)];
        } else {
            // Some of them inline, some not.
            let content = format!("{worker}/{round} {}", "y".repeat(round % 11 * 40));
            request.mutations = vec![v1::Mutation::put_text("n", &key, content.clone(), [].into())];
            text = Some(content);
            live.insert(key.clone());
        }
        let answer = kv.commit(request).await.expect("it is written").into_inner();
        let Some(Outcome::Committed(committed)) = answer.outcome else {
            panic!("nobody else has the message");
        };
        let enqueued = body.map(|body| (committed.enqueued[0].id, body));
        let before = done.lock().expect("nobody panicked").insert(
            committed.revision,
            Done {
                key,
                text,
                enqueued,
                acked,
            },
        );
        assert!(before.is_none(), "two commits of revision {}", committed.revision);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_the_store_as_of_its_revision() {
    let mut service = Service::start().await;
    fill(&mut service, 4).await;
    let original = info(&mut service).await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::default();
    let mut load = JoinSet::new();
    for worker in 0..4 {
        load.spawn(work(
            service.channel.clone(),
            worker,
            Arc::clone(&stop),
            Arc::clone(&done),
        ));
    }
    let mut copies = Vec::new();
    for _ in 0..3 {
        let before = done.lock().expect("nobody panicked").len();
        within(async {
            while done.lock().expect("nobody panicked").len() < before + 50 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        copies.push(back_up(&mut service.admin).await.expect("there is room"));
        // Between two commits everything is in order, whatever is under way.
        assert_in_order(&mut service.admin).await;
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = within(load.join_next()).await {
        ended.expect("the load did not panic");
    }
    let last = info(&mut service).await.store_revision;
    let mut store_ids = BTreeSet::from([original.store_id.clone()]);
    let done = std::mem::take(&mut *done.lock().expect("nobody panicked"));
    for (header, file) in copies {
        assert!(
            header.store_revision > original.store_revision && header.store_revision < last,
            "{header:?}"
        );
        assert_eq!(header.store_id, original.store_id);
        assert_eq!(header.schema_version, original.schema_version);
        check_copy(&header, &file, &done, &mut store_ids).await;
    }
    assert_eq!(leftovers(&service.path()), [] as [PathBuf; 0]);
    service.stop().await;
}

/// The copy holds what the commits up to its revision make, and nothing else.
async fn check_copy(header: &Header, file: &[u8], done: &BTreeMap<u64, Done>, store_ids: &mut BTreeSet<String>) {
    let mut keys: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    let mut messages: BTreeMap<u64, &str> = BTreeMap::new();
    for (revision, done) in done.range(..=header.store_revision) {
        match &done.text {
            Some(text) => drop(keys.insert(&done.key, (*revision, text))),
            None => drop(keys.remove(&*done.key)),
        }
        messages.extend(done.enqueued.iter().map(|(id, body)| (*id, &**body)));
        if let Some(id) = done.acked {
            messages.remove(&id).expect("it was enqueued before");
        }
    }

    let mut copy = restore(file).await;
    assert_in_order(&mut copy.admin).await;
    let copied = info(&mut copy).await;
    assert_eq!(copied.store_revision, header.store_revision);
    assert!(store_ids.insert(copied.store_id), "it is a store of its own");
    let request = v1::ScanRequest {
        selector: Some(v1::Selector {
            namespace: "n".to_owned(),
            keys: Some(v1::selector::Keys::Range(v1::KeyRange {
                start: String::new(),
                end: "fill".to_owned(),
            })),
        }),
        page_size: 1_000,
        ..Default::default()
    };
    let page = copy.kv.scan(request).await.expect("it scans").into_inner();
    assert_eq!(page.next_page_token, "");
    let entries: Vec<v1::Entry> = page.rows.into_iter().filter_map(|row| row.entry).collect();
    let found: BTreeMap<&str, (u64, &str)> = entries
        .iter()
        .map(|entry| (&*entry.key, (entry.revision, entry.text().expect("it is text"))))
        .collect();
    assert_eq!(found, keys);

    let revision = copy.put("later", "1").await;
    assert_eq!(revision, header.store_revision + 1, "it goes on from there");
    let path = copy.path();
    let _folder = copy.stop().await;
    let file = Connection::open(&path).expect("it opens");
    let mut statement = file
        .prepare("select id, cast(body as text) from message_body")
        .expect("it reads");
    let found = statement.query_map((), |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)));
    let found: BTreeMap<u64, String> = found.expect("it reads").map(|row| row.expect("it reads")).collect();
    let found: BTreeMap<u64, &str> = found.iter().map(|(id, body)| (*id, &**body)).collect();
    assert_eq!(found, messages);
}

#[tokio::test]
async fn there_is_one_backup_at_a_time() {
    let mut service = Service::start().await;
    fill(&mut service, 8).await;
    let mut first = service
        .admin
        .backup(v1::BackupRequest {})
        .await
        .expect("there is none yet")
        .into_inner();
    within(first.message())
        .await
        .expect("it is made")
        .expect("there is a header");
    // The copy has no name any more: nothing is left of it, whatever happens from here on.
    assert_eq!(leftovers(&service.path()), [] as [PathBuf; 0]);
    let status = service
        .admin
        .backup(v1::BackupRequest {})
        .await
        .expect_err("there is one");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let hint = status.get_details_retry_info().expect("it says when to come again");
    assert!(hint.retry_delay.is_some());
    assert_in_order(&mut service.admin).await;
    assert!(service.put("k", "1").await > 0, "writes go on");

    drop(first);
    within(async {
        while back_up(&mut service.admin).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_while_the_copy_is_made_leaves_nothing() {
    let mut service = Service::start().await;
    fill(&mut service, 32).await;
    let path = service.path();
    let seen = within(async {
        loop {
            let Ok(parts) = service.admin.backup(v1::BackupRequest {}).await else {
                // The one before is ending.
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            let mut parts = parts.into_inner();
            tokio::select! {
                biased;
                seen = async {
                    loop {
                        if let Some(seen) = leftovers(&path).first()
                            && let Ok(file) = std::fs::metadata(seen)
                        {
                            return file;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                } => break seen,
                // It was too fast for us.
                part = parts.message() => drop(part.expect("there is room")),
            }
        }
    })
    .await;
    assert_eq!(seen.permissions().mode() & 0o777, 0o600, "nobody else can read it");
    within(async {
        while !leftovers(&path).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stops_ends_the_backup() {
    let mut service = Service::start().await;
    fill(&mut service, 8).await;
    let path = service.path();
    let mut parts = service
        .admin
        .backup(v1::BackupRequest {})
        .await
        .expect("there is none yet")
        .into_inner();
    within(parts.message())
        .await
        .expect("it is made")
        .expect("there is a header");
    service.begin_stop();
    let ended = within(async {
        loop {
            match parts.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the backup ended well"),
                Err(status) => return status,
            }
        }
    })
    .await;
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    let folder = service.stop().await;
    let files: Vec<_> = std::fs::read_dir(folder.path()).expect("it lists").collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(path.exists());
}

#[tokio::test]
async fn what_a_killed_service_left_of_a_backup_is_removed_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let left = folder.path().join("store.db.backup-0123456789abcdef0123456789abcdef");
    let others = [
        "store.db.backup-2026-01-31",
        "other.db.backup-0123456789abcdef0123456789abcdef",
    ];
    let others = others.map(|name| folder.path().join(name));
    for path in others.iter().chain([&left]) {
        std::fs::write(path, "x").expect("it is written");
    }
    let service = Service::start_in(folder, Clock::manual(START_MS)).await;
    assert!(!left.exists());
    assert!(others.iter().all(|path| path.exists()), "an operator's own files stay");
    service.stop().await;
}

#[tokio::test]
async fn a_restored_store_takes_nothing_of_the_original() {
    let mut service = Service::start().await;
    for key in ["a", "b", "c"] {
        service.put(key, "1").await;
    }
    service.enqueue("m").await;
    let delivery = service.receive().await.pop().expect("there is a message");
    let scan = v1::ScanRequest {
        selector: Some(v1::Selector {
            namespace: "n".to_owned(),
            keys: None,
        }),
        page_size: 1,
        ..Default::default()
    };
    let page = service.kv.scan(scan.clone()).await.expect("it scans").into_inner();
    let next = v1::ScanRequest {
        page_token: page.next_page_token,
        ..scan
    };
    let (_, file) = back_up(&mut service.admin).await.expect("there is room");

    let mut copy = restore(&file).await;
    crate::support::refused(copy.kv.scan(next.clone()).await, "page_token");
    let ack = v1::settlement::Action::Ack(v1::settlement::Ack {});
    let request = v1::SettleRequest {
        settlements: vec![settlement(&delivery.receipt, ack)],
    };
    let refused = copy
        .queue
        .settle(request.clone())
        .await
        .expect_err("it is of another store");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let first_id = info(&mut copy).await.store_id;
    let mut copy = copy.restart().await;
    assert_eq!(
        info(&mut copy).await.store_id,
        first_id,
        "it becomes a store of its own once"
    );
    copy.stop().await;

    // The original knows them still.
    service.kv.scan(next).await.expect("it scans");
    service.queue.settle(request).await.expect("it settles");
    service.stop().await;
}

#[tokio::test]
async fn a_copy_is_set_up_as_the_original() {
    let mut service = Service::start().await;
    service.put("k", "1").await;
    let (_, file) = back_up(&mut service.admin).await.expect("there is room");
    let folder = TempDir::new().expect("a folder can be made");
    let path = folder.path().join("copy.db");
    std::fs::write(&path, file).expect("it is written");
    let copy = Connection::open(&path).expect("it opens");
    let ask = |pragma: &str| -> i64 {
        let sql = format!("pragma {pragma}");
        copy.query_row(&sql, (), |row| row.get(0)).expect("it answers")
    };
    assert_eq!(ask("page_size"), 8_192);
    assert_eq!(ask("auto_vacuum"), 2);
    assert_eq!(ask("application_id"), 0x4450_3153);
    assert_eq!(ask("user_version"), 5);
    service.stop().await;
}
