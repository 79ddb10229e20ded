//! KvService.ScanStream: a whole scan from one snapshot.

use std::future::poll_fn;
use std::time::Duration;

use proto::limits::SCAN_STREAMS_MAX;
use proto::v1;
use proto::v1::kv_service_client::KvServiceClient;
use runtime::clock::Clock;
use storage_svc::model::{Namespace, Scan, Selection, With};
use storage_svc::{StoreArgs, StoreError};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::{START_MS, Service, eventually, put, refused, seconds, within};

/// Enough that a stream of them does not fit on its way.
const KEYS: usize = 4_000;

fn request(page_size: i32) -> v1::ScanRequest {
    v1::ScanRequest {
        selector: Some(v1::Selector {
            namespace: "n".to_owned(),
            keys: None,
        }),
        page_size,
        ..Default::default()
    }
}

fn streaming(scan: v1::ScanRequest) -> v1::ScanStreamRequest {
    v1::ScanStreamRequest { scan: Some(scan) }
}

async fn begin(service: &mut Service, scan: v1::ScanRequest) -> Streaming<v1::ScanStreamResponse> {
    let stream = within(service.kv.scan_stream(streaming(scan))).await;
    stream.expect("it begins").into_inner()
}

/// On a connection of its own: what is not read there is in nobody else's way.
async fn begin_apart(service: &Service, scan: v1::ScanRequest) -> Streaming<v1::ScanStreamResponse> {
    let client = KvServiceClient::connect(format!("http://{}", service.address)).await;
    let stream = within(client.expect("it connects").scan_stream(streaming(scan))).await;
    stream.expect("it begins").into_inner()
}

/// The rest of a stream.
async fn rest(stream: &mut Streaming<v1::ScanStreamResponse>) -> (Vec<v1::ScanStreamResponse>, Result<(), Status>) {
    let mut messages = Vec::new();
    loop {
        match within(stream.message()).await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, Ok(())),
            Err(status) => return (messages, Err(status)),
        }
    }
}

/// Every row of a stream that ends well.
async fn rows(service: &mut Service, scan: v1::ScanRequest) -> Vec<v1::ScanRow> {
    let mut stream = begin(service, scan).await;
    let (messages, ended) = rest(&mut stream).await;
    ended.expect("it ends well");
    let (last, before) = messages.split_last().expect("there is a last message");
    assert_eq!(last.resume_token, "", "there is nothing more");
    assert!(before.iter().all(|message| !message.resume_token.is_empty()));
    assert!(
        before
            .iter()
            .all(|message| message.store_revision == last.store_revision)
    );
    messages.into_iter().flat_map(|message| message.rows).collect()
}

/// Every row of all pages.
async fn pages(service: &mut Service, mut scan: v1::ScanRequest) -> Vec<v1::ScanRow> {
    let mut rows = Vec::new();
    loop {
        let page = service.kv.scan(scan.clone()).await.expect("it scans").into_inner();
        rows.extend(page.rows);
        if page.next_page_token.is_empty() {
            return rows;
        }
        scan.page_token = page.next_page_token;
    }
}

fn keys(rows: &[v1::ScanRow]) -> Vec<String> {
    rows.iter()
        .map(|row| row.entry.as_ref().expect("a row has an entry").key.clone())
        .collect()
}

async fn fill(service: &mut Service) {
    let mutation = |index| v1::Mutation::put_text("n", &format!("k{index:05}"), "x".repeat(1_000), [].into());
    let request = v1::CommitRequest {
        mutations: (0..KEYS).map(mutation).collect(),
        ..Default::default()
    };
    service.kv.commit(request).await.expect("it commits");
}

#[tokio::test]
async fn a_stream_is_what_the_pages_are() {
    let mut service = Service::start().await;
    assert_eq!(rows(&mut service, request(0)).await, [], "of nobody's namespace");
    for index in 0..25 {
        let mut record = put(&format!("record/{index}"), &"x".repeat(index * 20_000));
        record.namespace = "records".to_owned();
        service.kv.put(record).await.expect("it is written");
        // One in three leads nowhere.
        let record = if index % 3 == 0 {
            "nowhere".to_owned()
        } else {
            format!("record/{index}")
        };
        service.put(&format!("index/{index:02}"), &record).await;
    }
    let expired = v1::PutRequest {
        expiry: Some(v1::put_request::Expiry::Ttl(seconds(1))),
        ..put("index/00expired", "record/1")
    };
    service.kv.put(expired).await.expect("it is written");
    service.clock.advance_ms(1_000);
    for page_size in [0, 1, 7] {
        for reverse in [false, true] {
            for skip_dangling in [None, Some(false), Some(true)] {
                let scan = v1::ScanRequest {
                    reverse,
                    omit_values: skip_dangling == Some(true),
                    as_bytes: reverse,
                    dereference: skip_dangling.map(|skip_dangling| v1::Dereference {
                        target_namespace: "records".to_owned(),
                        skip_dangling,
                    }),
                    ..request(page_size)
                };
                let expected = pages(&mut service, scan.clone()).await;
                assert!(expected.len() >= 16);
                assert_eq!(rows(&mut service, scan.clone()).await, expected, "{scan:?}");
            }
        }
    }
    let scan = v1::ScanRequest {
        selector: Some(v1::Selector {
            namespace: "n".to_owned(),
            keys: Some(v1::selector::Keys::Range(v1::KeyRange {
                start: "index/03".to_owned(),
                end: "index/07".to_owned(),
            })),
        }),
        ..request(3)
    };
    let found = rows(&mut service, scan).await;
    assert_eq!(keys(&found), ["index/03", "index/04", "index/05", "index/06"]);
    service.stop().await;
}

#[tokio::test]
async fn a_stream_sees_nothing_of_what_happens_meanwhile_and_a_watch_goes_on_from_there() {
    let mut service = Service::start().await;
    let expiring = v1::PutRequest {
        expiry: Some(v1::put_request::Expiry::Ttl(seconds(1))),
        ..put("zzz", "expires meanwhile")
    };
    service.kv.put(expiring).await.expect("it is written");
    fill(&mut service).await;
    let mut stream = begin(&mut service, request(100)).await;
    let first = within(stream.message())
        .await
        .expect("it goes on")
        .expect("there is more");
    assert_eq!((first.rows.len(), first.store_revision), (100, 2));

    service.clock.advance_ms(1_000);
    let mut changes = v1::CommitRequest::default();
    for index in 0..KEYS {
        changes.mutations.push(match index % 3 {
            0 => v1::Mutation::delete("n", &format!("k{index:05}")),
            1 => v1::Mutation::put_text("n", &format!("k{index:05}"), "changed".to_owned(), [].into()),
            _ => v1::Mutation::put_text("n", &format!("k{index:05}new"), "new".to_owned(), [].into()),
        });
    }
    service.kv.commit(changes).await.expect("it commits");
    let (messages, ended) = rest(&mut stream).await;
    ended.expect("it ends well");
    assert!(messages.iter().all(|message| message.store_revision == 2));
    let found: Vec<_> = first
        .rows
        .into_iter()
        .chain(messages.into_iter().flat_map(|message| message.rows))
        .collect();
    let mut expected: Vec<_> = (0..KEYS).map(|index| format!("k{index:05}")).collect();
    expected.push("zzz".to_owned());
    assert_eq!(keys(&found), expected);
    let is_old = |row: &v1::ScanRow| row.entry.as_ref().is_some_and(|entry| entry.revision <= 2);
    assert!(found.iter().all(is_old));

    // What it did not see is what a watch from its revision on tells.
    let mut map: std::collections::BTreeMap<_, _> = found
        .into_iter()
        .filter_map(|row| row.entry)
        .map(|entry| (entry.key.clone(), entry.content))
        .collect();
    let watch = v1::WatchRequest {
        selectors: request(0).selector.into_iter().collect(),
        after_revision: Some(2),
        ..Default::default()
    };
    let mut told = service.kv.watch(watch).await.expect("it is kept").into_inner();
    while map.contains_key("zzz") || map.contains_key("k00000") {
        let message = within(told.message())
            .await
            .expect("it goes on")
            .expect("there is more");
        let Some(v1::watch_response::Body::Batch(batch)) = message.body else {
            continue;
        };
        for event in batch.events {
            let kind = event.kind();
            let entry = event.entry.expect("an event names its key");
            match kind {
                v1::watch_event::Kind::Put => map.insert(entry.key, entry.content),
                _ => map.remove(&entry.key),
            };
        }
    }
    let stored = rows(&mut service, request(0))
        .await
        .into_iter()
        .filter_map(|row| row.entry);
    let stored: std::collections::BTreeMap<_, _> = stored.map(|entry| (entry.key.clone(), entry.content)).collect();
    assert_eq!(map, stored);
    service.stop().await;
}

#[tokio::test]
async fn a_stream_that_broke_is_resumed_behind_its_last_row() {
    let mut service = Service::start().await;
    fill(&mut service).await;
    for reverse in [false, true] {
        let scan = v1::ScanRequest {
            reverse,
            ..request(300)
        };
        let mut stream = begin(&mut service, scan.clone()).await;
        let mut found = Vec::new();
        let mut token = String::new();
        for _ in 0..3 {
            let message = within(stream.message())
                .await
                .expect("it goes on")
                .expect("there is more");
            found.extend(message.rows);
            token = message.resume_token;
        }
        drop(stream);
        let other = v1::ScanRequest {
            omit_values: true,
            page_token: token.clone(),
            ..scan.clone()
        };
        refused(service.kv.scan_stream(streaming(other)).await, "scan.page_token");
        service = service.restart().await;
        let resumed = v1::ScanRequest {
            page_size: 1_000,
            page_token: token,
            ..scan.clone()
        };
        found.extend(rows(&mut service, resumed).await);
        assert_eq!(keys(&found), keys(&pages(&mut service, scan).await));
    }
    refused(
        service.kv.scan_stream(v1::ScanStreamRequest { scan: None }).await,
        "scan",
    );
    refused(
        service.kv.scan_stream(streaming(request(1_001))).await,
        "scan.page_size",
    );
    refused(
        service.kv.scan_stream(streaming(v1::ScanRequest::default())).await,
        "scan.selector",
    );
    service.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_not_read_lets_go_of_its_snapshot() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let impatient = |args: &mut StoreArgs| args.streams.snapshot_age_max = Duration::from_millis(300);
    let mut service = Service::start_with(folder, Clock::manual(START_MS), impatient).await;
    fill(&mut service).await;
    let mut streams = Vec::new();
    for _ in 0..SCAN_STREAMS_MAX {
        streams.push(begin_apart(&service, request(100)).await);
    }
    // Nobody reads, and yet there is room for another in time.
    eventually("the snapshots are let go", async || {
        service.kv.scan_stream(streaming(request(1))).await.is_ok()
    })
    .await;
    for mut stream in streams {
        let (messages, ended) = rest(&mut stream).await;
        let status = ended.expect_err("it was too slow");
        assert_eq!(status.code(), Code::Aborted, "{status:?}");
        let info = status.get_details_error_info().expect("it says why");
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("SNAPSHOT_TOO_OLD", "storage.dp1")
        );
        let mut found: Vec<_> = messages.iter().flat_map(|message| message.rows.clone()).collect();
        assert!(found.len() < KEYS);
        let resumed = v1::ScanRequest {
            page_token: messages.last().expect("something came").resume_token.clone(),
            ..request(100)
        };
        found.extend(pages(&mut service, resumed).await);
        assert_eq!(found.len(), KEYS, "what came is right, and the token goes on");
    }
    service.stop().await;
}

#[tokio::test]
async fn so_many_at_once_and_no_more() {
    let mut service = Service::start().await;
    fill(&mut service).await;
    let mut streams = Vec::new();
    for _ in 0..SCAN_STREAMS_MAX {
        streams.push(begin_apart(&service, request(100)).await);
    }
    let status = service
        .kv
        .scan_stream(streaming(request(1)))
        .await
        .expect_err("there is no room");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.get_details_retry_info().is_some());
    // They take no reader from anybody.
    assert!(service.get("k00000").await.is_some());
    assert_eq!(service.put("k00000", "1").await, 2);
    drop(streams.pop());
    eventually("a client that is gone makes room", async || {
        match service.kv.scan_stream(streaming(request(100))).await {
            Ok(stream) => {
                streams.push(stream.into_inner());
                true
            }
            Err(_) => false,
        }
    })
    .await;

    // They do not hold up the stop, and let go of the file.
    service.begin_stop();
    for stream in &mut streams {
        let status = rest(stream).await.1.expect_err("the service stops");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    let path = service.path();
    let folder = service.stop().await;
    let names = std::fs::read_dir(folder.path()).expect("it lists");
    let mut names: Vec<_> = names.map(|file| file.expect("it lists").path()).collect();
    names.sort();
    assert_eq!(names, [path.clone(), path.with_extension("db.lock")], "the log is gone");
}

/// On the store itself: a service whose store is gone also cuts its connections.
#[tokio::test]
async fn closing_the_store_ends_streams_that_nobody_else_ended() {
    let mut service = Service::start().await;
    fill(&mut service).await;
    let scan = Scan {
        namespace: Namespace::parse("n".to_owned()).expect("the name is good"),
        selection: Selection::Prefix(String::new()),
        reverse: false,
        rows_max: 100,
        after: None,
        with: With::Content,
        dereference: None,
    };
    let store = service.store().clone();
    let path = service.path();
    let never = CancellationToken::new();
    let mut flow = store.scan_stream(scan.clone(), &never).expect("it begins");
    let first = within(poll_fn(|context| flow.poll_next(context))).await;
    assert!(matches!(first, Some(Ok(_))));
    within(store.clone().close()).await;
    assert!(!path.with_extension("db-wal").exists(), "nobody holds on to the log");
    let ended = within(async {
        loop {
            match poll_fn(|context| flow.poll_next(context)).await {
                Some(Ok(_)) => {}
                ended => return ended,
            }
        }
    });
    assert!(matches!(ended.await, Some(Err(StoreError::Closing))));
    assert!(matches!(store.scan_stream(scan, &never), Err(StoreError::Closing)));
    service.begin_stop();
}
