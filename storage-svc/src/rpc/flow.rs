//! What the store tells bit by bit, as the stream of a response.

use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::Stream;

use super::status;
use crate::store::Flow;

/// The stream of `flow`, each item made a message by `convert`.
pub(super) fn stream<T, M>(flow: Flow<T>, convert: impl Fn(T) -> M + Send + Unpin + 'static) -> BoxStream<M>
where
    T: Send + Unpin + 'static,
    M: 'static,
{
    Box::pin(Converted { flow, convert })
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
