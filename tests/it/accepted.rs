//! Writes take effect in the order they were accepted, queued or not.
//!
//! A feed without a consumer holds queued writes still for as long as a test needs.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, FeedClient, Form, Mode, Part, TestFeed, channel, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";

/// Queued writes wait until [`Part::Consumer`] is launched.
async fn without_consumer() -> TestFeed {
    TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await
}

/// Ends with everything applied.
async fn apply(feed: &mut TestFeed) {
    feed.launch(Part::Consumer(0)).await;
    feed.drained().await;
}

fn path_of(answer: &Answer) -> String {
    format!("{PLAYLISTS}/{}", answer.member("id"))
}

async fn create(client: &FeedClient, title: &str, mode: Mode) -> Answer {
    client
        .post(PLAYLISTS, &playlist(title, 2), mode)
        .await
        .expect(mode.status(201))
}

#[tokio::test]
async fn a_patch_right_after_a_queued_create_works_on_what_was_created() {
    for mode in [Mode::Sync, Mode::Async] {
        let mut feed = without_consumer().await;
        let client = feed.client();
        let created = create(&client, "Queued", Mode::Async).await;
        let path = path_of(&created);
        client.get(&path).await.expect(404);
        client
            .get(&format!("{PLAYLISTS}/{}", created.member("slug")))
            .await
            .expect(404);
        assert_eq!(client.operation(&created).await["state"], "accepted");

        let patched = client
            .patch(&path, &json!({ "summary": "Patched" }), mode)
            .await
            .expect(mode.status(200));
        let document = patched.json();
        assert_eq!(document["title"], "Queued");
        assert_eq!(document["items"], created.json()["items"]);
        let status = if mode == Mode::Sync { 200 } else { 404 };
        client.get(&path).await.expect(status);

        apply(&mut feed).await;
        assert_eq!(client.get(&path).await.expect(200).text, patched.text);
        assert_eq!(client.operation_end(&created).await, "superseded");
        if mode == Mode::Async {
            assert_eq!(client.operation_end(&patched).await, "applied");
        }
        feed.finish().await;
    }
}

#[tokio::test]
async fn a_queued_older_write_never_overwrites_a_newer_one() {
    let mut feed = without_consumer().await;
    let client = feed.client();
    let path = path_of(&create(&client, "First", Mode::Sync).await);
    let queued = client
        .patch(&path, &json!({ "title": "Queued", "summary": "Queued" }), Mode::Async)
        .await
        .expect(202);
    assert_eq!(client.get(&path).await.member("title"), "First");
    // The newer write is based on what was accepted: it keeps the member it does not name.
    let newer = client
        .patch(&path, &json!({ "title": "Newer" }), Mode::Sync)
        .await
        .expect(200);
    assert_eq!(newer.member("summary"), "Queued");

    apply(&mut feed).await;
    assert_eq!(client.operation_end(&queued).await, "superseded");
    assert_eq!(client.get(&path).await.expect(200).text, newer.text);
    feed.finish().await;
}

#[tokio::test]
async fn of_many_queued_updates_the_last_accepted_stays() {
    let mut feed = without_consumer().await;
    let client = feed.client();
    let path = path_of(&create(&client, "First", Mode::Sync).await);
    let mut last = None;
    for number in 0..20 {
        let body = playlist(&format!("Version {number}"), number % 3 + 1);
        last = Some(client.put(&path, &body, Mode::Async).await.expect(202));
    }
    let last = last.expect("a last update");

    feed.launch(Part::Consumer(1)).await;
    apply(&mut feed).await;
    assert_eq!(client.operation_end(&last).await, "applied");
    assert_eq!(client.get(&path).await.expect(200).text, last.text);
    // Items of the versions before are gone, those of the last one are listed.
    assert_eq!(json!(client.list("/api/v1/playlist-items").await), last.json()["items"]);
    feed.finish().await;
}

#[tokio::test]
async fn concurrent_patches_of_different_members_through_two_gateways_all_survive() {
    let feed = TestFeed::start(Form::Processes {
        gateways: 2,
        consumers: 1,
    })
    .await;
    let clients = [feed.gateway_client(0), feed.gateway_client(1)];
    let path = path_of(&create(&clients[0], "First", Mode::Sync).await);
    for round in 0..10 {
        let patches = [
            ("title", json!(format!("Title {round}"))),
            ("summary", json!(format!("Summary {round}"))),
            ("coverImage", json!(format!("https://example.com/{round}.png"))),
            ("curators", json!([{ "name": format!("Curator {round}") }])),
            ("defaults", json!({ "duration": round + 1 })),
            ("dpVersion", json!(format!("1.1.{round}"))),
        ];
        let sent = patches.iter().enumerate().map(|(number, (member, value))| {
            let (client, path) = (&clients[number % 2], &path);
            // Sync only, queued only, and mixed.
            let mode = match (round % 3, number % 3) {
                (0, _) | (2, 0) => Mode::Sync,
                _ => Mode::Async,
            };
            async move {
                client
                    .patch(path, &object(member, value), mode)
                    .await
                    .expect(mode.status(200))
            }
        });
        join_all(sent).await;
        feed.drained().await;
        let read = clients[round % 2].get(&path).await.expect(200).json();
        for (member, value) in &patches {
            assert_eq!(read[member], *value, "round {round}, {member}");
        }
    }
    feed.finish().await;
}

#[tokio::test]
async fn what_one_gateway_accepted_another_builds_on() {
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 2,
        consumers: 0,
    })
    .await;
    let (first, second) = (feed.gateway_client(0), feed.gateway_client(1));
    let created = create(&first, "Queued", Mode::Async).await;
    let urls = [feed.public_url(&path_of(&created))];
    let channel = second
        .post("/api/v1/channels", &channel("Over it", &urls), Mode::Sync)
        .await
        .expect(201);
    let patched = second
        .patch(&path_of(&created), &json!({ "summary": "Patched" }), Mode::Async)
        .await
        .expect(202);
    first.delete(&path_of(&created), Mode::Sync).await.expect(204);
    let path = format!("/api/v1/channels/{}", channel.member("id"));
    assert_eq!(second.get(&path).await.expect(200).json()["playlists"], json!([]));

    apply(&mut feed).await;
    for superseded in [&created, &patched] {
        assert_eq!(second.operation_end(superseded).await, "superseded");
    }
    second.get(&path_of(&created)).await.expect(404);
    feed.finish().await;
}

#[tokio::test]
async fn a_delete_after_a_queued_update_stays() {
    for mode in [Mode::Sync, Mode::Async] {
        let mut feed = without_consumer().await;
        let client = feed.client();
        let created = create(&client, "First", Mode::Sync).await;
        let path = path_of(&created);
        let updated = client
            .put(&path, &playlist("Updated", 3), Mode::Async)
            .await
            .expect(202);
        let deleted = client.delete(&path, mode).await.expect(mode.status(204));
        // Deleted in the accepted state: nothing is left to change, whatever reads still show.
        client
            .patch(&path, &json!({ "title": "Back" }), Mode::Sync)
            .await
            .expect(404);
        client.delete(&path, Mode::Async).await.expect(404);

        apply(&mut feed).await;
        assert_eq!(client.operation_end(&updated).await, "superseded");
        if mode == Mode::Async {
            assert_eq!(client.operation_end(&deleted).await, "applied");
        }
        client.get(&path).await.expect(404);
        client
            .get(&format!("{PLAYLISTS}/{}", created.member("slug")))
            .await
            .expect(404);
        for item in created.json()["items"]
            .as_array()
            .into_iter()
            .chain(updated.json()["items"].as_array())
            .flatten()
        {
            client
                .get(&format!(
                    "/api/v1/playlist-items/{}",
                    item["id"].as_str().unwrap_or_default()
                ))
                .await
                .expect(404);
        }
        assert_eq!(client.list(PLAYLISTS).await, Vec::<Value>::new());
        feed.finish().await;
    }
}

#[tokio::test]
async fn a_queued_create_that_is_deleted_before_it_is_applied_leaves_nothing() {
    for mode in [Mode::Sync, Mode::Async] {
        let mut feed = without_consumer().await;
        let client = feed.client();
        let created = create(&client, "Never seen", Mode::Async).await;
        let path = path_of(&created);
        client.delete(&path, mode).await.expect(mode.status(204));
        apply(&mut feed).await;
        assert_eq!(client.operation_end(&created).await, "superseded");
        client.get(&path).await.expect(404);
        assert_eq!(client.list("/api/v1/playlist-items").await, Vec::<Value>::new());
        feed.finish().await;
    }
}

#[tokio::test]
async fn a_queued_delete_takes_the_playlist_out_of_its_channels() {
    let mut feed = without_consumer().await;
    let client = feed.client();
    let (goes, stays) = (
        create(&client, "Goes", Mode::Sync).await,
        create(&client, "Stays", Mode::Async).await,
    );
    let urls = [&goes, &stays].map(|playlist| format!("{}{}", client.origin(), path_of(playlist)));
    let created = client
        .post("/api/v1/channels", &channel("Both", &urls), Mode::Async)
        .await
        .expect(202);
    let path = format!("/api/v1/channels/{}", created.member("id"));
    let deleted = client.delete(&path_of(&goes), Mode::Async).await.expect(202);
    let patched = client
        .patch(&path, &json!({ "summary": "Later" }), Mode::Async)
        .await
        .expect(202);
    assert_eq!(patched.json()["playlists"], json!([urls[1]]));
    // Nothing of this is read yet.
    client.get(&path).await.expect(404);
    client.get(&path_of(&goes)).await.expect(200);

    apply(&mut feed).await;
    assert_eq!(client.operation_end(&created).await, "superseded");
    assert_eq!(client.operation_end(&deleted).await, "applied");
    client.get(&path_of(&goes)).await.expect(404);
    assert_eq!(client.get(&path).await.expect(200).text, patched.text);
    let listed = client
        .list(&format!("{PLAYLISTS}?channel={}", created.member("slug")))
        .await;
    assert_eq!(listed, [stays.json()]);
    feed.finish().await;
}

#[tokio::test]
async fn a_channel_cannot_refer_to_a_playlist_whose_deletion_was_accepted() {
    let mut feed = without_consumer().await;
    let client = feed.client();
    let created = create(&client, "Goes", Mode::Sync).await;
    let url = format!("{}{}", client.origin(), path_of(&created));
    client.delete(&path_of(&created), Mode::Async).await.expect(202);
    for mode in [Mode::Sync, Mode::Async] {
        let refused = client
            .post("/api/v1/channels", &channel("Late", std::slice::from_ref(&url)), mode)
            .await
            .expect(422);
        assert_eq!(refused.member("error"), "invalid_reference");
        assert!(refused.member("message").contains(&url), "{}", refused.text);
    }
    apply(&mut feed).await;
    feed.finish().await;
}

fn object(member: &str, value: &Value) -> Value {
    Value::Object([(member.to_owned(), value.clone())].into_iter().collect())
}
