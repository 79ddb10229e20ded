//! Answers of many messages. tonic's own encoder keeps the memory of the largest message that a stream has ever passed on
//! for as long as the stream lives; here, what has left is gone.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes};
use http::HeaderMap;
use http_body::Frame;
use prost::Message;
use tonic::body::Body;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::{Stream, once};
use tonic::{Response, Status};

use super::status;
use crate::store::{Flow, PART_BYTES};

/// Small messages that are there together leave together, until there are so many bytes: a peer may take many small
/// frames that it has no time for as an attack.
const TOGETHER_BYTES: usize = 32 * 1_024;

// So that none of them is left behind when only the first part of what they became has left.
const _: () = assert!(TOGETHER_BYTES <= PART_BYTES);

/// The body of an answer, which [`super::admission`] puts in the place of tonic's.
#[derive(Clone)]
pub(super) struct Streamed(Arc<Mutex<Option<Body>>>);

impl Streamed {
    /// The body, the first time.
    pub(super) fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The answer that consists of `messages`.
pub(super) fn answer<M: Message + 'static>(
    messages: impl Stream<Item = Result<M, Status>> + Send + 'static,
) -> Response<BoxStream<M>> {
    let body = Body::new(Messages {
        stream: Box::pin(messages),
        end: None,
    });
    let nothing = once(Err(Status::internal("the answer went astray")));
    let mut answer = Response::new(Box::pin(nothing) as BoxStream<M>);
    let streamed = Streamed(Arc::new(Mutex::new(Some(body))));
    answer.extensions_mut().insert(streamed);
    answer
}

/// The answer that consists of what `flow` tells, each made a message by `convert`.
pub(super) fn answer_flow<T, M>(
    flow: Flow<T>,
    convert: impl Fn(T) -> M + Send + Unpin + 'static,
) -> Response<BoxStream<M>>
where
    T: Send + Unpin + 'static,
    M: Message + 'static,
{
    let way = flow.way();
    let mut answer = answer(Converted { flow, convert });
    answer.extensions_mut().insert(way);
    answer
}

struct Converted<T, F> {
    flow: Flow<T>,
    convert: F,
}

impl<T: Unpin, M, F: Fn(T) -> M + Unpin> Stream for Converted<T, F> {
    type Item = Result<M, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.flow
            .poll_next(context)
            .map(|told| told.map(|told| told.map(&this.convert).map_err(status)))
    }
}

/// Messages, each behind its length, and at last how it ended.
struct Messages<M> {
    stream: BoxStream<M>,
    /// How it ended, while the last messages are ahead of it.
    end: Option<Status>,
}

impl<M: Message> Messages<M> {
    fn poll_end(&mut self, context: &mut Context<'_>, data: &mut Vec<u8>) -> Poll<Status> {
        while data.len() < TOGETHER_BYTES {
            match ready!(self.stream.as_mut().poll_next(context)) {
                Some(Ok(message)) => append(data, &message),
                Some(Err(status)) => return Poll::Ready(status),
                None => return Poll::Ready(Status::ok("")),
            }
        }
        Poll::Pending
    }
}

impl<M: Message> http_body::Body for Messages<M> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut data = Vec::new();
        let end = match self.end.take() {
            Some(end) => Poll::Ready(end),
            None => self.poll_end(context, &mut data),
        };
        if !data.is_empty() {
            self.end = match end {
                Poll::Ready(end) => Some(end),
                Poll::Pending => None,
            };
            return Poll::Ready(Some(Ok(Frame::data(data.into()))));
        }
        let mut trailers = HeaderMap::new();
        let end = ready!(end).add_header(&mut trailers);
        Poll::Ready(Some(end.map(|()| Frame::trailers(trailers))))
    }
}

fn append(data: &mut Vec<u8>, message: &impl Message) {
    let length = message.encoded_len();
    data.reserve_exact(size_of::<u8>() + size_of::<u32>() + length);
    // Not compressed.
    data.put_u8(0);
    data.put_u32(u32::try_from(length).expect("what is stored is far smaller"));
    message.encode(data).expect("a vector grows");
}
