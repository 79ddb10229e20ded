//! What playlists and channels have in common.

use axum::extract::FromRequestParts;
use axum::response::Response;
use feed::id::{DocumentId, DocumentKey, Kind, Reference};
use feed_store::DocumentList;
use http::header;
use http::request::Parts;
use tokio::time::Instant;

use super::Segment;
use crate::Gateway;
use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, Mode, Task};
use crate::etag::Conditions;
use crate::idempotency::{self, Repeatable};
use crate::list::{Filter, LIST_BYTES_MAX, ListQuery, failed};
use crate::prefer::{self, Wait};
use crate::write::Terms;

/// What the headers of a write say about how it is to be carried out.
pub(super) struct Wishes {
    pub(super) mode: Mode,
    wait: Option<Wait>,
    host: Option<String>,
    key: Option<String>,
    conditions: Conditions,
    caller: Caller,
}

impl<S: Sync> FromRequestParts<S> for Wishes {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let sent_to = parts.uri.authority().map(|authority| authority.as_str().to_owned());
        let named = || Some(parts.headers.get(header::HOST)?.to_str().ok()?.to_owned());
        // Only a POST can do harm by being sent twice, and only the others are about a version that there is.
        let (key, conditions) = if parts.method == http::Method::POST {
            let key = idempotency::key(&parts.headers)?;
            (key.map(str::to_owned), Conditions::default())
        } else {
            (None, Conditions::of_write(&parts.headers)?)
        };
        let mode = prefer::mode(&parts.headers);
        let wait = prefer::wait(&parts.headers, Instant::now());
        Ok(Self {
            mode,
            // What is not queued is waited for anyway.
            wait: wait.filter(|_| mode == Mode::Queued),
            host: sent_to.or_else(named),
            key,
            conditions,
            caller: parts
                .extensions
                .get()
                .cloned()
                .expect("writes are let through with their caller"),
        })
    }
}

impl Wishes {
    /// The terms of a change with a body of this length.
    pub(super) fn terms(self, body_bytes: usize) -> Terms {
        Terms {
            mode: self.mode,
            wait: self.wait,
            body_bytes,
            host: self.host,
            repeatable: None,
            conditions: self.conditions,
        }
    }

    /// The terms of a create with this body.
    pub(super) fn terms_of_create(self, kind: Kind, body: &[u8]) -> Terms {
        let repeatable = self
            .key
            .as_ref()
            .map(|key| Repeatable::new(&self.caller, key, kind, body));
        Terms {
            repeatable,
            ..self.terms(body.len())
        }
    }
}

/// The document that a path segment names.
pub(super) fn reference(segment: Segment, kind: Kind) -> Result<Reference, ApiError> {
    let message = match kind {
        Kind::Playlist => "Playlist ID must be a valid UUID or slug (alphanumeric with hyphens)",
        Kind::Channel => "Channel ID must be a valid UUID or slug (alphanumeric with hyphens)",
    };
    let segment = segment.ok().and_then(|segment| segment.parse().ok());
    segment.ok_or_else(|| ApiError::bad_request("invalid_id", message))
}

/// The id of the document that a write is of.
pub(super) async fn identify(
    gateway: &Gateway,
    kind: Kind,
    reference: &Reference,
    task: Task,
) -> Result<DocumentId, ApiError> {
    let id = gateway.identify(kind, reference).await;
    let id = id.map_err(|error| ApiError::Store(task, error))?;
    id.ok_or_else(|| ApiError::not_found(not_found(kind)))
}

/// One document, as it was signed.
pub(super) async fn read(gateway: &Gateway, kind: Kind, segment: Segment) -> Result<Response, ApiError> {
    let reference = reference(segment, kind)?;
    let found = async {
        match gateway.identify(kind, &reference).await? {
            Some(id) => gateway.store.document_text(DocumentKey { kind, id }).await,
            None => Ok(None),
        }
    };
    let found = found
        .await
        .map_err(|error| ApiError::Store(Task::Read(kind.as_str()), error))?;
    let text = found.ok_or_else(|| ApiError::not_found(not_found(kind)))?;
    Ok(body::representation(text))
}

/// A page of a list of documents.
pub(super) async fn list(gateway: &Gateway, kind: Kind, query: Option<&str>) -> Result<Response, ApiError> {
    let name = match kind {
        Kind::Playlist => "playlists",
        Kind::Channel => "channels",
    };
    let query = ListQuery::parse(query, kind == Kind::Playlist)?;
    let filter = query.filter(gateway).await.map_err(failed(name))?;
    let after = query.after(name, &filter)?;
    let list = match filter {
        Filter::None => DocumentList::All(kind),
        Filter::Channel(channel) => DocumentList::Members(channel),
        Filter::Nobody(_) => return Ok(ListQuery::empty_page()),
    };
    let _turn = gateway.outgoing.page().await;
    let page = gateway
        .store
        .document_page(list, query.sort, after, query.limit, LIST_BYTES_MAX);
    let page = page.await.map_err(failed(name))?;
    Ok(query.page(name, &filter, &page))
}

/// Refuses an update of members that only the feed writes.
pub(super) fn refuse_protected(named: &[&str]) -> Result<(), ApiError> {
    if named.is_empty() {
        return Ok(());
    }
    let named = named.join(", ");
    Err(ApiError::bad_request(
        "protected_fields",
        format!("Cannot update protected fields: {named}. Protected fields are read-only."),
    ))
}

fn not_found(kind: Kind) -> &'static str {
    match kind {
        Kind::Playlist => "Playlist not found",
        Kind::Channel => "Channel not found",
    }
}
