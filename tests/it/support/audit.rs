//! An audit of everything that is stored, once no write is queued: each document is whole and signed, the indexes are
//! those that the documents ask for and no others, nothing is pending. The key layout is spelled again here, so that a
//! change of it is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ed25519_dalek::VerifyingKey;
use proto::client::StorageClient;
use proto::v1;
use serde_json::Value;

use super::verify::verify_document;

const ROWS_OF_A_PAGE: i32 = 1_000;
const DIFFERENCES_SHOWN: usize = 10;

/// Index rows of a namespace: key to value.
pub(crate) type Rows = BTreeMap<String, String>;

/// What the audit needs of a document.
struct Audited {
    id: String,
    slug: String,
    created_ms: i64,
    document: Value,
}

/// Fails unless what is stored is consistent.
pub(crate) async fn check(storage: &StorageClient, key: &VerifyingKey) {
    // Read first, judged afterwards: judging can take so long that the idle connection would be given up.
    let playlists = rows(storage, "playlists").await;
    let channels = rows(storage, "channels").await;
    let items = rows(storage, "playlist_items").await;
    let pending = rows(storage, "pending").await;
    let operations = rows(storage, "operations").await;

    let (playlists, mut playlist_rows) = split(playlists, key);
    let (channels, channel_rows) = split(channels, key);
    // Names the last deleted playlist; of no document.
    playlist_rows.remove("deleted");
    compare("playlists", &playlist_rows, &document_rows(&playlists));

    let mut item_rows = Rows::new();
    for playlist in &playlists {
        expect_items(playlist, &mut item_rows);
    }
    compare("playlist_items", &items, &item_rows);

    let mut link_rows = document_rows(&channels);
    let by_name = |name: &str| {
        playlists
            .iter()
            .find(|playlist| playlist.id == name || playlist.slug == name)
    };
    for channel in &channels {
        let mut refs = String::new();
        for url in channel.document["playlists"]
            .as_array()
            .expect("a channel has playlists")
        {
            let name = url
                .as_str()
                .and_then(|url| url.rsplit('/').next())
                .expect("a URL has a path");
            let playlist = by_name(name).unwrap_or_else(|| panic!("{url} of channel {} is there", channel.id));
            writeln!(refs, "{} {}", playlist.id, playlist.created_ms).expect("a string takes what is written to it");
            let Audited { id, created_ms, .. } = playlist;
            link_rows.insert(
                format!("member/{}/{created_ms:013}/{id}", channel.id),
                format!("id/{id}"),
            );
            link_rows.insert(format!("of/{id}/{}", channel.id), String::new());
        }
        link_rows.insert(format!("refs/{}", channel.id), refs);
    }
    compare("channels", &channel_rows, &link_rows);

    compare("pending", &pending, &Rows::new());
    for (id, record) in operations {
        let record: Value = serde_json::from_str(&record).expect("an operation record is JSON");
        let is_withdrawn = record["state"] == "failed" && record["reason"] == "withdrawn";
        assert!(
            record["state"] == "applied" || record["state"] == "superseded" || is_withdrawn,
            "operation {id}: {record}"
        );
    }
}

/// Tells documents, which must verify, from index rows.
fn split(rows: Rows, key: &VerifyingKey) -> (Vec<Audited>, Rows) {
    let mut documents = Vec::new();
    let mut indexes = Rows::new();
    for (row, text) in rows {
        let Some(id) = row.strip_prefix("id/") else {
            indexes.insert(row, text);
            continue;
        };
        verify_document(&text, key).unwrap_or_else(|fault| panic!("document {id}: {fault}: {text}"));
        let document: Value = serde_json::from_str(&text).expect("what verifies is JSON");
        assert_eq!(document["id"], id);
        documents.push(Audited {
            id: id.to_owned(),
            slug: document["slug"].as_str().expect("a document has a slug").to_owned(),
            created_ms: created_ms(&document),
            document,
        });
    }
    (documents, indexes)
}

/// Fails with the first few rows that differ; there may be tens of thousands that do not.
fn compare(namespace: &str, stored: &Rows, expected: &Rows) {
    let differs = |row: &&String| stored.get(*row) != expected.get(*row);
    let rows: BTreeSet<_> = stored.keys().chain(expected.keys()).filter(differs).collect();
    let report: Vec<_> = rows
        .iter()
        .take(DIFFERENCES_SHOWN)
        .map(|row| {
            format!(
                "{row}: stored {:?}, expected {:?}",
                stored.get(*row),
                expected.get(*row)
            )
        })
        .collect();
    assert!(
        rows.is_empty(),
        "{} rows of {namespace} differ:\n{}",
        rows.len(),
        report.join("\n")
    );
}

/// The index rows of documents themselves.
fn document_rows(documents: &[Audited]) -> Rows {
    let mut rows = Rows::new();
    for Audited {
        id, slug, created_ms, ..
    } in documents
    {
        let earlier = rows.insert(format!("slug/{slug}"), id.clone());
        assert_eq!(earlier, None, "{slug} is the slug of two documents");
        rows.insert(format!("created/{created_ms:013}/{id}"), format!("id/{id}"));
    }
    rows
}

/// The index rows of a playlist's items.
fn expect_items(playlist: &Audited, rows: &mut Rows) {
    let mut spine = Vec::new();
    for (position, item) in playlist.document["items"]
        .as_array()
        .expect("a playlist has items")
        .iter()
        .enumerate()
    {
        let (id, created_ms) = (item["id"].as_str().expect("an item has an id"), created_ms(item));
        let place = format!("{}/{position}", playlist.id);
        let earlier = rows.insert(format!("id/{id}"), place.clone());
        assert_eq!(earlier, None, "{id} is the id of two items");
        rows.insert(format!("created/{created_ms:013}/{id}"), place);
        spine.push((created_ms, id, position));
    }
    if spine.is_empty() {
        return;
    }
    spine.sort_unstable();
    let mut record = String::new();
    for (created_ms, id, position) in spine {
        writeln!(record, "{created_ms} {id} {position}").expect("a string takes what is written to it");
    }
    rows.insert(format!("spine/{}", playlist.id), record);
}

/// Everything in a namespace: key to value.
pub(crate) async fn rows(storage: &StorageClient, namespace: &str) -> Rows {
    let mut rows = Rows::new();
    let mut page_token = String::new();
    loop {
        let page = storage
            .scan(v1::ScanRequest {
                selector: Some(v1::Selector {
                    namespace: namespace.to_owned(),
                    keys: Some(v1::selector::Keys::Prefix(String::new())),
                }),
                page_size: ROWS_OF_A_PAGE,
                page_token,
                ..Default::default()
            })
            .await
            .unwrap_or_else(|error| panic!("{namespace} cannot be scanned: {error:?}"));
        for entry in page.rows.into_iter().filter_map(|row| row.entry) {
            let text = entry.text().unwrap_or_default().to_owned();
            rows.insert(entry.key, text);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return rows;
        }
    }
}

fn created_ms(document: &Value) -> i64 {
    let created = document["created"].as_str().expect("it was created at some time");
    feed::time::parse(created).unwrap_or_else(|| panic!("{created} is a time"))
}
