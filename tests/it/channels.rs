//! Channels: their playlists, and what a playlist's deletion does to them.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, FeedClient, Form, Mode, Part, TestFeed, channel, playlist, verify_document};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
/// Most channels that the deletion of a playlist rewrites.
const CASCADE_CHANNELS_MAX: usize = 256;

fn path_of(answer: &Answer) -> String {
    format!("{CHANNELS}/{}", answer.member("id"))
}

async fn playlists(client: &FeedClient, count: usize) -> Vec<Answer> {
    let mut made = Vec::new();
    for number in 0..count {
        let body = playlist(&format!("Playlist {number}"), 2);
        made.push(client.post(PLAYLISTS, &body, Mode::Sync).await.expect(201));
    }
    made
}

fn urls(feed: &TestFeed, playlists: &[Answer]) -> Vec<String> {
    let url = |playlist: &Answer| feed.public_url(&format!("{PLAYLISTS}/{}", playlist.member("id")));
    playlists.iter().map(url).collect()
}

/// The names of its members, in order.
fn names(value: &Value) -> String {
    let names: Vec<_> = value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    names.join(" ")
}

async fn listed(client: &FeedClient, channel: &str) -> Vec<String> {
    let rows = client.list(&format!("{PLAYLISTS}?channel={channel}")).await;
    rows.iter()
        .map(|row| row["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn a_channel_goes_by_either_name_of_its_collection() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let made = playlists(&client, 2).await;
    for (collection, other) in [
        (CHANNELS, "/api/v1/playlist-groups"),
        ("/api/v1/playlist-groups", CHANNELS),
    ] {
        let body = json!({
            "playlists": urls(&feed, &made),
            "title": "A Channel",
            "publisher": {"name": "P"},
            "curators": [{"name": "C"}],
            "curator": "C",
            "summary": "S",
            "coverImage": "a:b",
            "id": "x",
            "unknown": 1,
        });
        let created = client.post(collection, &body, Mode::Sync).await.expect(201);
        verify_document(&created.text, &feed.public_key()).expect("it is signed");
        assert_eq!(
            names(&created.json()),
            "id slug title curator curators publisher summary playlists created coverImage signature signatures"
        );
        assert!(created.member("slug").starts_with("a-channel-"));
        for name in [created.member("id"), created.member("slug")] {
            assert_eq!(
                client.get(&format!("{other}/{name}")).await.expect(200).text,
                created.text
            );
            assert_eq!(
                listed(&client, &name).await,
                [made[0].member("id"), made[1].member("id")]
            );
        }
        let path = format!("{other}/{}", created.member("slug"));
        let patched = client
            .patch(&path, &json!({"title": "New", "curator": null}), Mode::Sync)
            .await
            .expect(200);
        assert_eq!(
            names(&patched.json()),
            "id slug title curators summary publisher playlists created coverImage signature signatures"
        );
        let replaced = client
            .put(&path, &channel("Newer", &urls(&feed, &made[..1])), Mode::Sync)
            .await
            .expect(200);
        assert_eq!(replaced.member("slug"), created.member("slug"));
        assert_eq!(listed(&client, &created.member("id")).await, [made[0].member("id")]);
        assert_eq!(client.list(collection).await, [replaced.json()]);
        client.delete(&path, Mode::Sync).await.expect(204);
        client.get(&path).await.expect(404);
        assert!(listed(&client, &created.member("id")).await.is_empty());
        assert!(listed(&client, &created.member("slug")).await.is_empty());
    }
    assert_eq!(
        client.list(PLAYLISTS).await.len(),
        2,
        "a channel's playlists outlive it"
    );
    feed.finish().await;
}

#[tokio::test]
async fn own_urls_are_known_by_every_origin_and_form() {
    let feed = TestFeed::start_with(
        Form::OneProcess,
        &[("SELF_HOSTED_DOMAINS", "art.example:81, other.example")],
    )
    .await;
    let client = feed.client();
    let made = &playlists(&client, 1).await[0];
    let (id, slug) = (made.member("id"), made.member("slug"));
    let sent_to = client.origin();
    let urls = [
        format!("{sent_to}/api/v1/playlists/{id}"),
        format!("{sent_to}/playlists/{slug}?a=b#c"),
        format!("{}/playlists/{slug}", sent_to.replace("127.0.0.1", "localhost")),
        format!("https://art.example:81/api/v1/playlists/{}", id.to_uppercase()),
        format!("http://other.example:99/playlists/{id}"),
        feed.public_url(&format!("/playlists/{id}")),
    ];
    let created = client
        .post(CHANNELS, &channel("All", &urls), Mode::Sync)
        .await
        .expect(201);
    assert_eq!(created.json()["playlists"], json!(urls), "kept as they were sent");
    assert_eq!(listed(&client, &created.member("id")).await, [id.as_str()]);

    // The host of the request is the feed's own too.
    let url = format!("http://behind-a-proxy.example/playlists/{id}");
    let body = channel("Proxied", std::slice::from_ref(&url));
    client.post(CHANNELS, &body, Mode::Sync).await.expect(422);
    let headers = [("host", "behind-a-proxy.example")];
    let sent = client.try_write(reqwest::Method::POST, CHANNELS, Some(&body), Mode::Sync, &headers);
    sent.await.expect("an answer").expect(201);

    client
        .delete(&format!("{PLAYLISTS}/{id}"), Mode::Sync)
        .await
        .expect(204);
    for channel in client.list(CHANNELS).await {
        assert_eq!(channel["playlists"], json!([]));
    }
    feed.finish().await;
}

#[tokio::test]
async fn a_deleted_playlist_leaves_its_channels_which_are_signed_anew() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let made = playlists(&client, 3).await;
    let all = urls(&feed, &made);
    let slug_url = feed.public_url(&format!("/playlists/{}", made[1].member("slug")));
    let twice = channel("Twice", &[all[1].clone(), all[0].clone(), slug_url]);
    let twice = client.post(CHANNELS, &twice, Mode::Sync).await.expect(201);
    let alone = client
        .post(CHANNELS, &channel("Alone", &all[1..2]), Mode::Sync)
        .await
        .expect(201);
    let without = client
        .post(CHANNELS, &channel("Without", &all[2..]), Mode::Sync)
        .await
        .expect(201);

    client
        .delete(&format!("{PLAYLISTS}/{}", made[1].member("id")), Mode::Sync)
        .await
        .expect(204);
    for (before, expected) in [
        (&twice, json!([all[0]])),
        (&alone, json!([])),
        (&without, json!([all[2]])),
    ] {
        let after = client.get(&path_of(before)).await.expect(200);
        verify_document(&after.text, &feed.public_key()).expect("it is signed anew");
        assert_eq!(after.json()["playlists"], expected);
        assert_eq!(after.member("created"), before.member("created"));
    }
    assert_eq!(client.get(&path_of(&without)).await.text, without.text, "not touched");
    assert!(
        client
            .list(&format!("/api/v1/playlist-items?channel={}", alone.member("id")))
            .await
            .is_empty()
    );

    // A channel that a deletion emptied can be changed, and filled again.
    client
        .patch(&path_of(&alone), &json!({"title": "Still here"}), Mode::Sync)
        .await
        .expect(200);
    client
        .patch(&path_of(&alone), &json!({"playlists": [all[0]]}), Mode::Sync)
        .await
        .expect(200);
    assert_eq!(listed(&client, &alone.member("slug")).await, [made[0].member("id")]);
    feed.finish().await;
}

#[tokio::test]
async fn a_deletion_rewrites_as_many_channels_as_it_may_and_no_more() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let made = playlists(&client, 1).await;
    let body = channel("One of many", &urls(&feed, &made));
    let path = format!("{PLAYLISTS}/{}", made[0].member("id"));
    let create = async |count: usize| {
        let answers = join_all((0..count).map(|_| client.post(CHANNELS, &body, Mode::Sync))).await;
        answers.into_iter().map(|answer| answer.expect(201)).collect::<Vec<_>>()
    };
    let channels = create(CASCADE_CHANNELS_MAX + 1).await;
    for mode in [Mode::Sync, Mode::Async] {
        let refused = client.delete(&path, mode).await.expect(409);
        assert_eq!(
            refused.json(),
            json!({"error": "too_many_channels", "message": "more than 256 channels refer to this playlist"})
        );
    }
    client.delete(&path_of(&channels[0]), Mode::Sync).await.expect(204);
    client.delete(&path, Mode::Sync).await.expect(204);
    for channel in client.list(CHANNELS).await {
        assert_eq!(channel["playlists"], json!([]));
    }
    feed.finish().await;
}

#[tokio::test]
async fn a_deletion_rewrites_no_more_than_one_commit_holds() {
    // Four of these fit into the 32 MiB of a commit, five do not.
    const CHANNEL_BYTES: usize = 7 * 1024 * 1024;

    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let made = playlists(&client, 1).await;
    let mut body = channel("Large", &urls(&feed, &made));
    body["publisher"] = json!({ "name": "P", "padding": "x".repeat(CHANNEL_BYTES) });
    let mut channels = Vec::new();
    for _ in 0..5 {
        channels.push(client.post(CHANNELS, &body, Mode::Sync).await.expect(201));
    }
    let path = format!("{PLAYLISTS}/{}", made[0].member("id"));
    for mode in [Mode::Sync, Mode::Async] {
        let refused = client.delete(&path, mode).await.expect(409);
        assert_eq!(
            refused.json(),
            json!({
                "error": "too_many_channels",
                "message": "the channels that refer to this playlist are too large to be rewritten at once: \
                            at most 33554432 bytes",
            })
        );
    }
    assert!(
        client.get(&path_of(&channels[0])).await.text == channels[0].text,
        "nothing was written"
    );
    client.delete(&path_of(&channels[0]), Mode::Sync).await.expect(204);
    client.delete(&path, Mode::Sync).await.expect(204);
    for channel in &channels[1..] {
        assert_eq!(client.get(&path_of(channel)).await.json()["playlists"], json!([]));
    }
    feed.finish().await;
}

#[tokio::test]
async fn no_channel_refers_to_a_playlist_that_is_deleted_meanwhile() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    for round in 0..8 {
        let made = playlists(&client, 4).await;
        let all = urls(&feed, &made);
        let body = channel(&format!("Round {round}"), &all);
        let stays = client.post(CHANNELS, &body, Mode::Sync).await.expect(201);
        let path = path_of(&stays);
        let how = if round % 2 == 0 { Mode::Sync } else { Mode::Async };
        let deletes = join_all(made[1..].iter().map(|playlist| {
            let path = format!("{PLAYLISTS}/{}", playlist.member("id"));
            let client = &client;
            async move { client.delete(&path, how).await.expect(how.status(204)) }
        }));
        let writes = join_all((0..12).map(|number| {
            let (client, body, path) = (&client, &body, &path);
            async move {
                match number % 3 {
                    0 => client.post(CHANNELS, body, how).await,
                    1 => client.put(path, body, how).await,
                    _ => client.patch(path, &json!({ "title": format!("{number}") }), how).await,
                }
            }
        }));
        let (_, writes) = futures_util::future::join(deletes, writes).await;
        for answer in writes {
            let status = answer.status;
            assert!(
                status == 422 || status == how.status(200) || status == how.status(201),
                "{answer:?}"
            );
        }
        feed.drained().await;
        for channel in client.list(CHANNELS).await {
            let playlists = channel["playlists"].as_array().expect("playlists");
            assert!(
                playlists.iter().all(|url| !all[1..].iter().any(|gone| url == gone)),
                "{channel}"
            );
        }
    }
    feed.finish().await;
}

#[tokio::test]
async fn a_channel_refers_to_1024_playlists_and_no_more() {
    const MOST: usize = 1_024;
    /// The last of them are accepted and wait for a consumer.
    const QUEUED: usize = 100;
    const IN_FLIGHT: usize = 32;
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await;
    let client = feed.client();
    let body = playlist("One of many", 1);
    let create = |number| {
        let mode = if number < MOST - QUEUED {
            Mode::Sync
        } else {
            Mode::Async
        };
        let (client, body) = (&client, &body);
        async move { client.post(PLAYLISTS, body, mode).await.expect(mode.status(201)) }
    };
    let made: Vec<_> = futures_util::stream::iter((0..=MOST).map(create))
        .buffered(IN_FLIGHT)
        .collect()
        .await;
    let many = urls(&feed, &made);
    let body = channel("Full", &many[..MOST]);
    let created = client.post(CHANNELS, &body, Mode::Sync).await.expect(201);
    let queued = client.post(CHANNELS, &body, Mode::Async).await.expect(202);
    for mode in [Mode::Sync, Mode::Async] {
        let refused = client.post(CHANNELS, &channel("Overfull", &many), mode).await;
        assert_eq!(
            refused.expect(400).member("message"),
            "Invalid channel data: playlists: Array must contain at most 1024 element(s)"
        );
    }
    let ids = |made: &[Answer]| made.iter().map(|made| made.member("id")).collect::<BTreeSet<_>>();
    let now: BTreeSet<_> = listed(&client, &created.member("id")).await.into_iter().collect();
    assert!(now == ids(&made[..MOST - QUEUED]), "those that are applied are listed");
    client.get(&path_of(&queued)).await.expect(404);

    feed.launch(Part::Consumer(0)).await;
    feed.drained().await;
    for channel in [created, queued] {
        let rows = listed(&client, &channel.member("id")).await;
        assert_eq!(rows.len(), MOST, "each is listed once");
        assert!(rows.into_iter().collect::<BTreeSet<_>>() == ids(&made[..MOST]));
        assert_eq!(
            client.get(&path_of(&channel)).await.json()["playlists"],
            json!(many[..MOST])
        );
    }

    // Two URLs of each of 512 playlists are as many references, and half as many rows.
    let twice: Vec<_> = many[..MOST / 2]
        .iter()
        .flat_map(|url| [url.clone(), url.clone()])
        .collect();
    let created = client.post(CHANNELS, &channel("Twice", &twice), Mode::Sync).await;
    assert_eq!(listed(&client, &created.expect(201).member("id")).await.len(), MOST / 2);
    feed.finish().await;
}
