//! Tokens (JWT): what is asked of one before it opens anything.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, AlgorithmFamily, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::Caller;
use super::backend;
use super::jwks::Jwks;
use super::key::{Key, KeySet};

/// Longest token, in bytes.
pub(super) const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest first part of one, in bytes as it is sent: key id, algorithm, and what nobody asks for.
pub(super) const HEADER_BYTES_MAX: usize = 2 * 1024;
/// How far the clocks of issuer and gateway may be apart, in seconds.
pub(super) const LEEWAY_SECONDS: u64 = 5;

/// Where keys come from.
#[derive(Debug)]
pub(super) enum Keys {
    /// They were given.
    Given(KeySet),
    /// The issuer publishes them.
    Published(Jwks),
}

/// The tokens that open something.
#[derive(Debug)]
pub(crate) struct Tokens {
    keys: Keys,
    /// What a token must be, whatever its algorithm.
    terms: Terms,
}

/// What the claims of a token are compared with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    /// `iss`, if it matters.
    pub(crate) issuer: Option<String>,
    /// `aud`, or one of it, if it matters.
    pub(crate) audience: Option<String>,
    /// Whether a token without `exp` is refused.
    pub(crate) needs_expiry: bool,
}

/// Why a token opens nothing: for the log, never for whoever sent it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("it is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("its header is longer than {HEADER_BYTES_MAX} bytes")]
    HeaderTooLong,
    #[error("it is not a token of an algorithm that is known")]
    Malformed(#[source] jsonwebtoken::errors::Error),
    #[error("its header names extensions that must be understood, and are not")]
    Extensions,
    #[error("its algorithm is not one of its key")]
    Algorithm,
    #[error("it is of a key that is not known")]
    UnknownKey,
    #[error("it is of no key in particular, and more than one would do")]
    AmbiguousKey,
    #[error("the keys of the issuer are not known, or not any more")]
    NoKeys,
    #[error("it is of another issuer, or of none")]
    Issuer,
    #[error("it does not hold")]
    Invalid(#[source] jsonwebtoken::errors::Error),
}

impl Tokens {
    pub(super) fn new(keys: Keys, terms: Terms) -> Self {
        backend::install();
        if terms.audience.is_none() {
            tracing::warn!("JWT_AUDIENCE is not set: tokens for other services are accepted too");
        }
        Self { keys, terms }
    }

    /// Whose token it is, if it opens anything.
    pub(super) async fn verify(&self, token: &[u8]) -> Result<Caller, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        if token.iter().take_while(|&&byte| byte != b'.').count() > HEADER_BYTES_MAX {
            return Err(TokenError::HeaderTooLong);
        }
        let header = decode_header(token).map_err(TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Extensions);
        }
        // No key is for these: nothing needs to be asked of the issuer to know it.
        if header.alg.family() == AlgorithmFamily::Hmac {
            return Err(TokenError::Algorithm);
        }
        let key = self.key(header.kid.as_deref(), header.alg).await?;
        let decoded = decode::<Map<String, Value>>(token, key.decoding(), &self.terms.validation(header.alg));
        let claims = decoded.map_err(TokenError::Invalid)?.claims;
        if !claims.contains_key("exp") {
            tracing::warn!("a token without an end was accepted");
        }
        let text = |name| claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let issuer = text("iss");
        // Not left to the library, which takes a list of issuers that has this one, too.
        if self.terms.issuer.as_ref().is_some_and(|expected| *expected != issuer) {
            return Err(TokenError::Issuer);
        }
        Ok(Caller::Token {
            issuer,
            subject: text("sub"),
        })
    }

    async fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, TokenError> {
        match &self.keys {
            Keys::Given(keys) => keys.find(None, algorithm),
            Keys::Published(keys) => keys.find(id, algorithm).await,
        }
    }
}

impl Terms {
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.required_spec_claims.clear();
        let mut need = |name: &str| validation.required_spec_claims.insert(name.to_owned());
        if self.needs_expiry {
            need("exp");
        }
        if self.audience.is_some() {
            need("aud");
        }
        validation.validate_aud = self.audience.is_some();
        validation.aud = self.audience.clone().map(|audience| [audience].into());
        validation
    }
}
