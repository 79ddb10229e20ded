//! How soon queued writes are readable.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use crate::support::{Form, Mode, TestFeed, playlist};

const CREATES: usize = 1_000;
const IN_FLIGHT: usize = 16;
/// From the last 202 to the last document's being readable, with one consumer.
const READABLE_MAX: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_thousand_queued_creates_are_readable_within_five_seconds() {
    let feed = TestFeed::start_alone(Form::THREE_PROCESSES).await;
    let client = feed.client();
    let paths: Vec<String> = futures_util::stream::iter(0..CREATES)
        .map(|number| {
            let client = &client;
            async move {
                let body = playlist(&format!("Queued {number}"), 3);
                let answer = client.post("/api/v1/playlists", &body, Mode::Async).await.expect(202);
                format!("/api/v1/playlists/{}", answer.member("id"))
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .collect()
        .await;
    let last_accepted = Instant::now();

    // The queue is cheap to look at; asking for documents all the time would slow down what is measured.
    feed.drained().await;
    let listed = client.list("/api/v1/playlists").await.len();
    let elapsed = last_accepted.elapsed();
    assert_eq!(listed, CREATES);
    assert!(elapsed < READABLE_MAX, "the last one was readable after {elapsed:?}");
    for path in &paths {
        client.get(path).await.expect(200);
    }
    feed.finish().await;
}
