//! Playlists: made, read, replaced, changed and deleted.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, Form, Mode, TestFeed, playlist, verify_document};

const PLAYLISTS: &str = "/api/v1/playlists";

fn path_of(answer: &Answer) -> String {
    format!("{PLAYLISTS}/{}", answer.member("id"))
}

/// A playlist with every member that a client may send, in an order of its own.
fn full() -> Value {
    json!({
        "items": [{
            "license": "token",
            "duration": 1.50,
            "source": "ipfs://bafy/1",
            "title": "One",
            "id": "not-mine-to-say",
            "ref": "https://example.com/ref.json",
            "override": {"b": null, "a": [1.0, 1e21]},
            "display": {"scaling": "fit", "margin": "5%"},
            "repro": {"engineVersion": {"chrome": "1"}, "seed": "0x1f", "assetsSHA256": [], "frameHash": {"sha256": "0xaa"}},
            "provenance": {"type": "onChain", "contract": {"chain": "evm", "address": "0x1", "tokenId": "1"}},
            "unknown": 1,
        }],
        "title": "Tous les Matins du Monde!",
        "dpVersion": "1.1.0",
        "summary": "S",
        "coverImage": "https://example.com/c.png",
        "curators": [{"url": "https://example.com", "name": "C", "more": {"z": 1, "a": 2}}],
        "defaults": {"duration": 5, "display": {"background": "#fff"}, "unknown": 1},
        "dynamicQueries": [{"endpoint": "https://example.com/q", "params": {"z": "1", "a": "2"}}],
        "id": "5",
        "slug": "mine",
        "created": "1999-01-01T00:00:00.000Z",
        "signature": "ed25519:0x00",
        "signatures": [],
        "unknown": true,
    })
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

#[tokio::test]
async fn a_document_has_the_members_the_order_and_the_numbers_that_clients_know() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let created = client.post(PLAYLISTS, &full(), Mode::Sync).await.expect(201);
    verify_document(&created.text, &feed.public_key()).expect("it is signed");
    let document = created.json();
    assert_eq!(
        names(&document),
        "dpVersion id slug title curators summary coverImage created defaults items dynamicQueries signature signatures"
    );
    assert_eq!(
        names(&document["items"][0]),
        "title source duration license ref override display repro provenance id created"
    );
    assert_eq!(names(&document["defaults"]), "display duration");
    assert_eq!(
        document["curators"].to_string(),
        full()["curators"].to_string(),
        "kept as it was sent"
    );
    assert!(
        created.text.contains(r#""override":{"b":null,"a":[1,1e+21]}"#),
        "{}",
        created.text
    );
    assert_eq!(document["items"][0]["duration"], 1.5);
    let slug = created.member("slug");
    let number = slug
        .strip_prefix("tous-les-matins-du-monde-")
        .expect("a slug of its title");
    assert!(number.len() == 4 && number.parse::<u16>().is_ok());
    assert_eq!(document["created"], document["items"][0]["created"]);
    assert_eq!(created.member("created").len(), "2025-06-03T17:01:00.000Z".len());

    let path = path_of(&created);
    for name in [created.member("id"), created.member("id").to_uppercase(), slug.clone()] {
        assert_eq!(
            client.get(&format!("{PLAYLISTS}/{name}")).await.expect(200).text,
            created.text
        );
    }
    client
        .get(&format!("{PLAYLISTS}/{}", slug.to_uppercase()))
        .await
        .expect(404);

    let replaced = client
        .put(&format!("{PLAYLISTS}/{slug}"), &full(), Mode::Sync)
        .await
        .expect(200);
    verify_document(&replaced.text, &feed.public_key()).expect("it is signed");
    let new = replaced.json();
    assert_eq!(
        names(&new),
        "dpVersion id slug title curators summary coverImage created defaults dynamicQueries items signature signatures"
    );
    for member in ["id", "slug", "created"] {
        assert_eq!(new[member], document[member]);
    }
    assert_ne!(new["items"][0]["id"], document["items"][0]["id"]);

    let plain = client
        .put(&path, &playlist("Another title", 1), Mode::Sync)
        .await
        .expect(200)
        .json();
    assert_eq!(plain["slug"], document["slug"], "a slug never changes");
    assert_eq!(plain.get("summary"), None, "what is not sent is removed");
    feed.finish().await;
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let created = client.post(PLAYLISTS, &full(), Mode::Sync).await.expect(201);
    let path = path_of(&created);
    let before = created.json();

    let nothing = client.patch(&path, &json!({}), Mode::Sync).await.expect(200);
    assert_eq!(nothing.text, created.text);
    let ignored = client
        .patch(&path, &json!({"title": "", "summary": "", "unknown": 1}), Mode::Sync)
        .await
        .expect(200);
    assert_eq!(ignored.text, created.text);

    let patched = client
        .patch(&path, &json!({"title": "New", "coverImage": null}), Mode::Sync)
        .await
        .expect(200);
    verify_document(&patched.text, &feed.public_key()).expect("it is signed");
    let after = patched.json();
    assert_eq!(after["title"], "New");
    assert_eq!(after.get("coverImage"), None);
    for member in [
        "id",
        "slug",
        "created",
        "items",
        "curators",
        "summary",
        "defaults",
        "dynamicQueries",
        "dpVersion",
    ] {
        assert_eq!(after[member], before[member], "{member}");
    }
    assert_ne!(after["signature"], before["signature"]);

    let items = playlist("x", 2)["items"].clone();
    let patched = client
        .patch(&path, &json!({ "items": items }), Mode::Sync)
        .await
        .expect(200);
    assert_eq!(patched.json()["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(client.get(&path).await.text, patched.text);
    feed.finish().await;
}

#[tokio::test]
async fn a_deleted_playlist_is_gone_with_its_slug_and_items() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    for by_slug in [false, true] {
        let created = client
            .post(PLAYLISTS, &playlist("Deleted", 2), Mode::Sync)
            .await
            .expect(201);
        let names = [created.member("id"), created.member("slug")];
        let item = created.json()["items"][1]["id"].as_str().expect("an id").to_owned();
        client.get(&format!("/api/v1/playlist-items/{item}")).await.expect(200);
        let path = format!("{PLAYLISTS}/{}", names[usize::from(by_slug)]);
        let deleted = client.delete(&path, Mode::Sync).await.expect(204);
        assert_eq!(deleted.text, "");
        assert!(!deleted.headers.contains_key("content-type"));
        for name in &names {
            client.get(&format!("{PLAYLISTS}/{name}")).await.expect(404);
            client
                .delete(&format!("{PLAYLISTS}/{name}"), Mode::Sync)
                .await
                .expect(404);
        }
        client.get(&format!("/api/v1/playlist-items/{item}")).await.expect(404);
    }
    assert!(client.list(PLAYLISTS).await.is_empty());
    assert!(client.list("/api/v1/playlist-items").await.is_empty());
    feed.finish().await;
}

#[tokio::test]
async fn titles_of_every_kind_have_slugs_that_find_them() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let long = "a".repeat(256);
    for (title, base) in [
        ("My Test!! Playlist", "my-test-playlist"),
        ("--Hello   World--__--", "hello-world"),
        ("\u{2603}\u{2603}", "playlist"),
        ("", "playlist"),
        (long.as_str(), &long[..59]),
    ] {
        let created = client
            .post(PLAYLISTS, &playlist(title, 1), Mode::Sync)
            .await
            .expect(201);
        let slug = created.member("slug");
        assert_eq!(slug.rsplit_once('-').map(|(base, _)| base), Some(base), "{title:?}");
        assert_eq!(
            client.get(&format!("{PLAYLISTS}/{slug}")).await.expect(200).text,
            created.text
        );
    }
    feed.finish().await;
}

#[tokio::test]
async fn concurrent_changes_of_one_playlist_all_survive() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let created = client.post(PLAYLISTS, &full(), Mode::Sync).await.expect(201);
    let path = path_of(&created);
    let changes = [
        json!({"title": "T"}),
        json!({"summary": "U"}),
        json!({"coverImage": "https://example.com/v.png"}),
        json!({"curators": [{"name": "W"}]}),
        json!({"defaults": {"duration": 6}}),
        json!({"dpVersion": "1.2.0"}),
    ];
    for mode in [Mode::Sync, Mode::Async] {
        let rounds = (0..10).flat_map(|_| &changes);
        let answers = join_all(rounds.map(|change| client.patch(&path, change, mode))).await;
        for answer in answers {
            answer.expect(mode.status(200));
        }
        feed.drained().await;
        let after = client.get(&path).await.expect(200).json();
        for change in &changes {
            for (member, value) in change.as_object().expect("an object") {
                assert_eq!(&after[member], value);
            }
        }
        assert_eq!(after["items"], created.json()["items"]);
    }
    feed.finish().await;
}

#[tokio::test]
async fn concurrent_creates_share_nothing() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let body = playlist("Same", 5);
    let answers = join_all((0..64).map(|_| client.post(PLAYLISTS, &body, Mode::Sync))).await;
    let mut names = BTreeSet::new();
    for answer in answers {
        let answer = answer.expect(201);
        names.insert(answer.member("id"));
        names.insert(answer.member("slug"));
        for item in answer.json()["items"].as_array().expect("items") {
            names.insert(item["id"].to_string());
        }
    }
    assert_eq!(names.len(), 64 * 7);
    feed.finish().await;
}
