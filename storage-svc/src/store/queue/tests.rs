//! What a change tells beside its rows, what a claim costs, and that the rule of ordering keys holds whatever happens.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rusqlite::{Connection, StatementStatus};
use tempfile::TempDir;

use super::*;
use crate::config::Sync;
use crate::error::StoreError;
use crate::model::{
    Action, Content, Lease, MessageState, NewMessage, Origin, Pairs, Purge, QueueChange, QueueName, Redrive, Settlement,
};
use crate::store::effects::{Effects, Moment};
use crate::store::lock::LastClose;
use crate::store::schema;
use crate::store::waiting::Ask;

/// A database of its own, and a time.
struct Bench {
    connection: Connection,
    now_ms: i64,
    _folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("store.db");
        let (connection, _) = schema::open(&path, Sync::Normal, LastClose::Clean).expect("the database opens");
        connection
            .execute_batch("pragma synchronous = off")
            .expect("it need not last");
        Self {
            connection,
            now_ms: 1_000_000,
            _folder: folder,
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            now_ms: self.now_ms,
            revision: 0,
        }
    }

    /// Adds a message; its id.
    fn enqueue(&self, key: Option<&str>, delay_ms: i64) -> u64 {
        let message = NewMessage {
            queue: name(),
            body: Content::Text(String::new()),
            attributes: Pairs::new(),
            ordering_key: key.map(str::to_owned),
            dedup_id: None,
            delay_ms,
        };
        let mut lately = Lately::default();
        let added = enqueue(&self.connection, self.now_ms, Origin::Enqueue, &[message], &mut lately);
        finish(lately, &self.connection);
        added.expect("it is added")[0].id
    }

    fn claim(&self, messages_max: usize) -> (Vec<Lease>, Effects) {
        let ask = Ask {
            messages_max,
            bytes_max: usize::MAX,
            room: None,
            lease_ms: None,
        };
        let claimed = claim(&self.connection, self.now_ms, self.queue_id(), ask);
        let (taken, effects) = claimed.expect("it claims");
        (
            taken.deliveries.iter().map(|delivery| delivery.lease).collect(),
            effects,
        )
    }

    fn settle(&self, lease: Lease, action: Action) -> Effects {
        let settlement = Settlement { lease, action };
        let settled = settle_each(&self.connection, self.now_ms, &[settlement]);
        settled.expect("it settles").1
    }

    fn queue_id(&self) -> i64 {
        let id = self.connection.query_row("select id from queue", (), |row| row.get(0));
        id.expect("there is one queue")
    }
}

fn name() -> QueueName {
    QueueName::parse("q".to_owned()).expect("the name is good")
}

fn finish(lately: Lately, connection: &Connection) -> Effects {
    lately.finish(connection).expect("the figures are written")
}

fn nack(delay_ms: Option<i64>) -> Action {
    Action::Nack {
        delay_ms,
        error: String::new(),
        refund_attempt: false,
    }
}

fn dead() -> Action {
    Action::Dead { reason: String::new() }
}

fn all(states: impl IntoIterator<Item = MessageState>) -> Purge {
    Purge {
        queue: name(),
        ids: Vec::new(),
        states: states.into_iter().collect(),
    }
}

#[test]
fn whatever_ends_a_lease_says_so_and_wakes_who_can_be_served() {
    type End = fn(&mut Bench, Lease) -> Effects;
    let give_back_one: End = |bench, lease| {
        let given = give_back(&bench.connection, bench.now_ms, &[lease]);
        given.expect("it gives back").1
    };
    let run_out: End = |bench, _| {
        bench.now_ms += 30_000;
        assert!(next_due_ms(&bench.connection).expect("it reads") <= bench.now_ms);
        sweep(&bench.connection, bench.now_ms, 10).expect("it sweeps").1
    };
    let purge_leased: End = |bench, _| {
        let purged = purge(&bench.connection, bench.moment(), &all([MessageState::Leased]));
        purged.expect("it purges").1
    };
    let delete: End = |bench, _| {
        let deleted = delete_queue(&bench.connection, &name(), true);
        deleted.expect("it deletes").1
    };
    let ends: [(&str, End, bool); 9] = [
        ("ack", |bench, lease| bench.settle(lease, Action::Ack), true),
        ("dead", |bench, lease| bench.settle(lease, dead()), true),
        ("nack now", |bench, lease| bench.settle(lease, nack(Some(0))), true),
        ("nack later", |bench, lease| bench.settle(lease, nack(None)), false),
        (
            "extend",
            |bench, lease| bench.settle(lease, Action::Extend { lease_ms: 9 }),
            false,
        ),
        ("give back", give_back_one, true),
        ("run out", run_out, false),
        ("purge", purge_leased, true),
        ("delete the queue", delete, true),
    ];
    for (what, end, wakes) in ends {
        let mut bench = Bench::new();
        bench.enqueue(Some("k"), 0);
        bench.enqueue(Some("k"), 0);
        let queue_id = bench.queue_id();
        let (leases, effects) = bench.claim(10);
        assert_eq!(leases.len(), 1);
        assert!(effects.wrote && effects.timed && effects.released.is_empty());
        let effects = end(&mut bench, leases[0]);
        let released: &[u64] = if what == "extend" { &[] } else { &[leases[0].message_id] };
        assert_eq!(effects.released, released, "{what}");
        assert_eq!(effects.ready.contains(&queue_id), wakes, "{what}");
        assert!(effects.wrote && effects.timed, "{what}");
    }
}

#[test]
fn a_queue_that_goes_on_wakes_who_waits() {
    let bench = Bench::new();
    bench.enqueue(None, 0);
    let pause = |paused| {
        let change = QueueChange {
            paused: Some(paused),
            ..QueueChange::default()
        };
        let updated = update(&bench.connection, bench.moment(), &name(), &change);
        updated.expect("it is changed").1
    };
    assert!(pause(true).ready.is_empty());
    assert!(bench.claim(1).0.is_empty());
    assert!(!pause(true).wrote, "nothing is changed");
    assert!(pause(false).ready.contains(&bench.queue_id()));
    assert_eq!(bench.claim(1).0.len(), 1);
}

#[test]
fn dead_messages_that_go_unasked_are_told() {
    let mut bench = Bench::new();
    let first = bench.enqueue(None, 0);
    let (leases, _) = bench.claim(1);
    bench.settle(leases[0], dead());
    bench.now_ms += 14 * 86_400_000;
    let ((), effects) = sweep(&bench.connection, bench.now_ms, 10).expect("it sweeps");
    let told: Vec<_> = effects
        .forgotten
        .iter()
        .map(|gone| (&gone.queue[..], gone.message_id))
        .collect();
    assert_eq!(told, [("q", first)]);
    assert!(effects.released.is_empty());
}

/// Steps of the engine's machine that a claim of ten messages takes.
fn claim_steps(bench: &Bench) -> i32 {
    let sql = claim::STATEMENTS[0];
    let mut statement = bench.connection.prepare(sql).expect("the statement is good");
    let rows = statement.query_map((bench.queue_id(), 10), |_| Ok(()));
    assert_eq!(rows.expect("it reads").count(), 10);
    statement.get_status(StatementStatus::VmStep)
}

#[test]
fn a_claim_costs_the_same_however_much_there_is() {
    let bench = Bench::new();
    for _ in 0..10 {
        bench.enqueue(None, 0);
    }
    let alone = claim_steps(&bench);
    // As many again of every state, most of them before the ready ones; all blocked ones of one key.
    bench
        .connection
        .execute_batch(
            "update message set id = id + 10000000; update message_body set id = id + 10000000; \
             with recursive c(i) as (select 1 union all select i + 1 from c where i < 100000) \
             insert into message (id, queue_id, state, due_ms, enqueue_ms, ordering_key, dead_ms) \
             select i * 10 + state, 1, state, 0, 0, iif(state = 5, 'k', null), iif(state = 4, 0, null) \
             from c, (select 1 as state union all select 3 union all select 4 union all select 5); \
             with recursive c(i) as (select 1 union all select i + 1 from c where i < 100000) \
             insert into message (id, queue_id, state, due_ms, enqueue_ms) select i + 20000000, 1, 2, 0, 0 from c; \
             insert into message (id, queue_id, state, due_ms, enqueue_ms, ordering_key) \
             values (7, 1, 3, 0, 0, 'k'); \
             analyze",
        )
        .expect("the rows fit");
    assert_eq!(claim_steps(&bench), alone);
    for sql in order::STATEMENTS {
        let mut statement = bench.connection.prepare(sql).expect("the statement is good");
        if statement.parameter_count() == 2 && statement.column_count() > 0 {
            let rows = statement.query_map((1, "k"), |_| Ok(()));
            assert_eq!(rows.expect("it reads").count(), 1);
            let steps = statement.get_status(StatementStatus::VmStep);
            assert!(steps < 50, "{steps}: {sql}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue(usize, i64),
    Claim(usize),
    Settle(usize, u8),
    GiveBack(usize),
    Pass(i64),
    Redrive(usize),
    Purge(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3_usize, prop_oneof![Just(0), Just(1_000)]).prop_map(|(key, delay_ms)| Step::Enqueue(key, delay_ms)),
        4 => (1..4_usize).prop_map(Step::Claim),
        6 => (0..16_usize, 0..4_u8).prop_map(|(lease, action)| Step::Settle(lease, action)),
        1 => (0..16_usize).prop_map(Step::GiveBack),
        2 => prop_oneof![Just(1_000), Just(30_000)].prop_map(Step::Pass),
        2 => (0..16_usize).prop_map(Step::Redrive),
        1 => (0..16_usize).prop_map(Step::Purge),
    ]
}

/// One of the last leases: most others are lost.
fn recent(leases: &[Lease], index: usize) -> Lease {
    leases[leases.len() - 1 - index % leases.len().min(4)]
}

/// The rule: of a key the leased one is not blocked or, when none is leased, the lowest id; all others are. And the
/// figures are exact.
fn check_rule(connection: &Connection, now_ms: i64) -> Result<(), TestCaseError> {
    let sql = "select id, state, ordering_key, due_ms from message order by id";
    let mut statement = connection.prepare(sql).expect("the statement is good");
    let rows = statement.query_map((), |row| row.try_into());
    let rows: Vec<(i64, i64, Option<String>, i64)> = rows.expect("it reads").collect::<Result<_, _>>().expect("rows");
    let mut counts = [0_u64; 5];
    let mut keys: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    for (id, state, key, due_ms) in &rows {
        counts[usize::try_from(*state).expect("states are few") - 1] += 1;
        prop_assert!(*state != 2 || *due_ms <= now_ms, "{} is ready too early", id);
        match key {
            Some(key) if *state != 4 => keys.entry(key).or_default().push((*id, *state)),
            _ => prop_assert!(*state != 5, "{} is blocked by nothing", id),
        }
    }
    for (key, messages) in keys {
        let leased = messages.iter().find(|(_, state)| *state == 3);
        let (first, _) = leased.unwrap_or(&messages[0]);
        for (id, state) in &messages {
            prop_assert_eq!(id != first, *state == 5, "{} of {}: {:?}", id, key, messages);
        }
    }
    if !rows.is_empty() {
        let stats = stats(connection, now_ms, &name()).expect("there is a queue");
        let figures = [stats.delayed, stats.ready, stats.leased, stats.dead, stats.blocked];
        prop_assert_eq!(figures, counts);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn the_rule_of_ordering_keys_holds_whatever_happens(steps in prop::collection::vec(step(), 1..80)) {
        let mut bench = Bench::new();
        bench.enqueue(None, 0);
        let mut leases = Vec::new();
        let mut sent = Vec::new();
        for step in steps {
            let done: Result<(), StoreError> = match step {
                Step::Enqueue(key, delay_ms) => {
                    sent.push(bench.enqueue([None, Some("a"), Some("b")][key], delay_ms));
                    Ok(())
                }
                Step::Claim(messages_max) => {
                    leases.extend(bench.claim(messages_max).0);
                    Ok(())
                }
                Step::Settle(index, action) if !leases.is_empty() => {
                    let action = [Action::Ack, nack(Some(0)), nack(None), dead()][usize::from(action)].clone();
                    bench.settle(recent(&leases, index), action);
                    Ok(())
                }
                Step::GiveBack(index) if !leases.is_empty() => {
                    let lease = recent(&leases, index);
                    give_back(&bench.connection, bench.now_ms, &[lease]).map(drop)
                }
                Step::Pass(ms) => {
                    bench.now_ms += ms;
                    let mut swept = Ok(());
                    while swept.is_ok() && next_due_ms(&bench.connection).expect("it reads") <= bench.now_ms {
                        swept = sweep(&bench.connection, bench.now_ms, 2).map(drop);
                    }
                    swept
                }
                Step::Redrive(index) => {
                    // One, or all.
                    let ids = if index < sent.len() { vec![sent[index]] } else { Vec::new() };
                    redrive(&bench.connection, bench.moment(), &Redrive { queue: name(), ids }).map(drop)
                }
                Step::Purge(index) if !sent.is_empty() => {
                    let ids = vec![sent[index % sent.len()]];
                    let purged = Purge { ids, ..all(MessageState::ALL) };
                    purge(&bench.connection, bench.moment(), &purged).map(drop)
                }
                _ => Ok(()),
            };
            prop_assert!(done.is_ok(), "{:?}", done);
            check_rule(&bench.connection, bench.now_ms)?;
        }
    }
}
