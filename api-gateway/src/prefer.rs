//! The `Prefer` header of RFC 7240: whether a write is to be answered before it is applied.

use http::HeaderMap;

use crate::error::Mode;

const RESPOND_ASYNC: &str = "respond-async";

/// What the client prefers. Preferences may stand in several headers and carry values and parameters, quoted ones too;
/// whoever names `respond-async` itself means it.
pub(crate) fn mode(headers: &HeaderMap) -> Mode {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(split_list);
    if preferences.any(|preference| token(preference).eq_ignore_ascii_case(RESPOND_ASYNC)) {
        Mode::Queued
    } else {
        Mode::Applied
    }
}

/// The elements between commas, those inside of quotes left alone.
fn split_list(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |character| {
        if escaped {
            escaped = false;
            return false;
        }
        match character {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' => return !quoted,
            _ => {}
        }
        false
    })
}

fn token(preference: &str) -> &str {
    preference.split(['=', ';']).next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(values: &[&str], expected: Mode) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", HeaderValue::from_str(value).expect("a header"));
        }
        assert_eq!(mode(&headers), expected, "{values:?}");
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
}
