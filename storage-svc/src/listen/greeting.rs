//! The beginning of a connection: whoever opens one must begin to speak HTTP/2 soon, or it is closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A peer that has not sent its [`GREETING_BYTES`] after this long is no client: it only keeps others out. From then on
/// the probes of the protocol find out who is gone.
const GREETING_TIME_MAX: Duration = Duration::from_secs(10);
/// Length of what every client of HTTP/2 sends first, in bytes.
const GREETING_BYTES: usize = 24;

/// A connection whose peer has to greet in time.
#[derive(Debug)]
pub(crate) struct Greeted<S> {
    inner: S,
    missing: usize,
    /// Until nothing is missing.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Greeted<S> {
    /// Of which nothing has been read.
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            missing: GREETING_BYTES,
            patience: Some(Box::pin(tokio::time::sleep(GREETING_TIME_MAX))),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        let Some(patience) = &mut self.patience else {
            return polled;
        };
        if polled.is_pending() && patience.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.missing = self.missing.saturating_sub(buffer.filled().len() - before);
        if self.missing == 0 {
            self.patience = None;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }
}
