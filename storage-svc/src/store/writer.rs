//! The thread that owns the only connection that writes.
//!
//! Whatever has queued while the last commit ran becomes one transaction, each request in a savepoint of its own, one
//! commit, and only then the answers. There is no timer: an idle writer begins at once, a busy one finds the next batch
//! waiting. A request that fails leaves no trace, in the file or in memory; if the commit fails, none of the batch does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use super::batch::{Batch, in_time};
use super::checkpoint::{Checkpoints, checkpoint, empty_log};
use super::clock::StoreClock;
use super::collect::{self, Left};
use super::effects::Effects;
use super::history::{self, Span};
use super::job::{Answer, Aside, Job, Reply, Write};
use super::lock::Lock;
use super::pages::give_back_pages;
use super::queue::Lately;
use super::tally::Tally;
use super::waiting::{Claim, Claimed, Lines, Returned};
use super::window::Holders;
use super::{commit, queue};
use crate::error::StoreError;
use crate::model::{Action, Delivery, Lease, Outcome, Settlement};

/// Most requests in a batch.
const BATCH_JOBS_MAX: usize = 256;
/// A batch takes no more requests once they are this many bytes together.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A batch hands out no more messages once they are this many bytes together.
const BATCH_DELIVERED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most messages that one batch takes back from callers who went away, of each kind; the next one follows at once.
const RETURNED_MESSAGES_MAX: usize = 1_000;
/// Most messages that one batch moves because their time has come; the next one follows at once.
const SWEEP_MESSAGES_MAX: i64 = 1_000;
/// Most expired entries that one batch collects; the next one follows at once.
const COLLECT_ROWS_MAX: usize = 256;
/// How often the writer looks for itself: an idle one at the clock and at what has expired, any at each queue where
/// somebody waits. The longest that a message waits past its time if the machine's clock is set, and the pause after a
/// failed batch before the writer's own work is tried again.
const TICK: Duration = Duration::from_secs(1);
/// How often the engine may look whether its figures are out of date.
const OPTIMIZE_INTERVAL: Duration = Duration::from_hours(1);
/// How long it goes on without another try when a reader did not let go of the log.
const LOG_RETRY: Duration = Duration::from_secs(5);
/// Free pages that are kept for what is written next.
const FREE_PAGES_KEPT: u64 = 1_024;

/// What `last_error` says of a message that its stream left unsettled.
const STREAM_ENDED: &str = "the stream ended";

/// An answer that waits for the commit.
enum Pending {
    Commit(Answer<Outcome>, Result<Outcome, StoreError>),
    Write(Reply),
    Claim(Claim, Result<Vec<Delivery>, StoreError>),
    Sweep(Answer<()>),
}

impl Pending {
    /// Tells the caller, if it is still there. What a failed batch found is void, its refusals and conflicts included:
    /// they may have been judged on a neighbour's writes.
    fn send(self, committed: &Result<(), StoreError>, own_work: &Result<(), StoreError>) {
        match self {
            Self::Commit(answer, result) => drop(answer.send(committed.clone().and(result))),
            Self::Write(reply) => reply(committed),
            Self::Sweep(answer) => drop(answer.send(own_work.clone())),
            Self::Claim(claim, result) => {
                let claimed = committed.clone().and(result);
                let claimed = claimed.map(|deliveries| Claimed::new(deliveries, claim.returns));
                // If the caller is gone this drops the deliveries, which gives them back.
                drop(claim.answer.send(claimed));
            }
        }
    }
}

/// What the writer shares with the handles.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) clock: StoreClock,
    /// When the next lease runs out or the next delay is over.
    pub(super) next_due_ms: Arc<AtomicI64>,
    /// Leases of callers who went away.
    pub(super) returned: Arc<Mutex<Returned>>,
    /// The store's revision, told after each commit and before its answers.
    pub(super) revision: watch::Sender<u64>,
    pub(super) tally: Arc<Tally>,
}

/// The state of the thread.
pub(super) struct Writer {
    connection: Connection,
    jobs: Receiver<Job>,
    shared: Shared,
    checkpoints: Checkpoints,
    revision: u64,
    /// How much history is kept.
    span: Span,
    lines: Lines,
    /// Queues that may have both messages and callers left over from the last batch.
    hungry: BTreeSet<i64>,
    /// The queue that the next batch serves first, so that none that a bound left over waits for ever.
    serve_from: i64,
    holders: Holders,
    batch: u64,
    look_at: Instant,
    collect_at: Instant,
    optimize_at: Instant,
    log_at: Instant,
    last_work_failed: bool,
    is_closing: bool,
    /// What is to be done between batches, outside of any transaction.
    asides: Vec<Aside>,
    /// Held until the connection is closed: fields are dropped in order.
    lock: Lock,
    /// Says that the thread has ended, whether it was asked to or panicked.
    ended: DropGuard,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        span: Span,
        jobs: Receiver<Job>,
        shared: Shared,
        checkpoints: Checkpoints,
        lock: Lock,
        ended: DropGuard,
    ) -> Self {
        let now = Instant::now();
        let revision = *shared.revision.borrow();
        Self {
            connection,
            jobs,
            shared,
            checkpoints,
            revision,
            span,
            lines: Lines::default(),
            hungry: BTreeSet::new(),
            serve_from: 0,
            holders: Holders::default(),
            batch: 0,
            look_at: now,
            collect_at: now,
            optimize_at: now + OPTIMIZE_INTERVAL,
            log_at: now,
            last_work_failed: false,
            is_closing: false,
            asides: Vec::new(),
            lock,
            ended,
        }
    }

    /// Works until it is told to close, or until nobody is left who could tell it anything.
    pub(super) fn run(mut self) {
        while !self.is_closing {
            let jobs = self.next_jobs();
            self.work(jobs);
            for aside in std::mem::take(&mut self.asides) {
                aside.run(&self.connection);
            }
            self.keep_log_short();
        }
        // What the last answers found nobody to take goes back now, not when its lease runs out.
        loop {
            self.work(Vec::new());
            if self.last_work_failed || self.lock_returned().is_empty() {
                break;
            }
        }
        if let Err(error) = self.connection.execute_batch("pragma optimize") {
            tracing::debug!(%error, "the engine's figures stay as they are");
        }
        let emptied = checkpoint(&self.connection, "truncate");
        let Self {
            connection,
            lock,
            ended,
            ..
        } = self;
        let closed = emptied.and_then(|_| connection.close().map_err(|(_, error)| error));
        if let Err(error) = &closed {
            tracing::warn!(%error, "the write-ahead log stays for the next start");
        }
        // What did not close well is checked when it is opened next.
        if closed.is_ok()
            && let Err(error) = lock.release()
        {
            tracing::warn!(%error, "the next start will take the database for one that was not closed");
        }
        drop(ended);
    }

    /// Waits for a job, or until there is work of its own; then takes all that has queued, within bounds.
    fn next_jobs(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut bytes = 0;
        let pause = self.pause();
        let mut next = if pause.is_zero() {
            self.jobs.try_recv()
        } else {
            self.jobs.recv_timeout(pause).map_err(|error| match error {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            })
        };
        loop {
            match next {
                Ok(Job::Wake) => {}
                Ok(Job::Close) | Err(TryRecvError::Disconnected) => {
                    self.is_closing = true;
                    break;
                }
                Ok(Job::Aside(aside)) => {
                    self.shared.tally.taken();
                    self.asides.push(aside);
                }
                Ok(job) => {
                    self.shared.tally.taken();
                    bytes += job.bytes();
                    jobs.push(job);
                }
                Err(TryRecvError::Empty) => break,
            }
            if jobs.len() + self.asides.len() >= BATCH_JOBS_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
            next = self.jobs.try_recv();
        }
        jobs
    }

    /// How long there is nothing to do unless somebody asks.
    fn pause(&self) -> Duration {
        if self.last_work_failed {
            return TICK;
        }
        if !self.hungry.is_empty() || !self.lock_returned().is_empty() {
            return Duration::ZERO;
        }
        let due_ms = self.shared.next_due_ms.load(Ordering::SeqCst);
        let wait_ms = due_ms.saturating_sub(self.shared.clock.now_ms());
        let until_due = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0));
        let until_collect = self.collect_at.saturating_duration_since(Instant::now());
        until_due.min(until_collect).min(TICK)
    }

    fn lock_returned(&self) -> std::sync::MutexGuard<'_, Returned> {
        self.shared.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One batch, from the transaction to the answers.
    fn work(&mut self, jobs: Vec<Job>) {
        let now_ms = self.shared.clock.now_ms();
        let is_due = self.shared.next_due_ms.load(Ordering::SeqCst) <= now_ms;
        let collects = Instant::now() >= self.collect_at;
        let looks = Instant::now() >= self.look_at && !self.lines.is_empty();
        let returned = self.lock_returned().take(RETURNED_MESSAGES_MAX);
        let has_own_work = is_due || collects || looks || !returned.is_empty() || !self.hungry.is_empty();
        if jobs.is_empty() && !has_own_work {
            return;
        }
        let is_idle = jobs.is_empty();
        self.batch += 1;
        let own = OwnWork {
            is_due,
            collects,
            looks,
            returned: &returned,
        };
        let mut answers = Vec::with_capacity(jobs.len());
        let (committed, own_work) = match self.transact(now_ms, &own, jobs, &mut answers) {
            Ok(own_work) => (Ok(()), own_work),
            Err(error) => (Err(error.clone()), Err(error)),
        };
        self.last_work_failed = own_work.is_err();
        if let Err(error) = &own_work {
            // Whoever asked is told, and logs it; the writer's own work has nobody else.
            if committed.is_ok() || answers.is_empty() {
                tracing::error!(error = error as &dyn std::error::Error, "the writer's own work failed");
            }
            self.lock_returned().put_back(returned);
        }
        if committed.is_err() {
            let newcomers = self.lines.take_batch(self.batch).into_iter();
            answers.extend(newcomers.map(|claim| Pending::Claim(claim, Ok(Vec::new()))));
        }
        for answer in answers {
            answer.send(&committed, &own_work);
        }
        if collects {
            self.lines.tidy();
            if is_idle && committed.is_ok() {
                self.tend_file();
            }
        }
    }

    /// The outer error is the batch's, the inner one only that of the writer's own work, which nobody asked for.
    fn transact(
        &mut self,
        now_ms: i64,
        own: &OwnWork<'_>,
        jobs: Vec<Job>,
        answers: &mut Vec<Pending>,
    ) -> Result<Result<(), StoreError>, StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let mut batch = Batch {
            transaction: transaction.map_err(StoreError::from),
            now_ms,
            revision: self.revision,
            effects: Effects::default(),
            named: Vec::new(),
        };
        let mut own_work = Ok(());
        if own.is_due {
            own_work = batch.attempt(|connection, _| queue::sweep(connection, now_ms, SWEEP_MESSAGES_MAX));
        }
        if !own.returned.is_empty() {
            let given = batch.attempt(|connection, _| queue::give_back(connection, now_ms, &own.returned.untold));
            let unsettled = nacks(&own.returned.unsettled);
            let nacked = batch.attempt(|connection, _| queue::settle_each(connection, now_ms, &unsettled));
            own_work = own_work.and(given).and(nacked.map(|_| ()));
        }
        let mut asked = std::mem::take(&mut self.hungry);
        if own.looks {
            self.look_at = Instant::now() + TICK;
            asked.extend(self.lines.queue_ids());
        }
        let requests = jobs.len();
        for job in jobs {
            run(job, &mut batch, self.batch, &mut self.lines, &mut asked, answers);
        }
        asked.extend(&batch.effects.ready);
        // Not kept for the commit: that a client lets a lease run out, or is heard of, is so whatever becomes of the batch.
        self.holders.doubt(&batch.effects.ran_out, &batch.named);
        self.hungry = serve(&mut batch, &mut self.lines, &asked, &mut self.serve_from, answers);
        if own.collects {
            let collected = batch.attempt(|connection, moment| collect::collect(connection, moment, COLLECT_ROWS_MAX));
            let (span, added) = (self.span, batch.effects.history);
            let trimmed = batch.attempt(|connection, _| history::trim(connection, now_ms, span, added));
            let left = [collected, trimmed.map(|trimmed| trimmed.left)];
            let pause = if left.iter().any(|left| matches!(left, Ok(Left::More))) {
                Duration::ZERO
            } else {
                TICK
            };
            self.collect_at = Instant::now() + pause;
            own_work = left
                .into_iter()
                .fold(own_work, |so_far, left| so_far.and(left.map(|_| ())));
        }
        let (revision, effects) = batch.commit()?;
        if revision > self.revision {
            self.revision = revision;
            self.shared.revision.send_replace(revision);
        }
        effects.log();
        // The claims of a batch come after all that it releases: a message may have left one window and entered another.
        self.holders.release(&effects.released);
        for answer in &*answers {
            if let Pending::Claim(claim, Ok(deliveries)) = answer
                && let Some(window) = claim.window()
            {
                self.holders.hold(window, deliveries);
            }
        }
        if effects.wrote {
            self.checkpoints.committed();
            self.shared.tally.committed(requests);
        }
        if effects.timed || own.is_due {
            // If the engine cannot say, the next batch looks again.
            let next_ms = queue::next_due_ms(&self.connection).unwrap_or(now_ms);
            self.shared.next_due_ms.store(next_ms, Ordering::SeqCst);
        }
        Ok(own_work)
    }

    /// Stops for the log if it has grown too long, as far as readers let it.
    fn keep_log_short(&mut self) {
        if Instant::now() < self.log_at || !self.checkpoints.log_is_long() {
            return;
        }
        self.checkpoints.log_was_tended();
        match empty_log(&self.connection) {
            Ok(done) if !done.was_hindered => {}
            Ok(_) => self.log_at = Instant::now() + LOG_RETRY,
            Err(error) => {
                self.log_at = Instant::now() + LOG_RETRY;
                tracing::warn!(%error, "the write-ahead log is long and could not be emptied");
            }
        }
    }

    /// What an idle moment is good for: free pages go back to the file system, the engine's figures are renewed.
    fn tend_file(&mut self) {
        let done = give_back_pages(&self.connection, FREE_PAGES_KEPT).and_then(|_| {
            if Instant::now() < self.optimize_at {
                return Ok(());
            }
            self.optimize_at = Instant::now() + OPTIMIZE_INTERVAL;
            self.connection.execute_batch("pragma optimize")
        });
        if let Err(error) = done {
            tracing::warn!(%error, "the database could not be tended");
        }
    }
}

/// What a batch does unasked.
struct OwnWork<'writer> {
    is_due: bool,
    collects: bool,
    looks: bool,
    returned: &'writer Returned,
}

/// How messages go back that a stream left unsettled.
fn nacks(leases: &[Lease]) -> Vec<Settlement> {
    let nack = |lease: &Lease| Settlement {
        lease: *lease,
        action: Action::Nack {
            delay_ms: None,
            error: STREAM_ENDED.to_owned(),
            refund_attempt: false,
        },
    };
    leases.iter().map(nack).collect()
}

/// Runs one request. Who asks for messages joins the queue's line, behind those who wait there already.
fn run(
    job: Job,
    batch: &mut Batch<'_>,
    number: u64,
    lines: &mut Lines,
    asked: &mut BTreeSet<i64>,
    answers: &mut Vec<Pending>,
) {
    match job {
        Job::Commit {
            commit,
            deadline,
            answer,
            room,
        } => {
            batch.hear(&commit.settlements);
            let result = in_time(deadline)
                .and_then(|()| batch.attempt(|connection, moment| commit::commit(connection, moment, &commit)));
            answers.push(Pending::Commit(answer, result));
            drop(room);
        }
        Job::Write(Write(write)) => answers.push(Pending::Write(write(batch))),
        Job::Claim(claim) => {
            let known = claim.window().map(|window| window.queue_id());
            let queue_id = in_time(claim.deadline).and_then(|()| match known {
                Some(queue_id) => Ok(queue_id),
                None => batch.attempt(|connection, moment| {
                    let mut lately = Lately::default();
                    let field = || "queue".to_owned();
                    let queue = queue::resolve(connection, moment.now_ms, &claim.queue, field, &mut lately)?;
                    Ok((queue.id, lately.finish(connection)?))
                }),
            });
            match queue_id {
                Ok(queue_id) => {
                    lines.join(queue_id, number, claim);
                    asked.insert(queue_id);
                }
                Err(error) => answers.push(Pending::Claim(claim, Err(error))),
            }
        }
        Job::Sweep(answer) => answers.push(Pending::Sweep(answer)),
        Job::Aside(_) | Job::Wake | Job::Close => {}
    }
}

/// Leases ready messages for those who wait, first come, first served; within bounds. What is left for the next batch
/// is the queues where a bound ended it.
fn serve(
    batch: &mut Batch<'_>,
    lines: &mut Lines,
    asked: &BTreeSet<i64>,
    serve_from: &mut i64,
    answers: &mut Vec<Pending>,
) -> BTreeSet<i64> {
    let mut served = 0;
    let mut bytes = 0;
    let mut left = BTreeSet::new();
    let from = *serve_from;
    for &queue_id in asked.range(from..).chain(asked.range(..from)) {
        let served_before = served;
        while let Some(waiter) = lines.next(queue_id) {
            if served >= BATCH_JOBS_MAX || bytes >= BATCH_DELIVERED_BYTES_MAX {
                lines.put_back(queue_id, waiter);
                // A queue that had its turn comes last in the next batch.
                if left.is_empty() {
                    *serve_from = queue_id + i64::from(served > served_before);
                }
                left.insert(queue_id);
                break;
            }
            let Some(ask) = waiter.claim.ask() else {
                // In doubt: what it would be given is for those behind it. It asks again.
                answers.push(Pending::Claim(waiter.claim, Ok(Vec::new())));
                continue;
            };
            let claimed = batch.attempt(|connection, moment| queue::claim(connection, moment.now_ms, queue_id, ask));
            match claimed {
                Ok(taken) if taken.deliveries.is_empty() && !taken.is_crowded => {
                    lines.put_back(queue_id, waiter);
                    let empty_handed = lines.take_impatient(queue_id).into_iter();
                    answers.extend(empty_handed.map(|claim| Pending::Claim(claim, Ok(Vec::new()))));
                    break;
                }
                claimed => {
                    served += 1;
                    let claimed = claimed.map(|taken| taken.deliveries);
                    let delivered = claimed.iter().flatten();
                    bytes += delivered.map(|delivery| delivery.body.as_bytes().len()).sum::<usize>();
                    answers.push(Pending::Claim(waiter.claim, claimed));
                }
            }
        }
    }
    left
}

#[cfg(test)]
mod tests;
