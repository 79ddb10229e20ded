//! An independent check of a document's signatures: from the bytes of the specification to Ed25519, with nothing of the
//! feed's own code.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Checks both signatures of a document: `signature`, and the one entry of role `feed` in `signatures`.
pub(crate) fn verify_document(text: &str, key: &VerifyingKey) -> Result<(), String> {
    let mut document: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let members = document.as_object_mut().ok_or("not an object")?;
    let signature = members.remove("signature").ok_or("no signature")?;
    let signatures = members.remove("signatures").ok_or("no signatures")?;

    let mut bytes = serde_json_canonicalizer::to_vec(&document).map_err(|error| error.to_string())?;
    bytes.push(b'\n');
    let digest: [u8; 32] = Sha256::digest(&bytes).into();

    let signature = signature.as_str().and_then(|text| text.strip_prefix("ed25519:0x"));
    let signature = hex::decode(signature.ok_or("signature is not ed25519:0x…")?).map_err(|error| error.to_string())?;
    check(&digest, &signature, key).map_err(|error| format!("signature: {error}"))?;

    let entries = signatures.as_array().ok_or("signatures is not a list")?;
    let mut ours = entries.iter().filter(|entry| entry["role"] == "feed");
    let entry = ours.next().ok_or("no entry of role feed")?;
    if ours.next().is_some() {
        return Err("two entries of role feed".to_owned());
    }
    for (member, expected) in [
        ("alg", "ed25519".to_owned()),
        ("kid", did_key(key)),
        ("payload_hash", format!("sha256:{}", hex::encode(digest))),
    ] {
        if entry[member] != *expected {
            return Err(format!("{member} is {}, not {expected}", entry[member]));
        }
    }
    let stamp = entry["ts"].as_str().unwrap_or_default();
    if stamp.len() != "2025-06-03T17:01:00Z".len() || !stamp.ends_with('Z') {
        return Err(format!("ts is {}", entry["ts"]));
    }
    let signature = URL_SAFE_NO_PAD.decode(entry["sig"].as_str().unwrap_or_default());
    check(&digest, &signature.map_err(|error| error.to_string())?, key).map_err(|error| format!("sig: {error}"))
}

/// The key as a DID: multicodec `ed25519-pub` before it, base58.
pub(crate) fn did_key(key: &VerifyingKey) -> String {
    let bytes = [&[0xed, 0x01][..], key.as_bytes()].concat();
    format!("did:key:z{}", bs58::encode(bytes).into_string())
}

fn check(digest: &[u8; 32], signature: &[u8], key: &VerifyingKey) -> Result<(), String> {
    let signature = Signature::from_slice(signature).map_err(|error| error.to_string())?;
    key.verify_strict(digest, &signature).map_err(|error| error.to_string())
}

/// A document that the existing server's library signed, with our entry beside it: proof that the check can hold, and
/// that no change of a byte gets past it.
#[test]
fn the_check_holds_for_a_signed_document_and_fails_for_any_other() {
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let key: [u8; 32] = hex::decode(key).expect("hex").try_into().expect("32 bytes");
    let key = VerifyingKey::from_bytes(&key).expect("a key");
    let signature = "abdd5da6a20c038f67c8996e3311858ef61788b75286919359a892faca924d6f\
                     30ef637754332d4f80fd36653ec070dfe334bffff5fd4016d18bd3e81d5d6a0f";
    let sig = URL_SAFE_NO_PAD.encode(hex::decode(signature).expect("hex"));
    let body = r#""dpVersion":"1.0.0","id":"385f79b6-a45f-4c1c-8080-e93a192adccc","slug":"test-playlist-1234","title":"Test Playlist","created":"2025-06-03T17:01:00.000Z","items":[{"title":"Item One","source":"https://example.com/a.html","duration":300,"license":"open","id":"0a1b2c3d-0000-4000-8000-000000000001","created":"2025-06-03T17:01:00.000Z"}]"#;
    let entry = serde_json::json!({
        "alg": "ed25519",
        "kid": "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw",
        "ts": "2025-06-03T17:01:00Z",
        "payload_hash": "sha256:66c12489cfad38c8c07fff2f8dcef17b26503a1df3dd097bca52a51530e4226b",
        "role": "feed",
        "sig": sig,
    });
    let document = |body: &str| format!(r#"{{{body},"signature":"ed25519:0x{signature}","signatures":[{entry}]}}"#);
    verify_document(&document(body), &key).expect("the vector verifies");

    for (from, to) in [
        ("Item One", "Item Onf"),
        ("300", "301"),
        ("1.0.0", "1.0.1"),
        (".000Z", ".001Z"),
        ("\"license\"", "\"licence\""),
    ] {
        let tampered = document(&body.replacen(from, to, 1));
        assert!(verify_document(&tampered, &key).is_err(), "{from} to {to}");
    }
    let whole = document(body);
    for (from, to) in [
        ("0xabdd", "0xabde"),
        (sig.as_str(), &sig.replacen('q', "r", 1)),
        ("\"role\":\"feed\"", "\"role\":\"curator\""),
        ("sha256:66", "sha256:67"),
        ("did:key:z6Mk", "did:key:z6Ml"),
    ] {
        let tampered = whole.replacen(from, to, 1);
        assert_ne!(tampered, whole);
        assert!(verify_document(&tampered, &key).is_err(), "{from} to {to}");
    }
    let other = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
    assert!(verify_document(&whole, &other).is_err());
}
