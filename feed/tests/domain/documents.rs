use feed::document::{DOCUMENT_BYTES_MAX, Document, DocumentError, WriteError, item_text};
use feed::id::{DocumentId, Kind, Slug};
use feed::json::to_text;
use feed::sign::{Signer, verify};
use feed::validate::{ChannelDraft, ChannelPatch, PlaylistDraft, PlaylistPatch};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::support::{Feed, NOW_MS, keys, object, value};

const ID: &str = "385f79b6-a45f-4c1c-8080-e93a192adccc";
const ITEM: &str = r#"{"source":"https://a.example/1","duration":300,"license":"open"}"#;
const QUERY: &str = r#"[{"endpoint":"https://q","params":{"z":"1","a":"2"}}]"#;

fn id() -> DocumentId {
    ID.parse().unwrap()
}

fn slug() -> Slug {
    "test-1234".parse().unwrap()
}

fn playlist_body(items: usize) -> String {
    let items = vec![ITEM; items].join(",");
    format!(
        r#"{{"signature":"x","dynamicQueries":{QUERY},"items":[{items}],"defaults":{{"duration":5,"x":1,"display":{{"z":1.0,"a":{{"d":1,"c":2}}}}}},
            "note":1,"created":"then","coverImage":"a:","summary":"s","curators":[{{"url":"a:","name":"n","extra":[1.50]}}],
            "title":"T","slug":"mine","id":"mine","dpVersion":"1.1.0"}}"#
    )
}

fn create_playlist(feed: &mut Feed, body: &str) -> Document {
    let draft = PlaylistDraft::parse(value(body)).unwrap();
    draft.create(id(), slug(), &mut feed.stamp()).unwrap()
}

fn create_channel(feed: &mut Feed, body: &str) -> Document {
    let draft = ChannelDraft::parse(value(body)).unwrap();
    draft.create(id(), slug(), &mut feed.stamp()).unwrap()
}

fn patch(feed: &mut Feed, old: &Document, body: &str) -> Document {
    let new = match old.kind {
        Kind::Playlist => PlaylistPatch::parse(object(body))
            .unwrap()
            .apply(old, &mut feed.stamp()),
        Kind::Channel => ChannelPatch::parse(object(body)).unwrap().apply(old, &mut feed.stamp()),
    };
    check_document(feed, new.unwrap())
}

fn put(feed: &mut Feed, old: &Document, body: &str) -> Document {
    let new = match old.kind {
        Kind::Playlist => PlaylistDraft::parse(value(body))
            .unwrap()
            .replace(old, &mut feed.stamp()),
        Kind::Channel => ChannelDraft::parse(value(body))
            .unwrap()
            .replace(old, &mut feed.stamp()),
    };
    check_document(feed, new.unwrap())
}

/// What holds for every document of ours.
#[track_caller]
fn check_document(feed: &Feed, document: Document) -> Document {
    assert_eq!(Document::parse(document.kind, document.text.clone()).unwrap(), document);
    let parsed = value(&document.text);
    assert_eq!(to_text(&parsed), document.text);
    let verification = verify(&parsed, Some(&feed.signer.public_key()));
    assert!(
        verification.is_valid() && verification.checks.len() == 2,
        "{verification:?}"
    );
    assert!(keys(&document.text).ends_with(&["signature".to_owned(), "signatures".to_owned()]));
    document
}

#[test]
fn a_created_playlist() {
    let mut feed = Feed::new();
    let document = create_playlist(&mut feed, &playlist_body(3));
    let document = check_document(&feed, document);
    assert_eq!(
        keys(&document.text),
        [
            "dpVersion",
            "id",
            "slug",
            "title",
            "curators",
            "summary",
            "coverImage",
            "created",
            "defaults",
            "items",
            "dynamicQueries",
            "signature",
            "signatures"
        ]
    );
    assert_eq!(
        (document.id, &document.slug, document.created_ms),
        (id(), &slug(), Some(NOW_MS))
    );
    let text = &document.text;
    assert!(
        text.contains(r#""curators":[{"url":"a:","name":"n","extra":[1.5]}]"#),
        "{text}"
    );
    assert!(
        text.contains(r#""defaults":{"display":{"z":1,"a":{"d":1,"c":2}},"duration":5}"#),
        "{text}"
    );
    assert!(text.contains(&format!(r#""dynamicQueries":{QUERY}"#)), "{text}");
    assert!(text.contains(r#""created":"2025-06-03T17:01:00.000Z""#), "{text}");
    let times: Vec<_> = document
        .items
        .iter()
        .map(|item| item.created_ms.unwrap() - NOW_MS)
        .collect();
    assert_eq!(times, [0, 1, 2]);
    assert_ne!(document.items[0].id, document.items[1].id);
    let entry = &value(text)["signatures"][0];
    assert_eq!(entry["ts"], "2025-06-03T17:01:00Z");
    assert_eq!(
        entry.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["alg", "kid", "ts", "payload_hash", "role", "sig"]
    );
}

#[test]
fn members_of_items_come_in_their_order_and_foreign_ones_go() {
    let mut feed = Feed::new();
    let item = r#"{"note":1,"created":"x","id":"x","provenance":{"x":1,"type":"offChainURI"},
        "repro":{"z":1,"frameHash":{"sha256":"0x0"},"assetsSHA256":[],"engineVersion":{"b":"1","a":"2"}},
        "display":{"userOverrides":{},"loop":true},"override":{"b":null,"a":1e2},"ref":"a:","license":"open",
        "duration":1.0,"source":"a:","title":"t"}"#;
    let document = create_playlist(
        &mut feed,
        &format!(r#"{{"dpVersion":"1.0.0","title":"","items":[{item}]}}"#),
    );
    let (item_id, text) = item_text(&document.text, 0).unwrap();
    assert_eq!(item_id, document.items[0].id);
    let expected = format!(
        concat!(
            r#"{{"title":"t","source":"a:","duration":1,"license":"open","ref":"a:","override":{{"b":null,"a":100}},"#,
            r#""display":{{"userOverrides":{{}},"loop":true}},"#,
            r#""repro":{{"z":1,"frameHash":{{"sha256":"0x0"}},"assetsSHA256":[],"engineVersion":{{"b":"1","a":"2"}}}},"#,
            r#""provenance":{{"x":1,"type":"offChainURI"}},"id":"{}","created":"2025-06-03T17:01:00.000Z"}}"#
        ),
        item_id
    );
    assert_eq!(text, expected);
    assert_eq!(item_text(&document.text, 1), None);
}

#[test]
fn items_are_cut_from_any_text_as_they_stand() {
    let foreign = format!(
        "\u{feff}{{ \"items\" : [ 1, {{ \"a\" : 1.0 ,\"id\":\"{}\" }} ] , \"z\":[[]] }}",
        ID.to_uppercase()
    );
    let (id, text) = item_text(&foreign, 1).unwrap();
    assert_eq!(id.to_string(), ID);
    assert_eq!(text, format!("{{ \"a\" : 1.0 ,\"id\":\"{}\" }}", ID.to_uppercase()));
    for text in [
        "",
        "{}",
        r#"{"items":[{}]}"#,
        r#"{"items":{}}"#,
        "[",
        r#"{"items":[{"id":5}]}"#,
    ] {
        assert_eq!(item_text(text, 0), None, "{text}");
    }
    assert_eq!(item_text(&foreign, 0), None);
}

#[test]
fn a_replaced_playlist() {
    let mut feed = Feed::new();
    let old = create_playlist(&mut feed, &playlist_body(2));
    feed.now_ms += 5000;
    let new = put(&mut feed, &old, &playlist_body(2));
    assert_eq!(keys(&new.text)[8..11], ["defaults", "dynamicQueries", "items"]);
    assert_eq!((new.id, &new.slug, new.created_ms), (old.id, &old.slug, old.created_ms));
    assert!(
        new.items
            .iter()
            .all(|item| !old.items.iter().any(|before| before.id == item.id))
    );
    assert_eq!(new.items[1].created_ms, Some(NOW_MS + 5001));
    assert_eq!(value(&new.text)["signatures"][0]["ts"], "2025-06-03T17:01:05Z");
    let bare = put(
        &mut feed,
        &new,
        &format!(r#"{{"dpVersion":"1.0.0","title":"","items":[{ITEM}]}}"#),
    );
    assert_eq!(
        keys(&bare.text)[..6],
        ["dpVersion", "id", "slug", "title", "created", "items"]
    );
}

#[test]
fn an_empty_patch_changes_nothing() {
    let mut feed = Feed::new();
    let playlist = create_playlist(&mut feed, &playlist_body(2));
    let channel = create_channel(
        &mut feed,
        r#"{"title":"T","playlists":["https://x"],"summary":"s","publisher":{"name":"p"}}"#,
    );
    feed.now_ms += 60_000;
    for old in [&playlist, &channel] {
        assert_eq!(&patch(&mut feed, old, "{}"), old);
        assert_eq!(&patch(&mut feed, old, r#"{"title":"","summary":"","unknown":1}"#), old);
        assert_eq!(&patch(&mut feed, old, r#"{"title":"T"}"#), old);
    }
    assert_eq!(&patch(&mut feed, &channel, r#"{"curator":""}"#), &channel);
    // Replaced by the same, a channel is reordered but its entry in `signatures` stays.
    let replaced = put(
        &mut feed,
        &channel,
        r#"{"title":"T","playlists":["https://x"],"summary":"s","publisher":{"name":"p"}}"#,
    );
    assert_ne!(replaced.text, channel.text);
    assert_eq!(value(&replaced.text), value(&channel.text));
}

#[test]
fn patches_change_what_they_name() {
    let mut feed = Feed::new();
    let old = create_playlist(&mut feed, &playlist_body(2));
    feed.now_ms += 1000;
    let new = patch(&mut feed, &old, r#"{"title":"New","curators":[],"defaults":{}}"#);
    assert_eq!(new.items, old.items);
    assert_eq!(item_text(&new.text, 1), item_text(&old.text, 1));
    let (before, after) = (value(&old.text), value(&new.text));
    assert_eq!(
        (&after["title"], &after["curators"], &after["defaults"]),
        (&json!("New"), &json!([]), &json!({}))
    );
    for kept in [
        "dpVersion",
        "id",
        "slug",
        "created",
        "summary",
        "coverImage",
        "items",
        "dynamicQueries",
    ] {
        assert_eq!(after[kept], before[kept], "{kept}");
    }
    assert_eq!(keys(&new.text)[9..11], ["dynamicQueries", "items"]);
    assert_eq!(after["signatures"][0]["ts"], "2025-06-03T17:01:01Z");

    let sent = patch(&mut feed, &old, &format!(r#"{{"items":[{ITEM}]}}"#));
    assert_eq!(sent.items.len(), 1);
    assert_eq!(sent.items[0].created_ms, Some(NOW_MS + 1000));
    assert!(old.items.iter().all(|item| item.id != sent.items[0].id));

    let fewer = patch(
        &mut feed,
        &old,
        r#"{"curators":null,"summary":null,"coverImage":null,"defaults":null,"dynamicQueries":null}"#,
    );
    assert_eq!(
        keys(&fewer.text),
        [
            "dpVersion",
            "id",
            "slug",
            "title",
            "created",
            "items",
            "signature",
            "signatures"
        ]
    );
}

#[test]
fn a_patch_leaves_something_to_play() {
    let mut feed = Feed::new();
    let dynamic = create_playlist(
        &mut feed,
        &format!(r#"{{"dpVersion":"1.0.0","title":"","items":[],"dynamicQueries":{QUERY}}}"#),
    );
    let patch = PlaylistPatch::parse(object(r#"{"dynamicQueries":null}"#)).unwrap();
    let error = patch.apply(&dynamic, &mut feed.stamp()).unwrap_err();
    assert!(matches!(error, WriteError::Invalid(_)));
    assert_eq!(
        error.to_string(),
        "items.dynamicQueries: Playlist must have either items or dynamicQueries (or both)"
    );
}

#[test]
fn channels_keep_their_orders() {
    let mut feed = Feed::new();
    let body = r#"{"coverImage":"a:","playlists":["https://x","https://x"],"summary":"s","publisher":{"url":"a:","name":"p"},
        "curators":[],"curator":"c","title":"T","unknown":1,"version":"1.0.0"}"#;
    let old = create_channel(&mut feed, body);
    let old = check_document(&feed, old);
    let created = [
        "id",
        "slug",
        "title",
        "curator",
        "curators",
        "publisher",
        "summary",
        "playlists",
        "created",
        "coverImage",
    ];
    assert_eq!(keys(&old.text)[..10], created);
    assert_eq!(old.playlists, ["https://x", "https://x"]);
    let rewritten = [
        "id",
        "slug",
        "title",
        "curator",
        "curators",
        "summary",
        "publisher",
        "playlists",
        "created",
        "coverImage",
    ];
    feed.now_ms += 1;
    assert_eq!(keys(&put(&mut feed, &old, body).text)[..10], rewritten);
    let new = patch(
        &mut feed,
        &old,
        r#"{"title":"U","curator":null,"playlists":["https://y"]}"#,
    );
    assert_eq!(
        keys(&new.text)[..9],
        [
            "id",
            "slug",
            "title",
            "curators",
            "summary",
            "publisher",
            "playlists",
            "created",
            "coverImage"
        ]
    );
    assert_eq!(new.playlists, ["https://y"]);
    assert_eq!(new.created_ms, Some(NOW_MS));
}

#[test]
fn a_cascade_takes_urls_and_nothing_else() {
    let mut feed = Feed::new();
    let old = create_channel(
        &mut feed,
        r#"{"title":"T","summary":"s","publisher":{"name":"p"},"playlists":["https://a","https://b","https://a"]}"#,
    );
    feed.now_ms += 9000;
    let new = old
        .without_playlists(&|position| position != 1, &mut feed.stamp())
        .unwrap();
    let new = check_document(&feed, new);
    assert_eq!(new.playlists, ["https://b"]);
    assert_eq!(keys(&new.text), keys(&old.text));
    assert_eq!(value(&new.text)["signatures"][0]["ts"], "2025-06-03T17:01:09Z");
    let empty = new.without_playlists(&|_| true, &mut feed.stamp()).unwrap();
    assert!(empty.text.contains(r#""playlists":[]"#));
    // Without URLs, it can still be patched.
    assert_eq!(patch(&mut feed, &empty, r#"{"title":"U"}"#).playlists, [""; 0]);
    assert_eq!(old.without_playlists(&|_| false, &mut feed.stamp()).unwrap(), old);
}

#[test]
fn a_foreign_document_becomes_the_feeds_own_with_what_it_carries() {
    let mut feed = Feed::new();
    let foreign = format!(
        r#"{{"note":{{"text":"n"}},"id":"{}","slug":"daily","created":"1965-01-01T00:00:00+01:00","dpVersion":"1.1.0","title":"D",
            "signatures":[{{"alg":"eip191"}}],"items":[{{"id":"{ID}","source":"a:","note":1}}],"signature":"ed25519:00"}}"#,
        ID.to_uppercase()
    );
    let old = Document::parse(Kind::Playlist, foreign).unwrap();
    assert_eq!((old.id, old.created_ms), (id(), Some(-157_770_000_000)));
    assert_eq!(old.items[0].created_ms, None);
    let new = patch(&mut feed, &old, r#"{"title":"E"}"#);
    assert_eq!(
        keys(&new.text),
        [
            "dpVersion",
            "id",
            "slug",
            "title",
            "created",
            "items",
            "note",
            "signature",
            "signatures"
        ]
    );
    let text = value(&new.text);
    assert_eq!(text["signatures"].as_array().unwrap().len(), 1);
    assert_eq!(text["id"], ID.to_uppercase());
    assert_eq!(text["created"], "1965-01-01T00:00:00+01:00");
    assert_eq!(new.items, old.items);
    // An empty patch signs it too.
    assert_ne!(patch(&mut feed, &old, "{}"), old);
}

#[test]
fn a_new_key_signs_anew() {
    let mut feed = Feed::new();
    let old = create_playlist(&mut feed, &playlist_body(1));
    feed.signer = Signer::generate(&mut StdRng::seed_from_u64(9));
    feed.now_ms += 1000;
    let new = patch(&mut feed, &old, "{}");
    assert_ne!(new.text, old.text);
    assert_eq!(value(&new.text)["signatures"][0]["kid"], feed.signer.did_key());
}

#[track_caller]
fn unusable(kind: Kind, text: &str, expected: &str) {
    assert_eq!(Document::parse(kind, text).unwrap_err().to_string(), expected, "{text}");
}

#[test]
fn text_that_is_no_document() {
    let document = |members: &str| format!(r#"{{"id":"{ID}","slug":"s","created":5{members}}}"#);
    let bare = Document::parse(Kind::Channel, document("")).unwrap();
    assert_eq!((bare.created_ms, bare.playlists.len()), (None, 0));
    unusable(Kind::Playlist, "{", "document is not JSON");
    unusable(Kind::Playlist, "[]", "document is not an object");
    unusable(Kind::Playlist, r#"{"slug":"s"}"#, "document has no usable id");
    unusable(Kind::Playlist, r#"{"id":"x","slug":"s"}"#, "document has no usable id");
    unusable(
        Kind::Playlist,
        &format!(r#"{{"id":"{ID}"}}"#),
        "document has no usable slug",
    );
    unusable(
        Kind::Playlist,
        &format!(r#"{{"id":"{ID}","slug":"é"}}"#),
        "document has no usable slug",
    );
    let long = "s".repeat(65);
    unusable(
        Kind::Channel,
        &format!(r#"{{"id":"{ID}","slug":"{long}"}}"#),
        "document has no usable slug",
    );
    unusable(
        Kind::Playlist,
        &document(r#","items":5"#),
        "document has no usable items",
    );
    unusable(
        Kind::Playlist,
        &document(r#","items":[{}]"#),
        "document has no usable items.0.id",
    );
    unusable(
        Kind::Channel,
        &document(r#","playlists":["a",1]"#),
        "document has no usable playlists.1",
    );
    assert!(matches!(
        Document::parse(Kind::Playlist, r#"{"a":1,"a":2}"#),
        Err(DocumentError::Json(error)) if error.column() == 10
    ));
}

#[test]
fn documents_end_at_their_limit() {
    let mut feed = Feed::new();
    let body = |padding: usize| {
        let mut item = value(ITEM);
        item["override"] = json!({"x": "x".repeat(padding)});
        json!({"dpVersion": "1.0.0", "title": "", "items": [item]})
    };
    let mut create = |padding| {
        let draft = PlaylistDraft::parse(body(padding)).unwrap();
        draft.create(id(), slug(), &mut feed.stamp())
    };
    let overhead = create(0).unwrap().text.len();
    assert_eq!(
        create(DOCUMENT_BYTES_MAX - overhead).unwrap().text.len(),
        DOCUMENT_BYTES_MAX
    );
    let error = create(DOCUMENT_BYTES_MAX - overhead + 1).unwrap_err();
    assert!(
        matches!(error, WriteError::TooLarge { bytes } if bytes == DOCUMENT_BYTES_MAX + 1),
        "{error}"
    );
}

#[test]
fn the_deepest_body_makes_a_document_that_reads_back() {
    let mut feed = Feed::new();
    // The body, `items`, the item and `override` are four levels.
    let depth = feed::json::DEPTH_MAX - 4;
    let nested = "[".repeat(depth) + &"]".repeat(depth);
    let item = ITEM.replacen('{', &format!(r#"{{"override":{{"x":{nested}}},"#), 1);
    let document = create_playlist(
        &mut feed,
        &format!(r#"{{"dpVersion":"1.0.0","title":"","items":[{item}]}}"#),
    );
    check_document(&feed, document);
}

#[test]
fn a_stored_document_that_cannot_be_read_is_not_rewritten() {
    let mut feed = Feed::new();
    let mut broken = create_channel(&mut feed, r#"{"title":"T","playlists":["https://x"]}"#);
    broken.text = "{".to_owned();
    let patch = ChannelPatch::parse(object("{}")).unwrap();
    assert!(matches!(
        patch.apply(&broken, &mut feed.stamp()),
        Err(WriteError::Stored(_))
    ));
    broken.text = "{}".to_owned();
    assert!(matches!(
        broken.without_playlists(&|_| true, &mut feed.stamp()),
        Err(WriteError::Stored(_))
    ));
    let _: Value = value("{}");
}
