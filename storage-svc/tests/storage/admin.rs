//! What an operator asks of the service itself.

use proto::limits::CHECK_PROBLEMS_MAX;
use proto::v1;
use proto::v1::admin_service_client::AdminServiceClient;
use proto::v1::integrity_check_response::{Body, Finished};
use rusqlite::Connection;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::support::{Service, eventually, message, refused, seconds, within};

/// A whole check: the subjects of its steps, the problems, the end.
async fn check(admin: &mut AdminServiceClient<Channel>) -> (Vec<String>, Vec<String>, Finished) {
    let answer = admin.integrity_check(v1::IntegrityCheckRequest {}).await;
    let mut reports = answer.expect("there is none yet").into_inner();
    let (mut subjects, mut problems) = (Vec::new(), Vec::new());
    loop {
        let report = within(reports.message())
            .await
            .expect("it goes on")
            .expect("there is an end");
        match report.body.expect("a report has a body") {
            Body::Progress(progress) => {
                subjects.push(progress.subject);
                assert_eq!(progress.step as usize, subjects.len());
                assert!(progress.step <= progress.steps);
            }
            Body::Problem(problem) => problems.push(problem),
            Body::Finished(finished) => {
                assert_eq!(finished.problems, problems.len() as u64);
                assert_eq!(finished.ok, problems.is_empty());
                assert!(within(reports.message()).await.expect("it ends well").is_none());
                return (subjects, problems, finished);
            }
        }
    }
}

/// A check finds nothing.
pub(crate) async fn assert_in_order(admin: &mut AdminServiceClient<Channel>) {
    let (_, problems, finished) = check(admin).await;
    assert!(finished.ok, "{problems:?}");
}

/// A service with rows in most tables: small and large values, messages in several states.
async fn furnished() -> Service {
    let mut service = Service::start().await;
    for key in ["a", "b", "c"] {
        service.put(key, "small").await;
        service.put(&format!("large/{key}"), &"x".repeat(5_000)).await;
    }
    for text in ["one", "two", "three"] {
        service.enqueue(text).await;
    }
    let one = v1::ReceiveRequest {
        max_messages: 1,
        ..crate::support::receive()
    };
    service.queue.receive(one).await.expect("it receives");
    let delayed = v1::NewMessage {
        delay: Some(seconds(60)),
        ..message("later")
    };
    let request = v1::EnqueueRequest {
        messages: vec![delayed],
        request_id: "r".to_owned(),
    };
    service.queue.enqueue(request).await.expect("it is enqueued");
    service
}

#[tokio::test]
async fn a_check_looks_at_every_table_and_promise() {
    let mut service = furnished().await;
    let (subjects, problems, finished) = check(&mut service.admin).await;
    assert!(finished.ok, "{problems:?}");
    let file = Connection::open(service.path()).expect("it opens");
    let mut statement = file
        .prepare("select name from sqlite_schema where type = 'table'")
        .expect("it reads");
    let tables = statement
        .query_map((), |row| row.get::<_, String>(0))
        .expect("it reads");
    for table in tables {
        let subject = format!("table {}", table.expect("it reads"));
        assert!(subjects.contains(&subject), "{subject}: {subjects:?}");
    }
    for subject in [
        "table sqlite_schema",
        "figures of queues",
        "owners of values",
        "order of messages",
    ] {
        assert!(subjects.iter().any(|told| told == subject), "{subject}: {subjects:?}");
    }
    service.stop().await;
}

/// Damage is done to a store at rest, and one check tells of it, with these words.
async fn check_finds(damage: &str, words: &[&str]) {
    let service = furnished().await;
    let (clock, path) = (service.clock.clone(), service.path());
    let folder = service.stop().await;
    let file = Connection::open(&path).expect("it opens");
    file.execute_batch(damage).expect("the damage can be done");
    file.close().expect("it closes");
    let mut service = Service::start_in(folder, clock).await;
    let (_, problems, finished) = check(&mut service.admin).await;
    assert!(!finished.ok, "{damage}");
    for words in words {
        assert!(
            problems.iter().any(|told| told.contains(words)),
            "{damage}: {words:?} not in {problems:?}"
        );
    }
    assert_eq!(problems.len(), words.len(), "{damage}: {problems:?}");
    service.stop().await;
}

#[tokio::test]
async fn a_check_finds_what_keys_have_lost() {
    let entry = "namespace_id, key, revision, create_revision, version, update_ms, kind";
    check_finds(
        "delete from value where id = 1",
        &[
            "the entry 'large/a' of the namespace 1 has lost its value 1",
            "the change 65536 has lost its value 1",
        ],
    )
    .await;
    check_finds(
        "insert into value (id, content) values (77, x'00'), (4611686018427387904, x'00')",
        &[
            "the value 77 belongs to nobody",
            "the value 4611686018427387904 belongs to nobody",
        ],
    )
    .await;
    check_finds(
        &format!("insert into entry ({entry}, value_id) values (1, x'7a', 6, 6, 1, 0, 1, 1)"),
        &["the value 1 belongs to more than one entry"],
    )
    .await;
    check_finds(
        &format!("insert into entry ({entry}, inline_value) values (9, x'7a', 6, 6, 1, 0, 1, x'00')"),
        &["'z' is of the namespace 9"],
    )
    .await;
    check_finds(
        "update entry set revision = 70 where key = x'61'",
        &["'a' of the namespace 1 has revision 70"],
    )
    .await;
    check_finds(
        "update entry set create_revision = 7 where key = x'61'",
        &["created by 7"],
    )
    .await;
    check_finds("update store set history_revision = 50", &["begins after revision 50"]).await;
    check_finds(
        "update store set history_changes = history_changes + 1",
        &["the history says 7 changes"],
    )
    .await;
    check_finds(
        "insert into change (id, namespace_id, key, event, time_ms, bytes, value_id) \
         values (90 << 15, 8, x'61', 1, 0, 7, 900); \
         update store set history_changes = history_changes + 1, history_bytes = history_bytes + 7",
        &[
            "is of revision 90",
            "2949120 is of the namespace 8",
            "2949120 has lost its value 900",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_check_finds_what_queues_have_lost() {
    for figure in ["delayed", "leased", "dead", "blocked"] {
        check_finds(
            &format!("update queue set {figure} = {figure} + 7"),
            &["the queue 'q' says"],
        )
        .await;
    }
    check_finds(
        "delete from message_body where id = 2",
        &["the message 2 has lost its body"],
    )
    .await;
    check_finds(
        "delete from message where id = 2; update queue set ready = 1",
        &["the body 2 belongs to no message"],
    )
    .await;
    check_finds(
        "update queue set ready = 5",
        &["'q' says 1 delayed, 5 ready, 1 leased, 0 dead, 0 blocked, and has 1, 2, 1, 0, 0"],
    )
    .await;
    check_finds(
        "update message set queue_id = 7 where id = 2; update queue set ready = 1",
        &["the message 2 is of the queue 7"],
    )
    .await;
    check_finds(
        "update message set state = 9 where id = 2; update queue set ready = 1",
        &["the message 2 is in state 9"],
    )
    .await;
    check_finds(
        "drop index message_unblocked; update message set ordering_key = 'k' where id in (2, 3)",
        &[
            "the index message_unblocked is not there",
            "2 messages of the ordering key 'k' in the queue 1 are not blocked",
        ],
    )
    .await;
    check_finds(
        "update message set ordering_key = 'k', state = 5 where id = 2; update queue set ready = 1, blocked = 1",
        &["the message 2 is blocked behind nothing"],
    )
    .await;
    check_finds(
        "update message set ordering_key = 'k', state = 5 where id = 2; \
         update message set ordering_key = 'k' where id = 3; update queue set ready = 1, blocked = 1",
        &["the message 2 is blocked, and a later one of its ordering key is not"],
    )
    .await;
    check_finds(
        "update message set state = 5 where id = 2; update queue set ready = 1, blocked = 1",
        &["the message 2 is blocked behind nothing"],
    )
    .await;
    check_finds(
        "insert into failure values (99, 1, 1, 0, 'e')",
        &["the failure 1 belongs to the message 99"],
    )
    .await;
    check_finds(
        "insert into dedup values (8, 'd', 1, 4000000000000)",
        &["'d' belongs to the queue 8"],
    )
    .await;
}

#[tokio::test]
async fn a_check_finds_what_the_engine_sees_and_tells_so_much_and_no_more() {
    // An index that has lost a row.
    check_finds(
        "pragma writable_schema = on; \
         update sqlite_schema set sql = replace(sql, '= 1', '= 9') where name = 'message_delayed'; \
         pragma writable_schema = reset; reindex message_delayed; pragma writable_schema = on; \
         update sqlite_schema set sql = replace(sql, '= 9', '= 1') where name = 'message_delayed'; \
         pragma writable_schema = reset",
        &["row 4 missing from index message_delayed"],
    )
    .await;
    check_finds(
        "drop index message_delayed; create index message_delayed on message (id); \
         drop index entry_expiry; create table lost_and_found (a)",
        &[
            "the index message_delayed is not as it should be",
            "the index entry_expiry is not there",
            "the table lost_and_found is not the store's",
        ],
    )
    .await;

    let service = furnished().await;
    let (clock, path) = (service.clock.clone(), service.path());
    let folder = service.stop().await;
    let file = Connection::open(&path).expect("it opens");
    let lost = "with recursive n (id) as (select 1000 union all select id + 1 from n limit 150) \
                insert into message_body (id, kind, body) select id, 0, x'' from n";
    file.execute_batch(lost).expect("the damage can be done");
    drop(file);
    let mut service = Service::start_in(folder, clock).await;
    let (subjects, problems, _) = check(&mut service.admin).await;
    assert_eq!(problems.len(), CHECK_PROBLEMS_MAX);
    assert_eq!(
        subjects.last().map(String::as_str),
        Some("messages of bodies"),
        "it ends there"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_check_ends_with_its_client() {
    let mut service = furnished().await;
    for _ in 0..20 {
        let begun = within(async {
            loop {
                match service.admin.integrity_check(v1::IntegrityCheckRequest {}).await {
                    Ok(reports) => return reports.into_inner(),
                    Err(status) => {
                        // The one before is ending.
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                        assert!(status.get_details_retry_info().is_some());
                        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    }
                }
            }
        });
        drop(begun.await);
    }
    service.stop().await;
}

async fn stats(service: &mut Service) -> v1::GetStoreStatsResponse {
    let answer = service.admin.get_store_stats(v1::GetStoreStatsRequest {}).await;
    answer.expect("it answers").into_inner()
}

#[tokio::test]
async fn figures_are_those_of_the_file_and_the_writer() {
    let mut service = Service::start().await;
    let before = stats(&mut service).await;
    assert_eq!((before.queues, before.namespaces, before.writes_waiting), (0, 0, 0));
    assert_eq!(before.page_bytes, 8_192);
    service.put("a", "1").await;
    service.enqueue("m").await;
    let after = stats(&mut service).await;
    assert_eq!((after.queues, after.namespaces, after.writes_waiting), (1, 1, 0));
    assert_eq!(
        (after.commits - before.commits, after.requests - before.requests),
        (2, 2)
    );
    assert!(after.wal_bytes > 0);
    assert!(after.pages >= before.pages);
    assert!(after.uptime.is_some());
    let watch = v1::WatchRequest {
        selectors: vec![v1::Selector {
            namespace: "n".to_owned(),
            keys: None,
        }],
        ..Default::default()
    };
    let watch = service.kv.watch(watch).await.expect("it begins");
    let open = v1::consume_request::Open {
        queue: "q".to_owned(),
        ..Default::default()
    };
    let open = v1::ConsumeRequest {
        body: Some(v1::consume_request::Body::Open(open)),
    };
    let requests = tokio_stream::once(open).chain(tokio_stream::pending());
    let consumer = service.queue.consume(requests).await.expect("it begins");
    let open = stats(&mut service).await;
    assert_eq!((open.watches, open.consumers), (1, 1));
    drop((watch, consumer));
    let file = std::fs::metadata(service.path()).expect("it is there").len();
    assert_eq!(stats(&mut service).await.file_bytes, file);
    service.stop().await;
}

#[tokio::test]
async fn a_checkpoint_empties_the_log_as_far_as_readers_let_it() {
    let mut service = Service::start().await;
    service.put("a", "1").await;
    let reader = Connection::open(service.path()).expect("it opens");
    reader.execute_batch("begin; select * from store").expect("it reads");
    service.put("b", "2").await;
    let left = service
        .admin
        .checkpoint(v1::CheckpointRequest {})
        .await
        .expect("it answers")
        .into_inner();
    assert!(left.hindered && left.wal_bytes > 0, "{left:?}");
    reader.execute_batch("commit").expect("it ends");
    let left = service
        .admin
        .checkpoint(v1::CheckpointRequest {})
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!((left.hindered, left.wal_bytes), (false, 0));
    service.stop().await;
}

#[tokio::test]
async fn compacting_gives_the_space_back() {
    let mut service = Service::start().await;
    let text = "x".repeat(1024 * 1024);
    for number in 0..16 {
        service.put(&number.to_string(), &text).await;
    }
    // Readers that are still being opened stand in the way of one.
    eventually("everything is in the file", async || {
        let checkpoint = service.admin.checkpoint(v1::CheckpointRequest {}).await;
        !checkpoint.expect("it answers").into_inner().hindered
    })
    .await;
    let full = stats(&mut service).await;
    for number in 0..16 {
        let request = v1::DeleteRequest {
            namespace: "n".to_owned(),
            key: number.to_string(),
            ..Default::default()
        };
        service.kv.delete(request).await.expect("it is deleted");
    }
    let done = service
        .admin
        .compact(v1::CompactRequest { keep: None })
        .await
        .expect("it answers")
        .into_inner();
    assert!(done.freed_bytes > 0 && done.freed_bytes % 8_192 == 0, "{done:?}");
    let left = stats(&mut service).await;
    assert_eq!(left.free_pages, 0);
    assert!(
        left.file_bytes + 15 * 1024 * 1024 < full.file_bytes,
        "{left:?} of {full:?}"
    );
    assert_eq!(
        (done.oldest_watch_revision, left.history_changes, left.history_bytes),
        (32, 0, 0)
    );
    let info = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    assert_eq!(info.expect("it answers").into_inner().oldest_watch_revision, 32);
    assert_in_order(&mut service.admin).await;
    service.stop().await;
}

#[tokio::test]
async fn what_is_kept_by_compacting_has_bounds() {
    let mut service = Service::start().await;
    let keep = async |service: &mut Service, span| {
        let request = v1::CompactRequest { keep: Some(span) };
        service.admin.compact(request).await
    };
    let month = 30 * 24 * 3_600;
    service.put("k", "1").await;
    let kept = keep(&mut service, seconds(month)).await.expect("it is within bounds");
    assert_eq!(kept.into_inner().oldest_watch_revision, 0);
    assert_eq!(stats(&mut service).await.history_changes, 1);
    refused(keep(&mut service, seconds(month + 1)).await, "keep");
    refused(keep(&mut service, seconds(-1)).await, "keep");
    service.stop().await;
}
