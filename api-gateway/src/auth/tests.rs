use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderValue;
use jsonwebtoken::Algorithm;
use jsonwebtoken::get_current_timestamp as now;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use super::key::{KEYS_MAX, KeyError, KeySetError, PUBLIC_KEY_BYTES_MAX};
use super::token::{HEADER_BYTES_MAX, LEEWAY_SECONDS, TOKEN_BYTES_MAX, TokenError};
use super::*;

const RSA_PRIVATE: &str = include_str!("../../tests/keys/rsa-2048.pem");
const RSA_PUBLIC: &str = include_str!("../../tests/keys/rsa-2048-public.pem");
const RSA_1024_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDHsMTE0Lz5qDw0vDlwAluTidv1
lGyJq4panEipK7otEJe0GaV+tb+h4tGNT69fQB2dPSF4jDaF+G7h/BQE8oZIInmH
kL2RWhr8T5D5J3OQEGiK5TvOrfCU81xBYbtH52wzyQKDw5MUxta/ndJ3GtYxlAXw
mUvKcpyUJxBT3MPpTwIDAQAB
-----END PUBLIC KEY-----";
const P521_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBZQHJkdYajsImmxcJ8YcOE5S+eY87
zZ7hSLAp/FzKaaM4O8R/Zr8OvuMBCMj0hlABdGZ+F7W4e0BKj6sG26K0NmMABRhi
bQiBheFMSc+lTE3rxiz19rMUoAdnZ4a25CqNDsfpElu8bJdlGjr9dntATBa/93B9
8EoKELa+CV689neXpJE=
-----END PUBLIC KEY-----";
const X25519_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VuAyEASFTgJUIL+1A5K3MLTKM9ZbQcDxK/U+1EPt0X5A3rtTY=
-----END PUBLIC KEY-----";

/// What precedes the point, in the PKIX form of a public key.
const P256_PREFIX: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
const P384_PREFIX: &str = "3076301006072a8648ce3d020106052b81040022036200";
const ED25519_PREFIX: &str = "302a300506032b6570032100";

/// Whoever makes tokens.
enum Issuer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Issuer {
    fn rsa() -> Self {
        let der: String = RSA_PRIVATE.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(der).expect("base64");
        Self::Rsa(RsaKeyPair::from_pkcs8(&der).expect("a key"))
    }

    fn ec(algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key can be made");
        Self::Ec(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("a key"))
    }

    fn p256() -> Self {
        Self::ec(&ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    fn p384() -> Self {
        Self::ec(&ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key can be made");
        Self::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key"))
    }

    fn pem(&self) -> String {
        match self {
            Self::Rsa(_) => RSA_PUBLIC.to_owned(),
            Self::Ec(key) if key.public_key().as_ref().len() == 65 => pem(P256_PREFIX, key.public_key().as_ref()),
            Self::Ec(key) => pem(P384_PREFIX, key.public_key().as_ref()),
            Self::Ed(key) => pem(ED25519_PREFIX, key.public_key().as_ref()),
        }
    }

    fn jwk(&self, changes: &Value) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self {
            Self::Rsa(key) => {
                let parts: RsaPublicKeyComponents<Vec<u8>> = key.public().into();
                json!({ "kty": "RSA", "n": text(&parts.n), "e": text(&parts.e) })
            }
            Self::Ec(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
            }
            Self::Ed(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref()) }),
        };
        let members = jwk.as_object_mut().expect("an object");
        members.extend(changes.as_object().expect("an object").clone());
        jwk
    }

    /// A token whose header says so, signed as that algorithm is.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        let algorithm = header["alg"].as_str().expect("an algorithm");
        self.sign_as(algorithm, header, claims)
    }

    fn sign_as(&self, algorithm: &str, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(key) => {
                let encoding: &dyn RsaEncoding = match algorithm {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => panic!("no algorithm of RSA: {algorithm}"),
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(encoding, &random, message.as_bytes(), &mut signature)
                    .expect("it signs");
                signature
            }
            Self::Ec(key) => {
                let signature = key.sign(&random, message.as_bytes());
                signature.expect("it signs").as_ref().to_vec()
            }
            Self::Ed(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Base64 of a public key in PKIX form, between PEM's lines.
fn pem(prefix: &str, point: &[u8]) -> String {
    let der = [hex::decode(prefix).expect("hex"), point.to_vec()].concat();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(der)
    )
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn lasting() -> Value {
    json!({ "iss": "https://issuer.test", "sub": "someone", "aud": "feed", "exp": now() + 600 })
}

fn tokens(pem: &str, terms: Terms) -> Tokens {
    Tokens::of_key(pem, terms).unwrap_or_else(|error| panic!("{error:#}: {pem}"))
}

fn published(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).expect("a set of keys")
}

async fn refusal(tokens: &Tokens, token: &str) -> TokenError {
    match tokens.verify(token.as_bytes()).await {
        Err(error) => error,
        Ok(caller) => panic!("{caller:?} is let in: {token}"),
    }
}

async fn check_held(tokens: &Tokens, token: &str) {
    let verified = tokens.verify(token.as_bytes()).await;
    assert!(verified.is_ok(), "{verified:?}: {token}");
}

#[tokio::test]
async fn every_kind_of_key_verifies_the_algorithms_that_are_its_own() {
    let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    let issuers: [(Issuer, &[&str]); 4] = [
        (Issuer::rsa(), &rsa),
        (Issuer::p256(), &["ES256"]),
        (Issuer::p384(), &["ES384"]),
        (Issuer::ed25519(), &["EdDSA"]),
    ];
    for (issuer, own) in &issuers {
        let pem = issuer.pem();
        let forms = [
            pem.clone(),
            pem.replace('\n', " "),
            pem.replace('\n', "\r\n"),
            STANDARD.encode(&pem),
            STANDARD.encode(&pem).trim_end_matches('=').to_owned(),
            format!(" {}\n", STANDARD.encode(&pem)),
        ];
        let set = || published(&[issuer.jwk(&json!({}))]);
        let mut all: Vec<_> = forms.iter().map(|form| tokens(form, Terms::default())).collect();
        all.push(Tokens::new(Keys::Given(set()), Terms::default()));
        for tokens in &all {
            for algorithm in rsa.iter().chain(&["ES256", "ES384", "EdDSA"]) {
                let header = json!({ "alg": algorithm, "kid": "any" });
                if own.contains(algorithm) {
                    check_held(tokens, &issuer.sign(&header, &lasting())).await;
                } else {
                    // Signed well by the very key, and said to be something else.
                    let token = issuer.sign_as(own[0], &header, &lasting());
                    let error = refusal(tokens, &token).await;
                    assert!(matches!(error, TokenError::UnknownKey), "{algorithm}: {error:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_signature_of_another_key_algorithm_or_text_does_not_hold() {
    let issuer = Issuer::p256();
    let es256 = json!({ "alg": "ES256" });
    let tokens = tokens(&issuer.pem(), Terms::default());
    let good = issuer.sign(&es256, &lasting());
    check_held(&tokens, &good).await;

    let mut privileged = lasting();
    privileged["sub"] = "somebody else".into();
    let (_, signature) = good.rsplit_once('.').expect("a token");
    let (message, _) = good.rsplit_once('.').expect("a token");
    for token in [
        Issuer::p256().sign(&es256, &lasting()),
        format!("{}.{signature}", unsigned(&es256, &privileged)),
        format!("{message}."),
        format!("{message}.{}", &signature[4..]),
    ] {
        assert!(matches!(refusal(&tokens, &token).await, TokenError::Invalid(_)));
    }
    let rsa = Issuer::rsa();
    let tokens = self::tokens(&rsa.pem(), Terms::default());
    let token = rsa.sign_as("PS256", &json!({ "alg": "RS256" }), &lasting());
    assert!(matches!(refusal(&tokens, &token).await, TokenError::Invalid(_)));
}

#[tokio::test]
async fn none_and_secrets_that_everybody_knows_sign_nothing() {
    for issuer in [Issuer::rsa(), Issuer::p256(), Issuer::ed25519()] {
        let pem = issuer.pem();
        let set = published(&[issuer.jwk(&json!({ "kid": "a" }))]);
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(der).expect("base64");
        let tokens = [
            tokens(&pem, Terms::default()),
            Tokens::new(Keys::Given(set), Terms::default()),
        ];
        for tokens in tokens {
            for algorithm in ["none", "None", "NONE", ""] {
                let token = format!("{}.", unsigned(&json!({ "alg": algorithm }), &lasting()));
                assert!(matches!(refusal(&tokens, &token).await, TokenError::Malformed(_)));
            }
            for (name, algorithm) in [
                ("HS256", hmac::HMAC_SHA256),
                ("HS384", hmac::HMAC_SHA384),
                ("HS512", hmac::HMAC_SHA512),
            ] {
                for secret in [pem.as_bytes(), pem.trim().as_bytes(), &der, b""] {
                    let message = unsigned(&json!({ "alg": name, "kid": "a" }), &lasting());
                    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
                    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
                    assert!(matches!(refusal(&tokens, &token).await, TokenError::Algorithm));
                }
            }
        }
    }
}

/// The second wall: if a key were taken for one of these, it still would not be verified with.
#[test]
fn the_backend_does_not_know_what_is_signed_with_secrets() {
    backend::install();
    let secret = jsonwebtoken::DecodingKey::from_secret(b"secret");
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512, Algorithm::RS256] {
        let verified = jsonwebtoken::crypto::verify("", b"", &secret, algorithm);
        assert!(verified.is_err(), "{algorithm:?}");
    }
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let issuer = Issuer::ed25519();
    let tokens = tokens(&issuer.pem(), Terms::default());
    let good = issuer.sign(&json!({ "alg": "EdDSA" }), &lasting());
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "secret",
        &format!("{good}.x"),
        &good[1..],
    ] {
        assert!(
            matches!(refusal(&tokens, token).await, TokenError::Malformed(_)),
            "{token}"
        );
    }
    assert!(tokens.verify(b"\xff.\xff.\xff").await.is_err());
    let not_claims = issuer.sign(&json!({ "alg": "EdDSA" }), &json!(["exp"]));
    assert!(matches!(refusal(&tokens, &not_claims).await, TokenError::Invalid(_)));
    let extended = json!({ "alg": "EdDSA", "crit": ["b64"], "b64": true });
    let extended = issuer.sign(&extended, &lasting());
    assert!(matches!(refusal(&tokens, &extended).await, TokenError::Extensions));
}

#[tokio::test]
async fn times_are_kept_with_some_leeway() {
    let issuer = Issuer::ed25519();
    let tokens = tokens(&issuer.pem(), Terms::default());
    let now = now();
    // What lies between the two clocks readings of a test must not decide it.
    let slack = 30;
    for (claims, expected) in [
        (json!({ "exp": now + 600 }), true),
        (json!({ "exp": now - 1 }), true),
        (json!({ "exp": now - LEEWAY_SECONDS - 1 }), false),
        (json!({ "exp": 0 }), false),
        (json!({ "exp": -1 }), false),
        (json!({ "exp": format!("{}", now + 600) }), false),
        (json!({ "exp": null }), false),
        (json!({ "exp": 1e300 }), false),
        (json!({ "nbf": now - 600 }), true),
        (json!({ "nbf": now + LEEWAY_SECONDS }), true),
        (json!({ "nbf": now + LEEWAY_SECONDS + slack }), false),
        (json!({ "nbf": "tomorrow" }), false),
        (json!({ "nbf": now + 600, "exp": now + 900 }), false),
        (json!({}), true),
    ] {
        let token = issuer.sign(&json!({ "alg": "EdDSA" }), &claims);
        let verified = tokens.verify(token.as_bytes()).await;
        assert_eq!(verified.is_ok(), expected, "{claims}: {verified:?}");
    }
}

#[tokio::test]
async fn q29_exp_is_optional_unless_it_is_asked_for() {
    let issuer = Issuer::ed25519();
    let token = issuer.sign(&json!({ "alg": "EdDSA" }), &json!({ "sub": "a" }));
    check_held(&tokens(&issuer.pem(), Terms::default()), &token).await;
    let strict = Terms {
        needs_expiry: true,
        ..Terms::default()
    };
    let strict = tokens(&issuer.pem(), strict);
    assert!(matches!(refusal(&strict, &token).await, TokenError::Invalid(_)));
    check_held(&strict, &issuer.sign(&json!({ "alg": "EdDSA" }), &lasting())).await;
}

#[tokio::test]
async fn issuer_and_audience_are_compared_if_they_are_set() {
    let issuer = Issuer::ed25519();
    let terms = |issuer: Option<&str>, audience: Option<&str>| Terms {
        issuer: issuer.map(str::to_owned),
        audience: audience.map(str::to_owned),
        needs_expiry: false,
    };
    let by_issuer = tokens(&issuer.pem(), terms(Some("https://issuer.test"), None));
    let by_audience = tokens(&issuer.pem(), terms(None, Some("feed")));
    let by_none = tokens(&issuer.pem(), terms(None, None));
    for (claims, tokens, expected) in [
        (json!({ "iss": "https://issuer.test" }), &by_issuer, true),
        (json!({ "iss": "https://issuer.test/" }), &by_issuer, false),
        (json!({ "iss": ["https://issuer.test"] }), &by_issuer, false),
        (json!({ "iss": "" }), &by_issuer, false),
        (json!({ "iss": null }), &by_issuer, false),
        (json!({}), &by_issuer, false),
        (json!({ "aud": "feed" }), &by_audience, true),
        (json!({ "aud": ["other", "feed"] }), &by_audience, true),
        (json!({ "aud": ["other"] }), &by_audience, false),
        (json!({ "aud": [] }), &by_audience, false),
        (json!({ "aud": "Feed" }), &by_audience, false),
        (json!({ "aud": 1 }), &by_audience, false),
        (json!({}), &by_audience, false),
        (json!({ "iss": "anyone", "aud": ["anything"] }), &by_none, true),
    ] {
        let token = issuer.sign(&json!({ "alg": "EdDSA" }), &claims);
        let verified = tokens.verify(token.as_bytes()).await;
        assert_eq!(verified.is_ok(), expected, "{claims}: {verified:?}");
    }
}

#[tokio::test]
async fn a_caller_is_the_subject_of_an_issuer() {
    let issuer = Issuer::ed25519();
    let tokens = tokens(&issuer.pem(), Terms::default());
    for (claims, issuer_name, subject) in [
        (lasting(), "https://issuer.test", "someone"),
        (json!({ "sub": 7 }), "", ""),
    ] {
        let token = issuer.sign(&json!({ "alg": "EdDSA" }), &claims);
        let caller = tokens.verify(token.as_bytes()).await.expect("it holds");
        let expected = Caller::Token {
            issuer: issuer_name.to_owned(),
            subject: subject.to_owned(),
        };
        assert_eq!(caller, expected);
    }
}

/// A token of this length, its header of that.
fn token_of(issuer: &Issuer, header_bytes: usize, bytes: usize) -> String {
    let filled = |template: &dyn Fn(&str) -> Value, bytes: usize| {
        let fits = |length: &usize| URL_SAFE_NO_PAD.encode(template(&"x".repeat(*length)).to_string()).len() == bytes;
        let length = (0..bytes).find(fits);
        template(&"x".repeat(length.unwrap_or_else(|| panic!("no text takes {bytes} bytes"))))
    };
    let header = filled(&|filling| json!({ "alg": "EdDSA", "kid": filling }), header_bytes);
    // Two dots and a signature of 64 bytes.
    let claims = filled(
        &|filling| json!({ "exp": now() + 600, "sub": filling }),
        bytes - header_bytes - 2 - 86,
    );
    issuer.sign(&header, &claims)
}

#[tokio::test]
async fn tokens_and_their_headers_are_bounded() {
    let issuer = Issuer::ed25519();
    let tokens = tokens(&issuer.pem(), Terms::default());
    let longest = token_of(&issuer, HEADER_BYTES_MAX, TOKEN_BYTES_MAX);
    assert_eq!(longest.len(), TOKEN_BYTES_MAX);
    check_held(&tokens, &longest).await;
    let longer = token_of(&issuer, HEADER_BYTES_MAX - 1, TOKEN_BYTES_MAX + 1);
    assert!(matches!(refusal(&tokens, &longer).await, TokenError::TooLong));
    // No text in base64 is one longer than a whole number of groups.
    let longer = token_of(&issuer, HEADER_BYTES_MAX + 2, TOKEN_BYTES_MAX);
    assert!(matches!(refusal(&tokens, &longer).await, TokenError::HeaderTooLong));
    assert!(matches!(
        refusal(&tokens, &"x".repeat(HEADER_BYTES_MAX + 1)).await,
        TokenError::HeaderTooLong
    ));
}

#[test]
fn what_is_no_public_key_is_refused_and_not_repeated() {
    let body = |pem: &str| pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let labelled = |label: &str, pem: &str| pem.replace("PUBLIC KEY", label);
    let padded = |bytes: usize| format!("{RSA_PUBLIC}{}", " ".repeat(bytes - RSA_PUBLIC.len()));
    for (text, expected) in [
        (String::new(), KeyError::NotPem),
        ("secret".to_owned(), KeyError::NotPem),
        (RSA_PRIVATE.to_owned(), KeyError::NotPem),
        (STANDARD.encode(RSA_PRIVATE), KeyError::NotPem),
        (body(RSA_PUBLIC), KeyError::NotPem),
        (RSA_PUBLIC.replace('\n', "\\n"), KeyError::NotPem),
        (format!("{RSA_PUBLIC}{RSA_PUBLIC}"), KeyError::NotPem),
        (labelled("RSA PUBLIC KEY", RSA_PUBLIC), KeyError::NotPem),
        (labelled("CERTIFICATE", RSA_PUBLIC), KeyError::NotPem),
        (pem("", b"not DER"), KeyError::Malformed),
        (pem("", b""), KeyError::Malformed),
        (
            labelled("PUBLIC KEY", RSA_PRIVATE).replace("PRIVATE KEY", "PUBLIC KEY"),
            KeyError::Malformed,
        ),
        (pem(ED25519_PREFIX, &[0; 31]), KeyError::Malformed),
        (pem(P256_PREFIX, &[2; 65]), KeyError::Unsupported),
        (RSA_1024_PUBLIC.to_owned(), KeyError::Unsupported),
        (P521_PUBLIC.to_owned(), KeyError::Unsupported),
        (X25519_PUBLIC.to_owned(), KeyError::Unsupported),
        (padded(PUBLIC_KEY_BYTES_MAX + 1), KeyError::TooLong),
    ] {
        assert_eq!(Key::parse(&text).err(), Some(expected), "{text}");
        let error = Tokens::of_key(&text, Terms::default()).expect_err("refused");
        let sentence = format!("{error:#}");
        assert!(sentence.starts_with("JWT_PUBLIC_KEY cannot be used: "), "{sentence}");
        assert!(!sentence.contains("MI") && !sentence.contains("secret"), "{sentence}");
    }
    assert!(Key::parse(&padded(PUBLIC_KEY_BYTES_MAX)).is_ok());
}

#[test]
fn of_published_keys_those_for_signatures_are_found_by_id_and_algorithm() {
    let (rsa, p256) = (Issuer::rsa(), Issuer::p256());
    let signed_number = [vec![0], vec![0xff; 256]].concat();
    let set = published(&[
        rsa.jwk(&json!({ "kid": "rsa", "use": "sig", "alg": "RS256" })),
        p256.jwk(&json!({ "kid": "p256", "key_ops": ["verify"] })),
        Issuer::ed25519().jwk(&json!({ "kid": "twice" })),
        Issuer::ed25519().jwk(&json!({ "kid": "twice" })),
        rsa.jwk(&json!({ "kid": "signed", "n": URL_SAFE_NO_PAD.encode(signed_number) })),
        // None of these is for tokens.
        p256.jwk(&json!({ "kid": "out", "use": "enc" })),
        p256.jwk(&json!({ "kid": "out", "key_ops": ["sign"] })),
        p256.jwk(&json!({ "kid": "out", "alg": "ES384" })),
        p256.jwk(&json!({ "kid": "out", "crv": "P-384" })),
        p256.jwk(&json!({ "kid": "out", "crv": "secp256k1" })),
        p256.jwk(&json!({ "kid": "out", "y": "AA" })),
        p256.jwk(&json!({ "kid": "out", "x": "*" })),
        p256.jwk(&json!({ "kid": 7 })),
        rsa.jwk(&json!({ "kid": "out", "alg": "RSA-OAEP" })),
        rsa.jwk(&json!({ "kid": "out", "alg": "HS256" })),
        rsa.jwk(&json!({ "kid": "out", "n": "AQAB" })),
        rsa.jwk(&json!({ "kid": "out", "n": "" })),
        json!({ "kty": "oct", "kid": "out", "k": "c2VjcmV0", "alg": "HS256" }),
        json!({ "kty": "oct", "kid": "out", "k": "c2VjcmV0" }),
        json!({ "kty": "OKP", "kid": "out", "crv": "X25519", "x": URL_SAFE_NO_PAD.encode([0; 32]) }),
        json!({ "kty": "OKP", "kid": "out", "crv": "Ed25519", "x": "AAAA" }),
        json!({ "kty": "new", "kid": "out" }),
        json!({}),
        json!("key"),
    ]);
    let find = |id: Option<&str>, algorithm| match set.find(id, algorithm) {
        Ok(_) => "found",
        Err(TokenError::UnknownKey) => "unknown",
        Err(TokenError::Algorithm) => "algorithm",
        Err(TokenError::AmbiguousKey) => "ambiguous",
        Err(error) => panic!("{error:?}"),
    };
    for (id, algorithm, expected) in [
        (Some("rsa"), Algorithm::RS256, "found"),
        (Some("rsa"), Algorithm::RS512, "algorithm"),
        (Some("rsa"), Algorithm::ES256, "algorithm"),
        (Some("p256"), Algorithm::ES256, "found"),
        (Some("p256"), Algorithm::ES384, "algorithm"),
        (Some("twice"), Algorithm::EdDSA, "ambiguous"),
        (Some("signed"), Algorithm::PS512, "found"),
        (Some("Rsa"), Algorithm::RS256, "unknown"),
        (Some(""), Algorithm::RS256, "unknown"),
        // Without an id there must be no doubt.
        (None, Algorithm::ES256, "found"),
        (None, Algorithm::RS256, "ambiguous"),
        (None, Algorithm::PS256, "found"),
        (None, Algorithm::ES384, "unknown"),
        (None, Algorithm::EdDSA, "ambiguous"),
    ] {
        assert_eq!(find(id, algorithm), expected, "{id:?} {algorithm:?}");
    }
    for algorithm in [
        Algorithm::RS256,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
        Algorithm::HS256,
    ] {
        assert_eq!(find(Some("out"), algorithm), "unknown", "{algorithm:?}");
    }
}

#[test]
fn sets_of_keys_are_bounded() {
    let parse = |text: &str| KeySet::parse(text.as_bytes());
    let set = |count: usize| {
        let mut keys = String::new();
        for number in 0..count {
            let key = json!({ "kty": "OKP", "crv": "Ed25519", "kid": number.to_string(), "x": URL_SAFE_NO_PAD.encode([7; 32]) });
            let comma = if number == 0 { "" } else { "," };
            write!(keys, "{comma}{key}").expect("text grows");
        }
        format!(r#"{{"keys":[{keys}]}}"#)
    };
    let last = (KEYS_MAX - 1).to_string();
    let full = parse(&set(KEYS_MAX)).expect("a set of keys");
    assert!(full.find(Some(&last), Algorithm::EdDSA).is_ok());
    assert!(matches!(parse(&set(KEYS_MAX + 1)), Err(KeySetError::TooMany)));
    assert!(parse(r#"{"keys":[]}"#).is_ok());
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]"#, "<html>"] {
        assert!(matches!(parse(text), Err(KeySetError::Malformed(_))), "{text}");
    }
}

#[test]
fn what_is_no_url_of_an_issuer_is_refused() {
    let times = Times {
        fresh: std::time::Duration::from_mins(1),
        cool_down: std::time::Duration::from_mins(1),
        stale: std::time::Duration::ZERO,
    };
    for url in ["issuer.test", "file:///etc/passwd", "ftp://issuer.test", "http://"] {
        let error = Tokens::of_issuer(url, times, Terms::default()).expect_err("refused");
        assert!(
            format!("{error:#}").starts_with("JWT_JWKS_URL cannot be used: "),
            "{error:#}"
        );
    }
    for url in ["http://127.0.0.1:1/jwks", "https://issuer.test/.well-known/jwks.json"] {
        assert!(Tokens::of_issuer(url, times, Terms::default()).is_ok(), "{url}");
    }
}

/// Who is let in, or what the refusal says.
async fn sent(credentials: &Credentials, value: &str) -> Result<Caller, &'static str> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
    credentials.check(&headers).await.map_err(|error| match error {
        ApiError::NoCredential => "none",
        ApiError::WrongCredential => "wrong",
        error => panic!("{error:?}"),
    })
}

fn secrets(text: &str) -> Secrets {
    Secrets::parse(text).expect("secrets")
}

#[tokio::test]
async fn q28_the_secret_is_accepted_in_every_documented_form() {
    let credentials = Credentials::new(Some(secrets("hush")), None);
    for value in [
        "Bearer hush",
        "bearer hush",
        "BEARER   hush",
        "Bearer\thush",
        "hush",
        " hush ",
    ] {
        assert_eq!(sent(&credentials, value).await, Ok(Caller::Secret), "{value:?}");
    }
    for value in [
        "Bearer",
        "Bearer hus",
        "Bearerhush",
        "Basic hush",
        "Bearer hushh",
        "Bearer Hush",
    ] {
        assert_eq!(sent(&credentials, value).await, Err("wrong"), "{value:?}");
    }
    for value in ["", "  "] {
        assert_eq!(sent(&credentials, value).await, Err("none"), "{value:?}");
    }
    assert!(credentials.check(&HeaderMap::new()).await.is_err());
}

#[tokio::test]
async fn two_secrets_are_valid_at_once_and_not_as_one() {
    let credentials = Credentials::new(Some(secrets("old, new")), None);
    assert_eq!(sent(&credentials, "Bearer old").await, Ok(Caller::Secret));
    assert_eq!(sent(&credentials, "Bearer new").await, Ok(Caller::Secret));
    assert_eq!(sent(&credentials, "Bearer old, new").await, Err("wrong"));
}

#[tokio::test]
async fn secret_and_token_stand_beside_each_other_and_alone() {
    let issuer = Issuer::p256();
    let token = issuer.sign(&json!({ "alg": "ES256" }), &lasting());
    let tokens = || Some(tokens(&issuer.pem(), Terms::default()));
    let expected = Caller::Token {
        issuer: "https://issuer.test".to_owned(),
        subject: "someone".to_owned(),
    };
    let both = Credentials::new(Some(secrets("hush")), tokens());
    assert_eq!(sent(&both, "Bearer hush").await, Ok(Caller::Secret));
    for value in [format!("Bearer {token}"), format!("bearer  {token}"), token.clone()] {
        assert_eq!(sent(&both, &value).await, Ok(expected.clone()), "{value}");
    }
    for value in ["Bearer wrong", "Bearer a.b.c", "wrong"] {
        assert_eq!(sent(&both, value).await, Err("wrong"), "{value}");
    }
    let alone = Credentials::new(None, tokens());
    assert_eq!(sent(&alone, &token).await, Ok(expected));
    assert_eq!(sent(&alone, "Bearer hush").await, Err("wrong"));
    assert_eq!(
        sent(&Credentials::new(Some(secrets("hush")), None), &token).await,
        Err("wrong")
    );
    assert_eq!(sent(&Credentials::new(None, None), "Bearer").await, Err("wrong"));
}
