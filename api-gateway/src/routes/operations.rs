//! `/api/v1/operations/{id}`: what became of a queued write. For whoever may write.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use feed::id::DocumentId;
use feed::keys;
use http::{HeaderMap, StatusCode};

use super::Segment;
use crate::Gateway;
use crate::body;
use crate::error::{ApiError, Task};

pub(super) fn routes() -> Router<Gateway> {
    Router::new().route("/api/v1/operations/{id}", get(read))
}

async fn read(State(gateway): State<Gateway>, headers: HeaderMap, id: Segment) -> Result<Response, ApiError> {
    gateway.settings.credentials.check(&headers).await?;
    let id: Option<DocumentId> = id.ok().and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| ApiError::bad_request("invalid_id", "Operation ID must be a valid UUID"))?;
    let found = gateway.store.text(&keys::operation(id.uuid())).await;
    let found = found.map_err(|error| ApiError::Store(Task::Read("operation"), error))?;
    let text = found.ok_or_else(|| ApiError::not_found("Operation not found"))?;
    Ok(body::json(StatusCode::OK, text))
}
