//! A request while it arrives: it may take only so long and hold only so much.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::Status;

use super::methods::Method;
use super::places::Places;
use crate::error::{Refusal, StoreError};

/// The first message of a request, and any other once it has begun, must have arrived after this long: a peer that never
/// finishes it cannot keep a place, nor the room of what it has sent.
const MESSAGE_TIME_MAX: Duration = Duration::from_mins(1);
/// What precedes each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The body of a request. It holds its room from when bytes arrive until the message they belong to is taken.
pub(super) struct Arriving<B> {
    inner: B,
    method: Arc<Method>,
    places: Places,
    room: Option<OwnedSemaphorePermit>,
    messages: Messages,
    /// While a message is waited for that must come.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<B> Arriving<B> {
    pub(super) fn new(inner: B, method: Arc<Method>, places: Places) -> Self {
        Self {
            inner,
            method,
            places,
            room: None,
            messages: Messages::default(),
            patience: None,
        }
    }

    fn receive(&mut self, data: &[u8]) -> Result<(), Status> {
        let complete = self.messages.complete;
        self.messages.read(data, self.method.request_bytes_max)?;
        if self.messages.complete > complete {
            self.patience = None;
        }
        let held = self.places.hold(self.messages.held, &mut self.room);
        held.map_err(Status::from)
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.messages.is_between() {
            // Whoever asks for more has taken what came before.
            this.messages.held = 0;
            this.room = None;
        }
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let received = frame.data_ref().map_or(Ok(()), |data| this.receive(data));
                Poll::Ready(Some(received.map(|()| frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Status::from_error(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if this.messages.complete > 0 && this.messages.is_between() => Poll::Pending,
            Poll::Pending => {
                // The time begins when somebody waits: who is not asked for more may be unable to send it.
                let patience = this
                    .patience
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(MESSAGE_TIME_MAX)));
                let over = patience.as_mut().poll(context);
                over.map(|()| Some(Err(StoreError::DeadlineExceeded.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Finds the bounds of messages in a stream of bytes.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    prefix_length: usize,
    /// Of the message under way, still to come.
    missing: usize,
    /// Bytes of messages that arrived since somebody asked for more.
    held: usize,
    complete: u64,
}

impl Messages {
    /// No message has begun that has not ended.
    fn is_between(&self) -> bool {
        self.prefix_length == 0
    }

    fn read(&mut self, mut data: &[u8], bytes_max: usize) -> Result<(), Refusal> {
        while !data.is_empty() {
            if self.prefix_length < PREFIX_BYTES {
                let (part, rest) = data.split_at(data.len().min(PREFIX_BYTES - self.prefix_length));
                self.prefix[self.prefix_length..][..part.len()].copy_from_slice(part);
                self.prefix_length += part.len();
                data = rest;
                if self.prefix_length < PREFIX_BYTES {
                    break;
                }
                let [compressed, length @ ..] = self.prefix;
                if compressed != 0 {
                    return Err(Refusal::Compressed);
                }
                self.missing = u32::from_be_bytes(length) as usize;
                if self.missing > bytes_max {
                    return Err(Refusal::MessageTooLarge { bytes_max });
                }
            }
            let length = data.len().min(self.missing);
            data = &data[length..];
            self.missing -= length;
            self.held += length;
            if self.missing == 0 {
                self.prefix_length = 0;
                self.complete += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let mut stream = Vec::new();
        for length in [0_u8, 1, 7, 0, 200] {
            stream.extend([0, 0, 0, 0, length]);
            stream.extend(std::iter::repeat_n(9, usize::from(length)));
        }
        for size in 1..stream.len() {
            let mut messages = Messages::default();
            for part in stream.chunks(size) {
                messages.read(part, 200).expect("it is right");
            }
            assert!(messages.is_between());
            assert_eq!((messages.complete, messages.held), (5, 208), "in parts of {size}");
        }
    }

    #[test]
    fn a_length_past_the_limit_is_refused_before_anything_of_it_came() {
        assert!(Messages::default().read(&[0, 0, 0, 1, 0], 256).is_ok());
        let refused = Messages::default().read(&[0, 0, 0, 1, 1], 256);
        assert!(matches!(refused, Err(Refusal::MessageTooLarge { bytes_max: 256 })));
        assert!(matches!(
            Messages::default().read(&[1, 0, 0, 0, 0], 256),
            Err(Refusal::Compressed)
        ));
    }
}
