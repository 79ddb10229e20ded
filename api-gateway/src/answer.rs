//! What a write is answered.

use axum::response::{IntoResponse, Response};
use feed::id::{DocumentKey, Kind};
use feed::operation::operation_path;
use feed::state::{OperationId, Version};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::error::Verb;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The answer to a write that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Where to ask what became of a queued write.
    pub(crate) location: Option<HeaderValue>,
    /// It was given before, to the same request.
    pub(crate) is_replayed: bool,
    /// Empty for a deletion.
    pub(crate) body: String,
}

impl Answer {
    /// The answer to a write that was applied.
    pub(crate) fn applied(verb: Verb, version: &Version) -> Self {
        let status = match verb {
            Verb::Create => StatusCode::CREATED,
            Verb::Replace | Verb::Patch => StatusCode::OK,
            Verb::Delete => StatusCode::NO_CONTENT,
        };
        Self {
            status,
            location: None,
            is_replayed: false,
            body: version
                .content()
                .map_or_else(String::new, |content| content.document.text.clone()),
        }
    }

    /// The answer to a write that was queued.
    pub(crate) fn queued(version: &Version, operation: OperationId) -> Self {
        let body = match version {
            Version::Put(content) => content.document.text.clone(),
            Version::Delete { key, .. } => deletion_queued(*key),
        };
        let location = operation_path(operation);
        Self {
            status: StatusCode::ACCEPTED,
            location: Some(HeaderValue::from_str(&location).expect("a path of ids is a header's value")),
            is_replayed: false,
            body,
        }
    }
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
        let mut response = if self.status == StatusCode::NO_CONTENT {
            self.status.into_response()
        } else {
            crate::body::json(self.status, self.body)
        };
        let headers = response.headers_mut();
        if let Some(location) = self.location {
            headers.insert(header::LOCATION, location);
            headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
        }
        if self.is_replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}
