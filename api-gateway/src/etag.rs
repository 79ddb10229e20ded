//! Entity tags, and the conditions of requests that name them (RFC 9110, sections 8.8.3 and 13).
//!
//! A tag is the digest of the text that it names, so it is the same through every gateway, after every restart, and
//! whether a version was queued or not. An encoded form of the text has a tag of its own, which ends in the name of the
//! encoding. A condition of a write is about the version, and takes the tag of any form.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::compute;
use crate::error::ApiError;

/// What the tags of encoded forms end in: the encodings that answers are sent in.
const ENCODINGS: [&str; 2] = ["br", "gzip"];

/// The tag of a text, without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ETag(String);

/// What a request asks of the version that it is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    matches: Option<Tags>,
    matches_none: Option<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    /// `*`: whichever there is.
    Any,
    These(Vec<Tag>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    is_weak: bool,
    /// What stands in quotes.
    opaque: Box<[u8]>,
}

impl ETag {
    /// The tag of the plain form of a text.
    pub(crate) fn of(text: &str) -> Self {
        Self(compute::over(text.len(), || hex::encode(Sha256::digest(text))))
    }

    /// The tag in a header that one was put into.
    pub(crate) fn of_answer(headers: &HeaderMap) -> Option<Self> {
        let quoted = headers.get(header::ETAG)?.to_str().ok()?;
        let opaque = quoted.strip_prefix('"')?.strip_suffix('"')?;
        Some(Self(opaque.to_owned()))
    }

    /// The tag of the form in this encoding, of the plain form's.
    pub(crate) fn encoded(&self, encoding: &str) -> Self {
        Self(format!("{}-{encoding}", self.0))
    }

    /// The tag of the plain form.
    fn plain(&self) -> Self {
        Self(String::from_utf8_lossy(plain(self.0.as_bytes())).into_owned())
    }

    pub(crate) fn to_header(&self) -> HeaderValue {
        HeaderValue::from_str(&format!("\"{}\"", self.0)).expect("a digest is a header's value")
    }
}

/// The tag of the plain form, of any form's.
fn plain(opaque: &[u8]) -> &[u8] {
    let encoding = ENCODINGS.iter().find_map(|encoding| {
        let form = opaque.strip_suffix(encoding.as_bytes())?;
        form.strip_suffix(b"-")
    });
    encoding.unwrap_or(opaque)
}

impl Conditions {
    /// The conditions of a write; what is not written as they have to be is refused, for a write that was meant to
    /// depend on something must not happen without it.
    pub(crate) fn of_write(headers: &HeaderMap) -> Result<Self, ApiError> {
        let read = |name: HeaderName, shown: &str| {
            Tags::parse(headers, &name).map_err(|NotTags| {
                let message = format!("{shown} must be * or a list of entity tags, each in double quotes");
                ApiError::bad_request("invalid_precondition", message)
            })
        };
        Ok(Self {
            matches: read(header::IF_MATCH, "If-Match")?,
            matches_none: read(header::IF_NONE_MATCH, "If-None-Match")?,
        })
    }

    /// The conditions of a read; what is not written as they have to be is as good as not there.
    fn of_read(headers: &HeaderMap) -> Self {
        let read = |name| Tags::parse(headers, &name).unwrap_or_default();
        Self {
            matches: read(header::IF_MATCH),
            matches_none: read(header::IF_NONE_MATCH),
        }
    }

    /// Refuses a write of a document whose accepted version has this text.
    pub(crate) fn check(&self, accepted: &str) -> Result<(), ApiError> {
        if self.matches.is_none() && self.matches_none.is_none() {
            return Ok(());
        }
        let tag = ETag::of(accepted);
        if !self.matches.as_ref().is_none_or(|tags| tags.have_version(&tag)) {
            return Err(failed("If-Match does not name the version that was accepted last"));
        }
        let names_it = |tags: &Tags| tags.have_weakly(|opaque| plain(opaque) == tag.0.as_bytes());
        if self.matches_none.as_ref().is_some_and(names_it) {
            return Err(failed("If-None-Match names the version that was accepted last"));
        }
        Ok(())
    }
}

fn failed(message: &'static str) -> ApiError {
    ApiError::refused(StatusCode::PRECONDITION_FAILED, "precondition_failed", message)
}

/// A header that is no list of tags.
struct NotTags;

impl Tags {
    fn parse(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, NotTags> {
        let lines: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|line| line.as_bytes().trim_ascii())
            .collect();
        match lines[..] {
            [] => return Ok(None),
            [b"*"] => return Ok(Some(Self::Any)),
            _ => {}
        }
        let mut tags = Vec::new();
        for mut rest in lines {
            while !rest.is_empty() {
                // Lists may have empty members.
                if let Some(after) = rest.strip_prefix(b",") {
                    rest = after.trim_ascii_start();
                    continue;
                }
                let (tag, after) = Tag::parse(rest).ok_or(NotTags)?;
                tags.push(tag);
                rest = after.trim_ascii_start();
                if !rest.is_empty() && !rest.starts_with(b",") {
                    return Err(NotTags);
                }
            }
        }
        if tags.is_empty() {
            return Err(NotTags);
        }
        Ok(Some(Self::These(tags)))
    }

    /// Whether the tag of some form of a version is among them, compared strongly.
    fn have_version(&self, tag: &ETag) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags
                .iter()
                .any(|one| !one.is_weak && plain(&one.opaque) == tag.0.as_bytes()),
        }
    }

    /// Whether a tag like this is among them, weak or not.
    fn have_weakly(&self, is_it: impl Fn(&[u8]) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|one| is_it(&one.opaque)),
        }
    }
}

impl Tag {
    /// The tag that the text begins with, and what follows.
    fn parse(text: &[u8]) -> Option<(Self, &[u8])> {
        let (is_weak, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let inner = quoted.strip_prefix(b"\"")?;
        let length = inner.iter().position(|byte| *byte == b'"')?;
        let (opaque, after) = inner.split_at(length);
        let is_tag = opaque
            .iter()
            .all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..=0xff));
        let opaque = Box::from(opaque);
        is_tag.then_some((Self { is_weak, opaque }, &after[1..]))
    }
}

/// The layer: answers a read with 304 if the client has what it would be sent, and with 412 if it must have something
/// else.
pub(crate) async fn judge_read(request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let Conditions { matches, matches_none } = Conditions::of_read(request.headers());
    let response = next.run(request).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    let Some(tag) = ETag::of_answer(response.headers()) else {
        return response;
    };
    let plain = tag.plain();
    if matches.is_some_and(|tags| !tags.have_version(&plain)) {
        return failed("If-Match does not name what there is").into_response();
    }
    let Some(tags) = matches_none else { return response };
    // The plain form does for everybody; another encoding than the one that was chosen need not.
    let mut forms = [tag, plain].into_iter();
    match forms.find(|form| tags.have_weakly(|opaque| opaque == form.0.as_bytes())) {
        Some(form) => not_modified(response, &form),
        None => response,
    }
}

/// What is left of an answer whose content the client has, in the form with this tag.
fn not_modified(mut response: Response, form: &ETag) -> Response {
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    headers.insert(header::ETAG, form.to_header());
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    response.map(|_| axum::body::Body::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "text";
    /// `printf text | sha256sum`
    const DIGEST: &str = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header"));
        }
        headers
    }

    /// Whether a write of [`TEXT`] may happen, `{}` standing for its tag; none if the condition is none.
    fn allowed(name: &HeaderName, values: &[&str]) -> Option<bool> {
        let values: Vec<_> = values.iter().map(|value| value.replace("{}", DIGEST)).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        let conditions = Conditions::of_write(&headers(name, &values)).ok()?;
        Some(conditions.check(TEXT).is_ok())
    }

    #[test]
    fn a_tag_is_the_digest_of_the_text() {
        assert_eq!(ETag::of(TEXT).to_header(), format!("\"{DIGEST}\""));
    }

    #[test]
    fn a_write_that_must_match_compares_strongly_and_takes_any_form() {
        for values in [
            &["*"][..],
            &[" \"{}\" "],
            &["\"{}-br\""],
            &["\"{}-gzip\""],
            &["\"a,b\" , ,W/\"{}\",\"{}\""],
            &["\"a\"", "\"{}\""],
            &["\"\", \"\u{e9}\", \"{}\""],
        ] {
            assert_eq!(allowed(&header::IF_MATCH, values), Some(true), "{values:?}");
        }
        for values in [
            &["W/\"{}\""][..],
            &["\"\""],
            &["\"x{}\""],
            &["\"{}-zstd\""],
            &["\"{}-br-br\""],
            &["\"{}br\""],
            &["\"a,{}\""],
            &["\"*\""],
        ] {
            assert_eq!(allowed(&header::IF_MATCH, values), Some(false), "{values:?}");
        }
        assert_eq!(allowed(&header::IF_MATCH, &[]), Some(true));
    }

    #[test]
    fn a_write_that_must_match_none_compares_weakly() {
        for values in [&["*"][..], &["\"{}\""], &["W/\"{}-gzip\""], &["\"a\"", "W/\"{}\""]] {
            assert_eq!(allowed(&header::IF_NONE_MATCH, values), Some(false), "{values:?}");
        }
        for values in [&["\"a\""][..], &["W/\"{}x\""]] {
            assert_eq!(allowed(&header::IF_NONE_MATCH, values), Some(true), "{values:?}");
        }
        assert_eq!(allowed(&header::IF_NONE_MATCH, &[]), Some(true));
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused_for_writes_and_nothing_to_reads() {
        for values in [
            &[""][..],
            &[","],
            &["{}"],
            &["\"{}"],
            &["{}\""],
            &["\"a\" \"{}\""],
            &["w/\"{}\""],
            &["W/ \"{}\""],
            &["\"{} \""],
            &["*, \"{}\""],
            &["*", "\"{}\""],
            &["*", "*"],
        ] {
            assert_eq!(allowed(&header::IF_MATCH, values), None, "{values:?}");
            assert_eq!(allowed(&header::IF_NONE_MATCH, values), None, "{values:?}");
            let read = Conditions::of_read(&headers(&header::IF_NONE_MATCH, values));
            assert_eq!(read.matches_none, None, "{values:?}");
        }
    }
}
