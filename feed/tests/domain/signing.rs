use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use feed::canonical::{canonical_bytes, digest};
use feed::json::{Object, to_text};
use feed::sign::{Fault, KeyError, Outcome, Place, PublicKey, SIGNATURES_MAX, Signer, Verification, verify};
use proptest::prelude::*;
use proptest::sample::Index;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::support::{SEED, any_object, any_value, object, value};

const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const PKCS8_PREFIX: &str = "302e020100300506032b657004220420";

fn vector(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name);
    value(&fs::read_to_string(path).unwrap())
}

fn outcomes(verification: &Verification) -> Vec<&'static str> {
    verification
        .checks
        .iter()
        .map(|check| match check.outcome {
            Outcome::Valid(_) => "ok",
            Outcome::Failed(Fault::PayloadHash) => "payload_hash mismatch",
            Outcome::Failed(Fault::BadSignature) => "bad sig",
            Outcome::Failed(Fault::MalformedKid) => "bad kid",
            Outcome::Failed(Fault::Malformed) => "malformed",
            Outcome::Failed(Fault::TooMany) => "too many",
            Outcome::Unsupported => "unsupported",
            Outcome::NoKey => "no key",
        })
        .collect()
}

/// A document signed by this key, in the two forms a feed writes.
#[track_caller]
fn signs(input: &str, canonical: &[u8], sha256: &str, legacy: &str) {
    let document = value(input);
    assert_eq!(
        String::from_utf8(canonical_bytes(&document)),
        String::from_utf8(canonical.to_vec())
    );
    assert_eq!(hex::encode(digest(&document)), sha256);
    let signer = Signer::from_hex(SEED).unwrap();
    assert_eq!(
        format!("ed25519:0x{}", hex::encode(signer.sign_digest(&digest(&document)))),
        legacy
    );
    let mut document = document;
    document["signature"] = legacy.into();
    assert!(verify(&document, Some(&signer.public_key())).is_valid());
}

#[test]
fn a_plain_playlist() {
    let canonical = concat!(
        r#"{"created":"2025-06-03T17:01:00.000Z","dpVersion":"1.0.0","id":"385f79b6-a45f-4c1c-8080-e93a192adccc","#,
        r#""items":[{"created":"2025-06-03T17:01:00.000Z","duration":300,"id":"0a1b2c3d-0000-4000-8000-000000000001","#,
        r#""license":"open","source":"https://example.com/a.html","title":"Item One"}],"slug":"test-playlist-1234","#,
        r#""title":"Test Playlist"}"#,
        "\n"
    );
    assert_eq!(canonical.len(), 337);
    signs(
        canonical,
        canonical.as_bytes(),
        "66c12489cfad38c8c07fff2f8dcef17b26503a1df3dd097bca52a51530e4226b",
        concat!(
            "ed25519:0xabdd5da6a20c038f67c8996e3311858ef61788b75286919359a892faca924d6f",
            "30ef637754332d4f80fd36653ec070dfe334bffff5fd4016d18bd3e81d5d6a0f"
        ),
    );
}

#[test]
fn a_playlist_of_hard_cases() {
    let input = concat!(
        r#"{"dpVersion":"1.1.0","id":"385f79b6-a45f-4c1c-8080-e93a192adccd","slug":"-4321","#,
        r#""title":"Caf\u00e9 \u2603 \ud83c\udfa8 \"q\" \\ /","summary":"line1\nline2\ttab\u0001","#,
        r#""created":"2025-06-03T17:01:00.000Z","defaults":{"display":{"scaling":"fit","margin":0.5},"license":"token","#,
        r#""duration":1.50},"items":[{"source":"ipfs://bafy/1","duration":1E21,"license":"token","override":{"b":null,"#,
        r#""a":[1.0,-0.0,1e-7,100000000000000000000,333333333.33333329,12345678901234567890],"\u20ac":1,"\ud83d\ude00":2,"#,
        r#""\ufb33":3,"A":4},"id":"0a1b2c3d-0000-4000-8000-000000000002","created":"2025-06-03T17:01:00.000Z"}],"#,
        r#""dynamicQueries":[{"endpoint":"https://api.example.com/q","params":{"limit":"20","category":"art"}}]}"#,
    );
    let canonical = STANDARD
        .decode(concat!(
            "eyJjcmVhdGVkIjoiMjAyNS0wNi0wM1QxNzowMTowMC4wMDBaIiwiZGVmYXVsdHMiOnsiZGlzcGxheSI6eyJtYXJnaW4iOjAuNSwic2NhbGluZyI6",
            "ImZpdCJ9LCJkdXJhdGlvbiI6MS41LCJsaWNlbnNlIjoidG9rZW4ifSwiZHBWZXJzaW9uIjoiMS4xLjAiLCJkeW5hbWljUXVlcmllcyI6W3siZW5k",
            "cG9pbnQiOiJodHRwczovL2FwaS5leGFtcGxlLmNvbS9xIiwicGFyYW1zIjp7ImNhdGVnb3J5IjoiYXJ0IiwibGltaXQiOiIyMCJ9fV0sImlkIjoi",
            "Mzg1Zjc5YjYtYTQ1Zi00YzFjLTgwODAtZTkzYTE5MmFkY2NkIiwiaXRlbXMiOlt7ImNyZWF0ZWQiOiIyMDI1LTA2LTAzVDE3OjAxOjAwLjAwMFoi",
            "LCJkdXJhdGlvbiI6MWUrMjEsImlkIjoiMGExYjJjM2QtMDAwMC00MDAwLTgwMDAtMDAwMDAwMDAwMDAyIiwibGljZW5zZSI6InRva2VuIiwib3Zl",
            "cnJpZGUiOnsiQSI6NCwiYSI6WzEsMCwxZS03LDEwMDAwMDAwMDAwMDAwMDAwMDAwMCwzMzMzMzMzMzMuMzMzMzMzMywxMjM0NTY3ODkwMTIzNDU2",
            "NzAwMF0sImIiOm51bGwsIuKCrCI6MSwi8J+YgCI6Miwi76yzIjozfSwic291cmNlIjoiaXBmczovL2JhZnkvMSJ9XSwic2x1ZyI6Ii00MzIxIiwi",
            "c3VtbWFyeSI6ImxpbmUxXG5saW5lMlx0dGFiXHUwMDAxIiwidGl0bGUiOiJDYWbDqSDimIMg8J+OqCBcInFcIiBcXCAvIn0K",
        ))
        .unwrap();
    assert_eq!(canonical.len(), 660);
    signs(
        input,
        &canonical,
        "3a9d9fd3b9ead9c1dd791ea03549722a2debd1e9249217780438ecfaf22fd1f6",
        concat!(
            "ed25519:0x0ff5a7e198db3a7f6148ecbeedbe9dbe17e12a5eacc9deb99d4776ffc7f3c793",
            "22582630fa1b512e40b851ebb5c084009de031b857b41e533d23d138aaa34304"
        ),
    );
}

#[test]
fn a_channel() {
    let canonical = concat!(
        r#"{"created":"2025-06-03T17:01:00.000Z","id":"c0ffee00-0000-4000-8000-000000000003","#,
        r#""playlists":["https://feed.example.com/api/v1/playlists/385f79b6-a45f-4c1c-8080-e93a192adccc"],"#,
        r#""publisher":{"name":"Pub"},"slug":"my-channel-5678","summary":"S","title":"My Channel"}"#,
        "\n"
    );
    assert_eq!(canonical.len(), 265);
    signs(
        canonical,
        canonical.as_bytes(),
        "90e448a182b2c4d988d1353a831c0e9b06b1a434968bcf23a28e2f269e321a86",
        concat!(
            "ed25519:0xd1d35921e8c839fdb1b71733eafe18baa2a135de09a6bf93b34ee02b22731052",
            "3a0085892f58e8bb7672fcdac7f9eb1313b34cc17b43dcfb9e777832085c110e"
        ),
    );
}

/// The example that the JavaScript SDK tests itself with.
#[test]
fn the_golden_vector() {
    let signer = Signer::from_hex("4a6f8b2c1d3e5f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8").unwrap();
    assert_eq!(
        signer.public_key().to_hex(),
        "16bafab53e91aad7eabc099d17f5e50c989100d3d395565c1268ae36cb6f0592"
    );
    assert_eq!(
        signer.did_key(),
        "did:key:z6MkfyzP1ZwTacYAwsLxjcXVZ4NcXEycf3XkkKNYDJrTaaKs"
    );
    let mut document =
        value(r#"{"dpVersion":"1.1.0","title":"golden","items":[{"source":"https://example.com/a.html"}]}"#);
    assert_eq!(
        String::from_utf8(canonical_bytes(&document)).unwrap(),
        "{\"dpVersion\":\"1.1.0\",\"items\":[{\"source\":\"https://example.com/a.html\"}],\"title\":\"golden\"}\n"
    );
    let sha256 = "28b6ec7a7632cdde7c0f8030f9527b74b460c4f4a75fd711f114a1d82c95bdb1";
    assert_eq!(hex::encode(digest(&document)), sha256);
    let signature = signer.sign_digest(&digest(&document));
    let sig = "Y-ivtq8jyTQcXP6HUwaZF98bJ_VD7oFpKjDld6xpjEXu1uHa5ZXZPfqa1Mq3ZR-ydf0w-_j0z48BYlJIiscKCQ";
    assert_eq!(URL_SAFE_NO_PAD.encode(signature), sig);
    document["signature"] = concat!(
        "ed25519:63e8afb6af23c9341c5cfe8753069917df1b27f543ee81692a30e577ac698c45",
        "eed6e1dae595d93dfa9ad4cab7651fb275fd30fbf8f4cf8f016252488ac70a09"
    )
    .into();
    document["signatures"] = json!([{
        "alg": "ed25519", "kid": signer.did_key(), "ts": "2025-01-01T00:00:00Z",
        "payload_hash": format!("sha256:{sha256}"), "role": "curator", "sig": sig,
    }]);
    let verification = verify(&document, Some(&signer.public_key()));
    assert!(verification.is_valid(), "{verification:?}");
    assert_eq!(verification.keys().count(), 2);
    assert_eq!(verification.checks[1].role.as_deref(), Some("curator"));
}

#[test]
fn signatures_are_stripped_at_the_top_only() {
    let plain = r#"{"dpVersion":"1.1.0","title":"x","items":[{"source":"https://z"}]}"#;
    let sha256 = |document: &Value| hex::encode(digest(document));
    let expected = "e9ace9b827505f9df368fe2edad833873ef2aea9cc3f06b713a5cdc3841be540";
    assert_eq!(sha256(&value(plain)), expected);
    for members in [
        r#"{"signature":"ed25519:00","#,
        r#"{"signatures":[{"a":1}],"#,
        r#"{"signature":null,"signatures":null,"#,
    ] {
        assert_eq!(sha256(&value(&plain.replacen('{', members, 1))), expected);
    }
    let other = "d6f41b7813ac744995115bab69c0140055089bc97db5d5b43759a7bb955426e3";
    assert_eq!(sha256(&value(&plain.replace("https://z", "https://a"))), other);
    let nested = plain.replace(r#"{"source""#, r#"{"signature":"x","source""#);
    assert_ne!(sha256(&value(&nested)), expected);
}

#[test]
fn signed_documents_of_other_implementations() {
    let vectors = vector("vectors.json");
    let mut seen = 0;
    for (name, expected) in vectors["docs"].as_object().unwrap() {
        if name.starts_with("eip191") {
            continue;
        }
        seen += 1;
        let document = vector(&format!("{name}.json"));
        let canonical = String::from_utf8(canonical_bytes(&document)).unwrap();
        assert_eq!(canonical.strip_suffix('\n'), expected["canonical"].as_str(), "{name}");
        assert_eq!(hex::encode(digest(&document)), expected["digest"], "{name}");
        let verification = verify(&document, None);
        let entries = verification
            .checks
            .iter()
            .filter(|check| check.place != Place::Legacy)
            .cloned()
            .collect();
        let entries = Verification {
            checks: entries,
            ..verification
        };
        let results: Vec<_> = expected["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r.as_str().unwrap())
            .collect();
        assert_eq!(outcomes(&entries), results, "{name}");
        let is_valid = !results.is_empty() && results.iter().all(|result| *result == "ok");
        assert_eq!(entries.is_valid(), is_valid, "{name}");
    }
    assert_eq!(seen, 15);
}

#[test]
fn older_signatures_need_the_right_key() {
    let keys = vector("vectors.json")["keys"].clone();
    let key = |name: &str| PublicKey::from_hex(keys[name]["pub"].as_str().unwrap()).unwrap();
    for name in ["legacy_bare", "legacy_0x", "legacy_0x_item_created"] {
        let document = vector(&format!("{name}.json"));
        assert_eq!(outcomes(&verify(&document, Some(&key("v1sample")))), ["ok"], "{name}");
        assert_eq!(outcomes(&verify(&document, Some(&key("feed")))), ["bad sig"], "{name}");
        let unchecked = verify(&document, None);
        assert_eq!(outcomes(&unchecked), ["no key"], "{name}");
        assert!(!unchecked.is_valid(), "{name}");
    }
    let both = vector("multi_plus_legacy.json");
    assert_eq!(outcomes(&verify(&both, Some(&key("feed")))), ["ok", "ok", "ok"]);
    assert!(!verify(&both, Some(&key("curator"))).is_valid());
    assert!(verify(&both, None).is_valid());
}

#[test]
fn keys_of_the_vectors() {
    let vectors = vector("vectors.json");
    for (name, key) in vectors["keys"].as_object().unwrap() {
        let Some(seed) = key["seed"].as_str() else { continue };
        let signer = Signer::from_hex(seed).unwrap();
        assert_eq!(signer.public_key().to_hex(), key["pub"], "{name}");
        assert_eq!(signer.did_key(), key["did"], "{name}");
        assert_eq!(signer.to_pkcs8_hex(), key["pkcs8"], "{name}");
        assert_eq!(
            PublicKey::from_did_key(&signer.did_key()),
            Ok(signer.public_key()),
            "{name}"
        );
        assert_eq!(signer.public_key().is_published_sample(), name == "v1sample");
    }
    let did = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";
    let public = "2e6fcce36701dc791488e0d0b1745cc1e33a4c1c9fcc41c63bd343dbbe0970e6";
    assert_eq!(PublicKey::from_did_key(did).unwrap().to_hex(), public);
    assert_eq!(PublicKey::from_hex(public).unwrap().to_did_key(), did);
    let dev_vars = "f15b691adcf0f0d876f963b4b0d83e8edbecdff93eddd171c52daefc46969a8c";
    assert!(PublicKey::from_hex(dev_vars).unwrap().is_published_sample());
}

#[track_caller]
fn key_is(text: &str, expected: Result<&str, KeyError>) {
    let public = Signer::from_hex(text).map(|signer| signer.public_key().to_hex());
    assert_eq!(public.as_deref().map_err(|error| *error), expected);
}

#[test]
fn private_keys() {
    let pkcs8 = format!("{PKCS8_PREFIX}{SEED}");
    key_is(SEED, Ok(PUBLIC));
    key_is(&pkcs8, Ok(PUBLIC));
    key_is(&pkcs8.to_uppercase(), Ok(PUBLIC));
    key_is(&format!("0x{pkcs8}"), Ok(PUBLIC));
    key_is(&format!("0X{SEED}\n"), Ok(PUBLIC));
    key_is("", Err(KeyError::PrivateLength(0)));
    key_is(&SEED[2..], Err(KeyError::PrivateLength(31)));
    key_is(&SEED[1..], Err(KeyError::NotHex));
    key_is(&format!("{SEED}{SEED}"), Err(KeyError::PrivateLength(64)));
    key_is(&pkcs8.replacen("302e", "302f", 1), Err(KeyError::NotPkcs8));
    key_is("MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v", Err(KeyError::NotHex));
    key_is(&"zz".repeat(32), Err(KeyError::NotHex));
}

#[test]
fn public_keys() {
    assert_eq!(PublicKey::from_hex(&PUBLIC.to_uppercase()).unwrap().to_hex(), PUBLIC);
    assert_eq!(PublicKey::from_hex("00"), Err(KeyError::PublicLength(1)));
    // The neutral element verifies anything: no key.
    assert_eq!(
        PublicKey::from_hex(&format!("01{}", "00".repeat(31))),
        Err(KeyError::NotAPoint)
    );
    assert_eq!(
        PublicKey::from_hex(&format!("02{}", "00".repeat(31))),
        Err(KeyError::NotAPoint)
    );
    let did = PublicKey::from_hex(PUBLIC).unwrap().to_did_key();
    assert!(PublicKey::from_did_key(&did.replacen("did:key", "DID:Key", 1)).is_ok());
    let secp256k1 = "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme";
    let long = format!("did:key:z{}", "1".repeat(1_000_000));
    for bad in [
        "",
        "did:key:",
        "did:key:z",
        &did[..40],
        &did.replacen(":z", ":Z", 1),
        secp256k1,
        &long,
        "did:kéy:z",
    ] {
        assert_eq!(PublicKey::from_did_key(bad), Err(KeyError::NotDidKey), "{bad:.60}");
    }
}

#[test]
fn a_private_key_is_never_shown() {
    let signer = Signer::from_hex(SEED).unwrap();
    let shown = format!("{signer:?}");
    assert_eq!(shown, format!("Signer(PublicKey({PUBLIC}))"));
    for bad in [format!("{SEED}00"), format!("x{SEED}")] {
        assert!(!Signer::from_hex(&bad).unwrap_err().to_string().contains(&SEED[..8]));
    }
    let other = Signer::generate(&mut StdRng::seed_from_u64(1));
    assert_eq!(
        Signer::from_hex(&other.to_pkcs8_hex()).unwrap().public_key(),
        other.public_key()
    );
}

#[track_caller]
fn entry_gives(change: impl Fn(&mut Value), expected: &str) {
    let mut document = vector("multi_curator_feed.json");
    change(&mut document["signatures"][0]);
    assert_eq!(outcomes(&verify(&document, None)), [expected, "ok"]);
}

#[test]
fn entries_that_do_not_hold() {
    entry_gives(|entry| entry["alg"] = "Ed25519".into(), "ok");
    entry_gives(|entry| entry["role"] = "agent".into(), "ok");
    entry_gives(|entry| entry["alg"] = "eip191".into(), "unsupported");
    entry_gives(|entry| entry["alg"] = "ecdsa-p256".into(), "unsupported");
    entry_gives(|entry| entry["alg"] = Value::Null, "malformed");
    entry_gives(|entry| *entry = Value::Null, "malformed");
    entry_gives(|entry| entry["kid"] = "did:web:example.com".into(), "bad kid");
    entry_gives(|entry| entry["kid"] = 1.into(), "malformed");
    entry_gives(
        |entry| entry["payload_hash"] = "sha256:".into(),
        "payload_hash mismatch",
    );
    entry_gives(
        |entry| entry["sig"] = format!("{}==", entry["sig"].as_str().unwrap()).into(),
        "malformed",
    );
    entry_gives(|entry| entry["sig"] = "AAAA".into(), "malformed");
    entry_gives(|entry| entry["sig"] = "A".repeat(86).into(), "bad sig");
    entry_gives(|entry| entry["sig"] = "A".repeat(1_000_000).into(), "malformed");
}

#[test]
fn documents_without_usable_signatures_are_not_valid() {
    for (document, expected) in [
        (json!({}), vec![]),
        (json!([1]), vec![]),
        (json!({"signatures": []}), vec![]),
        (json!({"signatures": null}), vec!["malformed"]),
        (json!({"signature": null}), vec!["malformed"]),
        (json!({"signature": "ed25519:0x00"}), vec!["malformed"]),
        (
            json!({"signature": format!("ed25519:0X{}", "00".repeat(64))}),
            vec!["malformed"],
        ),
        (json!({"signatures": [{"alg": "eip191"}]}), vec!["unsupported"]),
    ] {
        let verification = verify(&document, None);
        assert_eq!(outcomes(&verification), expected, "{document}");
        assert!(!verification.is_valid(), "{document}");
    }
}

#[test]
fn too_many_signatures_are_not_checked() {
    let mut document = vector("multi_curator_feed.json");
    let entry = document["signatures"][0].clone();
    document["signatures"] = Value::Array(vec![entry.clone(); SIGNATURES_MAX]);
    assert!(verify(&document, None).is_valid());
    document["signatures"] = Value::Array(vec![entry; SIGNATURES_MAX + 1]);
    let verification = verify(&document, None);
    assert_eq!(outcomes(&verification).last(), Some(&"too many"));
    assert!(!verification.is_valid());
}

fn signed(mut document: Object) -> Value {
    let signer = Signer::from_hex(SEED).unwrap();
    document.retain(|name, _| !["signature", "signatures"].contains(&name.as_str()));
    let mut document = Value::Object(document);
    let digest = digest(&document);
    document["signatures"] = json!([{
        "alg": "ed25519", "kid": signer.did_key(), "ts": "2025-01-01T00:00:00Z", "role": "feed",
        "payload_hash": format!("sha256:{}", hex::encode(digest)),
        "sig": URL_SAFE_NO_PAD.encode(signer.sign_digest(&digest)),
    }]);
    document
}

/// The same value with every object's members the other way round.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .rev()
                .map(|(name, value)| (name.clone(), reversed(value)))
                .collect(),
        ),
        Value::Array(elements) => Value::Array(elements.iter().map(reversed).collect()),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn the_canonical_form_knows_no_order_and_no_white_space(document in any_object()) {
        let document = Value::Object(document);
        let canonical = canonical_bytes(&document);
        prop_assert_eq!(&canonical_bytes(&reversed(&document)), &canonical);
        let pretty = serde_json::to_string_pretty(&document).unwrap();
        prop_assert_eq!(&canonical_bytes(&value(&pretty)), &canonical);
        prop_assert_eq!(&canonical_bytes(&value(&to_text(&document))), &canonical);
    }

    #[test]
    fn what_is_signed_verifies_and_what_is_changed_does_not(
        document in any_object(), member in any::<Index>(), other in any_value()
    ) {
        let document = signed(document);
        prop_assert!(verify(&document, None).is_valid());
        let names: Vec<_> = document.as_object().unwrap().keys().filter(|name| *name != "signatures").cloned().collect();
        if !names.is_empty() {
            let name = member.get(&names);
            let mut changed = document.clone();
            changed[name] = other;
            let same = canonical_bytes(&changed) == canonical_bytes(&document);
            prop_assert_eq!(verify(&changed, None).is_valid(), same);
            let mut shorter = document.clone();
            shorter.as_object_mut().unwrap().shift_remove(name);
            prop_assert!(!verify(&shorter, None).is_valid());
        }
    }

    #[test]
    fn nothing_signed_panics(entry in any_value(), signature in any_value()) {
        let mut document = object("{}");
        document.insert("signature".to_owned(), signature);
        document.insert("signatures".to_owned(), Value::Array(vec![entry.clone()]));
        let _ = verify(&Value::Object(document), None).is_valid();
        let _ = verify(&entry, None).is_valid();
    }
}
