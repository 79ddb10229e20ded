//! Answers in an encoding that the client takes: `br`, or else `gzip`. Which one is decided, and shows in the headers,
//! before anything is encoded, so that what the client has already is never encoded only to be thrown away. The work is
//! then done in one go: an encoder, whose memory may be many times its input, never waits for a slow reader.

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt as _;
use http::header;
use http_body_util::BodyExt as _;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

use crate::compute;
use crate::etag::ETag;

/// Smallest answer that is encoded, in bytes: less fits into one packet anyway.
const ENCODED_BYTES_MIN: u16 = 1024;
/// Of both encodings: a page of playlists gets about a tenth of its size, at tens of megabytes a second.
const LEVEL: CompressionLevel = CompressionLevel::Precise(4);

/// How large an answer was before it was encoded.
#[derive(Clone, Copy, Debug)]
struct PlainBytes(u64);

/// The innermost of the three layers: notes the size of the answer.
pub(crate) async fn measure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let bytes = PlainBytes(response.body().size_hint().lower());
    response.extensions_mut().insert(bytes);
    response
}

/// The middle layer: decides on an encoding, and puts it before the body; nothing is encoded until the body is read.
pub(crate) fn choose() -> CompressionLayer<SizeAbove> {
    CompressionLayer::new()
        .quality(LEVEL)
        .compress_when(SizeAbove::new(ENCODED_BYTES_MIN))
}

/// The outermost layer: an encoded form has a tag of its own.
pub(crate) async fn label(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .and_then(|name| name.to_str().ok());
    if let Some(tag) = encoding.and_then(|encoding| Some(ETag::of_answer(headers)?.encoded(encoding))) {
        headers.insert(header::ETAG, tag.to_header());
    }
    response
}

/// How large an answer was, or would be, without an encoding.
pub(crate) fn plain_bytes(response: &Response) -> u64 {
    let noted = response.extensions().get::<PlainBytes>();
    noted.map_or_else(|| response.body().size_hint().lower(), |noted| noted.0)
}

/// Whether an answer is to be encoded.
pub(crate) fn is_chosen(response: &Response) -> bool {
    response.headers().contains_key(header::CONTENT_ENCODING)
}

/// Encodes an answer, if it is to be.
pub(crate) fn encode(response: Response) -> Response {
    if !is_chosen(&response) {
        return response;
    }
    let bytes = usize::try_from(plain_bytes(&response)).unwrap_or(usize::MAX);
    response.map(|body| {
        let encoded = compute::over(bytes, || body.collect().now_or_never());
        let encoded = encoded.expect("what is in memory is encoded without a wait");
        Body::from(encoded.expect("any text can be encoded").to_bytes())
    })
}
