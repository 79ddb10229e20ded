//! Files of earlier versions: brought up to date with all that is in them.

use std::path::Path;
use std::time::Duration;

use proto::v1;
use runtime::clock::Clock;
use rusqlite::Connection;
use storage_svc::{OpenError, Store, StoreArgs};

use crate::admin::assert_in_order;
use crate::support::{START_MS, Service, store_args, within};

const MIGRATIONS: [&str; 5] = [
    include_str!("../../migrations/0001_kv.sql"),
    include_str!("../../migrations/0002_queue.sql"),
    include_str!("../../migrations/0003_history.sql"),
    include_str!("../../migrations/0004_queue_settings.sql"),
    include_str!("../../migrations/0005_copy.sql"),
];
/// Rows of every table that each version has, as that version wrote them.
const ROWS: [&str; 4] = [
    "insert into namespace (id, name) values (1, 'n'), (2, 'other'); \
     insert into value (id, content) values (3, cast('a large one' as blob)); \
     insert into entry (namespace_id, key, revision, create_revision, version, update_ms, expire_ms, metadata, kind, \
     inline_value, value_id) values \
     (1, cast('inline' as blob), 7, 5, 2, 1600000000000, null, null, 1, cast('kept' as blob), null), \
     (1, cast('large' as blob), 8, 8, 1, 1600000000001, null, null, 0, null, 3), \
     (1, cast('expires' as blob), 9, 9, 1, 1600000000002, 4000000000000, null, 1, cast('later' as blob), null), \
     (1, cast('expired' as blob), 9, 9, 1, 1600000000002, 1600000000003, null, 1, cast('gone' as blob), null); \
     insert into request (id, digest, outcome, expire_ms) \
     values ('r', zeroblob(32), x'0000000000000007000000000000000000000001', 4000000000000); \
     update store set revision = 9, clock_ms = 1699999999000",
    "insert into queue (id, name, lease_ms, attempts_max, backoff_min_ms, backoff_max_ms, backoff_jitter_percent, \
     delayed, ready, leased, dead) values (1, 'q', 5000, 3, 10, 20, 0, 1, 1, 1, 1); \
     insert into message (id, queue_id, state, due_ms, epoch, attempt, enqueue_ms, last_error, dead_reason) values \
     (11, 1, 1, 4000000000000, 0, 0, 1600000000000, null, null), \
     (12, 1, 2, 0, 2, 2, 1600000000000, 'failed once', null), \
     (13, 1, 3, 4000000000000, 1, 1, 1600000000000, null, null), \
     (14, 1, 4, 0, 3, 3, 1600000000000, 'failed again', 'attempts exhausted'); \
     insert into message_body (id, kind, attributes, body) values \
     (11, 1, null, cast('delayed' as blob)), (12, 1, null, cast('ready' as blob)), \
     (13, 0, null, cast('leased' as blob)), (14, 1, null, cast('dead' as blob))",
    "insert into change (id, namespace_id, key, event, time_ms, bytes, create_revision, version, kind, inline_value, \
     value_id) values \
     (8 << 15, 1, cast('large' as blob), 1, 1699999999000, 80, 8, 1, 0, null, 3), \
     (9 << 15, 1, cast('away' as blob), 2, 1699999999000, 68, null, null, null, null, null); \
     update store set history_revision = 7, history_changes = 2, history_bytes = 148",
    "insert into message (id, queue_id, state, due_ms, epoch, attempt, enqueue_ms, ordering_key, redrives) values \
     (15, 1, 1, 4000000000000, 0, 0, 1600000000000, 'k', 1), \
     (16, 1, 5, 0, 0, 0, 1600000000000, 'k', 0); \
     insert into message_body (id, kind, attributes, body, dedup_id) values \
     (15, 1, null, cast('first' as blob), 'd'), (16, 1, null, cast('second' as blob), null); \
     update queue set delayed = delayed + 1, blocked = 1, dedup_window_ms = 1000, create_ms = 1600000000000; \
     insert into failure (message_id, number, attempt, time_ms, error) values (14, 1, 3, 1600000000001, 'failed again'); \
     insert into dedup (queue_id, dedup_id, message_id, expire_ms) values (1, 'd', 15, 4000000000000)",
];

/// A file as the version of this number left it.
fn file_of(version: usize, path: &Path) {
    let file = Connection::open(path).expect("it opens");
    file.execute_batch("pragma page_size = 8192; pragma auto_vacuum = incremental; pragma journal_mode = wal")
        .expect("it is set up");
    for (number, (migration, rows)) in (1..).zip(MIGRATIONS.into_iter().zip(ROWS)).take(version) {
        file.execute_batch(migration).expect("the migration applies");
        file.execute_batch(rows).expect("the rows fit");
        let marks = format!(
            "pragma application_id = {}; pragma user_version = {number}",
            0x4450_3153
        );
        file.execute_batch(&marks).expect("it is marked");
    }
}

#[tokio::test]
async fn a_file_of_each_earlier_version_is_brought_up_to_date_with_its_rows() {
    for version in 1..=4 {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = store_args(folder.path()).sqlite_db_path;
        file_of(version, &path);
        let mut service = Service::start_in(folder, Clock::manual(START_MS)).await;
        // What has expired is collected, which takes a revision.
        let info = within(async {
            loop {
                let info = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
                let info = info.expect("it answers").into_inner();
                if info.store_revision > 9 {
                    return info;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!((info.schema_version, info.store_revision), (5, 10), "version {version}");
        assert_in_order(&mut service.admin).await;
        check_keys(&mut service).await;
        if version >= 2 {
            check_messages(&mut service, version).await;
        }
        if version >= 3 {
            check_history(&mut service).await;
        }
        if version >= 4 {
            check_order(&mut service).await;
        }

        // It works as any other, before and after a restart.
        assert_eq!(service.put("inline", "new").await, 11);
        let id = service.enqueue("m").await;
        assert!(id > if version >= 4 { 16 } else { 0 }, "ids go on");
        let mut service = service.restart().await;
        assert_eq!(service.get("inline").await.expect("it is there").text(), Some("new"));
        assert_in_order(&mut service.admin).await;
        service.stop().await;
    }
}

async fn check_keys(service: &mut Service) {
    let entry = service.get("inline").await.expect("it is there");
    assert_eq!(
        (entry.text(), entry.revision, entry.create_revision, entry.version),
        (Some("kept"), 7, 5, 2)
    );
    assert_eq!(entry.update_time.expect("it is told").seconds, 1_600_000_000);
    let entry = service.get("large").await.expect("it is there");
    let content = Some(v1::entry::Content::Value(bytes::Bytes::from_static(b"a large one")));
    assert_eq!((entry.content, entry.revision), (content, 8));
    let entry = service.get("expires").await.expect("it is there");
    assert_eq!(entry.expire_time.expect("it is told").seconds, 4_000_000_000);
    assert!(service.get("expired").await.is_none());
    let used = v1::PutRequest {
        request_id: "r".to_owned(),
        ..crate::support::put("k", "other content")
    };
    crate::support::refused(service.kv.put(used).await, "request_id");
}

async fn check_messages(service: &mut Service, version: usize) {
    let stats = service.stats().await;
    let delayed = if version >= 4 { 2 } else { 1 };
    assert_eq!(
        (stats.delayed, stats.ready, stats.leased, stats.dead),
        (delayed, 1, 1, 1)
    );
    let delivery = service.receive().await.pop().expect("one is ready");
    let message = delivery.message.expect("it is told");
    assert_eq!(
        (message.id, message.attempt, &*message.last_error),
        (12, 3, "failed once")
    );
    // The queue's own lease.
    let lease = delivery.lease_expire_time.expect("it is told");
    assert_eq!(lease.seconds * 1_000, START_MS + 5_000);
    let dead = get_message(service, 14).await;
    assert_eq!(dead.state(), v1::MessageState::Dead);
    assert_eq!(dead.content, Some(v1::message::Content::Text("dead".to_owned())));
    assert_eq!(dead.dead_reason, "attempts exhausted");
    // When it died was not kept before: it is taken to have been late.
    assert_eq!(dead.dead_time.expect("it is told").seconds, 1_699_999_999);
    let leased = get_message(service, 13).await;
    assert_eq!((leased.state(), leased.attempt), (v1::MessageState::Leased, 1));
}

async fn get_message(service: &mut Service, id: u64) -> v1::Message {
    let request = v1::GetMessageRequest {
        queue: "q".to_owned(),
        which: Some(v1::get_message_request::Which::Id(id)),
    };
    let answer = service.queue.get_message(request).await.expect("it is there");
    answer.into_inner().message.expect("it is told")
}

/// What the history told is told still, up to the revision that the start has taken.
async fn check_history(service: &mut Service) {
    let request = v1::WatchRequest {
        selectors: vec![v1::Selector {
            namespace: "n".to_owned(),
            keys: None,
        }],
        after_revision: Some(7),
        ..Default::default()
    };
    let mut stream = service.kv.watch(request).await.expect("it is kept").into_inner();
    let mut told = Vec::new();
    while told.len() < 3 {
        let message = within(stream.message())
            .await
            .expect("it goes on")
            .expect("it has no end");
        let Some(v1::watch_response::Body::Batch(batch)) = message.body else {
            continue;
        };
        for event in batch.events {
            let kind = event.kind();
            told.push((batch.revision, kind, event.entry.expect("it names its key").key));
        }
    }
    let expected = [
        (8, v1::watch_event::Kind::Put, "large".to_owned()),
        (9, v1::watch_event::Kind::Delete, "away".to_owned()),
        (10, v1::watch_event::Kind::Expire, "expired".to_owned()),
    ];
    assert_eq!(told, expected);
}

async fn check_order(service: &mut Service) {
    let first = get_message(service, 15).await;
    assert_eq!((&*first.ordering_key, &*first.dedup_id, first.redrives), ("k", "d", 1));
    let second = get_message(service, 16).await;
    assert_eq!(
        (second.state(), &*second.ordering_key),
        (v1::MessageState::Blocked, "k")
    );
    let dead = get_message(service, 14).await;
    let failures: Vec<_> = dead
        .failures
        .iter()
        .map(|failure| (failure.attempt, &*failure.error))
        .collect();
    assert_eq!(failures, [(3, "failed again")]);
    let again = v1::EnqueueRequest {
        messages: vec![v1::NewMessage {
            dedup_id: "d".to_owned(),
            ..crate::support::message("again")
        }],
        request_id: String::new(),
    };
    let answer = service.queue.enqueue(again).await.expect("it is answered").into_inner();
    assert_eq!((answer.results[0].id, answer.results[0].deduplicated), (15, true));
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_file_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = store_args(folder.path()).sqlite_db_path;
    file_of(2, &path);
    let file = Connection::open(&path).expect("it opens");
    // Somebody has made what the second next migration makes.
    file.execute_batch("create table failure (a)").expect("it is made");
    drop(file);
    let error = Store::open(&StoreArgs::at(&path), Clock::manual(START_MS)).expect_err("it does not open");
    assert!(matches!(error, OpenError::Migration { number: 4, .. }), "{error:?}");
    let file = Connection::open(&path).expect("it opens");
    let version: i64 = file
        .query_row("pragma user_version", (), |row| row.get(0))
        .expect("it answers");
    assert_eq!(version, 3, "the one before held");
    file.execute_batch("drop table failure").expect("it is dropped");
    drop(file);
    let service = Service::start_in(folder, Clock::manual(START_MS)).await;
    service.stop().await;
}

#[tokio::test]
async fn a_migration_that_meets_damage_says_so() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = store_args(folder.path()).sqlite_db_path;
    file_of(2, &path);
    let file = Connection::open(&path).expect("it opens");
    let root: u32 = file
        .query_row("select rootpage from sqlite_schema where name = 'store'", (), |row| {
            row.get(0)
        })
        .expect("it is there");
    drop(file);
    let mut bytes = std::fs::read(&path).expect("it reads");
    bytes[(root as usize - 1) * 8_192..][..8_192].fill(0xab);
    std::fs::write(&path, bytes).expect("it is written");
    let error = Store::open(&StoreArgs::at(&path), Clock::manual(START_MS)).expect_err("it does not open");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}
