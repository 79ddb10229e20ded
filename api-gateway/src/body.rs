//! Bodies: requests read up to their limit, answers as JSON.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use feed::json::{self, Object};
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::error::{ApiError, Task};
use crate::etag::ETag;

/// Largest request body, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request body that has not been read yet: what else is wrong with a request is found first.
pub(crate) struct Payload(Body);

impl<S: Sync> FromRequest<S> for Payload {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(request.into_body()))
    }
}

impl Payload {
    /// The whole body.
    pub(crate) async fn bytes(self) -> Result<Bytes, ApiError> {
        if self.0.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return Err(body_too_large());
        }
        match tokio::time::timeout(BODY_TIMEOUT, read(self.0)).await {
            Ok(body) => body,
            Err(_) => Err(ApiError::refused(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "Request body did not arrive in time",
            )),
        }
    }
}

async fn read(mut body: Body) -> Result<Bytes, ApiError> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("invalid_body", "Request body could not be read"))?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > BODY_BYTES_MAX {
            return Err(body_too_large());
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// The JSON of a body, whatever its type.
pub(crate) fn parse(body: &[u8]) -> Result<Value, ApiError> {
    json::parse(body).map_err(|_| invalid_json())
}

/// The JSON object of an update. Arrays are left to the schema, as the reference does, and are refused there.
pub(crate) fn parse_object(body: &[u8], task: Task) -> Result<Object, ApiError> {
    match parse(body)? {
        Value::Object(object) => Ok(object),
        Value::Array(_) => Err(ApiError::bad_request(
            "validation_error",
            format!("{}: Expected object, received array", task.invalid()),
        )),
        _ => Err(invalid_json()),
    }
}

fn body_too_large() -> ApiError {
    ApiError::too_large(format!("Request body must not be larger than {BODY_BYTES_MAX} bytes"))
}

fn invalid_json() -> ApiError {
    ApiError::bad_request("invalid_json", "Request body must be valid JSON")
}

/// What there is to read: it may be kept by anybody, but has to be asked about, by its tag, before each use.
pub(crate) fn representation(text: String) -> Response {
    let tag = ETag::of(&text);
    let mut response = json(StatusCode::OK, text);
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag.to_header());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// An answer of JSON text.
pub(crate) fn json(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = (status, text.into()).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
