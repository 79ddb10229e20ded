//! Batches by hand: the jobs are queued first and worked on then, so that each test says what shares a transaction.

mod lines;

use std::sync::mpsc::{SyncSender, sync_channel};

use proptest::prelude::*;
use runtime::clock::Clock;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::sync::oneshot::Receiver as Answered;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Sync;
use crate::model::{
    Action, Change, Commit, Content, Deadline, Expiry, Key, KeyName, Mutation, Namespace, NewMessage, Origin, Pairs,
    QueueName, Settled, Settlement, With,
};
use crate::store::batch::SET_STORE;
use crate::store::kv;
use crate::store::room::Room;
use crate::store::waiting::{Ask, Asked, Patience, Returns};
use crate::store::{changes, checkpoint::Checkpoints, collect, commit, queue, request, schema};

mod history;

struct Bench {
    writer: Writer,
    jobs: SyncSender<Job>,
    clock: Clock,
    ended: CancellationToken,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("store.db");
        let clock = Clock::manual(1_000_000);
        let lock = Lock::take(&path).expect("nobody else has the lock");
        let (connection, facts) = schema::open(&path, Sync::Normal, lock.last_close()).expect("the database opens");
        let (checkpoints, _thread) = Checkpoints::start(&path).expect("the checkpoints start");
        let shared = Shared {
            clock: StoreClock::new(clock.clone(), facts.clock_ms),
            next_due_ms: Arc::new(AtomicI64::new(i64::MIN)),
            returned: Arc::default(),
            revision: watch::Sender::new(facts.revision),
            tally: Arc::default(),
        };
        let span = Span {
            kept_ms: 3_600_000,
            bytes_max: 256 * 1024 * 1024,
        };
        let (jobs, waiting) = sync_channel(1_024);
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        Self {
            writer: Writer::new(connection, span, waiting, shared, checkpoints, lock, guard),
            jobs,
            clock,
            ended,
            folder,
        }
    }

    fn commit(&self, commit: Commit, deadline: Deadline) -> Answered<Result<Outcome, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let room = Room::new(1).try_take(1).expect("there is as much");
        self.queue(Job::Commit {
            commit: Box::new(commit),
            deadline,
            answer,
            room,
        });
        answered
    }

    fn claim(&self, patience: Patience) -> Answered<Result<Claimed, StoreError>> {
        let (answer, answered) = oneshot::channel();
        self.queue(Job::Claim(Claim {
            queue: queue_name(),
            asked: Asked::Once(Ask {
                messages_max: 1,
                bytes_max: 1,
                room: None,
                lease_ms: None,
            }),
            patience,
            deadline: None,
            returns: Returns::new(Arc::clone(&self.writer.shared.returned), self.jobs.clone()),
            answer,
        }));
        answered
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Answered<Result<Vec<Settled>, StoreError>> {
        let (answer, answered) = oneshot::channel();
        self.queue(Job::Write(Write::settle(settlements.into(), None, answer)));
        answered
    }

    fn queue(&self, job: Job) {
        self.jobs.try_send(job).expect("the channel has room");
    }

    /// One batch of all that is queued.
    fn work(&mut self) {
        let jobs = self.writer.next_jobs();
        self.writer.work(jobs);
    }

    fn entry(&self, key: &str) -> Option<crate::model::Entry> {
        kv::get(
            &self.writer.connection,
            self.writer.shared.clock.now_ms(),
            name(key),
            With::Content,
        )
        .expect("the store reads")
    }

    fn rows(&self, table: &str) -> i64 {
        let sql = format!("select count(*) from {table}");
        let rows = self.writer.connection.query_row(&sql, (), |row| row.get(0));
        rows.expect("the table counts")
    }

    fn revision(&self) -> u64 {
        kv::store_revision(&self.writer.connection).expect("the store reads")
    }

    fn figures(&self) -> (u64, u64, u64, u64) {
        let now_ms = self.writer.shared.clock.now_ms();
        let stats = queue::stats(&self.writer.connection, now_ms, &queue_name()).expect("the queue is there");
        (stats.delayed, stats.ready, stats.leased, stats.dead)
    }
}

fn name(key: &str) -> KeyName {
    KeyName {
        namespace: Namespace::parse("n".to_owned()).expect("the name is good"),
        key: Key::parse(key.to_owned()).expect("the key is good"),
    }
}

fn queue_name() -> QueueName {
    QueueName::parse("q".to_owned()).expect("the name is good")
}

fn put(key: &str, value: impl Into<String>) -> Commit {
    let mut commit = Commit::new(Origin::Commit);
    commit.mutations.push(Mutation {
        name: name(key),
        change: Change::Put {
            content: Content::Text(value.into()),
            expiry: Expiry::Never,
            metadata: Pairs::new(),
        },
    });
    commit
}

fn message(text: &str) -> NewMessage {
    NewMessage {
        queue: queue_name(),
        body: Content::Text(text.to_owned()),
        attributes: Pairs::new(),
        ordering_key: None,
        dedup_id: None,
        delay_ms: 0,
    }
}

/// Changes a key and enqueues, then fails at the last moment: there can be no more namespaces.
fn failing(key: &str) -> Commit {
    let mut commit = put(key, "leak");
    commit.enqueues.push(message("leak"));
    commit.mutations.push(Mutation {
        name: KeyName {
            namespace: Namespace::parse("one-too-many".to_owned()).expect("the name is good"),
            ..name("k")
        },
        change: put("k", "v").mutations.remove(0).change,
    });
    commit
}

fn fill_namespaces(writer: &Writer) {
    let fill = "with recursive c(i) as (select 1 union all select i + 1 from c where i < 999) \
                insert into namespace (name) select 'filled-' || i from c";
    writer.connection.execute_batch(fill).expect("the rows fit");
}

fn revision(answered: &mut Answered<Result<Outcome, StoreError>>) -> u64 {
    match answered.try_recv().expect("the batch was answered") {
        Ok(Outcome::Committed(committed)) => committed.revision,
        other => panic!("not committed: {other:?}"),
    }
}

fn refusal<T: std::fmt::Debug>(answered: &mut Answered<Result<T, StoreError>>) -> StoreError {
    answered
        .try_recv()
        .expect("the batch was answered")
        .expect_err("it was refused")
}

#[test]
fn a_request_that_fails_leaves_no_trace_in_the_batch_it_shares() {
    let mut bench = Bench::new();
    let mut first = bench.commit(put("first", "1"), None);
    bench.work();
    assert_eq!(revision(&mut first), 1);
    fill_namespaces(&bench.writer);

    let mut waits = bench.claim(Patience::UntilItGoesAway);
    let mut before = bench.commit(put("before", "2"), None);
    let mut bad = bench.commit(failing("bad"), None);
    let mut after = bench.commit(put("after", "3"), None);
    bench.work();
    assert_eq!(revision(&mut before), 2);
    let error = refusal(&mut bad);
    assert!(
        matches!(&error, StoreError::Invalid { field, .. } if field == "mutations[1].namespace"),
        "{error}"
    );
    assert_eq!(revision(&mut after), 3, "the revision has no hole");
    assert_eq!(bench.entry("bad"), None);
    assert_eq!(bench.entry("after").map(|entry| entry.revision), Some(3));
    assert!(
        waits.try_recv().is_err(),
        "nobody is woken for a message that was not enqueued"
    );
    assert_eq!(bench.figures(), (0, 0, 0, 0));
    assert_eq!(bench.revision(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_batches_apply_what_is_good_and_nothing_else(
        batches in prop::collection::vec(prop::collection::vec((any::<bool>(), 0..6_u8), 1..12), 1..6),
    ) {
        let mut bench = Bench::new();
        let mut first = bench.commit(put("first", "1"), None);
        bench.work();
        let mut expected_revision = revision(&mut first);
        fill_namespaces(&bench.writer);
        let mut expected = std::collections::BTreeMap::new();
        let mut enqueued = 0;
        for batch in batches {
            let mut answers = Vec::new();
            for (index, (good, key)) in batch.iter().enumerate() {
                let key = format!("k{key}");
                let commit = if *good {
                    let mut commit = put(&key, format!("{index}"));
                    commit.enqueues.push(message("good"));
                    commit
                } else {
                    failing(&key)
                };
                answers.push((bench.commit(commit, None), *good, key, index));
            }
            bench.work();
            for (mut answer, good, key, index) in answers {
                if good {
                    expected_revision += 1;
                    enqueued += 1;
                    prop_assert_eq!(revision(&mut answer), expected_revision);
                    expected.insert(key, (format!("{index}"), expected_revision));
                } else {
                    refusal(&mut answer);
                }
            }
            for key in (0..6).map(|key| format!("k{key}")) {
                let found = bench.entry(&key).map(|entry| (entry.content, entry.revision));
                let wanted = expected.get(&key).map(|(text, revision)| (Some(Content::Text(text.clone())), *revision));
                prop_assert_eq!(found, wanted);
            }
            if enqueued > 0 {
                prop_assert_eq!(bench.figures(), (0, enqueued, 0, 0));
            }
        }
    }
}

#[test]
fn a_full_file_refuses_what_does_not_fit_and_heals_when_there_is_room() {
    let mut bench = Bench::new();
    let mut first = bench.commit(put("first", "1"), None);
    bench.work();
    assert_eq!(revision(&mut first), 1);
    let pages: i64 = bench
        .writer
        .connection
        .query_row("pragma page_count", (), |row| row.get(0))
        .expect("the engine counts");
    let limit = |bench: &Bench, pages: i64| {
        let sql = format!("pragma max_page_count = {pages}");
        bench
            .writer
            .connection
            .query_row(&sql, (), |_| Ok(()))
            .expect("the limit is set");
    };
    limit(&bench, pages + 2);
    let mut small = bench.commit(put("small", "2"), None);
    let mut large = bench.commit(put("large", "x".repeat(1_000_000)), None);
    bench.work();
    let error = refusal(&mut large);
    assert!(matches!(error, StoreError::Disk(_)), "{error}");
    assert_eq!(bench.entry("large"), None);
    let small_is_in = small.try_recv().expect("the batch was answered").is_ok();
    assert_eq!(
        bench.entry("small").is_some(),
        small_is_in,
        "what is answered is what is there"
    );

    limit(&bench, pages + 1_000);
    let mut large = bench.commit(put("large", "x".repeat(1_000_000)), None);
    bench.work();
    assert_eq!(revision(&mut large), if small_is_in { 3 } else { 2 });
    assert!(bench.entry("large").is_some());
}

#[test]
fn a_batch_that_cannot_begin_or_commit_refuses_everybody_and_forgets_them() {
    let mut bench = Bench::new();
    let mut first = bench.commit(put("first", "1"), None);
    bench.work();
    assert_eq!(revision(&mut first), 1);

    bench
        .writer
        .connection
        .busy_timeout(Duration::ZERO)
        .expect("the timeout is set");
    let other = Connection::open(bench.folder.path().join("store.db")).expect("the file opens");
    other.execute_batch("begin immediate").expect("the lock is free");
    let mut refused = bench.commit(put("first", "2"), None);
    let mut waits = bench.claim(Patience::UntilItGoesAway);
    bench.work();
    let error = refusal(&mut refused);
    assert!(matches!(error, StoreError::Disk(_)), "{error}");
    refusal(&mut waits);
    other.execute_batch("rollback").expect("the lock is given back");

    // A commit that fails as late as can be: a constraint that is looked at only then.
    let deferred = "pragma foreign_keys = on; \
                    create table parent (id integer primary key); \
                    create table child (parent_id integer references parent (id) deferrable initially deferred); \
                    create trigger break after insert on message begin insert into child values (7); end";
    bench
        .writer
        .connection
        .execute_batch(deferred)
        .expect("the trap is set");
    let mut enqueues = put("first", "3");
    enqueues.enqueues.push(message("one"));
    let mut neighbour = bench.commit(put("neighbour", "3"), None);
    let mut breaks = bench.commit(enqueues, None);
    let mut waits = bench.claim(Patience::UntilItGoesAway);
    let mut empty_handed = bench.claim(Patience::None);
    bench.work();
    refusal(&mut neighbour);
    refusal(&mut breaks);
    refusal(&mut waits);
    refusal(&mut empty_handed);
    assert_eq!(bench.entry("neighbour"), None);
    assert_eq!(bench.entry("first").map(|entry| entry.revision), Some(1));

    bench
        .writer
        .connection
        .execute_batch("drop trigger break")
        .expect("the trap is gone");
    let mut heals = bench.commit(put("first", "4"), None);
    bench.work();
    assert_eq!(revision(&mut heals), 2);
}

#[test]
fn a_request_whose_deadline_has_passed_is_not_begun() {
    let mut bench = Bench::new();
    let mut late = bench.commit(put("late", "1"), Some(Instant::now()));
    let mut in_time = bench.commit(put("in-time", "1"), Some(Instant::now() + Duration::from_mins(1)));
    bench.work();
    assert!(matches!(refusal(&mut late), StoreError::DeadlineExceeded));
    assert_eq!(revision(&mut in_time), 1);
    assert_eq!(bench.entry("late"), None);
}

#[test]
fn who_waits_is_served_in_order_by_the_commit_that_enqueues() {
    let mut bench = Bench::new();
    let mut first = bench.claim(Patience::UntilItGoesAway);
    let gone = bench.claim(Patience::UntilItGoesAway);
    let mut second = bench.claim(Patience::UntilItGoesAway);
    bench.work();
    drop(gone);
    let mut enqueues = Commit::new(Origin::Enqueue);
    enqueues.enqueues.extend(["one", "two", "three"].map(message));
    let mut third = bench.claim(Patience::None);
    let mut done = bench.commit(enqueues, None);
    let mut fourth = bench.claim(Patience::None);
    bench.work();
    assert_eq!(revision(&mut done), 0, "no key changed");
    let text = |answered: &mut Answered<Result<Claimed, StoreError>>| {
        let claimed = answered.try_recv().expect("served").expect("claimed").take();
        claimed.into_iter().map(|delivery| delivery.body).collect::<Vec<_>>()
    };
    assert_eq!(text(&mut first), [Content::Text("one".to_owned())]);
    assert_eq!(text(&mut second), [Content::Text("two".to_owned())]);
    assert_eq!(text(&mut third), [Content::Text("three".to_owned())]);
    assert_eq!(
        text(&mut fourth),
        [],
        "there is no fourth message, and it does not wait"
    );
}

#[test]
fn messages_of_a_caller_who_went_away_go_back_uncounted() {
    let mut bench = Bench::new();
    let mut enqueues = Commit::new(Origin::Enqueue);
    enqueues.enqueues.push(message("one"));
    bench.commit(enqueues, None);
    let claimed = bench.claim(Patience::None);
    bench.work();
    assert_eq!(bench.figures(), (0, 0, 1, 0));
    // The answer is on its way, and nobody is there to take it.
    drop(claimed);
    let mut waits = bench.claim(Patience::UntilItGoesAway);
    bench.work();
    let again = waits.try_recv().expect("served").expect("claimed").take();
    let [delivery] = &again[..] else {
        panic!("one message: {again:?}")
    };
    assert_eq!(delivery.attempt, 1, "the first delivery did not count");
    assert_eq!(delivery.lease.epoch, 2, "but its receipt is void");
}

#[test]
fn closing_leaves_nothing_leased_for_a_caller_who_went_away() {
    let mut bench = Bench::new();
    let mut enqueues = Commit::new(Origin::Enqueue);
    enqueues.enqueues.push(message("one"));
    bench.commit(enqueues, None);
    let claimed = bench.claim(Patience::None);
    bench.work();
    assert_eq!(bench.figures(), (0, 0, 1, 0));
    drop(claimed);
    bench.queue(Job::Close);
    let Bench { writer, folder, .. } = bench;
    writer.run();
    let file = Connection::open(folder.path().join("store.db")).expect("the file opens");
    let figures: (i64, i64) = file
        .query_row("select ready, leased from queue", (), |row| row.try_into())
        .expect("the queue is there");
    assert_eq!(figures, (1, 0));
}

#[test]
fn a_lease_that_ran_out_backs_off_and_ends_dead() {
    let mut bench = Bench::new();
    let mut enqueues = Commit::new(Origin::Enqueue);
    enqueues.enqueues.push(message("poison"));
    bench.commit(enqueues, None);
    for attempt in 1..=10 {
        let mut claimed = bench.claim(Patience::None);
        bench.work();
        let claimed = claimed.try_recv().expect("served").expect("claimed").take();
        let [delivery] = &claimed[..] else {
            panic!("one message: {claimed:?}")
        };
        assert_eq!(delivery.attempt, attempt);
        assert_eq!(delivery.last_error, if attempt == 1 { "" } else { LEASE_ERROR });
        bench.clock.advance_ms(29_999);
        bench.work();
        assert_eq!(bench.figures(), (0, 0, 1, 0), "the lease still holds");
        bench.clock.advance_ms(1);
        let mut stale = bench.settle(vec![Settlement {
            lease: delivery.lease,
            action: Action::Ack,
        }]);
        bench.work();
        assert_eq!(stale.try_recv().expect("answered").expect("judged"), [Settled::Stale]);
        if attempt < 10 {
            assert_eq!(bench.figures(), (1, 0, 0, 0));
            bench.clock.advance_ms(720_000);
            bench.queue(Job::Wake);
            bench.work();
            assert_eq!(bench.figures(), (0, 1, 0, 0));
        }
    }
    assert_eq!(bench.figures(), (0, 0, 0, 1));
    let kept: (String, String) = bench
        .writer
        .connection
        .query_row("select dead_reason, last_error from message", (), |row| row.try_into())
        .expect("the message is kept");
    assert_eq!(kept, ("attempts exhausted".to_owned(), LEASE_ERROR.to_owned()));
}

const LEASE_ERROR: &str = "the lease ran out";

#[test]
fn what_has_expired_is_collected_in_steps_that_take_a_revision_each() {
    let mut bench = Bench::new();
    let count = COLLECT_ROWS_MAX + 10;
    let mut expiring = Commit::new(Origin::Commit);
    for index in 0..count {
        let mut mutation = put(&format!("k{index}"), "x".repeat(300)).mutations.remove(0);
        if let Change::Put { expiry, .. } = &mut mutation.change {
            *expiry = Expiry::AfterMs(1_000);
        }
        expiring.mutations.push(mutation);
    }
    let mut done = bench.commit(expiring.named("remembered".to_owned()), None);
    bench.work();
    assert_eq!(revision(&mut done), 1);
    bench.clock.advance_ms(999);
    assert!(bench.entry("k0").is_some());
    bench.clock.advance_ms(1);
    assert_eq!(bench.entry("k0"), None, "it is gone at its time, collected or not");
    bench.writer.collect_at = Instant::now();
    bench.work();
    assert_eq!(bench.rows("entry"), 10, "one step");
    assert_eq!(bench.revision(), 2);
    bench.work();
    assert_eq!(bench.rows("entry"), 0);
    assert_eq!(bench.revision(), 3);
    assert_eq!(bench.rows("request"), 1);
    bench.clock.advance_ms(600_000);
    bench.writer.collect_at = Instant::now();
    bench.work();
    assert_eq!(bench.rows("request"), 0);
    assert_eq!(bench.revision(), 3, "nobody is told of requests");
}

#[test]
fn a_log_that_grew_behind_a_reader_is_emptied_once_the_reader_is_gone() {
    let mut bench = Bench::new();
    let path = bench.folder.path().join("store.db");
    let reader = Connection::open(&path).expect("the file opens");
    reader
        .execute_batch("begin; select count(*) from entry")
        .expect("it reads");
    let value = "x".repeat(16 * 1024 * 1024);
    for _ in 0..5 {
        let mut done = bench.commit(put("k", value.clone()), None);
        bench.work();
        revision(&mut done);
    }
    let log_bytes = || {
        std::fs::metadata(path.with_extension("db-wal"))
            .expect("there is a log")
            .len()
    };
    assert!(log_bytes() > 64 * 1024 * 1024);
    // The checkpoints find out by themselves that the log is long, and that they cannot help it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !bench.writer.checkpoints.log_is_long() {
        assert!(Instant::now() < deadline, "nobody notices");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(reader);
    bench.writer.keep_log_short();
    assert_eq!(log_bytes(), 0);
}

#[test]
fn a_panic_of_the_thread_is_seen_and_nobody_waits_for_it() {
    let bench = Bench::new();
    let Bench {
        writer, jobs, ended, ..
    } = bench;
    let (answer, answered) = oneshot::channel();
    jobs.try_send(Job::Sweep(answer)).expect("the channel has room");
    let thread = std::thread::spawn(move || {
        let _writer = writer;
        // Not the panic hook's: the test's output stays clean.
        std::panic::resume_unwind(Box::new("the writer"));
    });
    assert!(thread.join().is_err());
    assert!(ended.is_cancelled());
    assert!(answered.blocking_recv().is_err());
    assert!(jobs.try_send(Job::Wake).is_err());
}

#[test]
fn hot_statements_search_and_never_scan_or_sort() {
    let bench = Bench::new();
    let statements = [
        &kv::STATEMENTS[..],
        &commit::STATEMENTS,
        &request::STATEMENTS,
        &collect::STATEMENTS,
        &crate::store::history::STATEMENTS,
        &changes::STATEMENTS,
        &[SET_STORE],
    ];
    for sql in statements.into_iter().chain(queue::STATEMENTS).flatten() {
        let mut plan = bench
            .writer
            .connection
            .prepare(&format!("explain query plan {sql}"))
            .expect("the statement is good");
        // The parameters' values play no part in the plan.
        for parameter in 1..=plan.parameter_count() {
            plan.raw_bind_parameter(parameter, 1).expect("the parameter is there");
        }
        let mut rows = plan.raw_query();
        let mut steps = Vec::new();
        while let Some(row) = rows.next().expect("the plan reads") {
            steps.push(row.get::<_, String>(3).expect("a step is a text"));
        }
        assert!(!steps.is_empty(), "{sql}");
        for step in &steps {
            assert!(!step.contains("SCAN") && !step.contains("TEMP B-TREE"), "{step}: {sql}");
        }
    }
}
