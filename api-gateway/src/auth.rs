//! Who may write: whoever knows the API secret. The one place that compares it.

use std::fmt;

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use crate::error::ApiError;

/// Secrets that are valid at once: the old and the new one while it is being changed.
const SECRETS_MAX: usize = 2;

const SCHEME: &[u8] = b"bearer";

/// The secrets that permit a write. Kept as digests, so that comparing takes the same time whatever is sent.
pub(crate) struct Credentials(Vec<[u8; 32]>);

/// Text that holds no secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("it holds more than the {SECRETS_MAX} secrets that may be valid at once")]
    TooMany,
    #[error("one of its secrets is empty")]
    Empty,
}

impl Credentials {
    /// One secret, or two separated by a comma.
    pub(crate) fn parse(text: &str) -> Result<Self, CredentialsError> {
        let secrets: Vec<_> = text.split(',').map(str::trim).collect();
        if secrets.len() > SECRETS_MAX {
            return Err(CredentialsError::TooMany);
        }
        if secrets.iter().any(|secret| secret.is_empty()) {
            return Err(CredentialsError::Empty);
        }
        Ok(Self(
            secrets.into_iter().map(|secret| digest(secret.as_bytes())).collect(),
        ))
    }

    /// Checks `Authorization: Bearer <secret>`, the scheme in any letter case, or the bare secret.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let value = headers
            .get(header::AUTHORIZATION)
            .map_or(&b""[..], |value| value.as_bytes());
        let value = value.trim_ascii();
        if value.is_empty() {
            return Err(ApiError::unauthorized(
                "Authorization header is required for write operations",
            ));
        }
        let token = digest(without_scheme(value));
        let matches = self
            .0
            .iter()
            .fold(Choice::from(0), |found, secret| found | secret.ct_eq(&token));
        if matches.into() {
            Ok(())
        } else {
            Err(ApiError::unauthorized("Invalid credentials"))
        }
    }
}

fn without_scheme(value: &[u8]) -> &[u8] {
    let Some((scheme, token)) = value.split_at_checked(SCHEME.len()) else {
        return value;
    };
    let is_scheme = scheme.eq_ignore_ascii_case(SCHEME) && token.first().is_some_and(u8::is_ascii_whitespace);
    if is_scheme { token.trim_ascii() } else { value }
}

fn digest(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Credentials({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(secrets: &str, value: &str, expected: bool) {
        let credentials = Credentials::parse(secrets).expect("secrets");
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        assert_eq!(credentials.check(&headers).is_ok(), expected, "{value:?}");
    }

    #[test]
    fn the_secret_is_accepted_in_every_documented_form() {
        for value in [
            "Bearer hush",
            "bearer hush",
            "BEARER   hush",
            "Bearer\thush",
            "hush",
            " hush ",
        ] {
            check("hush", value, true);
        }
        for value in [
            "Bearer",
            "Bearer hus",
            "Bearerhush",
            "Basic hush",
            "Bearer hushh",
            "",
            "Bearer Hush",
        ] {
            check("hush", value, false);
        }
    }

    #[test]
    fn two_secrets_are_valid_at_once_and_not_as_one() {
        check("old, new", "Bearer old", true);
        check("old, new", "Bearer new", true);
        check("old, new", "Bearer old, new", false);
        assert!(Credentials::parse("a,b,c").is_err());
        assert!(Credentials::parse("a,").is_err());
    }
}
