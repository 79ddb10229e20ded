//! Request bodies that an answer was found without: read and thrown away within bounds, because whoever is still sending
//! when the connection ends never gets to read the answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::header;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;

use crate::auth::Caller;

/// What is read of the body of whoever was not let in to write.
const FROM_ANYBODY: Bounds = Bounds {
    bytes: 8 * 1024 * 1024,
    time: Duration::from_secs(5),
};
/// What is read of the body of a writer: such a body is too large, as a rule.
const FROM_WRITERS: Bounds = Bounds {
    bytes: 64 * 1024 * 1024,
    time: Duration::from_secs(30),
};

#[derive(Clone, Copy)]
struct Bounds {
    bytes: u64,
    time: Duration,
}

/// The layer: answers once the body has been read, by whoever found the answer or here.
pub(crate) async fn discard(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let is_awaited = request.headers().contains_key(header::EXPECT);
    let (sender, mut left) = oneshot::channel();
    let response = next
        .run(request.map(|body| {
            Body::new(Lent {
                body,
                is_sent: !is_awaited,
                left: Some(sender),
            })
        }))
        .await;
    if let Ok(body) = left.try_recv() {
        let bounds = match response.extensions().get::<Caller>() {
            Some(_) => FROM_WRITERS,
            None => FROM_ANYBODY,
        };
        throw_away(body, bounds).await;
    }
    response
}

/// Reads to the end, but not past the bounds, and nothing of what is known to be past them.
async fn throw_away(mut body: Body, bounds: Bounds) {
    if body.size_hint().lower() > bounds.bytes {
        return;
    }
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            if bytes > bounds.bytes {
                break;
            }
        }
    };
    if tokio::time::timeout(bounds.time, reading).await.is_err() {
        tracing::debug!("rest of a body did not arrive in time");
    }
}

/// A body that is handed back when it is dropped before its end.
struct Lent {
    body: Body,
    /// Its sender does not wait, or no longer, to be told to go on.
    is_sent: bool,
    left: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_sent = true;
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(left) = self.left.take().filter(|_| self.is_sent && !self.is_end_stream()) {
            // Nobody wants it if the request was given up.
            let _ = left.send(std::mem::take(&mut self.body));
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::channel::Channel;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 10,
        time: Duration::from_secs(20),
    };

    /// Sends this, never ends, and tells how much was taken of it.
    async fn taken(chunks: &'static [&'static str], bounds: Bounds) -> usize {
        let (mut sender, body) = Channel::<Bytes, axum::Error>::new(1);
        let sending = tokio::spawn(async move {
            let mut taken = 0;
            for chunk in chunks {
                if sender.send_data(Bytes::from_static(chunk.as_bytes())).await.is_err() {
                    return taken;
                }
                taken += chunk.len();
            }
            while sender.send_data(Bytes::new()).await.is_ok() {
                tokio::task::yield_now().await;
            }
            taken
        });
        throw_away(Body::new(body), bounds).await;
        sending.await.expect("a sender does not panic")
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_bounds_allow() {
        let hasty = Bounds {
            time: Duration::from_millis(200),
            ..BOUNDS
        };
        assert_eq!(taken(&["12345", "67890"], hasty).await, 10);
        let read = taken(&["12345", "67890", "1", "2", "3", "4"], BOUNDS).await;
        assert!((11..=13).contains(&read), "only what was on its way is sent: {read}");
    }
}
