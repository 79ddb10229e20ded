//! The port that says how a process is: `GET /metrics` for a collector of figures, `/health` and `/ready` for whoever
//! starts, restarts and routes, and nothing else. Knows no figure and no reason itself.

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
const METRICS: &str = "/metrics";
/// Where it is asked whether the process is alive.
const HEALTH: &str = "/health";
/// Where it is asked whether it can do its work now.
const READY: &str = "/ready";
/// The format of the answer.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// And the line that ends it.
const OPEN_METRICS_END: &str = "# EOF\n";
/// The format of the other answers.
const PLAIN: &str = "text/plain; charset=utf-8";
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
    /// Address of the port that tells figures to a collector such as Prometheus, and whether the process is alive and
    /// ready. Unset: there is no such port. It asks nobody who they are, and tells names of queues.
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
        println!("metrics on http://{}{METRICS}", listener.local_addr()?);
        Ok(Some(listener))
    }
}

/// Answers with what `figures` says, OpenMetrics text without its end, and with what `ready` says, the error being why
/// not, until `shutdown`.
pub async fn serve<F, R>(
    listener: TcpListener,
    figures: impl Fn() -> F + Clone + Send + 'static,
    ready: impl Fn() -> R + Clone + Send + 'static,
    shutdown: CancellationToken,
) where
    F: Future<Output = String> + Send + 'static,
    R: Future<Output = Result<(), String>> + Send + 'static,
{
    let mut protocol = auto::Builder::new(TokioExecutor::new()).http1_only();
    protocol
        .http1()
        .timer(TokioTimer::new())
        // A connection that stays could be cut in the middle of a later answer.
        .keep_alive(false)
        .header_read_timeout(CONNECTION_TIME_MAX);
    let service = tower::service_fn(move |request: Request<_>| answer(request, figures.clone(), ready.clone()));
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

async fn answer<B, F, R>(
    request: Request<B>,
    figures: impl Fn() -> F,
    ready: impl Fn() -> R,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Future<Output = String>,
    R: Future<Output = Result<(), String>>,
{
    let path = request.uri().path();
    if ![METRICS, HEALTH, READY].contains(&path) {
        return Ok(response(StatusCode::NOT_FOUND, PLAIN, String::new()));
    }
    if request.method() != Method::GET {
        return Ok(response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, String::new()));
    }
    Ok(match path {
        METRICS => response(StatusCode::OK, OPEN_METRICS, figures().await + OPEN_METRICS_END),
        HEALTH => response(StatusCode::OK, PLAIN, "alive\n".to_owned()),
        _ => match ready().await {
            Ok(()) => response(StatusCode::OK, PLAIN, "ready\n".to_owned()),
            Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("not ready: {why}\n")),
        },
    })
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
