//! The public keys that tokens are verified with, and which algorithms each is for. An algorithm follows from the key,
//! never from the token alone: a token that could choose could say HS256, and be signed with what everybody knows.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use spki::der::Decode as _;
use spki::der::asn1::UintRef;
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use super::token::TokenError;

/// Longest `JWT_PUBLIC_KEY`, in bytes: an RSA key of 8192 bits as PEM, in base64 once more, takes 2 KiB.
pub(super) const PUBLIC_KEY_BYTES_MAX: usize = 16 * 1024;
/// Most keys that an issuer may publish.
pub(super) const KEYS_MAX: usize = 64;
/// Sizes of RSA keys, in bits; smaller ones are within reach of whoever wants to forge.
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

const OID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const OID_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const OID_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const OID_P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const OID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// First byte of a point that is written in full.
const UNCOMPRESSED: u8 = 4;
const PEM_BEGIN: &str = "-----BEGIN";
const PUBLIC_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PUBLIC_END: &str = "-----END PUBLIC KEY-----";

/// Base64 as it is met in variables: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A public key.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

/// Why a public key cannot be used. None repeats what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// It is too long to be a key.
    #[error("it is longer than {PUBLIC_KEY_BYTES_MAX} bytes")]
    TooLong,
    /// There is no such block, or what is between its lines is not base64.
    #[error("it is neither a PEM block PUBLIC KEY nor base64 of one")]
    NotPem,
    /// The block holds something else.
    #[error("its block PUBLIC KEY does not hold a public key")]
    Malformed,
    /// A curve that is not known, or a size that is not accepted.
    #[error(
        "its kind of key is not supported: RSA of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, P-256, P-384 and Ed25519 are"
    )]
    Unsupported,
}

/// Keys that are valid at once.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Arc<Key>>);

/// What an issuer published is not a set of keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("it is not a set of keys")]
    Malformed(#[source] serde_json::Error),
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
}

impl Key {
    /// A PEM block `PUBLIC KEY`, white space within it ignored, or base64 of one: what the reference takes.
    pub(super) fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() > PUBLIC_KEY_BYTES_MAX {
            return Err(KeyError::TooLong);
        }
        let decoded = decode(text).and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.filter(|decoded| decoded.contains(PEM_BEGIN));
        let pem = decoded.as_deref().unwrap_or(text).trim();
        let content = pem
            .strip_prefix(PUBLIC_BEGIN)
            .and_then(|rest| rest.strip_suffix(PUBLIC_END));
        let der = content.and_then(decode).ok_or(KeyError::NotPem)?;
        let info = SubjectPublicKeyInfoRef::from_der(&der).map_err(|_| KeyError::Malformed)?;
        let bytes = info.subject_public_key.as_bytes().ok_or(KeyError::Malformed)?;
        let curve = || info.algorithm.parameters_oid().map_err(|_| KeyError::Malformed);
        match info.algorithm.oid {
            OID_RSA => {
                let numbers = Vec::<UintRef<'_>>::from_der(bytes).map_err(|_| KeyError::Malformed)?;
                let [modulus, exponent] = &*numbers else {
                    return Err(KeyError::Malformed);
                };
                Self::rsa(modulus.as_bytes(), exponent.as_bytes())
            }
            OID_EC => match curve()? {
                OID_P256 => Self::point(bytes, 32, P256),
                OID_P384 => Self::point(bytes, 48, P384),
                _ => Err(KeyError::Unsupported),
            },
            OID_ED25519 => Self::ed25519(bytes),
            _ => Err(KeyError::Unsupported),
        }
    }

    /// One of an issuer's keys; none if it is not one that a token may be signed with.
    fn published(jwk: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let common = jwk.common;
        let is_of_signatures = common.public_key_use.is_none_or(|of| of == PublicKeyUse::Signature);
        let verifies = common
            .key_operations
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !(is_of_signatures && verifies) {
            return None;
        }
        let mut key = match jwk.algorithm {
            AlgorithmParameters::RSA(parts) => Self::rsa(&decode_url(&parts.n)?, &decode_url(&parts.e)?),
            AlgorithmParameters::EllipticCurve(parts) => {
                let point = [vec![UNCOMPRESSED], decode_url(&parts.x)?, decode_url(&parts.y)?].concat();
                match parts.curve {
                    EllipticCurve::P256 => Self::point(&point, 32, P256),
                    EllipticCurve::P384 => Self::point(&point, 48, P384),
                    _ => return None,
                }
            }
            AlgorithmParameters::OctetKeyPair(parts) if parts.curve == EllipticCurve::Ed25519 => {
                Self::ed25519(&decode_url(&parts.x)?)
            }
            _ => return None,
        }
        .ok()?;
        key.id = common.key_id;
        if let Some(algorithm) = common.key_algorithm {
            key.algorithms.retain(|&of| algorithm == of.into());
        }
        (!key.algorithms.is_empty()).then_some(key)
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        // Some issuers write a number's sign.
        let unsigned = |number: &[u8]| {
            let zeros = number.iter().take_while(|&&byte| byte == 0).count();
            number[zeros..].to_vec()
        };
        let (modulus, exponent) = (unsigned(modulus), unsigned(exponent));
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(KeyError::Unsupported);
        }
        Ok(Self::new(
            RSA,
            DecodingKey::from_rsa_raw_components(&modulus, &exponent),
        ))
    }

    /// A point of a curve, its coordinates of so many bytes each.
    fn point(point: &[u8], coordinate_bytes: usize, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if point.len() != 1 + 2 * coordinate_bytes || point[0] != UNCOMPRESSED {
            return Err(KeyError::Unsupported);
        }
        Ok(Self::new(algorithms, DecodingKey::from_ec_der(point)))
    }

    fn ed25519(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() != 32 {
            return Err(KeyError::Malformed);
        }
        Ok(Self::new(ED25519, DecodingKey::from_ed_der(bytes)))
    }

    fn new(algorithms: &[Algorithm], decoding: DecodingKey) -> Self {
        Self {
            id: None,
            algorithms: algorithms.to_vec(),
            decoding,
        }
    }

    /// What the token library verifies with.
    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

impl KeySet {
    /// One key, whatever a token calls it.
    pub(super) fn of(key: Key) -> Self {
        Self(vec![Arc::new(key)])
    }

    /// A JWK set. Keys that no token may be signed with are left out, such as those for encryption or of other curves.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Published {
            keys: Vec<Value>,
        }
        let published: Published = serde_json::from_slice(text).map_err(KeySetError::Malformed)?;
        if published.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let keys = published.keys.into_iter().filter_map(Key::published);
        Ok(Self(keys.map(Arc::new).collect()))
    }

    /// The one key that fits: of this id, if the token names one, and for this algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, TokenError> {
        let named = self.0.iter().filter(|key| id.is_none() || key.id.as_deref() == id);
        let mut fitting = named.clone().filter(|key| key.algorithms.contains(&algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(Arc::clone(key)),
            (Some(_), Some(_)) => Err(TokenError::AmbiguousKey),
            (None, _) if id.is_some() && named.count() > 0 => Err(TokenError::Algorithm),
            (None, _) => Err(TokenError::UnknownKey),
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_whitespace().collect();
    BASE64.decode(text).ok()
}

fn decode_url(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}
