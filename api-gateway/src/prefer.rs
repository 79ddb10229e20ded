//! The `Prefer` header of RFC 7240: whether a write is to be answered before it is applied, and how long its result is
//! worth waiting for.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use crate::error::Mode;

const RESPOND_ASYNC: &str = "respond-async";
const WAIT: &str = "wait";
/// Longest wait; who prefers a longer one gets this.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a client prefers to wait for the result of a queued write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// At most [`WAIT_MAX`].
    pub(crate) seconds: u64,
    /// The time counts from the arrival of the request.
    pub(crate) until: Instant,
}

/// What the client prefers. Preferences may stand in several headers and carry values and parameters, quoted ones too;
/// whoever names `respond-async` itself means it.
pub(crate) fn mode(headers: &HeaderMap) -> Mode {
    if preferences(headers).any(|(name, _)| name.eq_ignore_ascii_case(RESPOND_ASYNC)) {
        Mode::Queued
    } else {
        Mode::Applied
    }
}

/// How long a request that arrived `now` prefers to wait: the first `wait` counts, as the standard has it; one that is not
/// a number of seconds is ignored.
pub(crate) fn wait(headers: &HeaderMap, now: Instant) -> Option<Wait> {
    let (_, value) = preferences(headers).find(|(name, _)| name.eq_ignore_ascii_case(WAIT))?;
    let digits = value.filter(|value| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()))?;
    // A number that does not fit is more than the longest wait.
    let seconds = digits.parse().unwrap_or(u64::MAX).min(WAIT_MAX.as_secs());
    Some(Wait {
        seconds,
        until: now + Duration::from_secs(seconds),
    })
}

/// Each preference with its value; parameters are left out.
fn preferences(headers: &HeaderMap) -> impl Iterator<Item = (&str, Option<&str>)> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| split(value, ',')).map(|preference| {
        let preference = split(preference, ';').next().unwrap_or_default();
        match preference.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
            None => (preference.trim(), None),
        }
    })
}

/// What stands between separators, those inside of quotes left alone.
fn split(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |character| {
        if escaped {
            escaped = false;
            return false;
        }
        match character {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            other => return other == separator && !quoted,
        }
        false
    })
}

/// A value in quotes means what it means without.
fn unquoted(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    inner.unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", HeaderValue::from_str(value).expect("a header"));
        }
        headers
    }

    #[track_caller]
    fn check(values: &[&str], expected: Mode) {
        assert_eq!(mode(&headers(values)), expected, "{values:?}");
    }

    #[test]
    fn the_token_counts_wherever_it_stands() {
        for value in [
            "respond-async",
            "Respond-Async",
            " respond-async , wait=10",
            "wait=10, respond-async",
            "respond-async; wait=5",
            "respond-async=true",
            r#"foo="a, \"b", respond-async"#,
        ] {
            check(&[value], Mode::Queued);
        }
        check(&["wait=10", "respond-async"], Mode::Queued);
    }

    #[test]
    fn what_only_looks_like_it_does_not() {
        for value in [
            "",
            "respond-asyncfoo",
            "wait=respond-async",
            "foo; respond-async",
            r#"foo=", respond-async""#,
            "respond async",
        ] {
            check(&[value], Mode::Applied);
        }
        check(&[], Mode::Applied);
    }

    #[track_caller]
    fn check_wait(values: &[&str], expected: Option<u64>) {
        let now = Instant::now();
        let found = wait(&headers(values), now);
        assert_eq!(found.map(|wait| wait.seconds), expected, "{values:?}");
        let until = expected.map(|seconds| now + Duration::from_secs(seconds));
        assert_eq!(found.map(|wait| wait.until), until, "{values:?}");
    }

    #[test]
    fn a_wait_is_a_number_of_seconds_up_to_the_longest() {
        let max = WAIT_MAX.as_secs();
        check_wait(&["wait=0"], Some(0));
        check_wait(&["respond-async, Wait = 10"], Some(10));
        check_wait(&["respond-async", "wait=10"], Some(10));
        check_wait(&["wait=10; strict=\"a;b\""], Some(10));
        check_wait(&["wait=\"10\""], Some(10));
        check_wait(&["wait=5, wait=10"], Some(5));
        check_wait(&[&format!("wait={max}")], Some(max));
        check_wait(&[&format!("wait={}", max + 1)], Some(max));
        check_wait(&["wait=99999999999999999999999"], Some(max));
    }

    #[test]
    fn a_wait_that_is_no_number_is_none() {
        for value in [
            "respond-async",
            "respond-async; wait=5",
            "wait",
            "wait=",
            "wait=\"\"",
            "wait=soon",
            "wait=-1",
            "wait=+1",
            "wait=1.5",
            "wait=1s",
            "wait=\"1, respond-async\"",
            "wait=soon, wait=10",
            "foo=\"wait=10\"",
            "waits=10",
        ] {
            check_wait(&[value], None);
        }
        check_wait(&[], None);
    }
}
