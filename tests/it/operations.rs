//! Queued writes: what a 202 says, and what becomes of the operation it names.

use proto::client::StorageClient;
use proto::v1;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, Form, Mode, Part, TestFeed, channel, playlist, verify_document};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
/// After so many the next delivery gives a message up.
pub(crate) const FAILURES: usize = 9;

#[track_caller]
fn expect_accepted(answer: Answer) -> Answer {
    let answer = answer.expect(202);
    assert!(answer.header("location").starts_with("/api/v1/operations/"));
    assert_eq!(answer.header("preference-applied"), "respond-async");
    assert_eq!(answer.header("content-type"), "application/json");
    answer
}

#[tokio::test]
async fn each_queued_write_is_answered_as_it_will_be() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let created = expect_accepted(client.post(PLAYLISTS, &playlist("Queued", 2), Mode::Async).await);
    verify_document(&created.text, &feed.public_key()).expect("it is signed");
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    assert_eq!(client.readable(&path).await.text, created.text);
    assert_eq!(client.operation_end(&created).await, "applied");
    let record = client.operation(&created).await;
    assert_eq!(record["resource"], path);
    assert_eq!(
        record["id"],
        created.header("location").trim_start_matches("/api/v1/operations/")
    );
    assert!(record["acceptedAt"].as_str() <= record["finishedAt"].as_str());
    assert_eq!(
        record["links"],
        json!({"self": created.header("location"), "documents": [path]})
    );
    assert_eq!(record.as_object().map(serde_json::Map::len), Some(6));

    let (replacement, change) = (playlist("Replaced", 1), json!({"summary": "Patched"}));
    for (method, body) in [(Method::PUT, &replacement), (Method::PATCH, &change)] {
        let sent = client.try_write(method, &path, Some(body), Mode::Async, &[]);
        let accepted = expect_accepted(sent.await.expect("an answer"));
        assert_eq!(client.operation_end(&accepted).await, "applied");
        assert_eq!(client.get(&path).await.text, accepted.text);
    }

    let url = feed.public_url(&path);
    let made = expect_accepted(
        client
            .post(
                "/api/v1/playlist-groups",
                &channel("Queued", std::slice::from_ref(&url)),
                Mode::Async,
            )
            .await,
    );
    let channel_path = format!("{CHANNELS}/{}", made.member("id"));
    assert_eq!(client.readable(&channel_path).await.text, made.text);
    assert_eq!(client.operation(&made).await["resource"], channel_path);

    let id = made.member("id");
    let deleted = expect_accepted(
        client
            .delete(&format!("{CHANNELS}/{}", made.member("slug")), Mode::Async)
            .await,
    );
    assert_eq!(
        deleted.text,
        json!({"message": "Channel deletion queued", "channelId": id, "status": "queued"}).to_string()
    );
    assert_eq!(client.operation_end(&deleted).await, "applied");
    client.get(&channel_path).await.expect(404);
    let mut cascade = vec![path.clone()];
    for _ in 0..2 {
        let other = channel("One of two", std::slice::from_ref(&url));
        let made = client.post(CHANNELS, &other, Mode::Sync).await.expect(201);
        cascade.push(format!("{CHANNELS}/{}", made.member("id")));
    }
    cascade[1..].sort_unstable();
    let deleted = expect_accepted(client.delete(&path, Mode::Async).await);
    assert_eq!(deleted.text, r#"{"message":"Playlist deletion queued for processing"}"#);
    assert_eq!(client.operation_end(&deleted).await, "applied");
    client.get(&path).await.expect(404);
    assert_eq!(client.operation(&deleted).await["links"]["documents"], json!(cascade));
    feed.finish().await;
}

#[tokio::test]
async fn the_preference_is_read_as_the_standard_has_it() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let body = playlist("Preferred", 1);
    for (value, status, applied) in [
        ("respond-async", 202, Some("respond-async")),
        ("Respond-Async; wait=20", 202, Some("respond-async")),
        ("respond-async, wait=soon", 202, Some("respond-async")),
        ("wait=20, respond-async", 201, Some("wait=20")),
        ("respond-async, wait=3600", 201, Some("wait=30")),
        ("wait=20", 201, None),
        ("respond-asyncfoo", 201, None),
        ("wait=\"1, respond-async\"", 201, None),
    ] {
        let headers = [("prefer", value)];
        let sent = client.try_write(Method::POST, PLAYLISTS, Some(&body), Mode::Sync, &headers);
        let answer = sent.await.expect("an answer").expect(status);
        let header = answer.headers.get("preference-applied");
        assert_eq!(
            header.map(reqwest::header::HeaderValue::as_bytes),
            applied.map(str::as_bytes),
            "{value}"
        );
    }
    feed.finish().await;
}

#[tokio::test]
async fn what_a_newer_write_replaced_is_superseded() {
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await;
    let client = feed.client();
    let created = expect_accepted(client.post(PLAYLISTS, &playlist("Waiting", 1), Mode::Async).await);
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    let patched = expect_accepted(client.patch(&path, &json!({"summary": "Newer"}), Mode::Async).await);
    assert_eq!(client.operation(&created).await["state"], "accepted");
    assert_eq!(client.operation(&created).await.get("finishedAt"), None);
    client.get(&path).await.expect(404);
    feed.launch(Part::Consumer(0)).await;
    assert_eq!(client.operation_end(&created).await, "superseded");
    assert_eq!(client.operation_end(&patched).await, "applied");
    assert_eq!(client.get(&path).await.text, patched.text);
    feed.finish().await;
}

/// Fails the one message of the write queue so often.
pub(crate) async fn fail(storage: &StorageClient, failures: usize) {
    for attempt in 1..=failures {
        let received = storage.receive(v1::ReceiveRequest {
            queue: feed_store::WRITE_QUEUE.to_owned(),
            ..Default::default()
        });
        let deliveries = received.await.expect("storage answers");
        let [delivery] = deliveries.try_into().expect("one message is ready");
        let nack = v1::settlement::Nack {
            delay: Some(prost_types::Duration::default()),
            error: format!("failure {attempt}"),
            refund_attempt: false,
        };
        let settlement = v1::Settlement {
            receipt: delivery.receipt,
            action: Some(v1::settlement::Action::Nack(nack)),
        };
        storage.settle(vec![settlement]).await.expect("storage answers");
    }
}

/// As if nine consumers had failed over the message: the tenth delivery gives it up and says so in the operation.
#[tokio::test]
async fn a_message_that_failed_at_every_attempt_fails_its_operation() {
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await;
    let (client, storage) = (feed.client(), feed.storage());
    let created = expect_accepted(client.post(PLAYLISTS, &playlist("Fatal", 1), Mode::Async).await);
    fail(&storage, FAILURES).await;
    feed.launch(Part::Consumer(0)).await;
    assert_eq!(client.operation_end(&created).await, "failed");
    let record = client.operation(&created).await;
    assert_eq!(record["reason"], format!("failure {FAILURES}"));
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    client.get(&path).await.expect(404);
    let stats = storage
        .queue_stats(feed_store::WRITE_QUEUE)
        .await
        .expect("storage answers");
    assert_eq!(stats.expect("the queue is used").dead, 1);
    // The accepted version waits: a newer write is based on it, and applies.
    let patched = client
        .patch(&path, &json!({"summary": "Mended"}), Mode::Sync)
        .await
        .expect(200);
    assert_eq!(patched.json()["title"], "Fatal");
    client.get(&path).await.expect(200);
    for part in [Part::Consumer(0), Part::Gateway(0), Part::Storage] {
        feed.stop(part).await;
    }
}
