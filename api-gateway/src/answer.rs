//! What a write is answered.

use axum::response::{IntoResponse, Response};
use feed::id::{DocumentKey, Kind};
use feed::operation::{operation_path, resource_path};
use feed::state::{OperationId, Version};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::error::Verb;
use crate::etag::ETag;
use crate::prefer::Wait;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The answer to a write that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The document that was written.
    pub(crate) document: DocumentKey,
    /// Of a write that was queued.
    pub(crate) operation: Option<OperationId>,
    /// How long its result was waited for, if it was.
    pub(crate) wait: Option<Wait>,
    /// It was given before, to the same request.
    pub(crate) is_replayed: bool,
    /// Empty for a deletion that is applied.
    pub(crate) body: String,
    /// The body is the version that was accepted.
    pub(crate) is_version: bool,
}

impl Answer {
    /// The answer to a write that was applied.
    pub(crate) fn applied(verb: Verb, version: &Version) -> Self {
        Self {
            status: status(verb),
            document: version.key(),
            operation: None,
            wait: None,
            is_replayed: false,
            body: version
                .content()
                .map_or_else(String::new, |content| content.document.text.clone()),
            is_version: version.content().is_some(),
        }
    }

    /// The answer to a write that was queued.
    pub(crate) fn queued(version: &Version, operation: OperationId) -> Self {
        let body = match version {
            Version::Put(content) => content.document.text.clone(),
            Version::Delete { key, .. } => deletion_queued(*key),
        };
        Self {
            status: StatusCode::ACCEPTED,
            document: version.key(),
            operation: Some(operation),
            wait: None,
            is_replayed: false,
            body,
            is_version: version.content().is_some(),
        }
    }

    /// The answer to a queued write that has been applied meanwhile: what it would have been answered without a queue.
    pub(crate) fn after_wait(mut self, verb: Verb) -> Self {
        self.status = status(verb);
        self
    }
}

fn status(verb: Verb) -> StatusCode {
    match verb {
        Verb::Create => StatusCode::CREATED,
        Verb::Replace | Verb::Patch => StatusCode::OK,
        Verb::Delete => StatusCode::NO_CONTENT,
    }
}

/// Says where the record of a queued write is.
pub(crate) fn locate(operation: OperationId, headers: &mut HeaderMap) {
    headers.insert(header::LOCATION, path_value(&operation_path(operation)));
}

fn path_value(path: &str) -> HeaderValue {
    HeaderValue::from_str(path).expect("a path of ids is a header's value")
}

/// Says which preferences the answer to a queued write has followed.
pub(crate) fn confirm(is_async: bool, wait: Option<Wait>, headers: &mut HeaderMap) {
    let wait = wait.map(|wait| format!("wait={}", wait.seconds));
    let applied = is_async.then(|| "respond-async".to_owned()).into_iter().chain(wait);
    let applied = applied.collect::<Vec<_>>().join(", ");
    let applied = HeaderValue::from_str(&applied).expect("preferences are a header's value");
    headers.insert(PREFERENCE_APPLIED, applied);
}

fn deletion_queued(document: DocumentKey) -> String {
    match document.kind {
        Kind::Playlist => json!({"message": "Playlist deletion queued for processing"}),
        Kind::Channel => json!({
            "message": "Channel deletion queued",
            "channelId": document.id.to_string(),
            "status": "queued",
        }),
    }
    .to_string()
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let tag = self.is_version.then(|| ETag::of(&self.body));
        let mut response = if self.status == StatusCode::NO_CONTENT {
            self.status.into_response()
        } else {
            crate::body::json(self.status, self.body)
        };
        let headers = response.headers_mut();
        if let Some(tag) = tag {
            headers.insert(header::ETAG, tag.to_header());
        }
        if self.status == StatusCode::CREATED {
            headers.insert(header::LOCATION, path_value(&resource_path(self.document)));
        }
        if let Some(operation) = self.operation {
            let is_async = self.status == StatusCode::ACCEPTED;
            confirm(is_async, self.wait, headers);
            if is_async {
                locate(operation, headers);
            }
        }
        if self.is_replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}
