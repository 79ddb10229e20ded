//! Accepted writes whose messages are gone are applied all the same.

use proto::v1::MessageState;
use serde_json::json;

use crate::operations::{FAILURES, fail};
use crate::queue_commands::lines;
use crate::support::{Form, Mode, Part, TestFeed, channel, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";

#[tokio::test]
async fn writes_whose_messages_were_deleted_by_hand_are_applied() {
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await;
    let client = feed.client();
    let made = client
        .post(PLAYLISTS, &playlist("Goes", 1), Mode::Sync)
        .await
        .expect(201);
    let path = format!("{PLAYLISTS}/{}", made.member("id"));
    let body = channel("Loses one", &[feed.public_url(&path)]);
    let rewritten = client.post(CHANNELS, &body, Mode::Sync).await.expect(201);
    let channel_path = format!("{CHANNELS}/{}", rewritten.member("id"));

    let created = client
        .post(PLAYLISTS, &playlist("Comes", 1), Mode::Async)
        .await
        .expect(202);
    let deleted = client.delete(&path, Mode::Async).await.expect(202);
    let storage = feed.storage();
    let purged = storage.purge(feed_store::WRITE_QUEUE, Vec::new(), &[MessageState::Ready]);
    assert_eq!(purged.await.expect("storage answers").deleted, 2);

    feed.launch(Part::Consumer(0)).await;
    assert_eq!(client.operation_end(&created).await, "applied");
    assert_eq!(client.operation_end(&deleted).await, "applied");
    let record = client.operation(&deleted).await;
    assert_eq!(record["resource"], path);
    assert_eq!(record["links"]["documents"], json!([path, channel_path]));
    client.get(&path).await.expect(404);
    let channel = client.get(&channel_path).await.expect(200).json();
    assert_eq!(channel["playlists"], json!([]));
    let created = format!("{PLAYLISTS}/{}", created.member("id"));
    client.get(&created).await.expect(200);
    feed.finish().await;
}

/// As if ten consumers had died over the message: no other is given it, so as to say what became of the write.
#[tokio::test]
async fn a_write_that_the_queue_gave_up_has_failed_until_it_is_redriven() {
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await;
    let client = feed.client();
    let created = client
        .post(PLAYLISTS, &playlist("Fatal", 1), Mode::Async)
        .await
        .expect(202);
    fail(&feed.storage(), FAILURES + 1).await;
    assert_eq!(client.operation(&created).await["state"], "accepted");

    feed.launch(Part::Consumer(0)).await;
    assert_eq!(client.operation_end(&created).await, "failed");
    let reason = format!("attempts exhausted; last: failure {}", FAILURES + 1);
    assert_eq!(client.operation(&created).await["reason"], reason);
    assert_eq!(lines(&feed, "redrive --all").await, ["messages redriven: 1"]);
    assert_eq!(client.operation_end(&created).await, "applied");
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    client.get(&path).await.expect(200);
    feed.finish().await;
}
