//! Who may come in, how many at once, and for how long. Each kind of call has room of its own, what is too much is shed
//! with a hint when to retry, and deadlines are answered as such, on streams to their end. tonic's own layers do none of
//! it: they count by connection, answer a deadline CANCELLED, and forget a stream once its head is answered.

mod access;
mod arriving;
mod leaving;
mod methods;
mod places;
mod record;
mod stall;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use proto::trace::{self, TRACEPARENT, TraceParent};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tower::{Layer, Service};
use tracing::Instrument as _;

pub(crate) use self::access::Access;
use self::arriving::Arriving;
use self::leaving::{Leaving, Limit, explain};
pub(crate) use self::methods::PROBE_BYTES_MAX;
use self::methods::{Lane, Method, Methods};
use self::places::Places;
pub(crate) use self::places::{ARRIVING_BYTES_MAX, CALLS_MAX, STREAMS_MAX};
use self::record::Record;
pub(crate) use self::stall::Streams;
use super::status;
use super::streamed::Streamed;
use crate::error::{Refusal, StoreError};
use crate::metrics::Metrics;
use crate::model::Deadline;
use crate::store::{Reserved, Way};

/// No call that is a question and its answer takes longer, whatever its deadline.
const CALL_TIME_MAX: Duration = Duration::from_mins(1);

/// The way in; clones lead to the same room.
#[derive(Clone, Debug)]
pub(crate) struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    methods: Methods,
    access: Access,
    places: Places,
    metrics: Metrics,
    draining: CancellationToken,
    cut: CancellationToken,
}

impl Door {
    /// A door for those whom `access` lets in, which begins to close when `draining` is cancelled.
    pub(crate) fn new(access: Access, metrics: Metrics, draining: CancellationToken) -> Self {
        Self::with(access, Places::new(), metrics, draining)
    }

    fn with(access: Access, places: Places, metrics: Metrics, draining: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            methods: Methods::of_all_services(),
            access,
            places,
            metrics,
            draining,
            cut: CancellationToken::new(),
        }))
    }

    /// The services behind it, for a client in the same process.
    pub(crate) fn guard(&self, routes: Routes) -> Routes {
        Routes::from(routes.into_axum_router().layer(self.clone()))
    }

    /// Waits until all calls and streams have ended, letting in no others meanwhile.
    pub(crate) async fn emptied(&self) {
        self.0.places.emptied().await;
    }

    /// Ends what has not ended.
    pub(crate) fn cut(&self) {
        self.0.cut.cancel();
    }

    /// Lets a call in, or says why not. Nothing of its body is read before that.
    fn admit(&self, method: &Method, headers: &HeaderMap, record: &mut Record) -> Result<(), Status> {
        self.0.access.judge(method.scope, headers)?;
        let encoding = headers.get("grpc-encoding");
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(Refusal::Compressed.into());
        }
        record.placed(self.0.places.take(method.lane).map_err(status)?);
        Ok(())
    }

    /// When a call must end, and what ends it.
    fn limit(&self, method: &Method, headers: &HeaderMap) -> (Deadline, Limit) {
        let now = tokio::time::Instant::now().into_std();
        let asked = timeout(headers);
        let deadline = match method.lane {
            Lane::Calls | Lane::HealthCalls => Some(now + asked.unwrap_or(CALL_TIME_MAX).min(CALL_TIME_MAX)),
            // A time too far to be told is none.
            Lane::Streams | Lane::HealthStreams => asked.and_then(|asked| now.checked_add(asked)),
        };
        let ends = if method.is_endless && method.lane == Lane::Streams {
            self.0.draining.clone()
        } else {
            self.0.cut.clone()
        };
        let limit = async move {
            let time_is_up = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = time_is_up => StoreError::DeadlineExceeded.into(),
                () = ends.cancelled() => StoreError::Closing.into(),
            }
        };
        (deadline, Box::pin(limit))
    }
}

impl<S> Layer<S> for Door {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        let door = self.clone();
        Admission { inner, door }
    }
}

/// A service behind the door.
#[derive(Clone, Debug)]
pub(crate) struct Admission<S> {
    inner: S,
    door: Door,
}

/// The call's deadline, for its handler.
#[derive(Clone, Copy, Debug)]
struct CallDeadline(Instant);

/// When the caller stops waiting.
pub(super) fn deadline<T>(request: &tonic::Request<T>) -> Deadline {
    request.extensions().get::<CallDeadline>().map(|deadline| deadline.0)
}

impl<S, B, A> Service<Request<B>> for Admission<S>
where
    S: Service<Request<Body>, Response = Response<A>, Error = Infallible>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError>,
    A: http_body::Body<Data = Bytes> + Send + 'static,
    A::Error: Into<StdError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = self.door.0.methods.of(request.uri().path());
        let traced = request.headers().get(TRACEPARENT);
        let traced: Option<TraceParent> = traced.and_then(|value| value.to_str().ok()?.parse().ok());
        let mut record = Record::new(Arc::clone(&method), self.door.0.metrics.clone(), traced.as_ref());
        if let Err(refused) = self.door.admit(&method, request.headers(), &mut record) {
            record.ended(refused.code());
            return Box::pin(async { Ok(refused.into_http()) });
        }
        let (deadline, mut limit) = self.door.limit(&method, request.headers());
        let places = self.door.0.places.clone();
        let mut request = request.map(|body| Body::new(Arriving::new(body, method, places)));
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(CallDeadline(deadline));
        }
        let call = self.inner.call(request).instrument(record.span());
        let call = trace::within(traced, call);
        Box::pin(async move {
            let mut answer = tokio::select! {
                answer = call => answer?,
                status = &mut limit => {
                    record.ended(status.code());
                    return Ok(status.into_http());
                }
            };
            let extensions = answer.extensions_mut();
            let room = extensions.remove::<Arc<Reserved>>();
            let way = extensions.remove::<Way>().unwrap_or_default();
            let streamed = extensions.remove::<Streamed>().and_then(|streamed| streamed.take());
            if let Some(code) = explain(answer.headers_mut()) {
                record.ended(code);
            }
            Ok(answer.map(|body| {
                let body = streamed.unwrap_or_else(|| Body::new(body));
                Body::new(Leaving::new(body, way, limit, record, room))
            }))
        })
    }
}
/// What the caller says of its patience: at most eight digits and a unit. What does not read so says nothing.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_hours(count)),
        "M" => Some(Duration::from_mins(count)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
