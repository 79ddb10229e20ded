//! The TCP stream under a connection. Ends it when its peer says nothing for too long at first, or does not take what it
//! is sent. What is between the two, hyper times itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

/// How an HTTP/2 connection begins. hyper reads until the bytes differ from it, without a time limit.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a peer is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Until the first bytes show the version of HTTP.
    pub(crate) first_bytes: Duration,
    /// Until the peer takes anything of what waits to be sent.
    pub(crate) write: Duration,
    /// The same once the server is about to end.
    pub(crate) write_draining: Duration,
}

/// A stream that gives up on its peer.
#[derive(Debug)]
pub(crate) struct PatientStream {
    stream: TcpStream,
    patience: Patience,
    draining: CancellationToken,
    /// What is still to come of the preface; none once the version is known.
    preface_left: Option<&'static [u8]>,
    /// Since when nothing could be written.
    stalled_since: Option<Instant>,
    /// Of the first bytes, then of writes: nothing is written before the version is known.
    timer: Pin<Box<Sleep>>,
}

impl PatientStream {
    pub(crate) fn new(stream: TcpStream, patience: Patience, draining: CancellationToken) -> Self {
        Self {
            stream,
            patience,
            draining,
            preface_left: Some(HTTP2_PREFACE),
            stalled_since: None,
            timer: Box::pin(sleep(patience.first_bytes)),
        }
    }

    fn poll_timer<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The outcome of a write, unless there was none for too long.
    fn timed(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled_since = None;
            return written;
        }
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        // The shutdown wakes the connection, and it comes by here.
        let patience = if self.draining.is_cancelled() {
            self.patience.write_draining
        } else {
            self.patience.write
        };
        if self.timer.deadline() != since + patience {
            self.timer.as_mut().reset(since + patience);
        }
        self.poll_timer(context)
    }
}

impl AsyncRead for PatientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(expected) = self.preface_left else { return read };
        if read.is_pending() {
            return self.poll_timer(context);
        }
        let bytes = &buffer.filled()[filled..];
        let left = expected.strip_prefix(bytes);
        self.preface_left = left.filter(|left| !bytes.is_empty() && !left.is_empty());
        read
    }
}

impl AsyncWrite for PatientStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.timed(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
