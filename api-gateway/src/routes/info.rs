//! What this is, and how it is doing.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use feed::time;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::Gateway;
use crate::body;

/// The version of the API, not of this program.
const API_VERSION: &str = "1.0.0";
/// How long storage may take to answer before it counts as away.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/api/v1", get(about))
        .route("/api/v1/health", get(health))
        .route("/health", get(alive))
        .route("/ready", get(ready))
}

async fn about() -> Response {
    let text = json!({
        "name": "DP-1 Feed Operator API",
        "version": API_VERSION,
        "description": "REST interface for creating, updating, and retrieving DP-1 playlists and channels",
        "specification": "DP-1 v1.1.0",
        "openapi": "3.1.0",
        "deployment": "self-hosted",
        "runtime": "rust",
        "storage": "sqlite",
        "endpoints": {
            "playlists": "/api/v1/playlists",
            "channels": "/api/v1/channels",
            "playlistItems": "/api/v1/playlist-items",
            "health": "/api/v1/health",
        },
        "documentation": "https://github.com/display-protocol/dp1/blob/main/docs/spec.md",
    });
    body::json(StatusCode::OK, text.to_string())
}

/// As the reference answers it, but asks storage.
async fn health(State(gateway): State<Gateway>) -> Response {
    let is_healthy = gateway.storage_answers().await;
    let text = json!({
        "status": if is_healthy { "healthy" } else { "unhealthy" },
        "timestamp": time::to_text(gateway.clock.now_ms()),
        "version": API_VERSION,
        "environment": gateway.settings.environment,
        "runtime": "rust",
    });
    state(is_healthy, text.to_string())
}

/// This process is alive, whatever storage does.
async fn alive() -> Response {
    state(true, json!({"status": "alive"}).to_string())
}

/// Whether requests can be served.
async fn ready(State(gateway): State<Gateway>) -> Response {
    let is_ready = gateway.storage_answers().await;
    let status = if is_ready { "ready" } else { "storage is away" };
    state(is_ready, json!({ "status": status }).to_string())
}

fn state(is_good: bool, text: String) -> Response {
    if is_good {
        return body::json(StatusCode::OK, text);
    }
    let mut response = body::json(StatusCode::SERVICE_UNAVAILABLE, text);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

impl Gateway {
    async fn storage_answers(&self) -> bool {
        match tokio::time::timeout(PROBE_TIMEOUT, self.store.client().server_info()).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "storage does not answer");
                false
            }
            Err(_) => {
                tracing::warn!("storage does not answer in time");
                false
            }
        }
    }
}
