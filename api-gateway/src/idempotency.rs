//! `Idempotency-Key`: what a request was answered first is answered again. The answer is written by the very commit that
//! accepts the write, so there is no moment at which one of them is known and the other is not.

use feed::commit::Commit;
use feed::id::Kind;
use feed::keys::{self, Key};
use feed::operation::{operation_path, parse_operation_path};
use feed::state::Malformed;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::answer::Answer;
use crate::auth::Caller;
use crate::error::ApiError;

/// Longest key, in characters.
const KEY_CHARS_MAX: usize = 255;
/// How long an answer is remembered: 24 hours, in ms.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// A request that may be sent again.
#[derive(Clone, Debug)]
pub(crate) struct Repeatable {
    key: Key,
    request: String,
}

/// What is remembered ahead of the answer's body.
#[derive(Serialize, Deserialize)]
struct Head {
    /// Digest of the request's body.
    request: String,
    status: u16,
    /// The document that was made.
    document: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
}

/// Why a remembered answer is not given.
#[derive(Debug)]
pub(crate) enum RecallError {
    /// The key was used for another body.
    OtherRequest,
    /// The record is not one of ours.
    Malformed(Malformed),
}

/// The key that a POST carries, if it does.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let is_key =
        |key: &&str| (1..=KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    let key = value.to_str().ok().filter(is_key).filter(|_| values.next().is_none());
    key.map(Some).ok_or_else(|| {
        ApiError::bad_request(
            "invalid_idempotency_key",
            format!("Idempotency-Key must be 1 to {KEY_CHARS_MAX} visible ASCII characters"),
        )
    })
}

impl Repeatable {
    /// A POST of this body to the collection of a kind.
    pub(crate) fn new(caller: &Caller, key: &str, kind: Kind, body: &[u8]) -> Self {
        let caller = match caller {
            Caller::Secret => "secret".to_owned(),
            Caller::Token { issuer, subject } => json!([issuer, subject]).to_string(),
        };
        // No part but the last can hold a line feed: JSON writes it in another way.
        let name = format!("{caller}\nPOST\n{kind}\n{key}");
        Self {
            key: keys::idempotency(&hex::encode(Sha256::digest(name))),
            request: hex::encode(Sha256::digest(body)),
        }
    }

    /// Where the answer is kept.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Lets the commit happen only if nothing was answered yet, and remember the answer.
    pub(crate) fn remember(&self, answer: &Answer, commit: &mut Commit) {
        let head = Head {
            request: self.request.clone(),
            status: answer.status.as_u16(),
            document: answer.document.to_string(),
            location: answer.operation.map(operation_path),
        };
        let head = serde_json::to_string(&head).expect("a head of strings is JSON");
        commit.expect_revision(self.key.clone(), 0);
        commit.put_for(self.key.clone(), format!("{head}\n{}", answer.body), KEPT_MS);
    }

    /// The answer in a record.
    pub(crate) fn recall(&self, record: &str) -> Result<Answer, RecallError> {
        const FAULT: RecallError = RecallError::Malformed(Malformed("remembered answer"));
        let (head, body) = record.split_once('\n').ok_or(FAULT)?;
        let head: Head = serde_json::from_str(head).map_err(|_| FAULT)?;
        if head.request != self.request {
            return Err(RecallError::OtherRequest);
        }
        let status = StatusCode::from_u16(head.status).ok().filter(StatusCode::is_success);
        let operation = head.location.map(|path| parse_operation_path(&path).ok_or(FAULT));
        Ok(Answer {
            status: status.ok_or(FAULT)?,
            document: head.document.parse().map_err(|_| FAULT)?,
            operation: operation.transpose()?,
            wait: None,
            is_replayed: true,
            body: body.to_owned(),
            // A POST deletes nothing.
            is_version: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use feed::state::OperationId;
    use http::HeaderValue;

    use super::*;

    const DOCUMENT: &str = "playlist/385f79b6-a45f-4c1c-8080-e93a192adccc";

    #[track_caller]
    fn check(value: &[u8], expected: bool) {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", HeaderValue::from_bytes(value).expect("a header"));
        assert_eq!(key(&headers).is_ok(), expected, "{value:?}");
    }

    #[test]
    fn keys_are_checked_at_their_limits() {
        check(b"a", true);
        check(&[b'~'; KEY_CHARS_MAX], true);
        check(&[b'~'; KEY_CHARS_MAX + 1], false);
        check(b"", false);
        check(b"a b", false);
        check("ü".as_bytes(), false);
        let mut twice = HeaderMap::new();
        twice.append("idempotency-key", HeaderValue::from_static("a"));
        twice.append("idempotency-key", HeaderValue::from_static("b"));
        assert!(key(&twice).is_err());
    }

    #[test]
    fn a_remembered_answer_reads_back_for_the_same_request_only() {
        let answer = Answer {
            status: StatusCode::ACCEPTED,
            document: DOCUMENT.parse().expect("a key"),
            operation: Some(OperationId::new_v4()),
            wait: None,
            is_replayed: false,
            body: "{\"a\":\n1}".to_owned(),
            is_version: true,
        };
        let repeatable = Repeatable::new(&Caller::Secret, "key", Kind::Playlist, b"body");
        let mut commit = Commit::default();
        repeatable.remember(&answer, &mut commit);
        let Some(feed::commit::Change::Put { text, ttl_ms, .. }) = commit.changes.get(repeatable.key()) else {
            panic!("the answer is written");
        };
        assert_eq!(*ttl_ms, Some(KEPT_MS));
        let recalled = repeatable.recall(text).expect("the answer");
        assert_eq!(
            (recalled.status, recalled.document, recalled.operation, recalled.body),
            (answer.status, answer.document, answer.operation, answer.body)
        );
        assert!(recalled.is_replayed && recalled.is_version);
        let other = Repeatable::new(&Caller::Secret, "key", Kind::Playlist, b"another body");
        assert_eq!(other.key(), repeatable.key());
        assert!(matches!(other.recall(text), Err(RecallError::OtherRequest)));
        assert_ne!(
            Repeatable::new(&Caller::Secret, "key", Kind::Channel, b"body").key(),
            repeatable.key()
        );
    }

    #[test]
    fn a_key_belongs_to_its_caller() {
        let token = |issuer: &str, subject: &str| Caller::Token {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        };
        let key = |caller: &Caller| Repeatable::new(caller, "key", Kind::Playlist, b"body").key().clone();
        let callers = [
            Caller::Secret,
            token("", ""),
            token("a", "b"),
            token("a", "c"),
            token("ab", ""),
            token("secret\nPOST", "b"),
            token("b", "a"),
        ];
        for (number, caller) in callers.iter().enumerate() {
            assert!(
                callers[..number].iter().all(|other| key(other) != key(caller)),
                "{caller:?}"
            );
        }
        assert_eq!(key(&token("a", "b")), key(&token("a", "b")));
    }

    #[test]
    fn a_record_that_cannot_be_answered_is_malformed() {
        let repeatable = Repeatable::new(&Caller::Secret, "key", Kind::Playlist, b"body");
        let request = &repeatable.request;
        let location = operation_path(OperationId::new_v4());
        let good = format!(r#"{{"request":"{request}","status":202,"document":"{DOCUMENT}","location":"{location}"}}"#);
        assert!(repeatable.recall(&format!("{good}\n{{}}")).is_ok());
        for record in [
            good.clone(),
            format!("{good} x\n{{}}"),
            format!("{}\n{{}}", good.replace(&location, "/x")),
            format!("{}\n{{}}", good.replace(&location, r"\u0000")),
            format!("{}\n{{}}", good.replace(&location, &format!(r"{location}\r\ny: z"))),
            format!("{}\n{{}}", good.replace(DOCUMENT, "x")),
            format!("{}\n{{}}", good.replace("202", "99")),
            format!("{}\n{{}}", good.replace("202", "101")),
        ] {
            let recalled = repeatable.recall(&record);
            assert!(matches!(recalled, Err(RecallError::Malformed(_))), "{record}");
        }
    }
}
