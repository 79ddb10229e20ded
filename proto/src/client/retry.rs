//! When a call is made again: what is safe to repeat, while its deadline lasts, no more often than a few times, after a
//! pause that grows and is spread at random, and never sooner than the service asked for.

use std::error::Error as _;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::ClientError;

/// How often a call is made, the first time included.
pub(super) const ATTEMPTS_MAX: u32 = 4;
/// Pause before the second attempt; doubled before each one after it.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// What may happen if a call is made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Nothing: it reads, or its `request_id` tells the service that it is the same call.
    Harmless,
    /// Something, unless the service said that it has done nothing.
    IfRefused,
}

impl Repeat {
    /// Whether the call may be made again, and no sooner than when.
    fn allows(self, status: &Status) -> Option<Duration> {
        if let Some(retry) = status.get_details_retry_info() {
            // A call that is shed has not been begun. With any other code there may be more to it.
            let is_shed = status.code() == Code::ResourceExhausted;
            let again = self == Self::Harmless || is_shed;
            return again.then(|| retry.retry_delay.unwrap_or_default());
        }
        (self == Self::Harmless && is_broken(status)).then_some(Duration::ZERO)
    }
}

/// Whether this is what a connection that is lost looks like. What the service itself says has details, and no source. A
/// service ends a connection as exhausted when too many calls on it were given up before it began them: it was stopped
/// for a moment, say.
pub(super) fn is_broken(status: &Status) -> bool {
    status.details().is_empty()
        && match status.code() {
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => true,
            Code::ResourceExhausted => status.source().is_some(),
            _ => false,
        }
}

/// Makes a call until it is answered, `timeout` is over, or there is no use in another attempt. The deadline is sent
/// along, and kept here too: a peer that never answers cannot hold a caller.
pub(super) async fn within<M, A, F>(
    timeout: Duration,
    repeat: Repeat,
    message: M,
    mut call: impl FnMut(Request<M>) -> F,
) -> Result<A, ClientError>
where
    M: Clone,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let deadline = Instant::now() + timeout;
    let mut pause = PAUSE_MIN;
    for attempt in 1.. {
        let mut request = Request::new(message.clone());
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let status = match tokio::time::timeout_at(deadline, call(request)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => break,
        };
        let again = repeat.allows(&status).filter(|_| attempt < ATTEMPTS_MAX);
        let wait = again.map(|asked| asked.max(pause).mul_f64(rand::rng().random_range(1.0..1.5)));
        match wait {
            // No sum: what is asked for may be more than a clock can tell.
            Some(wait) if wait < deadline.saturating_duration_since(Instant::now()) => tokio::time::sleep(wait).await,
            _ => return Err(status.into()),
        }
        pause *= 2;
    }
    Err(ClientError::Timeout)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use prost::Message as _;
    use tonic_types::{ErrorDetails, pb};

    use super::*;

    fn shed(delay_ms: u64) -> Status {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(delay_ms)));
        Status::with_error_details(Code::ResourceExhausted, "shed", details)
    }

    /// Shed by somebody who writes a longer delay than there is.
    fn asking_for(seconds: i64) -> Status {
        let retry = pb::RetryInfo {
            retry_delay: Some(prost_types::Duration { seconds, nanos: 0 }),
        };
        let details = pb::Status {
            details: vec![prost_types::Any {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                value: retry.encode_to_vec(),
            }],
            ..Default::default()
        };
        Status::with_details(Code::ResourceExhausted, "shed", details.encode_to_vec().into())
    }

    fn closing() -> Status {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
        Status::with_error_details(Code::Unavailable, "closing", details)
    }

    /// What a connection that the other end is tired of leaves of a call.
    fn exhausted() -> Status {
        let mut status = Status::resource_exhausted("h2 protocol error");
        status.set_source(Arc::new(std::io::Error::other("too_many_resets")));
        status
    }

    fn refused(code: Code) -> Status {
        Status::with_error_details(code, "no", ErrorDetails::with_error_info("NO", "here", []))
    }

    /// How often a call is made that fails so every time, and how long that takes.
    async fn attempts(timeout_ms: u64, repeat: Repeat, status: Status) -> (u32, Duration, ClientError) {
        let began = Instant::now();
        let made = Cell::new(0);
        let answer: Result<(), _> = within(Duration::from_millis(timeout_ms), repeat, (), |_| {
            made.set(made.get() + 1);
            let status = status.clone();
            async move { Err(status) }
        })
        .await;
        (made.get(), began.elapsed(), answer.expect_err("it fails"))
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_safe_is_repeated_and_only_so_often() {
        use Repeat::{Harmless, IfRefused};

        let broken = Status::unavailable("broken");
        for (repeat, status, expected) in [
            (Harmless, broken.clone(), ATTEMPTS_MAX),
            (Harmless, Status::unknown("broken"), ATTEMPTS_MAX),
            (IfRefused, broken, 1),
            (Harmless, exhausted(), ATTEMPTS_MAX),
            (IfRefused, exhausted(), 1),
            (Harmless, shed(1), ATTEMPTS_MAX),
            (IfRefused, shed(1), ATTEMPTS_MAX),
            (Harmless, closing(), ATTEMPTS_MAX),
            (IfRefused, closing(), 1),
            (Harmless, refused(Code::InvalidArgument), 1),
            (Harmless, refused(Code::Internal), 1),
            (Harmless, refused(Code::ResourceExhausted), 1),
            (Harmless, Status::deadline_exceeded(""), 1),
        ] {
            let (made, _, _) = attempts(10_000, repeat, status.clone()).await;
            assert_eq!(made, expected, "{repeat:?} {status:?}");
        }
    }

    #[test]
    fn whether_a_call_on_a_lost_connection_took_effect_is_not_known() {
        for status in [Status::unavailable("broken"), exhausted()] {
            let error = ClientError::from(status);
            assert!(matches!(error, ClientError::Unavailable(_)), "{error:?}");
        }
        let error = ClientError::from(refused(Code::ResourceExhausted));
        assert!(matches!(error, ClientError::Refused(_)), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_service_is_given_the_time_it_asks_for_and_the_deadline_holds() {
        let (made, took, error) = attempts(10_000, Repeat::Harmless, shed(2_000)).await;
        assert_eq!(made, ATTEMPTS_MAX);
        assert!((6..=9).contains(&took.as_secs()), "{took:?}");
        assert!(matches!(error, ClientError::Overloaded(_)), "{error:?}");
        let (made, took, _) = attempts(1_000, Repeat::Harmless, shed(2_000)).await;
        assert_eq!((made, took), (1, Duration::ZERO), "there is no use in waiting");
        let (made, _, _) = attempts(1_000, Repeat::Harmless, asking_for(i64::MAX)).await;
        assert_eq!(made, 1, "nor for longer than a clock can tell");
        let never = within(Duration::from_secs(1), Repeat::Harmless, (), |_| {
            std::future::pending::<Result<Response<()>, Status>>()
        });
        assert!(matches!(never.await, Err(ClientError::Timeout)));
    }
}
