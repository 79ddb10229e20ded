//! Items: read by id and in lists, and never found where they no longer are.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{Form, Mode, TestFeed, channel, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
const ITEMS: &str = "/api/v1/playlist-items";

fn items(document: &Value) -> &Vec<Value> {
    document["items"].as_array().expect("items")
}

fn id(value: &Value) -> &str {
    value["id"].as_str().expect("an id")
}

#[tokio::test]
async fn every_id_of_a_document_resolves_and_old_ones_are_gone() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    // Equal items are items of their own.
    let mut body = playlist("Items", 2);
    body["items"][1] = body["items"][0].clone();
    let created = client.post(PLAYLISTS, &body, Mode::Sync).await.expect(201);
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    let mut before = created.json();
    let url = feed.public_url(&path);
    let over = client
        .post(CHANNELS, &channel("Over", &[url]), Mode::Sync)
        .await
        .expect(201);

    for step in 0..3 {
        for item in items(&before) {
            let read = client
                .get(&format!("{ITEMS}/{}", id(item).to_uppercase()))
                .await
                .expect(200);
            assert_eq!(read.text, item.to_string(), "to the byte");
        }
        for list in [ITEMS.to_owned(), format!("{ITEMS}?channel={}", over.member("slug"))] {
            assert_eq!(&client.list(&list).await, items(&before), "{list}");
        }
        let after = match step {
            0 => client.put(&path, &body, Mode::Sync).await.expect(200),
            1 => client
                .patch(&path, &json!({"items": body["items"]}), Mode::Sync)
                .await
                .expect(200),
            _ => break,
        };
        for item in items(&before) {
            client.get(&format!("{ITEMS}/{}", id(item))).await.expect(404);
        }
        before = after.json();
    }
    let kept = client
        .patch(&path, &json!({"title": "Renamed"}), Mode::Sync)
        .await
        .expect(200);
    assert_eq!(items(&kept.json()), items(&before), "items that are not sent stay");
    assert_eq!(&client.list(ITEMS).await, items(&before));

    client
        .delete(&format!("{CHANNELS}/{}", over.member("id")), Mode::Sync)
        .await
        .expect(204);
    assert!(
        client
            .list(&format!("{ITEMS}?channel={}", over.member("id")))
            .await
            .is_empty()
    );
    assert_eq!(
        &client.list(ITEMS).await,
        items(&before),
        "the items outlive the channel"
    );
    feed.finish().await;
}

#[tokio::test]
async fn a_channel_lists_the_items_of_what_it_refers_to_now() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let mut made = Vec::new();
    for number in 0..20 {
        // Long enough for their spans to overlap: items are a millisecond apart.
        made.push(
            client
                .post(PLAYLISTS, &playlist(&format!("P {number}"), 200), Mode::Sync)
                .await
                .expect(201)
                .json(),
        );
    }
    let urls: Vec<_> = made
        .iter()
        .map(|made| feed.public_url(&format!("{PLAYLISTS}/{}", id(made))))
        .collect();
    let over = client
        .post(CHANNELS, &channel("Over", &urls), Mode::Sync)
        .await
        .expect(201);
    let path = format!("{CHANNELS}/{}", over.member("id"));
    let list = format!("{ITEMS}?channel={}", over.member("id"));
    let expected = |playlists: &[&Value]| {
        let mut all: Vec<_> = playlists.iter().flat_map(|playlist| items(playlist).clone()).collect();
        all.sort_by_key(|item| (item["created"].to_string(), id(item).to_owned()));
        all
    };
    let all: Vec<_> = made.iter().collect();
    assert!(client.list(&format!("{list}&limit=97")).await == expected(&all));
    let mut descending = expected(&all);
    descending.reverse();
    assert!(client.list(&format!("{list}&sort=desc")).await == descending);
    assert!(client.list(&format!("{ITEMS}?sort=desc")).await == descending);

    client
        .patch(&path, &json!({"playlists": [urls[3], urls[11]]}), Mode::Sync)
        .await
        .expect(200);
    assert!(client.list(&list).await == expected(&[&made[3], &made[11]]));
    client
        .delete(&format!("{PLAYLISTS}/{}", id(&made[3])), Mode::Sync)
        .await
        .expect(204);
    assert!(client.list(&list).await == expected(&[&made[11]]));
    feed.finish().await;
}

#[tokio::test]
async fn a_reader_sees_the_old_items_or_the_new_ones_whatever_is_written_meanwhile() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let body = playlist("Changing", 40);
    let created = client.post(PLAYLISTS, &body, Mode::Sync).await.expect(201);
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    // Each version has items of its own, which differ in nothing but their ids and times.
    let ids = |items: &[Value]| -> Vec<_> { items.iter().map(|item| id(item).to_owned()).collect() };
    let is_done = AtomicBool::new(false);
    let write = async {
        let mut versions = BTreeSet::from([ids(items(&created.json()))]);
        for _ in 0..60 {
            let version = client.put(&path, &body, Mode::Sync).await.expect(200);
            versions.insert(ids(items(&version.json())));
        }
        is_done.store(true, Ordering::SeqCst);
        versions
    };
    let read = async || {
        let mut pages = BTreeSet::new();
        while !is_done.load(Ordering::SeqCst) {
            let document = client.get(&path).await.expect(200).json();
            let item = &items(&document)[7];
            let answer = client.get(&format!("{ITEMS}/{}", id(item))).await;
            match answer.status {
                200 => assert_eq!(answer.text, item.to_string()),
                404 => {}
                _ => panic!("{answer:?}"),
            }
            let mut rows = client.list(&format!("{ITEMS}?sort=desc&limit=100")).await;
            rows.reverse();
            pages.insert(ids(&rows));
        }
        pages
    };
    let (versions, one, other) = futures_util::future::join3(write, read(), read()).await;
    assert_eq!(versions.len(), 61);
    for page in one.union(&other) {
        assert!(versions.contains(page), "{page:?} is not all of one version");
    }
    assert_eq!(client.list(ITEMS).await.len(), 40);
    feed.finish().await;
}
