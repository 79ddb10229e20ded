//! Who may write: whoever knows the API secret.

use http::{HeaderMap, header};
use runtime::secret::{Secrets, SecretsError, bearer};

use crate::error::ApiError;

/// The secrets that permit a write.
#[derive(Debug)]
pub(crate) struct Credentials(Secrets);

impl Credentials {
    /// One secret, or two separated by a comma.
    pub(crate) fn parse(text: &str) -> Result<Self, SecretsError> {
        Secrets::parse(text).map(Self)
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
        if self.0.open_for(bearer(value).unwrap_or(value)) {
            Ok(())
        } else {
            Err(ApiError::unauthorized("Invalid credentials"))
        }
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
