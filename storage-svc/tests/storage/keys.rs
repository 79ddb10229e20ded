//! KvService: reads, pages, commits, expiry and replay.

use proto::v1;
use proto::v1::check::Expect;
use proto::v1::commit_response::Outcome;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{Service, message, put, receive, refused, seconds, settlement};

fn prefix(prefix: &str) -> v1::ScanRequest {
    v1::ScanRequest {
        selector: Some(v1::Selector {
            namespace: "n".to_owned(),
            keys: Some(v1::selector::Keys::Prefix(prefix.to_owned())),
        }),
        ..Default::default()
    }
}

async fn scan(service: &mut Service, request: v1::ScanRequest) -> v1::ScanResponse {
    service.kv.scan(request).await.expect("it scans").into_inner()
}

/// All pages, as keys.
async fn pages(service: &mut Service, mut request: v1::ScanRequest) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    loop {
        let page = scan(service, request.clone()).await;
        let entries = page.rows.into_iter().filter_map(|row| row.entry);
        pages.push(entries.map(|entry| entry.key).collect());
        if page.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = page.next_page_token;
    }
}

fn mutation(key: &str, text: &str) -> v1::Mutation {
    v1::Mutation::put_text("n", key, text.to_owned(), [].into())
}

async fn commit(service: &mut Service, request: v1::CommitRequest) -> Outcome {
    let answer = service.kv.commit(request).await.expect("it commits");
    answer.into_inner().outcome.expect("it has an outcome")
}

#[track_caller]
fn committed(outcome: Outcome) -> v1::commit_response::Committed {
    match outcome {
        Outcome::Committed(committed) => committed,
        Outcome::Conflict(conflict) => panic!("conflict: {conflict:?}"),
    }
}

#[track_caller]
fn conflict(outcome: Outcome) -> v1::commit_response::Conflict {
    match outcome {
        Outcome::Conflict(conflict) => conflict,
        Outcome::Committed(committed) => panic!("committed: {committed:?}"),
    }
}

#[tokio::test]
async fn what_is_written_is_read() {
    let mut service = Service::start().await;
    assert_eq!(service.get("a").await, None);
    let request = v1::PutRequest {
        metadata: [("created".to_owned(), "7".to_owned())].into(),
        ..put("a", "{}")
    };
    let written = service.kv.put(request).await.expect("it is written").into_inner();
    assert_eq!((written.revision, written.created), (1, true));
    let entry = service.get("a").await.expect("it is there");
    assert_eq!(entry.text(), Some("{}"));
    assert_eq!(entry.metadata, [("created".to_owned(), "7".to_owned())].into());
    assert_eq!((entry.revision, entry.create_revision, entry.version), (1, 1, 1));
    assert_eq!(entry.update_time.expect("it has a time").seconds, 1_700_000_000);

    let large = "x".repeat(100_000);
    assert_eq!(service.put("a", &large).await, 2);
    let request = v1::GetRequest {
        namespace: "n".to_owned(),
        key: "a".to_owned(),
        as_bytes: true,
        ..Default::default()
    };
    let entry = service.kv.get(request).await.expect("it reads").into_inner().entry;
    let entry = entry.expect("it is there");
    assert_eq!((entry.revision, entry.create_revision, entry.version), (2, 1, 2));
    assert_eq!(entry.content, Some(v1::entry::Content::Value(large.into())));

    let deletion = v1::DeleteRequest {
        namespace: "n".to_owned(),
        key: "a".to_owned(),
        ..Default::default()
    };
    let deleted = service
        .kv
        .delete(deletion.clone())
        .await
        .expect("it is deleted")
        .into_inner();
    assert_eq!((deleted.revision, deleted.deleted), (3, true));
    let deleted = service.kv.delete(deletion).await.expect("it is no error").into_inner();
    assert_eq!((deleted.revision, deleted.deleted), (3, false));
    assert_eq!(service.get("a").await, None);
    service.stop().await;
}

#[tokio::test]
async fn an_unexpected_revision_aborts_and_says_what_is_there() {
    let mut service = Service::start().await;
    let create = v1::PutRequest {
        expected_revision: Some(0),
        ..put("a", "1")
    };
    service.kv.put(create.clone()).await.expect("there was none");
    let status = service.kv.put(create).await.expect_err("there is one");
    assert_eq!(status.code(), Code::Aborted);
    let info = status.get_details_error_info().expect("it says why");
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("REVISION_MISMATCH", "storage.dp1")
    );
    assert_eq!(info.metadata, [("current_revision".to_owned(), "1".to_owned())].into());
    let deletion = v1::DeleteRequest {
        namespace: "n".to_owned(),
        key: "a".to_owned(),
        expected_revision: Some(7),
        ..Default::default()
    };
    let status = service.kv.delete(deletion).await.expect_err("it is another");
    assert_eq!(status.code(), Code::Aborted);
    service.stop().await;
}

#[tokio::test]
async fn pages_in_both_directions_are_the_whole_and_nothing_else() {
    let mut service = Service::start().await;
    // In the order of their bytes.
    let keys = [
        "a",
        "a\u{1}",
        "a/",
        "a/b",
        "a/b/c",
        "a/z",
        "a0",
        "a\u{7f}",
        "a\u{10ffff}",
        "a\u{10ffff}\u{10ffff}",
        "b",
    ];
    for key in keys {
        service.put(key, key).await;
    }
    let cases: [(&str, &[&str]); 6] = [
        ("", &keys),
        ("a", &keys[..10]),
        ("a/", &keys[2..6]),
        ("a/b/c", &keys[4..5]),
        ("a\u{10ffff}", &keys[8..10]),
        ("c", &[]),
    ];
    for (start, expected) in cases {
        for page_size in [1, 2, 3, 0] {
            let request = v1::ScanRequest {
                page_size,
                ..prefix(start)
            };
            let found = pages(&mut service, request.clone()).await;
            assert_eq!(found.concat(), expected, "{start:?} by {page_size}");
            let reversed = v1::ScanRequest {
                reverse: true,
                ..request
            };
            let mut found = pages(&mut service, reversed).await.concat();
            found.reverse();
            assert_eq!(found, expected, "{start:?} by {page_size} in reverse");
        }
    }
    let range = |start: &str, end: &str| v1::ScanRequest {
        selector: Some(v1::Selector {
            namespace: "n".to_owned(),
            keys: Some(v1::selector::Keys::Range(v1::KeyRange {
                start: start.to_owned(),
                end: end.to_owned(),
            })),
        }),
        page_size: 2,
        ..Default::default()
    };
    assert_eq!(pages(&mut service, range("a/", "a0")).await.concat(), &keys[2..6]);
    assert_eq!(pages(&mut service, range("a0", "")).await.concat(), &keys[6..]);
    assert_eq!(pages(&mut service, range("", "")).await.concat(), keys);
    assert!(pages(&mut service, range("b", "a")).await.concat().is_empty());
    service.stop().await;
}

#[tokio::test]
async fn pages_go_on_behind_their_last_key_whatever_happened_to_it() {
    let mut service = Service::start().await;
    for key in ["a", "b", "c"] {
        service.put(key, "").await;
    }
    let mut request = v1::ScanRequest {
        page_size: 2,
        ..prefix("")
    };
    request.page_token = scan(&mut service, request.clone()).await.next_page_token;
    let deletion = v1::DeleteRequest {
        namespace: "n".to_owned(),
        key: "b".to_owned(),
        ..Default::default()
    };
    service.kv.delete(deletion).await.expect("it is deleted");
    for key in ["a0", "b0"] {
        service.put(key, "").await;
    }
    assert_eq!(pages(&mut service, request).await.concat(), ["b0", "c"]);
    service.stop().await;
}

#[tokio::test]
async fn page_tokens_are_bound_to_store_and_scan() {
    let mut service = Service::start().await;
    let mut other = Service::start().await;
    for key in ["a", "b", "c"] {
        service.put(key, "").await;
        other.put(key, "").await;
    }
    let request = v1::ScanRequest {
        page_size: 1,
        ..prefix("")
    };
    let token = scan(&mut service, request.clone()).await.next_page_token;
    let with = |request: &v1::ScanRequest, token: &str| v1::ScanRequest {
        page_token: token.to_owned(),
        ..request.clone()
    };
    scan(
        &mut service,
        v1::ScanRequest {
            page_size: 2,
            ..with(&request, &token)
        },
    )
    .await;
    let reversed = v1::ScanRequest {
        reverse: true,
        ..request.clone()
    };
    refused(service.kv.scan(with(&reversed, &token)).await, "page_token");
    let bytes = v1::ScanRequest {
        as_bytes: true,
        ..request.clone()
    };
    refused(service.kv.scan(with(&bytes, &token)).await, "page_token");
    refused(service.kv.scan(with(&request, "nonsense")).await, "page_token");
    refused(
        service.kv.scan(with(&request, &token[..token.len() - 4])).await,
        "page_token",
    );
    refused(other.kv.scan(with(&request, &token)).await, "page_token");
    let mut service = service.restart().await;
    assert_eq!(pages(&mut service, with(&request, &token)).await.concat(), ["b", "c"]);
    service.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn answers_end_when_they_are_large_enough() {
    let mut service = Service::start().await;
    let keys: Vec<String> = (0..5).map(|index| format!("k{index}")).collect();
    for key in &keys {
        service.put(key, &"x".repeat(400 * 1024)).await;
    }
    let found = pages(&mut service, prefix("")).await;
    assert_eq!(
        found.iter().map(Vec::len).collect::<Vec<_>>(),
        [3, 2],
        "a page is about a MiB"
    );

    for key in &keys[..3] {
        service.put(key, &"x".repeat(9 * 1024 * 1024)).await;
    }
    let refs = |keys: &[String]| v1::BatchGetRequest {
        keys: keys
            .iter()
            .map(|key| v1::KeyRef {
                namespace: "n".to_owned(),
                key: key.clone(),
            })
            .collect(),
        ..Default::default()
    };
    let answer = service.kv.batch_get(refs(&keys)).await.expect("it reads").into_inner();
    assert_eq!(answer.items.len(), 2, "a batch is about 16 MiB");
    let rest = service
        .kv
        .batch_get(refs(&keys[2..]))
        .await
        .expect("it reads")
        .into_inner();
    assert_eq!(rest.items.len(), 3);
    service.stop().await;
}

#[tokio::test]
async fn an_index_is_followed_to_its_records() {
    let mut service = Service::start().await;
    for (key, value) in [
        ("slug/a", "id/1"),
        ("slug/b", "id/2"),
        ("slug/c", ""),
        ("slug/d", "id/1"),
    ] {
        service.put(key, value).await;
    }
    let mut record = put("id/1", "the record");
    record.namespace = "records".to_owned();
    service.kv.put(record).await.expect("it is written");
    let follow = |skip_dangling| v1::ScanRequest {
        dereference: Some(v1::Dereference {
            target_namespace: "records".to_owned(),
            skip_dangling,
        }),
        omit_values: true,
        ..prefix("slug/")
    };
    let page = scan(&mut service, follow(false)).await;
    let found: Vec<_> = page
        .rows
        .iter()
        .map(|row| {
            let entry = row.entry.as_ref().expect("a row has an entry");
            assert_eq!(entry.content, None);
            (entry.key.as_str(), row.target.as_ref().and_then(v1::Entry::text))
        })
        .collect();
    let record = Some("the record");
    assert_eq!(
        found,
        [
            ("slug/a", record),
            ("slug/b", None),
            ("slug/c", None),
            ("slug/d", record)
        ]
    );
    let skipping = v1::ScanRequest {
        page_size: 1,
        ..follow(true)
    };
    assert_eq!(pages(&mut service, skipping).await.concat(), ["slug/a", "slug/d"]);
    service.stop().await;
}

#[tokio::test]
async fn a_commit_is_all_or_nothing() {
    let mut service = Service::start().await;
    service.put("a", "1").await;
    service.put("b/1", "1").await;
    service.enqueue("work").await;
    let delivery = service.receive().await.remove(0);
    let check = |key: &str, expect| v1::Check {
        namespace: "n".to_owned(),
        key: key.to_owned(),
        expect: Some(expect),
    };
    let good = vec![
        check("a", Expect::Revision(1)),
        check("none", Expect::Revision(0)),
        check("a", Expect::Exists(true)),
        check("b/", Expect::PrefixUnchangedSince(2)),
    ];
    let bad = vec![
        check("a", Expect::Revision(0)),
        check("none", Expect::Exists(true)),
        check("b/", Expect::PrefixUnchangedSince(1)),
    ];
    let ack = || settlement(&delivery.receipt, v1::settlement::Action::Ack(v1::settlement::Ack {}));
    let request = v1::CommitRequest {
        checks: [good.clone(), bad].concat(),
        mutations: vec![mutation("a", "2"), mutation("c", "2")],
        enqueues: vec![message("next")],
        settlements: vec![ack()],
        request_id: "one".to_owned(),
    };
    let refusal = conflict(commit(&mut service, request.clone()).await);
    assert_eq!(refusal.failed_checks, [4, 5, 6]);
    assert!(refusal.failed_settlements.is_empty());
    let current: Vec<_> = refusal
        .current
        .iter()
        .map(|entry| (entry.key.as_str(), entry.revision))
        .collect();
    assert_eq!(current, [("a", 1)]);
    assert_eq!((refusal.current[0].content.clone(), refusal.store_revision), (None, 2));
    assert_eq!(service.get("c").await, None);
    assert_eq!(service.stats().await.leased, 1);

    // A conflict is not remembered: the same id is free for another try.
    let request = v1::CommitRequest {
        checks: good,
        ..request
    };
    let done = committed(commit(&mut service, request.clone()).await);
    assert_eq!((done.revision, done.enqueued.len(), done.replayed), (3, 1, false));
    let stats = service.stats().await;
    assert_eq!((stats.ready, stats.leased), (1, 0));
    assert_eq!(service.get("a").await.expect("it is there").revision, 3);

    let replayed = committed(commit(&mut service, request.clone()).await);
    assert_eq!(
        replayed,
        v1::commit_response::Committed {
            replayed: true,
            ..done.clone()
        }
    );
    let mut service = service.restart().await;
    let replayed = committed(commit(&mut service, request.clone()).await);
    assert_eq!(replayed, v1::commit_response::Committed { replayed: true, ..done });
    let other = v1::CommitRequest {
        mutations: vec![mutation("a", "3")],
        ..request.clone()
    };
    refused(service.kv.commit(other).await, "request_id");

    service.clock.advance_ms(600_000);
    let late = conflict(commit(&mut service, request).await);
    assert_eq!(late.failed_checks, [0], "forgotten after ten minutes");
    assert_eq!(late.failed_settlements, [0]);
    service.stop().await;
}

#[tokio::test]
async fn a_commit_that_changes_no_key_keeps_the_revision() {
    let mut service = Service::start().await;
    service.put("a", "1").await;
    let nothing = committed(commit(&mut service, v1::CommitRequest::default()).await);
    assert_eq!(nothing.revision, 1);
    let request = v1::CommitRequest {
        mutations: vec![
            v1::Mutation::delete("nowhere", "none"),
            v1::Mutation::delete("n", "none"),
        ],
        enqueues: vec![message("m")],
        ..Default::default()
    };
    assert_eq!(committed(commit(&mut service, request).await).revision, 1);
    service.stop().await;
}

#[tokio::test]
async fn single_writes_are_replayed_too() {
    let mut service = Service::start().await;
    let request = v1::PutRequest {
        expected_revision: Some(0),
        request_id: "p".to_owned(),
        ..put("a", "1")
    };
    let first = service
        .kv
        .put(request.clone())
        .await
        .expect("it is written")
        .into_inner();
    let again = service.kv.put(request).await.expect("it is replayed").into_inner();
    assert_eq!(first, again);
    let request = v1::EnqueueRequest {
        messages: vec![message("m")],
        request_id: "e".to_owned(),
    };
    let first = service
        .queue
        .enqueue(request.clone())
        .await
        .expect("it is enqueued")
        .into_inner();
    let again = service
        .queue
        .enqueue(request)
        .await
        .expect("it is replayed")
        .into_inner();
    assert_eq!(first, again);
    assert_eq!(service.stats().await.ready, 1);
    let taken = v1::DeleteRequest {
        namespace: "n".to_owned(),
        key: "a".to_owned(),
        expected_revision: None,
        request_id: "p".to_owned(),
    };
    refused(service.kv.delete(taken).await, "request_id");
    service.stop().await;
}

#[tokio::test]
async fn an_entry_is_gone_at_its_time_for_every_call() {
    let mut service = Service::start().await;
    let request = v1::PutRequest {
        expiry: Some(v1::put_request::Expiry::Ttl(seconds(1))),
        ..put("a", "1")
    };
    service.kv.put(request).await.expect("it is written");
    service.put("b", "a").await;
    service.clock.advance_ms(999);
    let entry = service.get("a").await.expect("it is there still");
    assert_eq!(entry.expire_time.expect("it expires").seconds, 1_700_000_001);
    service.clock.advance_ms(1);
    assert_eq!(service.get("a").await, None);
    assert_eq!(pages(&mut service, prefix("")).await.concat(), ["b"]);
    let follow = v1::ScanRequest {
        dereference: Some(v1::Dereference {
            target_namespace: "n".to_owned(),
            skip_dangling: true,
        }),
        ..prefix("b")
    };
    assert!(pages(&mut service, follow).await.concat().is_empty());
    let deletion = v1::DeleteRequest {
        namespace: "n".to_owned(),
        key: "a".to_owned(),
        expected_revision: Some(0),
        ..Default::default()
    };
    let deleted = service.kv.delete(deletion).await.expect("there is none").into_inner();
    assert!(!deleted.deleted);
    assert!([2, 3].contains(&deleted.revision), "unless it has been collected");
    let created = v1::PutRequest {
        expected_revision: Some(0),
        ..put("a", "2")
    };
    let written = service.kv.put(created).await.expect("there is none").into_inner();
    assert!(written.created);
    let entry = service.get("a").await.expect("it is there");
    assert_eq!(
        (entry.create_revision, entry.version, entry.expire_time),
        (written.revision, 1, None)
    );

    // The clock that steps back takes nobody with it, not even over a restart.
    let request = v1::PutRequest {
        expiry: Some(v1::put_request::Expiry::Ttl(seconds(1))),
        ..put("c", "1")
    };
    service.kv.put(request).await.expect("it is written");
    service.clock.advance_ms(1_000);
    service.put("d", "1").await;
    service.clock.advance_ms(-3_600_000);
    let mut service = service.restart().await;
    assert_eq!(service.get("c").await, None);
    service.stop().await;
}

#[tokio::test]
async fn a_settlement_in_a_commit_is_a_check() {
    let mut service = Service::start().await;
    service.enqueue("work").await;
    let request = v1::ReceiveRequest {
        lease: Some(seconds(1)),
        ..receive()
    };
    let lost = service
        .queue
        .receive(request)
        .await
        .expect("it receives")
        .into_inner()
        .deliveries
        .remove(0);
    service.clock.advance_ms(1_000);
    let request = v1::CommitRequest {
        mutations: vec![mutation("effect", "1")],
        settlements: vec![settlement(
            &lost.receipt,
            v1::settlement::Action::Ack(v1::settlement::Ack {}),
        )],
        ..Default::default()
    };
    let refusal = conflict(commit(&mut service, request).await);
    assert_eq!(refusal.failed_settlements, [0]);
    assert_eq!(service.get("effect").await, None);
    service.stop().await;
}
