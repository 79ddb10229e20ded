//! Connections: accepted up to a limit, kept from dawdling, and drained within a bound.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::outgoing::PART_BYTES;
use crate::stream::{Patience, PatientStream};
use crate::{Gateway, router};

/// Connections open at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Largest head of an HTTP/1 request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Largest headers of an HTTP/2 request, in bytes.
const HEADERS_BYTES_MAX: u32 = 64 * 1024;
/// Requests of one HTTP/2 connection at once. Their peer can stop reading single ones and leave the connection alive, so
/// this bounds what it can make us keep: each answer of up to 64 KiB, or two such parts of a larger one.
const STREAMS_MAX: u32 = 32;
/// What an answer over HTTP/2 may hold ready beyond what its peer takes, in bytes.
const SEND_BUFFER_BYTES: usize = PART_BYTES;
/// A silent HTTP/2 connection is probed this often, and closed when a probe is not answered in time.
const PROBE_INTERVAL: Duration = Duration::from_mins(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause after a connection could not be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections are waited for.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    /// The first bytes of a connection; then the head of each request, and the idle time before it.
    head: Duration,
    /// A write of which the peer takes nothing.
    write: Duration,
    /// The same once the shutdown began.
    write_draining: Duration,
    /// Requests in flight once the shutdown began.
    drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_mins(1),
            write: Duration::from_secs(30),
            write_draining: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown`, then stops accepting, closes idle connections, and waits at most 10 s for requests in flight;
/// 5 s for peers that take nothing of their answers.
/// Whoever waits for the result of a queued write is answered without it.
pub async fn serve(listener: TcpListener, gateway: Gateway, shutdown: CancellationToken) -> anyhow::Result<()> {
    let waits = gateway.waits.serve(&gateway.store, &shutdown);
    let serving = run(listener, router(gateway.clone()), Timeouts::default(), shutdown.clone());
    tokio::join!(serving, waits);
    Ok(())
}

async fn run(listener: TcpListener, router: Router, timeouts: Timeouts, shutdown: CancellationToken) {
    let connections = builder(timeouts.head);
    let patience = Patience {
        first_bytes: timeouts.head,
        write: timeouts.write,
        write_draining: timeouts.write_draining,
    };
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let draining = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            // The peer left before it was its turn: nothing is short.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let stream = TokioIo::new(PatientStream::new(stream, patience, shutdown.clone()));
        let connection = connections.serve_connection(stream, TowerToHyperService::new(router.clone()));
        let connection = draining.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &*error, "connection broke");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(timeouts.drain, draining.shutdown()).await.is_err() {
        tracing::warn!("stopped with requests in flight");
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "answers may be delayed");
    }
    Ok((stream, permit))
}

fn builder(head_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PROBE_INTERVAL)
        .keep_alive_timeout(PROBE_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests;
