//! The port that a collector of figures asks: `GET /metrics`, and nothing else. Knows no figure itself.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Where figures are asked for.
const PATH: &str = "/metrics";
/// The format of the answer.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Most connections at once; more wait.
const CONNECTIONS_MAX: usize = 16;
/// Longest time of a connection, which is for one answer: a collector comes again.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where figures are told.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Address of the port that tells figures to a collector such as Prometheus. Unset: there is no such port. It asks
    /// nobody who they are, and tells names of queues.
    #[arg(long, env = "METRICS_LISTEN")]
    pub metrics_listen: Option<String>,
}

impl Args {
    /// Opens the port, if there is to be one, and prints where.
    pub async fn bind(&self) -> anyhow::Result<Option<TcpListener>> {
        let Some(address) = self.metrics_listen.as_deref().filter(|address| !address.is_empty()) else {
            return Ok(None);
        };
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("METRICS_LISTEN {address} cannot be opened"))?;
        println!("metrics on http://{}{PATH}", listener.local_addr()?);
        Ok(Some(listener))
    }
}

/// Answers with what `figures` says until `shutdown`.
pub async fn serve<F>(
    listener: TcpListener,
    figures: impl Fn() -> F + Clone + Send + 'static,
    shutdown: CancellationToken,
) where
    F: Future<Output = String> + Send + 'static,
{
    let mut protocol = auto::Builder::new(TokioExecutor::new()).http1_only();
    protocol
        .http1()
        .timer(TokioTimer::new())
        // A connection that stays could be cut in the middle of a later answer.
        .keep_alive(false)
        .header_read_timeout(CONNECTION_TIME_MAX);
    let service = tower::service_fn(move |request: Request<_>| answer(request, figures.clone()));
    // Dropped at the end, which ends them.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let service = TowerToHyperService::new(service.clone());
                    let connection = protocol.serve_connection(TokioIo::new(stream), service).into_owned();
                    connections.spawn(async move {
                        if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME_MAX, connection).await {
                            tracing::debug!(%error, "a collector's connection broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a collector could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn answer<B, F: Future<Output = String>>(
    request: Request<B>,
    figures: impl Fn() -> F,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != PATH {
        return Ok(refusal(StatusCode::NOT_FOUND));
    }
    if request.method() != Method::GET {
        return Ok(refusal(StatusCode::METHOD_NOT_ALLOWED));
    }
    let mut response = Response::new(Full::from(figures().await));
    let kind = header::HeaderValue::from_static(OPEN_METRICS);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
