//! An answer on its way out: the call keeps its place until the last of it is taken, and its deadline holds till then.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use super::record::Record;
use super::stall::Taking;
use crate::error::with_details;
use crate::store::{Reserved, Way};

/// What ends a call before it ends itself: its deadline, or the end of the service.
pub(super) type Limit = Pin<Box<dyn Future<Output = Status> + Send>>;

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

/// The body of an answer.
pub(super) struct Leaving {
    inner: Body,
    way: Way,
    limit: Limit,
    /// The limit has been reached.
    last_word: Option<Status>,
    /// Until the end.
    record: Option<Record>,
    taking: Taking,
    /// What the answer takes in memory.
    room: Option<Arc<Reserved>>,
}

impl Leaving {
    pub(super) fn new(inner: Body, way: Way, limit: Limit, record: Record, room: Option<Arc<Reserved>>) -> Self {
        let taking = Taking::here();
        if room.is_some() {
            taking.takes_room();
        }
        Self {
            inner,
            way,
            limit,
            last_word: None,
            record: Some(record),
            taking,
            room,
        }
    }

    fn end(&mut self, code: Code) {
        if let Some(mut record) = self.record.take() {
            record.ended(code);
        }
        self.room = None;
        self.way.close();
        // What is behind a stream hears of its end now, and not when the peer has read it.
        self.inner = Body::empty();
    }

    fn cut(&mut self, status: &Status) -> Result<Frame<Bytes>, Status> {
        self.end(status.code());
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }

    fn next(&mut self, context: &mut Context<'_>) -> Polled {
        if self.record.is_none() {
            return Poll::Ready(None);
        }
        if let Some(status) = self.last_word.take() {
            return Poll::Ready(Some(self.cut(&status)));
        }
        if let Poll::Ready(status) = self.limit.as_mut().poll(context) {
            self.last_word = Some(status);
        }
        if let Some(part) = self.way.next() {
            return match self.last_word.take() {
                Some(status) => Poll::Ready(Some(self.cut(&status))),
                None => Poll::Ready(Some(Ok(Frame::data(part)))),
            };
        }
        self.way.fills();
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.inner), context);
        // What is there already may go before the last word: who watches the health must hear how it is.
        match (polled, self.last_word.take()) {
            (Poll::Pending, Some(status)) => Poll::Ready(Some(self.cut(&status))),
            (polled, last_word) => {
                self.last_word = last_word;
                self.pass(polled)
            }
        }
    }

    fn pass(&mut self, polled: Polled) -> Polled {
        match polled {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    let code = explain(trailers);
                    self.end(code.unwrap_or(Code::Unknown));
                }
                Poll::Ready(Some(Ok(frame.map_data(|data| self.way.filled(data)))))
            }
            Poll::Ready(Some(Err(status))) => {
                self.end(status.code());
                Poll::Ready(Some(Err(status)))
            }
            Poll::Ready(None) => {
                self.end(Code::Unknown);
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.way.rests();
                Poll::Pending
            }
        }
    }
}

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        self.taking.asked();
        let polled = self.next(context);
        if polled.is_ready() {
            self.taking.handed();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.record.is_none() || (self.inner.is_end_stream() && self.way.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The code that headers or trailers say, if they say one. A refusal that has no details yet, because it was none of
/// ours, is given some.
pub(super) fn explain(headers: &mut HeaderMap) -> Option<Code> {
    let code = Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
    if code != Code::Ok
        && !headers.contains_key(Status::GRPC_STATUS_DETAILS)
        && let Some(status) = Status::from_header_map(headers)
    {
        let explained = with_details(&status);
        // The details fit into a header: they are a word of ours.
        let _ = explained.add_header(headers);
    }
    Some(code)
}
