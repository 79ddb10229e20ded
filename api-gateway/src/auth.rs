//! Who may write: whoever knows the API secret, or sends a token (JWT) that holds. Either is enough where both are set.

mod backend;
mod jwks;
mod key;
mod token;

use std::error::Error;

use anyhow::Context as _;
use http::{HeaderMap, header};
use runtime::secret::{Secrets, bearer};

use crate::error::ApiError;

use jwks::Jwks;
use key::{Key, KeySet};
use token::Keys;

pub(crate) use jwks::Times;
pub(crate) use token::{Terms, Tokens};

/// What permits a write.
#[derive(Debug)]
pub(crate) struct Credentials {
    secrets: Option<Secrets>,
    tokens: Option<Tokens>,
}

/// Who was let in. Tokens have no roles: whoever holds one may do everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody who knows the secret.
    Secret,
    /// The subject of a token; each part is empty if the token has no such claim.
    Token { issuer: String, subject: String },
}

impl Credentials {
    /// By these secrets and these tokens; with neither, nobody is let in.
    pub(crate) fn new(secrets: Option<Secrets>, tokens: Option<Tokens>) -> Self {
        Self { secrets, tokens }
    }

    /// Who sends `Authorization: Bearer <secret or token>`, the scheme in any letter case or left out.
    pub(crate) async fn check(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let value = headers
            .get(header::AUTHORIZATION)
            .map_or(&b""[..], |value| value.as_bytes());
        let value = value.trim_ascii();
        if value.is_empty() {
            return Err(ApiError::NoCredential);
        }
        let sent = bearer(value).unwrap_or(value);
        if self.secrets.as_ref().is_some_and(|secrets| secrets.open_for(sent)) {
            return Ok(Caller::Secret);
        }
        let Some(tokens) = &self.tokens else {
            return Err(ApiError::WrongCredential);
        };
        tokens.verify(sent).await.map_err(|error| {
            tracing::info!(error = &error as &dyn Error, "token refused");
            ApiError::WrongCredential
        })
    }
}

impl Tokens {
    /// Tokens of one key: a PEM block `PUBLIC KEY`, or base64 of one.
    pub(crate) fn of_key(key: &str, terms: Terms) -> anyhow::Result<Self> {
        let key = Key::parse(key).context("JWT_PUBLIC_KEY cannot be used")?;
        Ok(Self::new(Keys::Given(KeySet::of(key)), terms))
    }

    /// Tokens of the keys that are published at a URL.
    pub(crate) fn of_issuer(url: &str, times: Times, terms: Terms) -> anyhow::Result<Self> {
        let keys = Jwks::new(url, times).context("JWT_JWKS_URL cannot be used")?;
        Ok(Self::new(Keys::Published(keys), terms))
    }
}

#[cfg(test)]
mod tests;
