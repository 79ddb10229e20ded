use feed::json::Object;
use feed::validate::{
    ChannelDraft, ChannelPatch, ITEMS_MAX, Invalid, PLAYLISTS_MAX, PROBLEMS_MAX, PlaylistDraft, PlaylistPatch,
    protected_fields,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{any_object, any_value, object};

fn item() -> Value {
    json!({"source": "https://a.example/1", "duration": 300, "license": "open"})
}

fn playlist() -> Value {
    json!({"dpVersion": "1.0.0", "title": "T", "items": [item()]})
}

fn channel() -> Value {
    json!({"title": "T", "playlists": ["https://a.example/p"]})
}

fn problems<T>(result: Result<T, Invalid>) -> String {
    result.err().map(|invalid| invalid.to_string()).unwrap_or_default()
}

/// The body with the member at a path of `/`-separated names set; `None` takes it away.
fn with(mut body: Value, path: &str, value: Option<Value>) -> Value {
    let (parent, name) = path.rsplit_once('/').unwrap();
    match (body.pointer_mut(parent).unwrap(), value) {
        (Value::Object(members), Some(value)) => drop(members.insert(name.to_owned(), value)),
        (Value::Object(members), None) => drop(members.shift_remove(name)),
        (Value::Array(elements), Some(value)) => elements[name.parse::<usize>().unwrap()] = value,
        (other, _) => panic!("no members: {other}"),
    }
    body
}

#[track_caller]
fn playlist_with(path: &str, value: Value, expected: &str) {
    assert_eq!(
        problems(PlaylistDraft::parse(with(playlist(), path, Some(value)))),
        expected
    );
}

#[track_caller]
fn playlist_without(path: &str, expected: &str) {
    assert_eq!(problems(PlaylistDraft::parse(with(playlist(), path, None))), expected);
}

#[track_caller]
fn item_with(path: &str, value: Value, expected: &str) {
    let body = json!({"dpVersion": "1.0.0", "title": "T", "items": [with(item(), path, Some(value))]});
    assert_eq!(problems(PlaylistDraft::parse(body)), expected);
}

#[track_caller]
fn channel_with(path: &str, value: Value, expected: &str) {
    assert_eq!(
        problems(ChannelDraft::parse(with(channel(), path, Some(value)))),
        expected
    );
}

/// The longest text that fits, and one unit more, at a path of a playlist.
#[track_caller]
fn playlist_longest(path: &str, prefix: &str, max: usize) {
    let text = |length: usize| Value::from(format!("{prefix}{}", "0".repeat(length - prefix.len())));
    playlist_with(path, text(max), "");
    let at = path[1..].replace('/', ".");
    playlist_with(
        path,
        text(max + 1),
        &format!("{at}: String must contain at most {max} character(s)"),
    );
}

#[track_caller]
fn item_longest(path: &str, base: &Value, prefix: &str, max: usize) {
    let (object, name) = path[1..].split_once('/').unwrap();
    let value = |length: usize| {
        let text = format!("{prefix}{}", "0".repeat(length - prefix.len()));
        with(base.clone(), &format!("/{name}"), Some(text.into()))
    };
    item_with(&format!("/{object}"), value(max), "");
    let at = path[1..].replace('/', ".");
    let expected = format!("items.0.{at}: String must contain at most {max} character(s)");
    item_with(&format!("/{object}"), value(max + 1), &expected);
}

#[test]
fn a_whole_playlist_passes() {
    let body = json!({
        "dpVersion": "1.1.0", "title": "", "curators": [], "summary": "", "coverImage": "data:,x", "defaults": {},
        "items": [], "dynamicQueries": [{"endpoint": "https://q", "params": {}}],
        "id": 5, "slug": null, "created": [], "signature": {}, "signatures": 1, "note": null,
    });
    let draft = PlaylistDraft::parse(body).unwrap();
    assert_eq!(draft.title(), "");
}

#[test]
fn bodies_that_are_no_object() {
    for (body, received) in [
        (json!([]), "array"),
        (json!(null), "null"),
        (json!("x"), "string"),
        (json!(1), "number"),
        (json!(true), "boolean"),
    ] {
        let expected = format!(": Expected object, received {received}");
        assert_eq!(problems(PlaylistDraft::parse(body.clone())), expected);
        assert_eq!(problems(ChannelDraft::parse(body)), expected);
    }
}

#[test]
fn all_problems_in_the_order_of_the_schema() {
    assert_eq!(
        problems(PlaylistDraft::parse(json!({}))),
        "dpVersion: Required; title: Required; items: Required"
    );
    let body = json!({
        "items": [{"license": "x", "duration": 0.5, "source": 1}, 3],
        "title": "x".repeat(257), "dpVersion": 1, "curators": [{"url": ":"}],
    });
    assert_eq!(
        problems(PlaylistDraft::parse(body)),
        "dpVersion: Expected string, received number; title: String must contain at most 256 character(s); \
         curators.0.name: Required; curators.0.url: Invalid; items.0.source: Expected string, received number; \
         items.0.duration: Number must be greater than or equal to 1; items.0.license: Invalid enum value. \
         Expected 'open' | 'token' | 'subscription', received 'x'; items.1: Expected object, received number"
    );
    assert_eq!(
        problems(ChannelDraft::parse(json!({}))),
        "title: Required; playlists: Required"
    );
}

#[test]
fn null_is_refused_for_every_known_member() {
    for name in ["dpVersion", "title", "summary", "coverImage"] {
        playlist_with(
            &format!("/{name}"),
            Value::Null,
            &format!("{name}: Expected string, received null"),
        );
    }
    for name in ["curators", "items", "dynamicQueries"] {
        playlist_with(
            &format!("/{name}"),
            Value::Null,
            &format!("{name}: Expected array, received null"),
        );
    }
    playlist_with("/defaults", Value::Null, "defaults: Expected object, received null");
    item_with("/ref", Value::Null, "items.0.ref: Expected string, received null");
    item_with(
        "/license",
        Value::Null,
        "items.0.license: Expected 'open' | 'token' | 'subscription', received null",
    );
    channel_with("/publisher", Value::Null, "publisher: Expected object, received null");
    item_with("/override", json!({"a": null}), "");
}

#[test]
fn lengths_count_utf16_units() {
    playlist_longest("/title", "", 256);
    playlist_longest("/summary", "", 4096);
    playlist_longest("/coverImage", "a:", 1024);
    playlist_with("/title", "🎨".repeat(128).into(), "");
    playlist_with(
        "/title",
        "🎨".repeat(129).into(),
        "title: String must contain at most 256 character(s)",
    );
    playlist_with("/title", "é".repeat(256).into(), "");
    channel_with(
        "/title",
        "🎨".repeat(129).into(),
        "title: String must contain at most 256 character(s)",
    );
    channel_with("/curator", "c".repeat(128).into(), "");
    channel_with(
        "/curator",
        "c".repeat(129).into(),
        "curator: String must contain at most 128 character(s)",
    );
    channel_with(
        "/summary",
        "c".repeat(4097).into(),
        "summary: String must contain at most 4096 character(s)",
    );
}

#[track_caller]
fn version_is(version: &str, expected: &str) {
    playlist_with("/dpVersion", version.into(), expected);
}

#[test]
fn versions() {
    for version in [
        "1.0.0",
        "1.1.0",
        " 1.2.0 ",
        "v1.2.0",
        "\u{feff}1.0.0\u{2028}",
        "99.0.0",
        "1.1.0-rc.1",
        "1.0.0+001",
    ] {
        version_is(version, "");
    }
    for version in [
        "=1.0.0",
        "V1.0.0",
        "1.0",
        "01.0.0",
        "1.0.0.0",
        "",
        "x",
        "vv1.0.0",
        "v 1.0.0",
        "1.0.0-01",
        "\u{85}1.0.0",
    ] {
        version_is(
            version,
            &format!("dpVersion: Invalid semantic version format: {version}"),
        );
    }
    for version in ["0.9.9", "1.0.0-rc.1", "0.0.0"] {
        version_is(
            version,
            &format!("dpVersion: dpVersion {version} is below minimum required version 1.0.0"),
        );
    }
    version_is(
        "1.0.0-aaaaaaaaaa",
        "dpVersion: dpVersion 1.0.0-aaaaaaaaaa is below minimum required version 1.0.0",
    );
    version_is("1.1.0-aaaaaaaaaa", "");
    version_is(
        "1.1.0-aaaaaaaaaaa",
        "dpVersion: String must contain at most 16 character(s)",
    );
    version_is(
        "0.9007199254740991.0",
        "dpVersion: String must contain at most 16 character(s); \
         dpVersion: dpVersion 0.9007199254740991.0 is below minimum required version 1.0.0",
    );
    version_is(
        "9007199254740992.0.0",
        "dpVersion: String must contain at most 16 character(s); \
         dpVersion: Invalid semantic version format: 9007199254740992.0.0",
    );
}

#[test]
fn uris() {
    for uri in [
        "a:",
        "data:,x y".split(' ').next().unwrap(),
        "javascript:x",
        "ipfs://b/1",
        "a+.-9:é\u{85}",
    ] {
        item_with("/source", uri.into(), "");
    }
    for uri in [
        "",
        ":",
        "1a:",
        "+a:",
        "a",
        "a :x",
        "a:x y",
        "a:x\n",
        "a:\u{feff}",
        "a:\u{2028}",
        "a:\u{3000}",
        "é:",
    ] {
        item_with("/source", uri.into(), "items.0.source: Invalid");
    }
    let long = format!("a :{}", "x".repeat(1030));
    item_with(
        "/ref",
        long.into(),
        "items.0.ref: Invalid; items.0.ref: String must contain at most 1024 character(s)",
    );
    for url in ["http://x", "https://x", "https:///", "http://é"] {
        channel_with("/playlists/0", url.into(), "");
    }
    for url in [
        "HTTP://x",
        "http://",
        "https://",
        "httpss://x",
        "ftp://x",
        "http:/x",
        "http://x y",
        "http://\u{feff}",
        "",
    ] {
        channel_with("/playlists/0", url.into(), "playlists.0: Invalid");
    }
    let url = |length: usize| Value::from(format!("https://{}", "x".repeat(length - 8)));
    channel_with("/playlists/0", url(1024), "");
    channel_with(
        "/playlists/0",
        url(1025),
        "playlists.0: String must contain at most 1024 character(s)",
    );
}

#[test]
fn array_sizes() {
    let items = |count| Value::from(vec![item(); count]);
    playlist_with("/items", items(ITEMS_MAX), "");
    playlist_with(
        "/items",
        items(ITEMS_MAX + 1),
        "items: Array must contain at most 1024 element(s)",
    );
    let urls = |count| Value::from(vec!["https://x"; count]);
    channel_with("/playlists", urls(PLAYLISTS_MAX), "");
    channel_with(
        "/playlists",
        urls(PLAYLISTS_MAX + 1),
        "playlists: Array must contain at most 1024 element(s)",
    );
    channel_with(
        "/playlists",
        urls(0),
        "playlists: Array must contain at least 1 element(s)",
    );
    channel_with("/playlists", json!({}), "playlists: Expected array, received object");
}

#[test]
fn a_playlist_has_something_to_play() {
    let missing = "items.dynamicQueries: Playlist must have either items or dynamicQueries (or both)";
    let query = json!([{"endpoint": "https://q", "params": {}}]);
    playlist_with("/items", json!([]), missing);
    let empty = with(playlist(), "/items", Some(json!([])));
    assert_eq!(
        problems(PlaylistDraft::parse(with(
            empty.clone(),
            "/dynamicQueries",
            Some(json!([]))
        ))),
        missing
    );
    assert_eq!(
        problems(PlaylistDraft::parse(with(
            empty.clone(),
            "/dynamicQueries",
            Some(query.clone())
        ))),
        ""
    );
    playlist_without("/items", "items: Required");
    // With a length at fault the rule is still judged; with a type at fault it is not.
    let long = with(empty.clone(), "/title", Some("x".repeat(257).into()));
    assert_eq!(
        problems(PlaylistDraft::parse(long)),
        format!("title: String must contain at most 256 character(s); {missing}")
    );
    let untyped = with(empty, "/title", Some(json!(1)));
    assert_eq!(
        problems(PlaylistDraft::parse(untyped)),
        "title: Expected string, received number"
    );
}

#[test]
fn items() {
    for (name, expected) in [
        ("source", "Required"),
        ("duration", "Required"),
        ("license", "Required"),
    ] {
        playlist_without(&format!("/items/0/{name}"), &format!("items.0.{name}: {expected}"));
    }
    for duration in [1.0, 1.5, 1e300] {
        item_with("/duration", duration.into(), "");
    }
    for duration in [0.999, 0.0, -1.0] {
        item_with(
            "/duration",
            duration.into(),
            "items.0.duration: Number must be greater than or equal to 1",
        );
    }
    item_with(
        "/duration",
        "300".into(),
        "items.0.duration: Expected number, received string",
    );
    for license in ["open", "token", "subscription"] {
        item_with("/license", license.into(), "");
    }
    item_with(
        "/override",
        json!([]),
        "items.0.override: Expected object, received array",
    );
    item_with(
        "/title",
        "x".repeat(257).into(),
        "items.0.title: String must contain at most 256 character(s)",
    );
    // Ids and times of items are the feed's: whatever a client sends for them is not looked at.
    item_with("/id", json!(null), "");
    item_with("/created", json!({}), "");
}

#[test]
fn display_preferences() {
    let one = |name: &str, value: Value, expected: &str| item_with("/display", json!({ name: value }), expected);
    for scaling in ["fit", "fill", "stretch", "auto"] {
        one("scaling", scaling.into(), "");
    }
    let enumeration = "items.0.display.scaling: Invalid enum value. \
                       Expected 'fit' | 'fill' | 'stretch' | 'auto', received 'FIT'";
    one("scaling", "FIT".into(), enumeration);
    for margin in [
        json!(0),
        json!(0.5),
        json!("0px"),
        json!("1.25%"),
        json!("10vw"),
        json!("3vh"),
    ] {
        one("margin", margin, "");
    }
    one(
        "margin",
        json!(-0.1),
        "items.0.display.margin: Number must be greater than or equal to 0",
    );
    for margin in ["", "px", "1", "1.px", ".5px", "1em", "-1px", "1 px", "1.2.3px", "٣px"] {
        one("margin", margin.into(), "items.0.display.margin: Invalid");
    }
    one("margin", json!(true), "items.0.display.margin: Invalid");
    for background in ["#fff", "#A1b2C3", "transparent"] {
        one("background", background.into(), "");
    }
    for background in ["#ff", "#ffff", "#ggg", "fff", "Transparent", "#éa", ""] {
        one("background", background.into(), "items.0.display.background: Invalid");
    }
    for name in ["autoplay", "loop"] {
        one(name, json!(false), "");
        one(
            name,
            json!(0),
            &format!("items.0.display.{name}: Expected boolean, received number"),
        );
    }
    one(
        "interaction",
        json!({"keyboard": ["KeyZ", "nonsense"], "mouse": {"click": true, "pinch": 1}}),
        "",
    );
    one(
        "interaction",
        json!({"keyboard": [1]}),
        "items.0.display.interaction.keyboard.0: Expected string, received number",
    );
    for name in ["click", "scroll", "drag", "hover"] {
        let at = format!("items.0.display.interaction.mouse.{name}");
        one(
            "interaction",
            json!({"mouse": {name: null}}),
            &format!("{at}: Expected boolean, received null"),
        );
    }
    one("userOverrides", json!({"scaling": null}), "");
    item_with(
        "/display",
        json!("fit"),
        "items.0.display: Expected object, received string",
    );
}

#[test]
fn reproduction() {
    let repro = || json!({"engineVersion": {}, "assetsSHA256": [], "frameHash": {"sha256": "0x0"}});
    item_with("/repro", repro(), "");
    item_with(
        "/repro",
        json!({}),
        "items.0.repro.engineVersion: Required; items.0.repro.assetsSHA256: Required; items.0.repro.frameHash: Required",
    );
    item_with(
        "/repro",
        with(repro(), "/engineVersion", Some(json!({"chromium": "1", "webkit": 2}))),
        "items.0.repro.engineVersion.webkit: Expected string, received number",
    );
    item_with(
        "/repro",
        with(repro(), "/frameHash", Some(json!({}))),
        "items.0.repro.frameHash.sha256: Required",
    );
    item_longest("/repro/seed", &repro(), "0x", 130);
    item_longest("/repro/frameHash/sha256", &repro(), "0x", 66);
    item_longest("/repro/frameHash/phash", &repro(), "0x", 18);
    for seed in ["0x", "0xg", "0X1", "12", ""] {
        item_with(
            "/repro",
            with(repro(), "/seed", Some(seed.into())),
            "items.0.repro.seed: Invalid",
        );
    }
    let assets = |count| with(repro(), "/assetsSHA256", Some(vec!["0xaF"; count].into()));
    item_with("/repro", assets(1024), "");
    let at_most = "items.0.repro.assetsSHA256: Array must contain at most 1024 element(s)";
    item_with("/repro", assets(1025), at_most);
    let bad = with(
        repro(),
        "/assetsSHA256",
        Some(json!([format!("0x{}", "0".repeat(65)), "x"])),
    );
    item_with(
        "/repro",
        bad,
        "items.0.repro.assetsSHA256.0: String must contain at most 66 character(s); items.0.repro.assetsSHA256.1: Invalid",
    );
}

#[test]
fn provenance() {
    let on_chain = || json!({"type": "onChain", "contract": {"chain": "evm", "address": "0x0", "tokenId": "1"}});
    let series =
        |id: Value| json!({"type": "seriesRegistry", "contract": {"chain": "bitmark", "address": "a", "seriesId": id}});
    let one = |value: Value, expected: &str| item_with("/provenance", value, expected);
    one(on_chain(), "");
    one(json!({"type": "offChainURI"}), "");
    for id in [
        json!(0),
        json!(1.5),
        json!(4_294_967_295_u32),
        json!("x".repeat(128)),
        json!(""),
    ] {
        one(series(id), "");
    }
    let at = "items.0.provenance.contract.seriesId";
    one(
        series(json!(-1)),
        &format!("{at}: Number must be greater than or equal to 0"),
    );
    one(
        series(json!(4_294_967_296_u64)),
        &format!("{at}: Number must be less than or equal to 4294967295"),
    );
    one(
        series(json!("x".repeat(129))),
        &format!("{at}: String must contain at most 128 character(s)"),
    );
    one(series(json!(null)), &format!("{at}: Invalid"));
    for (kind, more) in [
        (
            "onChain",
            "items.0.provenance.contract.tokenId: contract.tokenId is required when provenance type is onChain",
        ),
        (
            "seriesRegistry",
            "items.0.provenance.contract.seriesId: contract.seriesId is required when provenance type is seriesRegistry",
        ),
    ] {
        let address = "items.0.provenance.contract.address: \
                       contract.address is required for onChain or seriesRegistry provenance";
        let contract = "items.0.provenance.contract: \
                        contract is required when provenance on chain or in series registry";
        one(json!({"type": kind}), &format!("{contract}; {address}; {more}"));
        one(
            json!({"type": kind, "contract": {"chain": "other", "address": "", "tokenId": ""}}),
            &format!("{address}; {more}"),
        );
    }
    one(
        json!({"type": "offChainURI", "contract": {"chain": "tezos"}}),
        "items.0.provenance.contract: contract is not allowed when provenance is off chain URI",
    );
    // Conditions are not judged where a type or a choice is at fault.
    one(
        json!({"type": "onChain", "contract": {"tokenId": 1}}),
        "items.0.provenance.contract.chain: Required; \
         items.0.provenance.contract.tokenId: Expected string, received number",
    );
    one(
        json!({"type": "x"}),
        "items.0.provenance.type: Invalid enum value. \
         Expected 'onChain' | 'seriesRegistry' | 'offChainURI', received 'x'",
    );
    one(json!({}), "items.0.provenance.type: Required");
    item_longest("/provenance/contract/address", &on_chain(), "0x", 48);
    item_longest("/provenance/contract/tokenId", &on_chain(), "0x", 128);
    item_longest("/provenance/contract/metaHash", &on_chain(), "0x", 66);
    item_longest("/provenance/contract/uri", &on_chain(), "a:", 1024);
    for standard in ["erc721", "erc1155", "fa2", "other"] {
        one(with(on_chain(), "/contract/standard", Some(standard.into())), "");
    }
    for chain in ["evm", "tezos", "bitmark", "other"] {
        let dependencies =
            |count| json!({"type": "offChainURI", "dependencies": vec![json!({"chain": chain, "uri": "a:"}); count]});
        one(dependencies(1024), "");
        one(
            dependencies(1025),
            "items.0.provenance.dependencies: Array must contain at most 1024 element(s)",
        );
    }
    one(
        json!({"type": "offChainURI", "dependencies": [{"standard": "x"}]}),
        "items.0.provenance.dependencies.0.chain: Required; items.0.provenance.dependencies.0.standard: \
         Invalid enum value. Expected 'erc721' | 'erc1155' | 'fa2' | 'other', received 'x'; \
         items.0.provenance.dependencies.0.uri: Required",
    );
}

#[test]
fn defaults_entities_and_queries() {
    playlist_with(
        "/defaults",
        json!({"license": "open", "duration": 1, "display": {}, "x": 1}),
        "",
    );
    playlist_with(
        "/defaults",
        json!({"duration": 0, "license": 1, "display": {"loop": 1}}),
        "defaults.display.loop: Expected boolean, received number; \
         defaults.license: Expected 'open' | 'token' | 'subscription', received number; \
         defaults.duration: Number must be greater than or equal to 1",
    );
    let entity = |value: Value, expected: &str| channel_with("/publisher", value, expected);
    entity(json!({"name": "", "key": "did:key:z6Mk", "url": "a:", "x": null}), "");
    entity(
        json!({"name": "n".repeat(128), "key": format!("did:key:z{}", "1".repeat(5000))}),
        "",
    );
    entity(
        json!({"name": "n".repeat(129)}),
        "publisher.name: String must contain at most 128 character(s)",
    );
    for key in [
        "did:key:z",
        "did:key:z0",
        "did:key:zO",
        "did:key:zI",
        "did:key:zl",
        "did:key:6",
        "did:web:x",
        "",
    ] {
        entity(json!({"name": "n", "key": key}), "publisher.key: Invalid");
    }
    playlist_with("/curators", vec![json!({"name": "n"}); 2000].into(), "");
    let query = |value: Value, expected: &str| playlist_with("/dynamicQueries", json!([value]), expected);
    query(
        json!({"endpoint": "a:", "params": {"p": "x".repeat(1024), "q": ""}, "x": 1}),
        "",
    );
    query(
        json!({}),
        "dynamicQueries.0.endpoint: Required; dynamicQueries.0.params: Required",
    );
    query(
        json!({"endpoint": "x", "params": {"p": "x".repeat(1025), "q": 1}}),
        "dynamicQueries.0.endpoint: Invalid; dynamicQueries.0.params.p: String must contain at most 1024 character(s); \
         dynamicQueries.0.params.q: Expected string, received number",
    );
    query(
        json!({"endpoint": "a:", "params": []}),
        "dynamicQueries.0.params: Expected object, received array",
    );
}

#[track_caller]
fn patch_is(body: &str, expected: &str) {
    assert_eq!(problems(PlaylistPatch::parse(object(body))), expected, "{body}");
}

#[test]
fn patches_of_playlists() {
    let emptied = "items.dynamicQueries: If items or dynamicQueries are provided, at least one must be non-empty";
    let query = r#"{"endpoint":"a:","params":{}}"#;
    patch_is("{}", "");
    patch_is(r#"{"title":"","summary":"","unknown":null}"#, "");
    patch_is(
        r#"{"dpVersion":"","coverImage":""}"#,
        "dpVersion: Invalid semantic version format: ; coverImage: Invalid",
    );
    patch_is(r#"{"items":[]}"#, emptied);
    patch_is(r#"{"dynamicQueries":[]}"#, emptied);
    patch_is(r#"{"items":[],"dynamicQueries":[]}"#, emptied);
    patch_is(&format!(r#"{{"items":[],"dynamicQueries":[{query}]}}"#), "");
    patch_is(&format!(r#"{{"dynamicQueries":[{query}]}}"#), "");
    patch_is(r#"{"items":[],"dynamicQueries":null}"#, emptied);
    patch_is(
        r#"{"dynamicQueries":null,"curators":null,"summary":null,"coverImage":null,"defaults":null}"#,
        "",
    );
    patch_is(
        r#"{"dpVersion":null,"title":null,"items":null}"#,
        "dpVersion: Expected string, received null; title: Expected string, received null; \
         items: Expected array, received null",
    );
    patch_is(
        r#"{"items":[{}]}"#,
        "items.0.source: Required; items.0.duration: Required; items.0.license: Required",
    );
}

#[test]
fn patches_of_channels() {
    let problems = |body: &str| problems(ChannelPatch::parse(object(body)));
    assert_eq!(problems("{}"), "");
    assert_eq!(
        problems(r#"{"curator":null,"curators":null,"publisher":null,"summary":null,"coverImage":null}"#),
        ""
    );
    assert_eq!(
        problems(r#"{"playlists":[]}"#),
        "playlists: Array must contain at least 1 element(s)"
    );
    assert_eq!(
        problems(r#"{"playlists":null}"#),
        "playlists: Expected array, received null"
    );
    let patch = ChannelPatch::parse(object(r#"{"playlists":["https://x"]}"#)).unwrap();
    assert_eq!(patch.playlists(), Some(&["https://x".to_owned()][..]));
    assert_eq!(ChannelPatch::parse(Object::new()).unwrap().playlists(), None);
    assert_eq!(
        ChannelDraft::parse(channel()).unwrap().playlists(),
        ["https://a.example/p"]
    );
}

#[test]
fn protected_members_are_named_in_their_order() {
    let body = object(r#"{"signature":null,"created":1,"slug":"","title":"t","id":{},"signatures":[]}"#);
    assert_eq!(protected_fields(&body), ["id", "slug", "created", "signature"]);
    assert_eq!(protected_fields(&object(r#"{"slug":null}"#)), ["slug"]);
    assert!(protected_fields(&Object::new()).is_empty());
}

#[test]
fn problems_are_bounded_in_number_and_size() {
    let invalid = PlaylistDraft::parse(with(playlist(), "/items", Some(vec![json!(1); 500].into()))).unwrap_err();
    assert_eq!(invalid.problems.len(), PROBLEMS_MAX);
    assert_eq!(invalid.more, 400);
    assert!(
        invalid
            .to_string()
            .ends_with("items.99: Expected object, received number; and 400 more")
    );
    let long = "x".repeat(1_000_000);
    let body = json!({
        "dpVersion": long, "title": "", "items": [{"license": long}],
        "dynamicQueries": [{"endpoint": "a:", "params": {long: 1}}],
    });
    assert!(problems(PlaylistDraft::parse(body)).len() < 1000);
}

proptest! {
    #[test]
    fn no_body_panics(value in any_value(), members in any_object(), name in "dpVersion|title|items|curators|defaults|playlists") {
        let mut members = members;
        members.insert(name, value.clone());
        let body = Value::Object(members.clone());
        let _ = (PlaylistDraft::parse(body.clone()), ChannelDraft::parse(body), PlaylistDraft::parse(value));
        let _ = (PlaylistPatch::parse(members.clone()), ChannelPatch::parse(members));
    }
}
