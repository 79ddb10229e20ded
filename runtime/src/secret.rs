//! Secrets that are set by whoever runs a service: never printed, and compared in constant time. The one place that
//! compares them.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// Secrets that are valid at once: the old and the new one while it is being changed.
const SECRETS_MAX: usize = 2;
const SCHEME: &[u8] = b"bearer";

/// Text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Whether it holds nothing but white space, as a variable does that is there but not set.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }

    /// The text itself, without white space around it; none if it is blank.
    #[must_use]
    pub fn reveal(&self) -> Option<&str> {
        Some(self.0.trim()).filter(|text| !text.is_empty())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// The secrets that open something. Kept as digests, so that comparing takes the same time whatever is sent.
#[derive(Clone)]
pub struct Secrets(Vec<[u8; 32]>);

/// Text that holds no secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// More than may be valid at once.
    #[error("it holds more than the {SECRETS_MAX} secrets that may be valid at once")]
    TooMany,
    /// Nothing between two commas, or before or after one.
    #[error("one of its secrets is empty")]
    Empty,
}

impl Secrets {
    /// One secret, or two separated by a comma.
    pub fn parse(text: &str) -> Result<Self, SecretsError> {
        let secrets: Vec<_> = text.split(',').map(str::trim).collect();
        if secrets.len() > SECRETS_MAX {
            return Err(SecretsError::TooMany);
        }
        if secrets.iter().any(|secret| secret.is_empty()) {
            return Err(SecretsError::Empty);
        }
        let digests = secrets.into_iter().map(|secret| digest(secret.as_bytes()));
        Ok(Self(digests.collect()))
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn open_for(&self, sent: &[u8]) -> bool {
        let sent = digest(sent);
        let none = Choice::from(0);
        let found = self.0.iter().fold(none, |found, secret| found | secret.ct_eq(&sent));
        found.into()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secrets({})", self.0.len())
    }
}

/// What `Authorization: Bearer <secret>` carries, the scheme in any letter case; none if there is no such scheme.
#[must_use]
pub fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, secret) = value.trim_ascii().split_at_checked(SCHEME.len())?;
    let is_scheme = scheme.eq_ignore_ascii_case(SCHEME) && secret.first().is_some_and(u8::is_ascii_whitespace);
    is_scheme.then(|| secret.trim_ascii())
}

fn digest(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let secret = Secret::from("hush".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(secret.reveal(), Some("hush"));
        assert_eq!(Secret::from(" ".to_owned()).reveal(), None);
        let secrets = Secrets::parse("hush,hash").expect("these are secrets");
        assert_eq!(format!("{secrets:?}"), "Secrets(2)");
    }

    #[test]
    fn two_secrets_are_valid_at_once_and_not_as_one() {
        let secrets = Secrets::parse("old, new").expect("these are secrets");
        assert!(secrets.open_for(b"old") && secrets.open_for(b"new"));
        for wrong in ["old, new", "", "ol", "oldd", "Old", "old,"] {
            assert!(!secrets.open_for(wrong.as_bytes()), "{wrong:?}");
        }
        assert_eq!(Secrets::parse("a,b,c").err(), Some(SecretsError::TooMany));
        assert_eq!(Secrets::parse("a,").err(), Some(SecretsError::Empty));
        assert_eq!(Secrets::parse("").err(), Some(SecretsError::Empty));
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        for value in ["Bearer hush", "bearer hush", " BEARER   hush ", "Bearer\thush"] {
            assert_eq!(bearer(value.as_bytes()), Some(&b"hush"[..]), "{value:?}");
        }
        for value in ["", "Bearer", "Bearerhush", "hush", "Basic hush"] {
            assert_eq!(bearer(value.as_bytes()), None, "{value:?}");
        }
    }
}
