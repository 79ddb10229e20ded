//! Answers that nobody takes. Whoever sends one asks for more of it only when it could send some of what it has, so
//! neither a deadline nor the end of what is behind it would be noticed: such an answer is dropped from outside, which
//! resets its stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::rt::Executor;

/// An answer of which no part is taken for so long is dropped, after twice as long at the latest. The last part counts as
/// taken when some of it is: the rest of it may lie in the connection.
const ANSWER_STALL_MAX: Duration = Duration::from_mins(1);

tokio::task_local! {
    static TAKING: Taking;
}

/// How far an answer is taken: odd while a part of it is on its way to the peer, even while more is waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct Taking(Arc<AtomicU64>);

impl Taking {
    /// That of the answer which this task sends; one that nobody looks at if it is no task of [`Streams`].
    pub(super) fn here() -> Self {
        TAKING.try_with(Self::clone).unwrap_or_default()
    }

    /// More is asked for: some of the part before has been sent, and the rest of it will be.
    pub(super) fn asked(&self) {
        if self.is_on_its_way() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A part is on its way.
    pub(super) fn handed(&self) {
        if !self.is_on_its_way() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_on_its_way(&self) -> bool {
        self.0.load(Ordering::Relaxed) % 2 == 1
    }

    /// Ends if a part stays on its way.
    async fn stalled(&self) {
        let mut before = None;
        loop {
            let now = self.is_on_its_way().then(|| self.0.load(Ordering::Relaxed));
            if now.is_some() && now == before {
                return;
            }
            before = now;
            tokio::time::sleep(ANSWER_STALL_MAX).await;
        }
    }
}

/// Runs the calls of a connection, each until it ends or its answer stalls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(async move {
            let taking = Taking::default();
            tokio::select! {
                biased;
                _ = TAKING.scope(taking.clone(), stream) => {}
                () = taking.stalled() => tracing::debug!("an answer that nobody takes was dropped"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::{Instant, timeout};

    use super::*;

    /// How long an answer lasts of which a part is on its way and, every so often, another one is asked for.
    async fn lasts(taken_every: Option<Duration>) -> Duration {
        let begun = Instant::now();
        let (here, gone) = oneshot::channel::<()>();
        Streams.execute(async move {
            let taking = Taking::here();
            loop {
                taking.handed();
                match taken_every {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
                taking.asked();
                assert!(!here.is_closed());
            }
        });
        let _ = timeout(10 * ANSWER_STALL_MAX, gone).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_dropped_when_nothing_of_it_is_taken() {
        let lasted = lasts(None).await;
        assert!(
            (ANSWER_STALL_MAX..=2 * ANSWER_STALL_MAX).contains(&lasted),
            "{lasted:?}"
        );
        let slow = ANSWER_STALL_MAX.mul_f64(0.98);
        assert!(lasts(Some(slow)).await >= 10 * ANSWER_STALL_MAX);
    }
}
