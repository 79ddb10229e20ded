//! Ed25519 keys, and signatures over documents: made for the feed's own, checked for anyone's.
//!
//! A document may carry the older `signature` text, which does not say whose it is, and DP-1 1.1's `signatures`, whose
//! entries name their key by DID. Both sign the 32 bytes of the document's digest. Which keys are trusted, and what a
//! signature entitles to, is the caller's to decide: an entry's `role` and `ts` are not covered by any signature.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde_json::{Value, json};

use crate::canonical;
use crate::json::Object;
use crate::time;

/// Entries of `signatures` that [`verify`] checks. A document with more is not valid: each costs its reader time.
pub const SIGNATURES_MAX: usize = 64;

/// A 32-byte seed as PKCS#8 has this before it (RFC 8410).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// What marks an Ed25519 key inside a `did:key`: the multicodec `ed25519-pub`.
const ED25519_MULTICODEC: [u8; 2] = [0xed, 0x01];
const DID_KEY_PREFIX: &str = "did:key:";
/// Longer text is not decoded: base58 takes time that grows with the square of its length.
const DID_KEY_LENGTH_MAX: usize = 128;

/// Public keys of the private keys that the TypeScript feed publishes as samples. Anyone can sign with them.
const PUBLISHED_SAMPLES: [&str; 2] = [
    "75737f762ac1580e83057e7afa18c9380152f218a1035907143f4f9296dd64cd",
    "f15b691adcf0f0d876f963b4b0d83e8edbecdff93eddd171c52daefc46969a8c",
];

/// Text that is not a key. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Something other than pairs of hex digits.
    #[error("key is not hexadecimal")]
    NotHex,
    /// Hex of some other length than a key's.
    #[error("private key has {0} bytes: expected a 32-byte seed or 48 bytes of PKCS#8")]
    PrivateLength(usize),
    /// 48 bytes that are not an Ed25519 key in PKCS#8.
    #[error("private key is not an Ed25519 key in PKCS#8")]
    NotPkcs8,
    /// Hex of some other length than a public key's.
    #[error("public key has {0} bytes: expected 32")]
    PublicLength(usize),
    /// 32 bytes that are no point of the curve, or one that everything verifies against.
    #[error("public key is not a usable Ed25519 point")]
    NotAPoint,
    /// Not `did:key:z…` of an Ed25519 key.
    #[error("not a did:key of an Ed25519 key")]
    NotDidKey,
}

/// A key that signs. `Debug` shows its public half only.
pub struct Signer(SigningKey);

impl Signer {
    /// A key from hex, in any letter case, with or without `0x`: 48 bytes of PKCS#8 DER, or the bare 32-byte seed.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let bytes = decode_hex(text)?;
        let seed = match bytes.len() {
            32 => bytes.as_slice(),
            48 => bytes.strip_prefix(&PKCS8_PREFIX).ok_or(KeyError::NotPkcs8)?,
            other => return Err(KeyError::PrivateLength(other)),
        };
        let seed: &[u8; 32] = seed.try_into().map_err(|_| KeyError::PrivateLength(bytes.len()))?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    /// A new key.
    #[must_use]
    pub fn generate(rng: &mut dyn rand::CryptoRng) -> Self {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// The private key as lower-case hex of its PKCS#8 DER, the form the TypeScript feed reads.
    #[must_use]
    pub fn to_pkcs8_hex(&self) -> String {
        hex::encode(PKCS8_PREFIX) + &hex::encode(self.0.as_bytes())
    }

    /// The half that verifies.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// [`PublicKey::to_did_key`] of its public half.
    #[must_use]
    pub fn did_key(&self) -> String {
        self.public_key().to_did_key()
    }

    /// Signs a digest: 64 bytes, always the same for the same key and digest.
    #[must_use]
    pub fn sign_digest(&self, digest: &[u8; 32]) -> [u8; 64] {
        self.0.sign(digest).to_bytes()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Signer").field(&self.public_key()).finish()
    }
}

/// A key that verifies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// A key from its 32 bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err(KeyError::NotAPoint),
        }
    }

    /// A key from 32 bytes of hex, in any letter case, with or without `0x`.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let bytes = decode_hex(text)?;
        let bytes: &[u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyError::PublicLength(bytes.len()))?;
        Self::from_bytes(bytes)
    }

    /// A key from `did:key:z` and the base58 of its multicodec and bytes.
    pub fn from_did_key(did: &str) -> Result<Self, KeyError> {
        if did.len() > DID_KEY_LENGTH_MAX {
            return Err(KeyError::NotDidKey);
        }
        // Other implementations compare the prefix without regard to letter case.
        let (prefix, rest) = did.split_at_checked(DID_KEY_PREFIX.len()).ok_or(KeyError::NotDidKey)?;
        let base58 = rest
            .strip_prefix('z')
            .filter(|_| prefix.eq_ignore_ascii_case(DID_KEY_PREFIX));
        let bytes = bs58::decode(base58.ok_or(KeyError::NotDidKey)?)
            .into_vec()
            .map_err(|_| KeyError::NotDidKey)?;
        let key = bytes.strip_prefix(&ED25519_MULTICODEC).ok_or(KeyError::NotDidKey)?;
        Self::from_bytes(key.try_into().map_err(|_| KeyError::NotDidKey)?)
    }

    /// `did:key:z6Mk…`: the name DP-1 1.1 gives to the key in `kid` and in `curators[].key`.
    #[must_use]
    pub fn to_did_key(&self) -> String {
        let bytes = [ED25519_MULTICODEC.as_slice(), self.0.as_bytes()].concat();
        format!("{DID_KEY_PREFIX}z{}", bs58::encode(bytes).into_string())
    }

    /// 64 lower-case hex digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0.as_bytes())
    }

    /// The 32 bytes, such as a JWK's `x` is made of.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether the private half is published in the TypeScript feed's sample settings.
    #[must_use]
    pub fn is_published_sample(&self) -> bool {
        PUBLISHED_SAMPLES.contains(&self.to_hex().as_str())
    }

    /// Whether `signature` is this key's over `digest`. Forms that more than one key could pass for are refused.
    #[must_use]
    pub fn verifies(&self, digest: &[u8; 32], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(digest, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({})", self.to_hex())
    }
}

fn decode_hex(text: &str) -> Result<Vec<u8>, KeyError> {
    let text = text.trim();
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    hex::decode(digits).map_err(|_| KeyError::NotHex)
}

/// Signs a document as the feed: drops the signatures it has and appends `signature` and `signatures`. The feed's entry
/// of `previous` stays, with its time, if it is over the same digest by the same key.
pub(crate) fn sign(document: &mut Object, previous: Option<&Object>, now_ms: i64, signer: &Signer) {
    for member in canonical::UNSIGNED_MEMBERS {
        document.shift_remove(member);
    }
    let mut value = Value::Object(std::mem::take(document));
    let digest = canonical::digest(&value);
    let Value::Object(unsigned) = value.take() else {
        unreachable!("made an object four lines above")
    };
    *document = unsigned;
    let signature = signer.sign_digest(&digest);
    let mut entry = json!({
        "alg": "ed25519",
        "kid": signer.did_key(),
        "ts": time::to_text_seconds(now_ms),
        "payload_hash": payload_hash(&digest),
        "role": "feed",
        "sig": URL_SAFE_NO_PAD.encode(signature),
    });
    let earlier = previous
        .and_then(|previous| previous.get("signatures"))
        .and_then(Value::as_array);
    if let Some(same) = earlier
        .into_iter()
        .flatten()
        .find(|earlier| differ_in_time_only(earlier, &entry))
    {
        entry = same.clone();
    }
    document.insert(
        "signature".to_owned(),
        format!("ed25519:0x{}", hex::encode(signature)).into(),
    );
    document.insert("signatures".to_owned(), Value::Array(vec![entry]));
}

fn differ_in_time_only(one: &Value, other: &Value) -> bool {
    let same = |member| one.get(member) == other.get(member);
    one.get("ts").is_some_and(Value::is_string) && ["alg", "kid", "payload_hash", "role", "sig"].into_iter().all(same)
}

fn payload_hash(digest: &[u8; 32]) -> String {
    format!("sha256:{}", hex::encode(digest))
}

/// Which signature of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The text `signature`.
    Legacy,
    /// This element of `signatures`, from 0.
    Entry(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => formatter.write_str("signature"),
            Self::Entry(position) => write!(formatter, "signatures.{position}"),
        }
    }
}

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not of the form DP-1 gives it.
    #[error("malformed")]
    Malformed,
    /// `kid` is not the DID of an Ed25519 key.
    #[error("kid is not the did:key of an Ed25519 key")]
    MalformedKid,
    /// The document is not what was signed.
    #[error("payload_hash mismatch")]
    PayloadHash,
    /// The key did not make this signature.
    #[error("bad signature")]
    BadSignature,
    /// There are more than [`SIGNATURES_MAX`], of which this is the first.
    #[error("more than {SIGNATURES_MAX} signatures")]
    TooMany,
}

/// What became of checking one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds, for this key.
    Valid(PublicKey),
    /// It does not.
    Failed(Fault),
    /// It is of an algorithm this feed cannot check.
    Unsupported,
    /// It names no key, and none was given to check it with.
    NoKey,
}

/// One signature of a document, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Where it stands.
    pub place: Place,
    /// The entry's `role`, as claimed: no signature covers it.
    pub role: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// A document's signatures, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// SHA-256 of the document's canonical form.
    pub digest: [u8; 32],
    /// One for each signature: `signature` first, if there, then `signatures` in order. Empty for an unsigned document.
    pub checks: Vec<Check>,
}

impl Verification {
    /// At least one signature holds, and none that could be checked fails.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let any = self
            .checks
            .iter()
            .any(|check| matches!(check.outcome, Outcome::Valid(_)));
        any && !self
            .checks
            .iter()
            .any(|check| matches!(check.outcome, Outcome::Failed(_)))
    }

    /// The keys whose signatures hold.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> {
        self.checks.iter().filter_map(|check| match check.outcome {
            Outcome::Valid(key) => Some(key),
            _ => None,
        })
    }
}

/// Checks every signature of a document. `trusted` is the key of the older `signature`, which does not name its own.
#[must_use]
pub fn verify(document: &Value, trusted: Option<&PublicKey>) -> Verification {
    let digest = canonical::digest(document);
    let mut checks = Vec::new();
    if let Some(legacy) = document.get("signature") {
        checks.push(Check {
            place: Place::Legacy,
            role: None,
            outcome: check_legacy(legacy, &digest, trusted),
        });
    }
    match document.get("signatures") {
        None => {}
        Some(Value::Array(entries)) => {
            for (position, entry) in entries.iter().enumerate().take(SIGNATURES_MAX) {
                let role = entry.get("role").and_then(Value::as_str).map(str::to_owned);
                checks.push(Check {
                    place: Place::Entry(position),
                    role,
                    outcome: check_entry(entry, &digest),
                });
            }
            if entries.len() > SIGNATURES_MAX {
                let outcome = Outcome::Failed(Fault::TooMany);
                checks.push(Check {
                    place: Place::Entry(SIGNATURES_MAX),
                    role: None,
                    outcome,
                });
            }
        }
        Some(_) => {
            let outcome = Outcome::Failed(Fault::Malformed);
            checks.push(Check {
                place: Place::Entry(0),
                role: None,
                outcome,
            });
        }
    }
    Verification { digest, checks }
}

fn check_legacy(legacy: &Value, digest: &[u8; 32], trusted: Option<&PublicKey>) -> Outcome {
    let digits = legacy.as_str().and_then(|text| text.strip_prefix("ed25519:"));
    // The specification has bare hex, the feed software in use writes 0x: both are about.
    let digits = digits.map(|digits| digits.strip_prefix("0x").unwrap_or(digits));
    let mut signature = [0; 64];
    if digits.is_none_or(|digits| hex::decode_to_slice(digits, &mut signature).is_err()) {
        return Outcome::Failed(Fault::Malformed);
    }
    trusted.map_or(Outcome::NoKey, |key| outcome(*key, digest, &signature))
}

fn check_entry(entry: &Value, digest: &[u8; 32]) -> Outcome {
    let member = |name| entry.get(name).and_then(Value::as_str);
    let Some(alg) = member("alg") else {
        return Outcome::Failed(Fault::Malformed);
    };
    if !alg.eq_ignore_ascii_case("ed25519") {
        return Outcome::Unsupported;
    }
    let (Some(kid), Some(hash), Some(sig)) = (member("kid"), member("payload_hash"), member("sig")) else {
        return Outcome::Failed(Fault::Malformed);
    };
    if hash != payload_hash(digest) {
        return Outcome::Failed(Fault::PayloadHash);
    }
    let Ok(key) = PublicKey::from_did_key(kid) else {
        return Outcome::Failed(Fault::MalformedKid);
    };
    let mut signature = [0; 64];
    match URL_SAFE_NO_PAD.decode_slice(sig, &mut signature) {
        Ok(64) => outcome(key, digest, &signature),
        _ => Outcome::Failed(Fault::Malformed),
    }
}

fn outcome(key: PublicKey, digest: &[u8; 32], signature: &[u8; 64]) -> Outcome {
    if key.verifies(digest, signature) {
        Outcome::Valid(key)
    } else {
        Outcome::Failed(Fault::BadSignature)
    }
}
