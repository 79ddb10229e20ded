//! Who waits is not forgotten: the look that the writer takes for itself, queues that a bound leaves over, and leases
//! that are given back in great numbers.

use super::*;
use crate::model::{Consume, Lease};
use crate::store::window::Window;

fn enqueue(bench: &mut Bench, count: usize) {
    let mut enqueues = Commit::new(Origin::Enqueue);
    enqueues.enqueues.extend((0..count).map(|_| message("work")));
    bench.commit(enqueues, None);
    bench.work();
}

/// Makes all messages ready that wait for their time, and tells nobody.
fn promote_unseen(bench: &Bench) {
    let unseen = "update message set state = 2 where state = 1; \
                  update queue set ready = ready + delayed, delayed = 0";
    bench
        .writer
        .connection
        .execute_batch(unseen)
        .expect("the file is written");
}

#[test]
fn the_writer_looks_for_itself_at_the_queues_where_somebody_waits() {
    let mut bench = Bench::new();
    let mut delayed = Commit::new(Origin::Enqueue);
    delayed.enqueues.push(NewMessage {
        delay_ms: 60_000,
        ..message("later")
    });
    bench.commit(delayed, None);
    bench.work();
    let mut waits = bench.claim(Patience::UntilItGoesAway);
    bench.work();
    promote_unseen(&bench);
    bench.writer.look_at = Instant::now() + Duration::from_hours(1);
    bench.writer.work(Vec::new());
    waits.try_recv().expect_err("nobody has looked");
    bench.writer.look_at = Instant::now();
    bench.writer.work(Vec::new());
    let claimed = waits.try_recv().expect("served").expect("claimed").take();
    assert_eq!(claimed.len(), 1);
    let next_look = bench.writer.look_at.saturating_duration_since(Instant::now());
    assert!(
        next_look <= TICK && !next_look.is_zero(),
        "it looks again: {next_look:?}"
    );
}

#[test]
fn a_queue_that_a_bound_left_over_is_served_first_in_the_next_batch() {
    let mut bench = Bench::new();
    let mut lines = Lines::default();
    let mut answers = Vec::new();
    let mut kept = Vec::new();
    let mut join = |lines: &mut Lines, name: &str, id: i64, count: usize| {
        for _ in 0..count {
            let (answer, answered) = oneshot::channel();
            kept.push(answered);
            let claim = Claim {
                queue: QueueName::parse(name.to_owned()).expect("the name is good"),
                asked: Asked::Once(Ask {
                    messages_max: 1,
                    bytes_max: 1,
                    room: None,
                    lease_ms: None,
                }),
                patience: Patience::UntilItGoesAway,
                deadline: None,
                returns: Returns::new(Arc::clone(&bench.writer.shared.returned), bench.jobs.clone()),
                answer,
            };
            lines.join(id, 1, claim);
        }
    };
    // Queue 1 alone could fill every batch.
    join(&mut lines, "q", 1, 3 * BATCH_JOBS_MAX);
    join(&mut lines, "r", 2, 1);
    for _ in 0..8 {
        enqueue(&mut bench, 100);
    }
    let mut other = Commit::new(Origin::Enqueue);
    other.enqueues.push(NewMessage {
        queue: QueueName::parse("r".to_owned()).expect("the name is good"),
        ..message("work")
    });
    bench.commit(other, None);
    bench.work();

    let transaction = bench.writer.connection.transaction();
    let mut batch = Batch {
        transaction: transaction.map_err(StoreError::from),
        now_ms: 1_000_000,
        revision: 0,
        effects: Effects::default(),
        named: Vec::new(),
    };
    let mut serve_from = 0;
    let both = BTreeSet::from([1, 2]);
    let mut served = |lines: &mut Lines, answers: &mut Vec<Pending>| {
        let left = serve(&mut batch, lines, &both, &mut serve_from, answers);
        let of_second = |answer: &Pending| matches!(answer, Pending::Claim(claim, _) if claim.queue.as_str() == "r");
        (answers.drain(..).filter(of_second).count(), left.len())
    };
    assert_eq!(
        served(&mut lines, &mut answers),
        (0, 2),
        "the first took all that the bound lets it"
    );
    assert_eq!(
        served(&mut lines, &mut answers),
        (1, 1),
        "so the second comes first now"
    );
}

#[test]
fn many_leases_are_given_back_in_steps_and_all_before_the_file_is_closed() {
    let mut bench = Bench::new();
    let count = 2 * RETURNED_MESSAGES_MAX + 1;
    for _ in 0..count.div_ceil(100) {
        enqueue(&mut bench, 100);
    }
    let window = Arc::new(Window::new(
        1,
        &Consume {
            queue: queue_name(),
            messages_max: count,
            bytes_max: usize::MAX,
            lease_ms: None,
        },
    ));
    let mut leases: Vec<Lease> = Vec::new();
    while leases.len() < count {
        let (answer, mut answered) = oneshot::channel();
        let returns = Returns::new(Arc::clone(&bench.writer.shared.returned), bench.jobs.clone());
        bench.queue(Job::Claim(Claim {
            queue: queue_name(),
            asked: Asked::Window(Arc::clone(&window)),
            patience: Patience::None,
            deadline: None,
            returns,
            answer,
        }));
        bench.work();
        let deliveries = answered.try_recv().expect("served").expect("claimed").take();
        leases.extend(deliveries.iter().map(|delivery| delivery.lease));
    }
    assert_eq!(leases.len(), count, "the window was filled and not exceeded");
    assert!(!window.has_room());
    let told = leases.split_off(5);
    let returns = Returns::new(Arc::clone(&bench.writer.shared.returned), bench.jobs.clone());
    returns.add(leases, told);
    bench.work();
    assert!(!window.is_empty(), "one batch is bounded");
    bench.queue(Job::Close);
    let Bench { writer, folder, .. } = bench;
    writer.run();
    assert!(window.is_empty());
    assert_eq!(window.releases(), count as u64);
    let file = Connection::open(folder.path().join("store.db")).expect("the file opens");
    let figures: (i64, i64, i64) = file
        .query_row("select ready, delayed, leased from queue", (), |row| row.try_into())
        .expect("the queue is there");
    let all = i64::try_from(count.div_ceil(100) * 100).expect("it is small");
    let told = i64::try_from(count - 5).expect("it is small");
    assert_eq!(figures, (all - told, told, 0));
}
