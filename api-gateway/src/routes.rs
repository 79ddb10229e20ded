//! The endpoints, one file per family, and what they share.

mod channels;
mod documents;
mod info;
mod operations;
mod playlist_items;
mod playlists;

use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use crate::Gateway;
use crate::body;

/// A path segment, decoded if it can be.
type Segment = Result<Path<String>, PathRejection>;

/// What the answer to an unknown path lists, in the reference's order.
const AVAILABLE: [&str; 16] = [
    "GET /api/v1",
    "GET /api/v1/health",
    "GET /api/v1/playlists",
    "POST /api/v1/playlists",
    "GET /api/v1/playlists/:id",
    "PUT /api/v1/playlists/:id",
    "PATCH /api/v1/playlists/:id",
    "DELETE /api/v1/playlists/:id",
    "GET /api/v1/channels",
    "POST /api/v1/channels",
    "GET /api/v1/channels/:id",
    "PUT /api/v1/channels/:id",
    "PATCH /api/v1/channels/:id",
    "DELETE /api/v1/channels/:id",
    "GET /api/v1/playlist-items",
    "GET /api/v1/playlist-items/:id",
];

/// Everything that is served.
pub(crate) fn router(gateway: Gateway) -> Router {
    Router::new()
        .merge(info::routes())
        .merge(playlists::routes())
        .merge(channels::routes())
        .merge(playlist_items::routes())
        .merge(operations::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(gateway)
}

/// There is no such path, or no such method of it: the reference answers both alike.
async fn unknown() -> Response {
    let text = json!({
        "error": "not_found",
        "message": "The requested resource was not found",
        "available_endpoints": AVAILABLE,
    })
    .to_string();
    body::json(StatusCode::NOT_FOUND, text)
}
