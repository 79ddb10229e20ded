//! Who may come in, and for how long: a limit on calls in flight, shed with a hint when to retry, and the deadline of
//! each, answered as such. tonic's own layers know neither: they count by connection and answer a deadline CANCELLED.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::status;
use crate::error::StoreError;
use crate::model::Deadline;

/// Most calls in flight, waiting ones included; one more is refused.
pub(crate) const CALLS_MAX: usize = 1_024;
/// No call takes longer, whatever its deadline: a peer that never finishes its request cannot keep its place.
const CALL_TIME_MAX: Duration = Duration::from_mins(1);

/// The calls in flight; clones count the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Calls(Arc<Semaphore>);

impl Calls {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(CALLS_MAX)))
    }

    /// Waits until there is none, letting in no others meanwhile.
    pub(crate) async fn ended(&self) {
        let every_place = u32::try_from(CALLS_MAX).expect("the limit is small");
        // Nobody closes the semaphore.
        let _ = self.0.acquire_many(every_place).await;
    }
}

/// A service behind its door.
#[derive(Clone, Debug)]
pub(super) struct Admission<S> {
    inner: S,
    calls: Calls,
}

/// The call's deadline, for its handler.
#[derive(Clone, Copy, Debug)]
struct CallDeadline(Instant);

/// When the caller stops waiting.
pub(super) fn deadline<T>(request: &tonic::Request<T>) -> Deadline {
    request.extensions().get::<CallDeadline>().map(|deadline| deadline.0)
}

impl<S> Admission<S> {
    pub(super) fn new(inner: S, calls: &Calls) -> Self {
        let calls = calls.clone();
        Self { inner, calls }
    }
}

impl<S: NamedService> NamedService for Admission<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Admission<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Ok(place) = Arc::clone(&self.calls.0).try_acquire_owned() else {
            return Box::pin(async { Ok(status(StoreError::Overloaded).into_http()) });
        };
        let deadline = Instant::now() + timeout(request.headers()).unwrap_or(CALL_TIME_MAX).min(CALL_TIME_MAX);
        request.extensions_mut().insert(CallDeadline(deadline));
        let call = tokio::time::timeout_at(deadline.into(), self.inner.call(request));
        Box::pin(async move {
            let _place = place;
            call.await
                .unwrap_or_else(|_| Ok(status(StoreError::DeadlineExceeded).into_http()))
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
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, expected: Option<Duration>) {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-timeout"),
            value.parse().expect("the value fits a header"),
        )]);
        assert_eq!(timeout(&headers), expected, "{value:?}");
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        check("1S", Some(Duration::from_secs(1)));
        check("250m", Some(Duration::from_millis(250)));
        check("99999999H", Some(Duration::from_hours(99_999_999)));
        check("100000000S", None);
        check("S", None);
        check("", None);
        check("+1S", None);
        check("1", None);
        check("1s", None);
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
