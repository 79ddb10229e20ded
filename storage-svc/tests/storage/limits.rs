//! Every limit at its edge and one past it, over the wire.

use proto::limits::{
    BATCH_GET_KEYS_MAX, COMMIT_BYTES_MAX, COMMIT_CHECKS_MAX, COMMIT_ENQUEUES_MAX, COMMIT_MUTATIONS_MAX, KEY_BYTES_MAX,
    MESSAGE_BODY_BYTES_MAX, METADATA_BYTES_MAX, NAMESPACES_MAX, QUEUES_MAX, SCAN_ROWS_MAX, TTL_MAX, VALUE_BYTES_MAX,
};
use proto::v1;
use tonic::{Code, Status};

use crate::support::{Service, message, put, receive, refused, seconds, settlement};

/// Fine at the limit, refused past it.
#[track_caller]
fn check<T: std::fmt::Debug>(at: Result<T, Status>, past: Result<T, Status>, field: &str) {
    at.unwrap_or_else(|status| panic!("{field} at its limit: {status:?}"));
    refused(past, field);
}

fn pairs(bytes: usize) -> std::collections::HashMap<String, String> {
    [("k".to_owned(), "x".repeat(bytes - 1))].into()
}

fn mutations(count: usize, value_bytes: usize) -> v1::CommitRequest {
    let mutation = |index| v1::Mutation::put_text("n", &format!("{index:05}"), "x".repeat(value_bytes), [].into());
    v1::CommitRequest {
        mutations: (0..count).map(mutation).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn names_and_values() {
    let mut service = Service::start().await;
    let kv = &mut service.kv;
    let key = |length| put(&"k".repeat(length), "");
    check(
        kv.put(key(KEY_BYTES_MAX)).await,
        kv.put(key(KEY_BYTES_MAX + 1)).await,
        "key",
    );
    check(kv.put(key(1)).await, kv.put(key(0)).await, "key");
    refused(kv.put(put("a\0b", "")).await, "key");
    let namespace = |name: &str| v1::PutRequest {
        namespace: name.to_owned(),
        ..put("k", "")
    };
    check(
        kv.put(namespace(&"n".repeat(64))).await,
        kv.put(namespace(&"n".repeat(65))).await,
        "namespace",
    );
    check(
        kv.put(namespace("a-z_0.9")).await,
        kv.put(namespace("A")).await,
        "namespace",
    );
    refused(kv.put(namespace("")).await, "namespace");
    let value = |length| put("k", &"x".repeat(length));
    check(
        kv.put(value(VALUE_BYTES_MAX)).await,
        kv.put(value(VALUE_BYTES_MAX + 1)).await,
        "text",
    );
    let bytes = v1::PutRequest {
        content: Some(v1::put_request::Content::Value(vec![0; VALUE_BYTES_MAX + 1].into())),
        ..put("k", "")
    };
    refused(kv.put(bytes).await, "value");
    let metadata = |length| v1::PutRequest {
        metadata: pairs(length),
        ..put("k", "")
    };
    check(
        kv.put(metadata(METADATA_BYTES_MAX)).await,
        kv.put(metadata(METADATA_BYTES_MAX + 1)).await,
        "metadata",
    );
    let id = |length| v1::PutRequest {
        request_id: "é".repeat(length),
        ..put("k", "")
    };
    check(kv.put(id(128)).await, kv.put(id(129)).await, "request_id");
    service.stop().await;
}

#[tokio::test]
async fn times() {
    let mut service = Service::start().await;
    let kv = &mut service.kv;
    let ttl = |seconds, nanos| v1::PutRequest {
        expiry: Some(v1::put_request::Expiry::Ttl(prost_types::Duration { seconds, nanos })),
        ..put("k", "")
    };
    let most = i64::try_from(TTL_MAX.as_secs()).expect("it fits");
    check(kv.put(ttl(most, 0)).await, kv.put(ttl(most, 1)).await, "ttl");
    check(kv.put(ttl(0, 1)).await, kv.put(ttl(0, 0)).await, "ttl");
    refused(kv.put(ttl(-1, 0)).await, "ttl");
    let at = |seconds, nanos| v1::PutRequest {
        expiry: Some(v1::put_request::Expiry::ExpireTime(prost_types::Timestamp {
            seconds,
            nanos,
        })),
        ..put("k", "")
    };
    check(
        kv.put(at(253_402_300_799, 999_999_999)).await,
        kv.put(at(253_402_300_800, 0)).await,
        "expire_time",
    );
    refused(kv.put(at(-1, 0)).await, "expire_time");
    refused(kv.put(at(0, 1_000_000_000)).await, "expire_time");

    let queue = &mut service.queue;
    let delay = |delay| v1::EnqueueRequest {
        messages: vec![v1::NewMessage {
            delay: Some(seconds(delay)),
            ..message("m")
        }],
        request_id: String::new(),
    };
    let month = 30 * 24 * 3_600;
    check(
        queue.enqueue(delay(month)).await,
        queue.enqueue(delay(month + 1)).await,
        "messages[0].delay",
    );
    refused(queue.enqueue(delay(-1)).await, "messages[0].delay");
    let wait = |wait| v1::ReceiveRequest {
        wait: Some(seconds(wait)),
        ..receive()
    };
    refused(queue.receive(wait(31)).await, "wait");
    refused(queue.receive(wait(-1)).await, "wait");
    let lease = |seconds, nanos| v1::ReceiveRequest {
        lease: Some(prost_types::Duration { seconds, nanos }),
        ..receive()
    };
    let shortest = queue.receive(lease(0, 100_000_000)).await;
    check(shortest, queue.receive(lease(0, 99_999_999)).await, "lease");
    check(
        queue.receive(lease(43_200, 0)).await,
        queue.receive(lease(43_200, 1)).await,
        "lease",
    );
    service.stop().await;
}

#[tokio::test]
async fn commits() {
    let mut service = Service::start().await;
    let kv = &mut service.kv;
    let many = mutations(COMMIT_MUTATIONS_MAX, 0);
    check(
        kv.commit(many).await,
        kv.commit(mutations(COMMIT_MUTATIONS_MAX + 1, 0)).await,
        "mutations",
    );
    // Four values with their keys of five bytes, and one with as much as is left.
    let large = |last_bytes| {
        let mut request = mutations(4, 8_000_000);
        request
            .mutations
            .push(v1::Mutation::put_text("n", "last", "x".repeat(last_bytes), [].into()));
        request
    };
    let last_bytes = COMMIT_BYTES_MAX - 4 * (8_000_000 + 5) - 4;
    check(
        kv.commit(large(last_bytes)).await,
        kv.commit(large(last_bytes + 1)).await,
        "mutations",
    );
    let checks = |count| v1::CommitRequest {
        checks: vec![
            v1::Check {
                namespace: "n".to_owned(),
                key: "none".to_owned(),
                expect: Some(v1::check::Expect::Exists(false)),
            };
            count
        ],
        ..Default::default()
    };
    check(
        kv.commit(checks(COMMIT_CHECKS_MAX)).await,
        kv.commit(checks(COMMIT_CHECKS_MAX + 1)).await,
        "checks",
    );
    let enqueues = |count| v1::CommitRequest {
        enqueues: vec![message("m"); count],
        ..Default::default()
    };
    check(
        kv.commit(enqueues(COMMIT_ENQUEUES_MAX)).await,
        kv.commit(enqueues(COMMIT_ENQUEUES_MAX + 1)).await,
        "enqueues",
    );
    let prefix = |prefix: &str| v1::CommitRequest {
        checks: vec![v1::Check {
            namespace: "n".to_owned(),
            key: prefix.to_owned(),
            expect: Some(v1::check::Expect::PrefixUnchangedSince(1_000)),
        }],
        ..Default::default()
    };
    check(
        kv.commit(prefix("0")).await,
        kv.commit(prefix("")).await,
        "checks[0].key",
    );

    let twice = v1::CommitRequest {
        mutations: vec![
            v1::Mutation::delete("n", "a"),
            v1::Mutation::delete("n", "b"),
            v1::Mutation::delete("n", "a"),
        ],
        ..Default::default()
    };
    refused(kv.commit(twice).await, "mutations[2].key");
    let unset = v1::Mutation {
        op: None,
        ..v1::Mutation::delete("n", "a")
    };
    let unset = v1::CommitRequest {
        mutations: vec![unset],
        ..Default::default()
    };
    refused(kv.commit(unset).await, "mutations[0].op");
    let unset = v1::CommitRequest {
        checks: vec![v1::Check {
            namespace: "n".to_owned(),
            key: "k".to_owned(),
            expect: None,
        }],
        ..Default::default()
    };
    refused(kv.commit(unset).await, "checks[0].expect");
    let too_large = v1::CommitRequest {
        mutations: vec![v1::Mutation::put_text(
            "n",
            "k",
            "x".repeat(VALUE_BYTES_MAX + 1),
            [].into(),
        )],
        ..Default::default()
    };
    refused(kv.commit(too_large).await, "mutations[0].put.text");
    service.stop().await;
}

#[tokio::test]
async fn reads() {
    let mut service = Service::start().await;
    let kv = &mut service.kv;
    let keys = |count| v1::BatchGetRequest {
        keys: vec![
            v1::KeyRef {
                namespace: "n".to_owned(),
                key: "k".to_owned(),
            };
            count
        ],
        ..Default::default()
    };
    check(
        kv.batch_get(keys(BATCH_GET_KEYS_MAX)).await,
        kv.batch_get(keys(BATCH_GET_KEYS_MAX + 1)).await,
        "keys",
    );
    refused(kv.batch_get(keys(0)).await, "keys");
    let mut bad = keys(2);
    bad.keys[1].key = String::new();
    refused(kv.batch_get(bad).await, "keys[1].key");
    let selector = |keys| v1::ScanRequest {
        selector: Some(v1::Selector {
            namespace: "n".to_owned(),
            keys,
        }),
        ..Default::default()
    };
    let page = |page_size| v1::ScanRequest {
        page_size,
        ..selector(None)
    };
    let most = i32::try_from(SCAN_ROWS_MAX).expect("it fits");
    check(kv.scan(page(most)).await, kv.scan(page(most + 1)).await, "page_size");
    refused(kv.scan(page(-1)).await, "page_size");
    refused(kv.scan(v1::ScanRequest::default()).await, "selector");
    let prefix = |length| selector(Some(v1::selector::Keys::Prefix("p".repeat(length))));
    check(
        kv.scan(prefix(KEY_BYTES_MAX)).await,
        kv.scan(prefix(KEY_BYTES_MAX + 1)).await,
        "selector.prefix",
    );
    let range = |start: &str, end: &str| {
        selector(Some(v1::selector::Keys::Range(v1::KeyRange {
            start: start.to_owned(),
            end: end.to_owned(),
        })))
    };
    refused(kv.scan(range("\0", "")).await, "selector.range.start");
    refused(kv.scan(range("", "\0")).await, "selector.range.end");
    let follow = v1::ScanRequest {
        dereference: Some(v1::Dereference::default()),
        ..selector(None)
    };
    refused(kv.scan(follow).await, "dereference.target_namespace");
    service.stop().await;
}

#[tokio::test]
async fn messages() {
    let mut service = Service::start().await;
    let queue = &mut service.queue;
    let one = |message| v1::EnqueueRequest {
        messages: vec![message],
        request_id: String::new(),
    };
    let body = |length| one(message(&"x".repeat(length)));
    check(
        queue.enqueue(body(MESSAGE_BODY_BYTES_MAX)).await,
        queue.enqueue(body(MESSAGE_BODY_BYTES_MAX + 1)).await,
        "messages[0].text",
    );
    let attributes = |length| {
        one(v1::NewMessage {
            attributes: pairs(length),
            ..message("m")
        })
    };
    check(
        queue.enqueue(attributes(1_024)).await,
        queue.enqueue(attributes(1_025)).await,
        "messages[0].attributes",
    );
    let name = |name: &str| {
        one(v1::NewMessage {
            queue: name.to_owned(),
            ..message("m")
        })
    };
    check(
        queue.enqueue(name(&"q".repeat(64))).await,
        queue.enqueue(name(&"q".repeat(65))).await,
        "messages[0].queue",
    );
    let count = |count| v1::EnqueueRequest {
        messages: vec![message("m"); count],
        request_id: String::new(),
    };
    check(
        queue.enqueue(count(100)).await,
        queue.enqueue(count(101)).await,
        "messages",
    );
    refused(queue.enqueue(count(0)).await, "messages");
    let most = |max_messages| v1::ReceiveRequest {
        max_messages,
        ..receive()
    };
    refused(queue.receive(most(101)).await, "max_messages");
    let received = queue.receive(most(100)).await.expect("it receives").into_inner();
    assert_eq!(received.deliveries.len(), 100);

    let receipt = &received.deliveries[0].receipt;
    let settle = |action, count| v1::SettleRequest {
        settlements: vec![settlement(receipt, action); count],
    };
    let ack = v1::settlement::Action::Ack(v1::settlement::Ack {});
    refused(queue.settle(settle(ack.clone(), 0)).await, "settlements");
    refused(queue.settle(settle(ack.clone(), 101)).await, "settlements");
    let extend = v1::settlement::Action::Extend(v1::settlement::Extend { lease: None });
    refused(queue.settle(settle(extend, 1)).await, "settlements[0].extend.lease");
    let nack = |delay| {
        v1::settlement::Action::Nack(v1::settlement::Nack {
            delay: Some(seconds(delay)),
            // Cut at a limit that falls within the last character.
            error: "é".repeat(512) + "é",
            refund_attempt: false,
        })
    };
    refused(queue.settle(settle(nack(43_201), 1)).await, "settlements[0].nack.delay");
    queue.settle(settle(nack(0), 1)).await.expect("it settles");
    let again = queue
        .receive(most(1))
        .await
        .expect("it receives")
        .into_inner()
        .deliveries
        .remove(0);
    assert_eq!(
        again.message.expect("a delivery has a message").last_error,
        "é".repeat(512)
    );
    let twice = v1::CommitRequest {
        settlements: vec![settlement(&again.receipt, ack.clone()), settlement(&again.receipt, ack)],
        ..Default::default()
    };
    refused(service.kv.commit(twice).await, "settlements[1].receipt");

    let unknown = v1::GetQueueStatsRequest {
        queue: "unknown".to_owned(),
    };
    let status = service
        .queue
        .get_queue_stats(unknown)
        .await
        .expect_err("nobody used it");
    assert_eq!(status.code(), Code::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn namespaces_and_queues() {
    let mut service = Service::start().await;
    let fill = |count| {
        let mutation = |index| v1::Mutation::put_text(&format!("n-{index}"), "k", String::new(), [].into());
        v1::CommitRequest {
            mutations: (0..count).map(mutation).collect(),
            ..Default::default()
        }
    };
    refused(
        service.kv.commit(fill(NAMESPACES_MAX + 1)).await,
        "mutations[1000].namespace",
    );
    let past = put("k", "");
    check(
        service.kv.commit(fill(NAMESPACES_MAX)).await.map(drop),
        service.kv.put(past).await.map(drop),
        "namespace",
    );

    for part in (0..QUEUES_MAX).collect::<Vec<_>>().chunks(100) {
        let request = v1::EnqueueRequest {
            messages: part
                .iter()
                .map(|index| v1::NewMessage {
                    queue: format!("q-{index}"),
                    ..message("m")
                })
                .collect(),
            request_id: String::new(),
        };
        service.queue.enqueue(request).await.expect("there is room");
    }
    refused(service.queue.receive(receive()).await, "queue");
    let request = v1::EnqueueRequest {
        messages: vec![message("m")],
        request_id: String::new(),
    };
    refused(service.queue.enqueue(request).await, "messages[0].queue");
    let one_more = v1::CreateQueueRequest {
        name: "q".to_owned(),
        settings: None,
    };
    refused(service.queue.create_queue(one_more.clone()).await, "name");
    let delete = v1::DeleteQueueRequest {
        name: "q-7".to_owned(),
        force: true,
    };
    service.queue.delete_queue(delete).await.expect("it is deleted");
    service.queue.create_queue(one_more).await.expect("there is room again");
    service.stop().await;
}
