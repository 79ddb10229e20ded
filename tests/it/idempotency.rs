//! `Idempotency-Key`: what is sent twice is done once and answered alike.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, FeedClient, Form, Mode, Part, TestFeed, channel, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";

async fn post(client: &FeedClient, path: &str, body: &Value, mode: Mode, key: &str) -> Answer {
    let headers = [("idempotency-key", key)];
    let sent = client.try_write(Method::POST, path, Some(body), mode, &headers);
    sent.await.expect("an answer")
}

#[track_caller]
fn expect_replay(first: &Answer, again: &Answer) {
    assert_eq!(again.status, first.status);
    assert_eq!(again.text, first.text);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert!(!first.headers.contains_key("idempotent-replayed"));
    for name in ["etag", "location", "preference-applied", "content-type"] {
        assert_eq!(again.headers.get(name), first.headers.get(name));
    }
}

#[tokio::test]
async fn the_same_request_is_answered_alike_and_done_once() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    for mode in [Mode::Sync, Mode::Async] {
        let key = format!("key-{mode:?}");
        let body = playlist("Once", 3);
        let first = post(&client, PLAYLISTS, &body, mode, &key)
            .await
            .expect(mode.status(201));
        let path = format!("{PLAYLISTS}/{}", first.member("id"));
        client.readable(&path).await;
        expect_replay(&first, &post(&client, PLAYLISTS, &body, mode, &key).await);

        // What was answered stays so, whatever becomes of the document.
        client
            .patch(&path, &json!({"title": "Changed"}), Mode::Sync)
            .await
            .expect(200);
        expect_replay(&first, &post(&client, PLAYLISTS, &body, mode, &key).await);
        client.delete(&path, Mode::Sync).await.expect(204);
        expect_replay(&first, &post(&client, PLAYLISTS, &body, mode, &key).await);
        client.get(&path).await.expect(404);

        let other = post(&client, PLAYLISTS, &playlist("Another", 3), mode, &key)
            .await
            .expect(422);
        assert_eq!(
            other.json(),
            json!({"error": "idempotency_key_reused", "message": "Idempotency-Key was used for another request"})
        );
    }
    assert!(client.list(PLAYLISTS).await.is_empty());
    feed.finish().await;
}

#[tokio::test]
async fn keys_are_of_one_collection_and_other_methods_have_none() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let one = post(&client, PLAYLISTS, &playlist("One", 1), Mode::Sync, "k")
        .await
        .expect(201);
    let url = feed.public_url(&format!("{PLAYLISTS}/{}", one.member("id")));
    let body = channel("Over one", &[url]);
    let made = post(&client, CHANNELS, &body, Mode::Sync, "k").await.expect(201);
    // Two names of one collection.
    expect_replay(
        &made,
        &post(&client, "/api/v1/playlist-groups", &body, Mode::Sync, "k").await,
    );
    let path = format!("{CHANNELS}/{}", made.member("id"));
    for title in ["First", "Second"] {
        let (change, headers) = (json!({ "title": title }), [("idempotency-key", "k")]);
        let patched = client.try_write(Method::PATCH, &path, Some(&change), Mode::Sync, &headers);
        assert_eq!(patched.await.expect("an answer").expect(200).member("title"), title);
    }
    feed.finish().await;
}

#[tokio::test]
async fn a_refused_request_is_not_remembered() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    post(&client, PLAYLISTS, &json!({"title": 1}), Mode::Sync, "k")
        .await
        .expect(400);
    let url = feed.public_url(&format!("{PLAYLISTS}/no-such-slug-1234"));
    post(&client, CHANNELS, &channel("Bad", &[url]), Mode::Sync, "k")
        .await
        .expect(422);
    let one = post(&client, PLAYLISTS, &playlist("Good", 1), Mode::Sync, "k")
        .await
        .expect(201);
    let url = feed.public_url(&format!("{PLAYLISTS}/{}", one.member("id")));
    post(&client, CHANNELS, &channel("Good", &[url]), Mode::Sync, "k")
        .await
        .expect(201);
    feed.finish().await;
}

#[tokio::test]
async fn malformed_keys_are_refused() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let body = playlist("Keyed", 1);
    for key in ["", "a b", &"x".repeat(256)] {
        let refused = post(&client, PLAYLISTS, &body, Mode::Sync, key).await.expect(400);
        assert_eq!(
            refused.json(),
            json!({
                "error": "invalid_idempotency_key",
                "message": "Idempotency-Key must be 1 to 255 visible ASCII characters",
            })
        );
    }
    post(&client, PLAYLISTS, &body, Mode::Sync, &"x".repeat(255))
        .await
        .expect(201);
    feed.finish().await;
}

#[tokio::test]
async fn at_once_through_two_gateways_it_is_done_once() {
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 2,
        consumers: 1,
    })
    .await;
    let clients = [feed.gateway_client(0), feed.gateway_client(1)];
    for mode in [Mode::Sync, Mode::Async] {
        let key = format!("race-{mode:?}");
        let body = playlist("Raced", 2);
        let answers = join_all((0..16).map(|number| post(&clients[number % 2], PLAYLISTS, &body, mode, &key))).await;
        let fresh = answers
            .iter()
            .filter(|answer| !answer.headers.contains_key("idempotent-replayed"));
        assert_eq!(fresh.count(), 1);
        for answer in &answers {
            assert_eq!(answer.clone().expect(mode.status(201)).text, answers[0].text);
        }
        clients[0]
            .readable(&format!("{PLAYLISTS}/{}", answers[0].member("id")))
            .await;
    }
    assert_eq!(clients[0].list(PLAYLISTS).await.len(), 2);

    // What is remembered is on disk.
    let body = playlist("Before the crash", 1);
    let first = post(&clients[0], PLAYLISTS, &body, Mode::Sync, "crash")
        .await
        .expect(201);
    feed.kill(Part::Gateway(0));
    feed.kill(Part::Storage);
    feed.launch(Part::Storage).await;
    feed.launch(Part::Gateway(0)).await;
    expect_replay(
        &first,
        &post(&feed.client(), PLAYLISTS, &body, Mode::Sync, "crash").await,
    );
    feed.finish().await;
}
