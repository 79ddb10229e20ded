//! Answers that nobody takes. Whoever sends one asks for more of it only when it could send some of what it has, so
//! neither a deadline nor the end of what is behind it would be noticed: such an answer is dropped from outside, which
//! resets its stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::rt::Executor;

/// An answer that takes room of others, and of which no part is taken for so long, is dropped, after twice as long at the
/// latest. The last part counts as taken when some of it is: the rest of it may lie in the connection.
const ANSWER_STALL_MAX: Duration = Duration::from_secs(15);
/// Of any other answer, which its client may have reasons to leave alone for a while: so many times as long.
const PATIENCE: u32 = 4;

tokio::task_local! {
    static TAKING: Taking;
}

/// How far an answer is taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Taking(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Odd while a part is on its way to the peer, even while more is waited for.
    steps: AtomicU64,
    takes_room: AtomicBool,
}

impl Taking {
    /// That of the answer which this task sends; one that nobody looks at if it is no task of [`Streams`].
    pub(super) fn here() -> Self {
        TAKING.try_with(Self::clone).unwrap_or_default()
    }

    /// The answer takes room that others wait for.
    pub(super) fn takes_room(&self) {
        self.0.takes_room.store(true, Ordering::Relaxed);
    }

    /// More is asked for: some of the part before has been sent, and the rest of it will be.
    pub(super) fn asked(&self) {
        if self.is_on_its_way() {
            self.0.steps.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A part is on its way.
    pub(super) fn handed(&self) {
        if !self.is_on_its_way() {
            self.0.steps.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_on_its_way(&self) -> bool {
        self.0.steps.load(Ordering::Relaxed) % 2 == 1
    }

    /// Ends if a part stays on its way.
    async fn stalled(&self) {
        let mut before = None;
        let mut looks = 0;
        loop {
            let now = self.is_on_its_way().then(|| self.0.steps.load(Ordering::Relaxed));
            looks = if now.is_some() && now == before { looks + 1 } else { 0 };
            let looks_max = if self.0.takes_room.load(Ordering::Relaxed) {
                1
            } else {
                PATIENCE
            };
            if looks >= looks_max {
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
    async fn lasts(takes_room: bool, taken_every: Option<Duration>) -> Duration {
        let begun = Instant::now();
        let (here, gone) = oneshot::channel::<()>();
        Streams.execute(async move {
            let taking = Taking::here();
            if takes_room {
                taking.takes_room();
            }
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
        for (takes_room, stall_max) in [(true, ANSWER_STALL_MAX), (false, PATIENCE * ANSWER_STALL_MAX)] {
            let lasted = lasts(takes_room, None).await;
            let expected = stall_max..=stall_max + ANSWER_STALL_MAX;
            assert!(expected.contains(&lasted), "{lasted:?}");
            let slow = stall_max.mul_f64(0.98);
            assert!(lasts(takes_room, Some(slow)).await >= 10 * ANSWER_STALL_MAX);
        }
    }
}
