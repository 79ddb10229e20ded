//! What every request goes through, whatever its path: id, log line, time limit, CORS and Cache-Control; then, for writes,
//! credential and content type, both ahead of routing, as existing clients know it.

use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use proto::trace::{self, TRACEPARENT};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::Gateway;
use crate::error::ApiError;

/// Longest time a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_RESPONSE_TIME: HeaderName = HeaderName::from_static("x-response-time");

/// What pages of other origins may send, read and remember.
const CORS: [(HeaderName, &str); 4] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "Authorization, Content-Type, Prefer, Idempotency-Key, If-Match, If-None-Match",
    ),
    (
        header::ACCESS_CONTROL_ALLOW_METHODS,
        "GET, POST, PUT, PATCH, DELETE, OPTIONS",
    ),
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        "ETag, Location, Preference-Applied, Idempotent-Replayed, Retry-After, WWW-Authenticate, X-Request-Id, \
         X-Response-Time",
    ),
];
const PREFLIGHT_KEPT_SECONDS: &str = "86400";

/// The outermost layer.
pub(crate) async fn wrap(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = Uuid::new_v4().to_string();
    let span = tracing::info_span!(
        "request",
        request.id = id,
        http.method = %request.method(),
        http.path = request.uri().path(),
    );
    let trace = request.headers().get(TRACEPARENT);
    let trace = trace.and_then(|value| value.to_str().ok()?.parse().ok());
    let respond = respond(request, next).instrument(span.clone());
    let mut response = trace::within(trace, respond).await;
    let status = response.status().as_u16();
    let elapsed_ms = format!("{:.2}", begun.elapsed().as_secs_f64() * 1000.0);
    span.in_scope(|| tracing::info!(http.status = status, %elapsed_ms, "answered"));

    let headers = response.headers_mut();
    for (name, value) in CORS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What is there to be read says so itself; all else is about one request, or one moment.
    let cached = headers.entry(header::CACHE_CONTROL);
    cached.or_insert(HeaderValue::from_static("no-store"));
    headers.insert(
        X_REQUEST_ID,
        HeaderValue::from_str(&id).expect("a UUID is a header's value"),
    );
    let time = HeaderValue::from_str(&format!("{elapsed_ms}ms")).expect("a number is a header's value");
    headers.insert(X_RESPONSE_TIME, time);
    response
}

async fn respond(request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        let max_age = HeaderValue::from_static(PREFLIGHT_KEPT_SECONDS);
        return (StatusCode::NO_CONTENT, [(header::ACCESS_CONTROL_MAX_AGE, max_age)]).into_response();
    }
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::TimedOut.into_response(),
    }
}

/// Lets writes through that carry a credential and, but for deletions, JSON. Who was let in is told to the handler, and to
/// the layers outside with the answer.
pub(crate) async fn guard(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    let has_body = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if !has_body && *request.method() != Method::DELETE {
        return next.run(request).await;
    }
    let caller = match gateway.settings.credentials.check(request.headers()).await {
        Ok(caller) => caller,
        Err(refused) => return refused.into_response(),
    };
    let mut response = if has_body && !is_json(request.headers()) {
        ApiError::bad_request("invalid_content_type", "Content-Type must be application/json").into_response()
    } else {
        request.extensions_mut().insert(caller.clone());
        next.run(request).await
    };
    response.extensions_mut().insert(caller);
    response
}

/// Whether the media type is JSON's, in any letter case and with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}
