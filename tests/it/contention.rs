//! Writes in each other's way: nobody is starved, and nothing is accepted that could not be applied.

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{FeedClient, Form, Mode, Part, TestFeed, channel, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
/// Requests in flight while many documents are made.
const IN_FLIGHT: usize = 32;

/// URLs of so many new playlists of one item each.
async fn playlists(client: &FeedClient, count: usize) -> Vec<String> {
    let body = playlist("One of many", 1);
    let created = futures_util::stream::iter(0..count).map(|_| client.post(PLAYLISTS, &body, Mode::Sync));
    let urls = created.buffer_unordered(IN_FLIGHT).map(|created| {
        let id = created.expect(201).member("id");
        format!("{}{PLAYLISTS}/{id}", client.origin())
    });
    urls.collect().await
}

#[tokio::test]
async fn steady_deletions_of_playlists_let_writes_of_channels_through() {
    const DELETERS: usize = 16;
    const CHANNELS_MADE: usize = 10;
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let kept = playlists(&client, 1).await;
    let going = playlists(&client, 3_000).await;

    let (done, is_done) = tokio::sync::watch::channel(false);
    let deletions = going.chunks(going.len().div_ceil(DELETERS)).map(|part| {
        let (client, is_done, part) = (client.clone(), is_done.clone(), part.to_vec());
        tokio::spawn(async move {
            let mut left = part.len();
            for url in part {
                if *is_done.borrow() {
                    break;
                }
                let path = url.strip_prefix(client.origin()).expect("made of it above");
                client.delete(path, Mode::Sync).await.expect(204);
                left -= 1;
            }
            left
        })
    });
    let deletions: Vec<_> = deletions.collect();
    for number in 0..CHANNELS_MADE {
        let body = channel(&format!("Channel {number}"), &kept);
        let created = client.post(CHANNELS, &body, Mode::Sync).await.expect(201);
        let path = format!("{CHANNELS}/{}", created.member("id"));
        client.put(&path, &body, Mode::Async).await.expect(202);
    }
    done.send(true).expect("the deleters listen");
    let left = join_all(deletions).await;
    let left: usize = left.into_iter().map(|left| left.expect("no deleter failed")).sum();
    assert!(left > 0, "the deletions ended before the channels were made");
    feed.finish().await;
}

/// Ten channels lose a playlist at once while each has a thousand others to exchange: accepting the deletion changes
/// few keys, applying it would change more than one commit takes.
#[tokio::test]
async fn a_queued_write_that_no_commit_could_apply_is_refused() {
    const OF_A_CHANNEL: usize = 1_024;
    const WRITTEN: usize = 10;
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await;
    let client = feed.client();
    let urls = playlists(&client, 2 * OF_A_CHANNEL).await;
    let (before, after) = urls.split_at(OF_A_CHANNEL);
    let mut channels = Vec::new();
    for number in 0..WRITTEN {
        let title = format!("Channel {number}");
        let created = client.post(CHANNELS, &channel(&title, before), Mode::Sync).await;
        let path = format!("{CHANNELS}/{}", created.expect(201).member("id"));
        client
            .put(&path, &channel(&title, after), Mode::Async)
            .await
            .expect(202);
        channels.push(path);
    }
    let path = after[0].strip_prefix(client.origin()).expect("made of it above");
    for mode in [Mode::Async, Mode::Sync] {
        let refused = client.delete(path, mode).await.expect(409);
        assert_eq!(refused.member("error"), "too_many_channels");
    }

    feed.launch(Part::Consumer(0)).await;
    feed.drained().await;
    let listed: Value = client.get(&channels[0]).await.expect(200).json();
    assert_eq!(listed["playlists"][0], after[0].as_str());
    client.delete(path, Mode::Async).await.expect(202);
    feed.drained().await;
    for channel in channels {
        let listed = client.get(&channel).await.expect(200).json();
        let listed = listed["playlists"].as_array().expect("a list");
        assert_eq!(listed.len(), OF_A_CHANNEL - 1);
    }
    client.get(path).await.expect(404);
    feed.finish().await;
}
