//! The bytes a signature covers: the document without its signatures, in canonical form, and their digest.
//!
//! DP-1's construction: RFC 8785 over the document without its top-level `signature` and `signatures`, one line feed
//! after it, SHA-256. What is done with the digest is `sign`'s business.

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Top-level members a signature does not cover.
pub const UNSIGNED_MEMBERS: [&str; 2] = ["signature", "signatures"];

/// RFC 8785 bytes of the document without [`UNSIGNED_MEMBERS`] (nested members of those names stay), and one line feed.
/// The RFC does not ask for the line feed; every DP-1 implementation signs with it.
#[must_use]
pub fn canonical_bytes(document: &Value) -> Vec<u8> {
    let mut bytes = serde_json_canonicalizer::to_vec(&Unsigned(document)).expect("a parsed value has a canonical form");
    bytes.push(b'\n');
    bytes
}

/// SHA-256 of [`canonical_bytes`].
#[must_use]
pub fn digest(document: &Value) -> [u8; 32] {
    Sha256::digest(canonical_bytes(document)).into()
}

/// Serialises as the document without its signatures, so that the document need not be copied to leave them out.
struct Unsigned<'a>(&'a Value);

impl Serialize for Unsigned<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(object) = self.0 else {
            return self.0.serialize(serializer);
        };
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in object {
            if !UNSIGNED_MEMBERS.contains(&key.as_str()) {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}
