//! `Prefer: respond-async, wait=N`: queued writes whose result is waited for.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proto::v1;
use proto::v1::admin_service_client::AdminServiceClient;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::operations::{FAILURES, fail};
use crate::support::{Answer, FeedClient, Form, Mode, Part, TestFeed, eventually, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
/// Longer than anything takes here.
const LONG: &str = "respond-async, wait=25";
/// Longest time until a write that waits is seen to be accepted.
const ACCEPTED_MAX: Duration = Duration::from_secs(20);

const NO_CONSUMER: Form = Form::Processes {
    gateways: 1,
    consumers: 0,
};

async fn send(client: &FeedClient, method: Method, path: &str, body: Option<&Value>, prefer: &str) -> Answer {
    let headers = [("prefer", prefer)];
    let sent = client.try_write(method, path, body, Mode::Sync, &headers);
    sent.await.expect("an answer")
}

/// Sends a write that waits, and returns once it is accepted.
async fn begin(feed: &TestFeed, method: Method, path: &str, body: Value) -> JoinHandle<Answer> {
    let (client, path) = (feed.client(), path.to_owned());
    let before = depth(feed).await;
    let sent = tokio::spawn(async move { send(&client, method, &path, Some(&body), LONG).await });
    eventually(ACCEPTED_MAX, "the write is accepted", async || {
        let depth = depth(feed).await;
        if depth > before {
            Ok(())
        } else {
            Err(format!("{depth} messages"))
        }
    })
    .await;
    sent
}

/// Messages that wait to be applied.
async fn depth(feed: &TestFeed) -> u64 {
    let stats = feed.storage().queue_stats(feed_store::WRITE_QUEUE).await;
    let stats = stats.expect("storage answers").unwrap_or_default();
    stats.ready + stats.delayed + stats.leased
}

/// Watches that are open in the storage service.
async fn watches(admin: &mut AdminServiceClient<Channel>) -> u64 {
    let stats = admin.get_store_stats(v1::GetStoreStatsRequest {}).await;
    stats.expect("storage answers").into_inner().watches
}

#[track_caller]
fn expect_applied(answer: Answer, status: u16, wait: &str) -> Answer {
    let answer = answer.expect(status);
    assert_eq!(answer.header("preference-applied"), wait);
    // Where the document is, and not where the operation is.
    let location = (status == 201).then(|| format!("{PLAYLISTS}/{}", answer.member("id")));
    let found = answer
        .headers
        .get("location")
        .map(|value| value.to_str().expect("ASCII"));
    assert_eq!(found, location.as_deref(), "{answer:?}");
    answer
}

#[tokio::test]
async fn a_result_that_comes_in_time_is_answered_as_without_a_queue() {
    let feed = TestFeed::start(Form::THREE_PROCESSES).await;
    let client = feed.client();
    let body = playlist("Awaited", 2);
    let created = send(&client, Method::POST, PLAYLISTS, Some(&body), LONG).await;
    let created = expect_applied(created, 201, "wait=25");
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    assert_eq!(client.get(&path).await.expect(200).text, created.text);
    for (method, body) in [
        (Method::PUT, playlist("Replaced", 1)),
        (Method::PATCH, json!({"summary": "Patched"})),
    ] {
        let changed = send(&client, method, &path, Some(&body), LONG).await;
        let changed = expect_applied(changed, 200, "wait=25");
        assert_eq!(client.get(&path).await.expect(200).text, changed.text);
    }
    let deleted = send(&client, Method::DELETE, &path, None, LONG).await;
    assert_eq!(expect_applied(deleted, 204, "wait=25").text, "");
    client.get(&path).await.expect(404);
    feed.finish().await;
}

#[tokio::test]
async fn a_result_that_does_not_come_in_time_is_left_to_the_operation() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let body = playlist("Waiting", 1);
    for (prefer, applied, at_least) in [
        (
            "respond-async, wait=1",
            "respond-async, wait=1",
            Duration::from_millis(900),
        ),
        ("respond-async, wait=0", "respond-async, wait=0", Duration::ZERO),
    ] {
        let begun = Instant::now();
        let accepted = send(&client, Method::POST, PLAYLISTS, Some(&body), prefer)
            .await
            .expect(202);
        assert!(begun.elapsed() >= at_least, "{:?}", begun.elapsed());
        assert_eq!(accepted.header("preference-applied"), applied);
        assert_eq!(client.operation(&accepted).await["state"], "accepted");
    }
    feed.launch(Part::Consumer(0)).await;
    feed.finish().await;
}

#[tokio::test]
async fn a_write_that_a_newer_one_replaced_is_answered_as_it_was_accepted() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let created = client
        .post(PLAYLISTS, &playlist("Old", 1), Mode::Sync)
        .await
        .expect(201);
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    let older = begin(&feed, Method::PATCH, &path, json!({"title": "Older"})).await;
    let newer = client
        .patch(&path, &json!({"summary": "Newer"}), Mode::Sync)
        .await
        .expect(200);
    assert_eq!(newer.member("title"), "Older");
    feed.launch(Part::Consumer(0)).await;
    let older = expect_applied(older.await.expect("no panic"), 200, "wait=25");
    assert_eq!(older.member("title"), "Older");
    assert_eq!(older.json().get("summary"), None);
    assert_eq!(client.get(&path).await.text, newer.text);
    feed.finish().await;
}

#[tokio::test]
async fn a_write_that_fails_in_time_is_answered_with_the_reason() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let created = begin(&feed, Method::POST, PLAYLISTS, playlist("Fatal", 1)).await;
    fail(&feed.storage(), FAILURES).await;
    feed.launch(Part::Consumer(0)).await;
    let failed = created.await.expect("no panic").expect(500);
    assert_eq!(failed.header("preference-applied"), "wait=25");
    assert_eq!(failed.member("error"), "operation_failed");
    let record = client.operation(&failed).await;
    assert_eq!(record["state"], "failed");
    let reason = record["reason"].as_str().expect("a reason");
    assert_eq!(
        failed.member("message"),
        format!("The write was accepted, and failed then: {reason}")
    );
    for part in [Part::Consumer(0), Part::Gateway(0), Part::Storage] {
        feed.stop(part).await;
    }
}

#[tokio::test]
async fn all_that_wait_share_one_watch_that_ends_after_them() {
    const WRITES: usize = 40;
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let endpoint = Endpoint::from_shared(feed.storage_url()).expect("an address is a URL");
    let mut admin = AdminServiceClient::new(endpoint.connect_lazy());
    let client = feed.client();
    let writes = tokio::spawn(async move {
        let body = playlist("One of many", 1);
        let writes = (0..WRITES).map(|_| send(&client, Method::POST, PLAYLISTS, Some(&body), LONG));
        join_all(writes).await
    });
    eventually(ACCEPTED_MAX, "all are accepted", async || match depth(&feed).await {
        depth if depth == WRITES as u64 => Ok(()),
        depth => Err(depth.to_string()),
    })
    .await;
    eventually(ACCEPTED_MAX, "they share one watch", async || {
        match watches(&mut admin).await {
            1 => Ok(()),
            watches => Err(watches.to_string()),
        }
    })
    .await;
    feed.launch(Part::Consumer(0)).await;
    for answer in writes.await.expect("no panic") {
        expect_applied(answer, 201, "wait=25");
    }
    assert!(watches(&mut admin).await <= 1);
    eventually(ACCEPTED_MAX, "nobody watches for nobody", async || {
        match watches(&mut admin).await {
            0 => Ok(()),
            watches => Err(watches.to_string()),
        }
    })
    .await;
    feed.finish().await;
}

#[tokio::test]
async fn a_wait_outlives_the_storage_service_and_ends_with_the_gateway() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let created = begin(&feed, Method::POST, PLAYLISTS, playlist("Patient", 1)).await;
    feed.kill(Part::Storage);
    feed.launch(Part::Storage).await;
    feed.launch(Part::Consumer(0)).await;
    expect_applied(created.await.expect("no panic"), 201, "wait=25");
    feed.stop(Part::Consumer(0)).await;

    let created = begin(&feed, Method::POST, PLAYLISTS, playlist("Cut short", 1)).await;
    let begun = Instant::now();
    feed.stop(Part::Gateway(0)).await;
    created.await.expect("no panic").expect(202);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    feed.launch(Part::Consumer(0)).await;
    feed.launch(Part::Gateway(0)).await;
    feed.finish().await;
}

#[tokio::test]
async fn a_repeat_of_a_queued_write_waits_for_the_same_result() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let body = playlist("Once", 1);
    let post = async |prefer| {
        let headers = [("prefer", prefer), ("idempotency-key", "key")];
        let sent = client.try_write(Method::POST, PLAYLISTS, Some(&body), Mode::Sync, &headers);
        sent.await.expect("an answer")
    };
    let first = post("respond-async").await.expect(202);
    // Without `respond-async` a wait means nothing, and what was answered first is answered.
    let again = post("wait=25").await.expect(202);
    assert_eq!(again.header("preference-applied"), "respond-async");
    feed.launch(Part::Consumer(0)).await;
    let repeated = expect_applied(post(LONG).await, 201, "wait=25");
    assert_eq!(repeated.text, first.text);
    assert_eq!(repeated.header("idempotent-replayed"), "true");
    assert_eq!(client.list(PLAYLISTS).await.len(), 1);
    feed.finish().await;
}
