//! A corpus of playlists goes through HTTP, sync and queued, into each form of the feed, and is read back by every way
//! there is: complete, in order, as it was sent, each signature checked independently.
//!
//! The corpus is every `*.json` below the folder `DP1_CORPUS`, or generated where that is not set.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::support::{FeedClient, Form, Mode, TestFeed, channel, verify_document};

/// Requests at once.
const IN_FLIGHT: usize = 8;
/// As many playlists as a channel may name.
const CHANNEL_PLAYLISTS_MAX: usize = 1_024;
/// What the feed makes itself, at the top of a document and in an item.
const SERVER_MADE: [&str; 5] = ["id", "slug", "created", "signature", "signatures"];

#[tokio::test]
async fn one_process_sync() {
    publish_and_read_back(Form::OneProcess, Mode::Sync).await;
}

#[tokio::test]
async fn one_process_async() {
    publish_and_read_back(Form::OneProcess, Mode::Async).await;
}

#[tokio::test]
async fn three_processes_sync() {
    publish_and_read_back(Form::THREE_PROCESSES, Mode::Sync).await;
}

#[tokio::test]
async fn three_processes_async() {
    publish_and_read_back(Form::THREE_PROCESSES, Mode::Async).await;
}

async fn publish_and_read_back(form: Form, mode: Mode) {
    let corpus = corpus();
    let feed = TestFeed::start(form).await;
    let client = feed.client();

    // Playlists, then at once the channels over them, which a queued playlist must satisfy as well as an applied one.
    let answers: Vec<_> = futures_util::stream::iter(&corpus)
        .map(|body| async {
            client
                .post("/api/v1/playlists", body, mode)
                .await
                .expect(mode.status(201))
        })
        .buffered(IN_FLIGHT)
        .collect()
        .await;
    let playlists: Vec<_> = answers.iter().map(|answer| Written::of(&answer.text)).collect();
    let mut channels = Vec::new();
    for (number, part) in playlists.chunks(CHANNEL_PLAYLISTS_MAX).enumerate() {
        let urls: Vec<_> = part
            .iter()
            .map(|written| format!("{}{}", client.origin(), written.path("playlists")))
            .collect();
        let body = channel(&format!("Channel {number}"), &urls);
        let answer = client
            .post("/api/v1/channels", &body, mode)
            .await
            .expect(mode.status(201));
        assert_eq!(content(&answer.json()), content(&body));
        channels.push((Written::of(&answer.text), part));
    }
    for written in &playlists {
        client.readable(&written.path("playlists")).await;
    }
    for (written, _) in &channels {
        client.readable(&written.path("channels")).await;
    }

    for (written, sent) in playlists.iter().zip(&corpus) {
        assert_eq!(content(&written.document), content(sent), "{}", written.text);
        read_document(&feed, &client, "playlists", written).await;
    }
    for (written, _) in &channels {
        read_document(&feed, &client, "channels", written).await;
    }
    let all: Vec<_> = playlists.iter().collect();
    read_lists(&client, "", &all).await;
    for (written, members) in &channels {
        for name in [written.name("id"), written.name("slug")] {
            let members: Vec<_> = members.iter().collect();
            read_lists(&client, &format!("channel={name}&"), &members).await;
        }
    }
    let listed = client.list("/api/v1/channels?limit=1").await;
    assert_eq!(
        listed,
        in_order(channels.iter().map(|(written, _)| written.document.clone()))
    );
    let items = read_items(&client, &playlists).await;
    if std::env::var_os("DP1_CORPUS").is_some() {
        // Past the capture of the test's own output: it is to be seen that the corpus was there.
        let _ = writeln!(
            std::io::stderr(),
            "published {} files with {items} items to {form:?}, {mode:?}",
            corpus.len()
        );
    }
    feed.finish().await;
}

/// A document as the write answered it.
struct Written {
    text: String,
    document: Value,
}

impl Written {
    fn of(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            document: serde_json::from_str(text).expect("an answer is JSON"),
        }
    }

    fn name(&self, member: &str) -> &str {
        self.document[member].as_str().expect("a document has an id and a slug")
    }

    fn path(&self, collection: &str) -> String {
        format!("/api/v1/{collection}/{}", self.name("id"))
    }

    fn items(&self) -> impl Iterator<Item = &Value> {
        self.document["items"].as_array().expect("a playlist has items").iter()
    }
}

/// By id and by slug, byte for byte what the write answered, signed.
async fn read_document(feed: &TestFeed, client: &FeedClient, collection: &str, written: &Written) {
    verify_document(&written.text, &feed.public_key()).unwrap_or_else(|fault| panic!("{fault}: {}", written.text));
    for name in [written.name("id"), written.name("slug")] {
        let read = client.get(&format!("/api/v1/{collection}/{name}")).await.expect(200);
        assert_eq!(read.text, written.text);
    }
}

/// Playlists and items of one filter, in both directions, in pages that do and do not divide them evenly.
async fn read_lists(client: &FeedClient, filter: &str, expected: &[&Written]) {
    let playlists = in_order(expected.iter().map(|written| written.document.clone()));
    let items = in_order(expected.iter().flat_map(|written| written.items().cloned()));
    for (list, rows) in [("playlists", &playlists), ("playlist-items", &items)] {
        for limit in [100, 37] {
            let ascending = client.list(&format!("/api/v1/{list}?{filter}limit={limit}")).await;
            same_rows(&ascending, rows, &format!("{list}, {filter} ascending by {limit}"));
            let descending = client
                .list(&format!("/api/v1/{list}?{filter}sort=desc&limit={limit}"))
                .await;
            let reversed: Vec<_> = rows.iter().rev().cloned().collect();
            same_rows(
                &descending,
                &reversed,
                &format!("{list}, {filter} descending by {limit}"),
            );
        }
    }
}

/// Every item by its id, byte for byte as it stands in its playlist; how many there are.
async fn read_items(client: &FeedClient, playlists: &[Written]) -> usize {
    let items = playlists
        .iter()
        .flat_map(|written| written.items().map(move |item| (written, item)));
    let read = futures_util::stream::iter(items).map(|(written, item)| async move {
        let id = item["id"].as_str().expect("an item has an id");
        let read = client.get(&format!("/api/v1/playlist-items/{id}")).await.expect(200);
        assert_eq!(read.json().to_string(), item.to_string());
        assert!(written.text.contains(&read.text), "{}", read.text);
    });
    read.buffer_unordered(IN_FLIGHT).count().await
}

/// By time of creation, then id: the order of lists. Times are all of one length.
fn in_order(rows: impl Iterator<Item = Value>) -> Vec<Value> {
    let key = |row: &Value| {
        (
            row["created"].as_str().map(str::to_owned),
            row["id"].as_str().map(str::to_owned),
        )
    };
    let rows: BTreeMap<_, _> = rows.map(|row| (key(&row), row)).collect();
    rows.into_values().collect()
}

#[track_caller]
fn same_rows(listed: &[Value], expected: &[Value], what: &str) {
    assert_eq!(listed.len(), expected.len(), "{what}");
    for (position, (listed, expected)) in listed.iter().zip(expected).enumerate() {
        // As text: the order of members counts too.
        assert_eq!(listed.to_string(), expected.to_string(), "{what}, position {position}");
    }
}

/// What a client said, whatever the feed made of it itself: canonical, so that numbers compare by value.
fn content(document: &Value) -> String {
    let mut document = document.clone();
    let items = document
        .get_mut("items")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for members in items.filter_map(Value::as_object_mut) {
        members.retain(|name, _| !SERVER_MADE.contains(&name.as_str()));
    }
    let members = document.as_object_mut().expect("a document is an object");
    members.retain(|name, _| !SERVER_MADE.contains(&name.as_str()));
    serde_json_canonicalizer::to_string(&document).expect("a document has a canonical form")
}

fn corpus() -> Vec<Value> {
    match std::env::var_os("DP1_CORPUS") {
        Some(folder) => from_folder(&PathBuf::from(folder)),
        None => generated(),
    }
}

fn from_folder(folder: &Path) -> Vec<Value> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("DP1_CORPUS: {} cannot be read: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("a folder's entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                files.push(path);
            }
        }
    }
    assert!(
        !files.is_empty(),
        "DP1_CORPUS is set, but {} holds no *.json file",
        folder.display()
    );
    files.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read(path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{} is not JSON: {error}", path.display()))
    };
    files.iter().map(read).collect()
}

/// Titles that have gone wrong somewhere before: empty, quoted, composed, beyond the BMP, of control characters, and as
/// long as a title may be.
fn titles() -> [String; 8] {
    [
        "Plain".to_owned(),
        String::new(),
        "Café ☃ 🎨 \"q\" \\ / </script>".to_owned(),
        "line1\nline2\ttab\u{1}\u{7f}\u{2028}".to_owned(),
        "e\u{301} and é".to_owned(),
        "🎨".repeat(128),
        "עברית and 日本語".to_owned(),
        "0".repeat(256),
    ]
}

/// Playlists of 0 to 150 items, with every member a playlist and an item may have, each in several forms.
fn generated() -> Vec<Value> {
    let items = [1, 3, 0, 150, 7, 40, 2, 0, 101, 12, 5, 100, 1, 37, 9, 64, 4, 2, 1, 8];
    items
        .into_iter()
        .enumerate()
        .map(|(number, items)| generated_playlist(number, items))
        .collect()
}

fn generated_playlist(number: usize, items: usize) -> Value {
    let titles = titles();
    let mut playlist = json!({
        "dpVersion": if number.is_multiple_of(2) { "1.1.0" } else { "1.0.0" },
        "title": titles[number % titles.len()],
        "items": (0..items).map(|item| generated_item(number + item)).collect::<Vec<_>>(),
    });
    if number.is_multiple_of(3) {
        playlist["summary"] = json!("First line,\nand a second: ≤ 4096 units.");
        playlist["coverImage"] = json!("ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi");
        playlist["curators"] = json!([
            { "name": "Zoë", "key": "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw" },
            { "url": "https://example.com/zoe", "name": "Zoë again", "note": { "kept": [null, true] } },
        ]);
    }
    if number.is_multiple_of(4) {
        playlist["defaults"] = json!({
            "display": { "scaling": "fit", "margin": 0.5, "background": "#000" },
            "license": "token",
            "duration": 1.50,
        });
    }
    if items == 0 || number.is_multiple_of(5) {
        playlist["dynamicQueries"] = json!([
            { "endpoint": "https://api.example.com/q", "params": { "limit": "20", "category": "art", "": "" } },
            { "params": {}, "endpoint": "https://api.example.com/other" },
        ]);
    }
    playlist
}

fn generated_item(number: usize) -> Value {
    let titles = titles();
    let durations = [json!(1), json!(1.5), json!(300.0), json!(1e21), json!(86_400)];
    let licenses = ["open", "token", "subscription"];
    let mut item = json!({
        "source": format!("https://example.com/{number}?a=%20&b=ü#é"),
        "duration": durations[number % durations.len()],
        "license": licenses[number % licenses.len()],
    });
    if !number.is_multiple_of(4) {
        item["title"] = json!(titles[number % titles.len()]);
    }
    match number % 6 {
        0 => {
            item["override"] = json!({
                "b": null,
                "a": [1.0, -0.0, 1e-7, 1e20, 333_333_333.333_333_3, 5e-324, 1.797_693_134_862_315_7e308, -1.25],
                "\u{20ac}": 1, "\u{1f600}": 2, "\u{fb33}": 3, "": { "signature": "kept" },
            });
        }
        1 => {
            item["display"] = json!({
                "scaling": "stretch", "margin": "12.5vw", "background": "transparent", "autoplay": true, "loop": false,
                "interaction": { "keyboard": ["a", "Enter"], "mouse": { "click": true, "hover": false } },
                "userOverrides": { "scaling": false },
            });
        }
        2 => {
            item["repro"] = json!({
                "engineVersion": { "p5": "1.9.0" }, "seed": "0x00ff", "assetsSHA256": ["0xab", "0xCD"],
                "frameHash": { "sha256": "0x12", "phash": "0x34" },
            });
        }
        3 => {
            item["provenance"] = json!({
                "type": "onChain",
                "contract": {
                    "chain": "evm", "standard": "erc721", "address": "0xF3E778F839934fC819cFA1040AabaCeCBA01e049",
                    "tokenId": "9007199254740993", "uri": "ipfs://bafy/1", "metaHash": "0xdead",
                },
                "dependencies": [{ "chain": "tezos", "standard": "fa2", "uri": "https://example.com/dep" }],
            });
        }
        4 => {
            item["provenance"] = json!({
                "type": "seriesRegistry",
                "contract": { "chain": "bitmark", "seriesId": 4_294_967_295_u32, "address": "reg" },
            });
            item["ref"] = json!("https://example.com/manifest.json");
        }
        _ => item["provenance"] = json!({ "type": "offChainURI" }),
    }
    item
}

#[test]
fn what_the_client_said_is_compared_and_nothing_else() {
    let sent = json!({ "title": "a", "items": [{ "source": "b", "duration": 1.0 }] });
    let made = json!({
        "items": [{ "duration": 1, "source": "b", "id": "x", "created": "now" }],
        "id": "y", "title": "a", "slug": "a-1234", "signature": "s", "signatures": [],
    });
    assert_eq!(content(&sent), content(&made));
    let other = json!({ "title": "a", "items": [{ "source": "b", "duration": 2 }] });
    assert_ne!(content(&sent), content(&other));
}
