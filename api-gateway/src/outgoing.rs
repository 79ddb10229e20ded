//! Large answers on their way out. Bounds the memory that they hold over all connections, and lets go of those that their
//! readers do not take. Knows nothing of what they say.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use http_body_util::channel::{Channel, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::encoding;
use crate::error::ApiError;

/// Larger answers are sent in parts of this size, in bytes; those up to it at once, and they count for nothing.
pub(crate) const PART_BYTES: usize = 64 * 1024;
/// List pages that are put together at once; each takes at most twice its size, 8 MiB, while it is.
const PAGES_AT_ONCE: usize = 32;

/// What large answers may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of those being sent; as many again may wait for their turn.
    pub(crate) bytes: u32,
    /// How long an answer waits for its turn.
    pub(crate) wait: Duration,
    /// How long a reader may take for a part.
    pub(crate) part: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 * 1024 * 1024,
            wait: Duration::from_secs(5),
            part: Duration::from_secs(30),
        }
    }
}

/// The room that large answers share; clones are of the same.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    limits: Limits,
    sending: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    /// One for each processor: more encoders at once would do no more, and each takes some 20 MiB.
    encoders: Arc<Semaphore>,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Outgoing {
    pub(crate) fn new(limits: Limits) -> Self {
        let room = || Arc::new(Semaphore::new(limits.bytes as usize));
        Self {
            limits,
            sending: room(),
            waiting: room(),
            pages: Arc::new(Semaphore::new(PAGES_AT_ONCE)),
            encoders: Arc::new(Semaphore::new(available_parallelism().map_or(1, NonZero::get))),
        }
    }

    /// A turn to put a list page together, in the order of asking.
    pub(crate) async fn page(&self) -> SemaphorePermit<'_> {
        self.pages.acquire().await.expect("the semaphore is never closed")
    }

    /// A turn to encode a large answer, in the order of asking.
    async fn encoder(&self) -> SemaphorePermit<'_> {
        self.encoders.acquire().await.expect("the semaphore is never closed")
    }

    /// Room for an answer, in the order of asking.
    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, ApiError> {
        // One that is larger than all room takes all of it.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.limits.bytes);
        let _place = self.waiting.try_acquire_many(bytes).map_err(|_| ApiError::Overloaded)?;
        let room = Arc::clone(&self.sending).acquire_many_owned(bytes);
        match timeout(self.limits.wait, room).await {
            Ok(room) => Ok(room.expect("the semaphore is never closed")),
            Err(_) => Err(ApiError::Overloaded),
        }
    }
}

/// The layer: sends what is large part by part.
pub(crate) async fn send(State(outgoing): State<Outgoing>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let mut response = next.run(request).await;
    if method == Method::HEAD {
        return response;
    }
    let plain_length = encoding::plain_bytes(&response);
    if plain_length <= PART_BYTES as u64 {
        return encoding::encode(response);
    }
    // A write has happened: its answer is given whatever else is being sent.
    let mut room = if method.is_safe() {
        match outgoing.room(plain_length).await {
            Ok(room) => Some(room),
            Err(error) => return error.into_response(),
        }
    } else {
        None
    };
    let mut length = plain_length;
    if encoding::is_chosen(&response) {
        let _turn = outgoing.encoder().await;
        response = encoding::encode(response);
        length = response.body().size_hint().lower();
        if length <= PART_BYTES as u64 {
            return response;
        }
        if let Some(room) = &mut room {
            let kept = usize::try_from(length).unwrap_or(usize::MAX);
            drop(room.split(room.num_permits().saturating_sub(kept)));
        }
    }
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response.map(|body| {
        let (sender, parts) = Channel::new(1);
        let part_timeout = outgoing.limits.part;
        // Ends with the body that it feeds, or when that is not asked for more in time.
        tokio::spawn(async move {
            feed(sender, body, part_timeout).await;
            drop(room);
        });
        Body::new(parts)
    })
}

async fn feed(mut sender: Sender<Bytes, axum::Error>, mut body: Body, part_timeout: Duration) {
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        for part in data.chunks(PART_BYTES) {
            // Copied, so that a part which is never taken does not keep the whole.
            match timeout(part_timeout, sender.send_data(Bytes::copy_from_slice(part))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(elapsed) => {
                    tracing::debug!("an answer was not read in time");
                    sender.abort(axum::Error::new(elapsed));
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::{from_fn, from_fn_with_state};
    use axum::routing::{get, post};
    use http::StatusCode;
    use tower::ServiceExt as _;

    use super::*;

    const LARGE_BYTES: usize = 3 * PART_BYTES;
    const LIMITS: Limits = Limits {
        bytes: 4 * 64 * 1024,
        wait: Duration::from_millis(200),
        part: Duration::from_hours(1),
    };

    async fn answer(outgoing: &Outgoing, method: Method, bytes: usize) -> Response {
        answer_in("identity", outgoing, method, bytes).await
    }

    /// An answer to whoever takes this encoding.
    async fn answer_in(encoding: &str, outgoing: &Outgoing, method: Method, bytes: usize) -> Response {
        let text = (0..bytes).map(|index| char::from(b'a' + u8::try_from(index % 23).expect("small")));
        let text: String = text.collect();
        let router = Router::new()
            .route("/", get(async |State(text): State<String>| text))
            .route("/", post(async |State(text): State<String>| text))
            .with_state(text)
            .layer(from_fn(encoding::measure))
            .layer(encoding::choose())
            .layer(from_fn_with_state(outgoing.clone(), send));
        let request = Request::builder()
            .method(method)
            .header(header::ACCEPT_ENCODING, encoding);
        let request = request.body(Body::empty());
        let answer = router.oneshot(request.expect("a request")).await;
        answer.expect("a router answers")
    }

    async fn text(answer: Response) -> Bytes {
        let body = answer.into_body().collect().await;
        body.expect("a whole answer").to_bytes()
    }

    #[tokio::test]
    async fn large_answers_arrive_as_they_were() {
        let outgoing = Outgoing::new(LIMITS);
        for bytes in [0, PART_BYTES, PART_BYTES + 1, LARGE_BYTES, 5 * PART_BYTES] {
            let large = answer(&outgoing, Method::GET, bytes).await;
            let is_in_parts =
                large.headers().contains_key(header::CONTENT_LENGTH) && large.body().size_hint().exact().is_none();
            assert_eq!(is_in_parts, bytes > PART_BYTES, "{bytes}");
            let large = text(large).await;
            assert_eq!(large.len(), bytes);
            let is_right = |(index, byte): (usize, &u8)| usize::from(*byte - b'a') == index % 23;
            assert!(large.iter().enumerate().all(is_right), "{bytes}");
        }
    }

    #[tokio::test]
    async fn an_encoded_answer_takes_the_room_of_what_is_sent() {
        let outgoing = Outgoing::new(LIMITS);
        let mut unread = Vec::new();
        for _ in 0..3 {
            let encoded = answer_in("gzip", &outgoing, Method::GET, LARGE_BYTES).await;
            assert_eq!(encoded.status(), StatusCode::OK);
            assert_eq!(encoded.headers()[header::CONTENT_ENCODING], "gzip");
            assert!(encoded.body().size_hint().exact().is_some_and(|bytes| bytes < 10_000));
            unread.push(encoded);
        }
        let plain = answer(&outgoing, Method::GET, LARGE_BYTES).await;
        assert_eq!(plain.status(), StatusCode::OK);
        // Before it is encoded it takes all of its room.
        let refused = answer_in("gzip", &outgoing, Method::GET, LARGE_BYTES).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let head = answer_in("gzip", &outgoing, Method::HEAD, LARGE_BYTES).await;
        assert_eq!(head.status(), StatusCode::OK, "nothing of it is sent");
        assert_eq!(head.headers()[header::CONTENT_ENCODING], "gzip");
    }

    #[tokio::test]
    async fn no_more_large_answers_are_encoded_at_once_than_there_are_encoders() {
        let outgoing = Outgoing::new(Limits {
            bytes: 16 * 64 * 1024,
            ..LIMITS
        });
        let encoders = outgoing.encoders.available_permits();
        assert!(encoders > 0);
        let all = outgoing.encoders.acquire_many(u32::try_from(encoders).expect("few"));
        let all = all.await.expect("it is open");
        let mut large = Box::pin(answer_in("br", &outgoing, Method::GET, LARGE_BYTES));
        tokio::select! {
            biased;
            _ = &mut large => panic!("no encoder is free"),
            // What is small, or is not encoded, needs none.
            _ = answer_in("br", &outgoing, Method::GET, PART_BYTES) => {}
        }
        assert_eq!(
            text(answer(&outgoing, Method::GET, LARGE_BYTES).await).await.len(),
            LARGE_BYTES
        );
        drop(all);
        assert_eq!(large.await.headers()[header::CONTENT_ENCODING], "br");
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_refused_after_a_while() {
        let outgoing = Outgoing::new(LIMITS);
        let unread = answer(&outgoing, Method::GET, LARGE_BYTES).await;
        let refused = answer(&outgoing, Method::GET, LARGE_BYTES).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
        let expected = r#"{"error":"overloaded","message":"Too many large answers are being sent"}"#;
        assert_eq!(text(refused).await, expected);
        for (method, bytes) in [(Method::GET, PART_BYTES), (Method::POST, LARGE_BYTES)] {
            let other = answer(&outgoing, method, bytes).await;
            assert_eq!(other.status(), StatusCode::OK);
            assert_eq!(text(other).await.len(), bytes);
        }
        drop(unread);
        // The room is given back a moment after the answer that had it is gone.
        assert_eq!(
            answer(&outgoing, Method::GET, LARGE_BYTES).await.status(),
            StatusCode::OK
        );
    }

    #[tokio::test]
    async fn answers_wait_their_turn_in_bounded_room() {
        let outgoing = Outgoing::new(Limits {
            wait: Duration::from_hours(1),
            ..LIMITS
        });
        let first = answer(&outgoing, Method::GET, LARGE_BYTES).await;
        let mut second = Box::pin(answer(&outgoing, Method::GET, LARGE_BYTES));
        tokio::select! {
            biased;
            _ = &mut second => panic!("there is no room for it"),
            third = answer(&outgoing, Method::GET, LARGE_BYTES) => {
                assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE, "nor to wait in");
            }
        }
        assert_eq!(text(first).await.len(), LARGE_BYTES);
        assert_eq!(text(second.await).await.len(), LARGE_BYTES);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_is_let_go() {
        let outgoing = Outgoing::new(Limits {
            part: Duration::from_millis(200),
            wait: Duration::from_secs(20),
            ..LIMITS
        });
        let unread = answer(&outgoing, Method::GET, LARGE_BYTES).await;
        assert_eq!(
            answer(&outgoing, Method::GET, LARGE_BYTES).await.status(),
            StatusCode::OK
        );
        assert!(unread.into_body().collect().await.is_err(), "it does not look whole");
    }
}
