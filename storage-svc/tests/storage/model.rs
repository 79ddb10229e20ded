//! Random histories of keys and messages, over restarts, against a simple model in memory.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proptest::prelude::*;
use runtime::clock::Clock;
use storage_svc::Store;
use storage_svc::model::{
    Action, Change, Check, Commit, Committed, Conflict, Content, Enqueued, Entry, Expect, Expiry, Key, KeyName, Lease,
    Mutation, Namespace, NewMessage, Origin, Outcome, Pairs, QueueName, QueueStats, Receive, Scan, Selection, Settled,
    Settlement, With,
};
use tokio_util::sync::CancellationToken;

use crate::support::{START_MS, store_args, within};

const KEYS: [&str; 6] = ["a", "a/", "a/1", "a/\u{10ffff}", "b", "é"];
const NAMESPACES: [&str; 2] = ["one", "two"];
const QUEUES: [&str; 2] = ["left", "right"];
const LEASE_MS: i64 = 30_000;
const ATTEMPTS_MAX: u32 = 10;
const REMEMBERED_MS: i64 = 600_000;

/// One step of a history. Numbers choose among what there is when the step is taken.
#[derive(Clone, Debug)]
enum Step {
    Commit(Box<CommitStep>),
    Receive { queue: usize, messages_max: usize },
    Settle(Vec<(usize, ActionStep)>),
    Pass(i64),
    Restart,
}

#[derive(Clone, Debug)]
struct CommitStep {
    checks: Vec<(usize, CheckStep)>,
    mutations: BTreeMap<usize, Option<(u8, ExpiryStep)>>,
    enqueues: Vec<(usize, i64)>,
    settlements: Vec<(usize, ActionStep)>,
    request_id: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum CheckStep {
    /// What is there, so that it holds.
    Current,
    Revision(u64),
    Exists(bool),
    PrefixUnchanged {
        back: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum ExpiryStep {
    Never,
    After(i64),
    At(i64),
}

#[derive(Clone, Copy, Debug)]
enum ActionStep {
    Ack,
    Nack { delay_ms: Option<i64>, refund: bool },
    Extend,
    Dead,
}

/// Spans that meet each other's ends, because that is where mistakes are.
fn span() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![0, 1, 499, 500, 999, 1_000, 2_000])
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS.len() * NAMESPACES.len();
    let check = prop_oneof![
        4 => Just(CheckStep::Current),
        1 => (0..4_u64).prop_map(CheckStep::Revision),
        1 => any::<bool>().prop_map(CheckStep::Exists),
        1 => (0..3_u64).prop_map(|back| CheckStep::PrefixUnchanged { back }),
    ];
    let expiry = prop_oneof![
        3 => Just(ExpiryStep::Never),
        1 => (1..3_i64).prop_map(|seconds| ExpiryStep::After(seconds * 1_000)),
        1 => (-1..3_i64).prop_map(|seconds| ExpiryStep::At(seconds * 1_000)),
    ];
    let action = prop_oneof![
        2 => Just(ActionStep::Ack),
        3 => (prop::option::of(span()), any::<bool>())
            .prop_map(|(delay_ms, refund)| ActionStep::Nack { delay_ms, refund }),
        1 => Just(ActionStep::Extend),
        1 => Just(ActionStep::Dead),
    ];
    let settlements = prop::collection::vec((0..64_usize, action), 0..3);
    let change = prop_oneof![
        3 => (any::<u8>(), expiry).prop_map(Some),
        1 => Just(None),
    ];
    let commit = (
        prop::collection::vec((key.clone(), check), 0..3),
        prop::collection::btree_map(key, change, 0..4),
        prop::collection::vec((0..QUEUES.len(), prop_oneof![3 => Just(0), 1 => span()]), 0..3),
        settlements.clone(),
        prop::option::weighted(0.4, 0..3_u8),
    )
        .prop_map(|(checks, mutations, enqueues, settlements, request_id)| {
            Step::Commit(Box::new(CommitStep {
                checks,
                mutations,
                enqueues,
                settlements,
                request_id,
            }))
        });
    let step = prop_oneof![
        8 => commit,
        6 => (0..QUEUES.len(), 1..4_usize).prop_map(|(queue, messages_max)| Step::Receive { queue, messages_max }),
        5 => settlements.prop_map(Step::Settle),
        4 => prop_oneof![4 => span(), 1 => Just(LEASE_MS), 1 => 0..40_000_i64, 1 => Just(1_000_000)].prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Ready,
    /// Ready from some time between the two: back-off is spread at random.
    Delayed(i64, i64),
    Leased(i64),
    Dead,
}

#[derive(Clone, Debug)]
struct Message {
    queue: usize,
    state: State,
    epoch: u64,
    attempt: u32,
    enqueue_ms: i64,
    last_error: String,
}

impl Message {
    /// After an attempt that failed.
    fn retry(&mut self, from_ms: i64, now_ms: i64, delay_ms: Option<i64>, refund: bool) {
        if self.attempt >= ATTEMPTS_MAX && !refund {
            self.state = State::Dead;
            return;
        }
        let plain_ms = (1_000_i64 << (self.attempt - 1)).min(600_000);
        let (least_ms, most_ms) = match delay_ms {
            Some(delay_ms) => (delay_ms, delay_ms),
            None => (plain_ms - plain_ms / 5, plain_ms + plain_ms / 5),
        };
        self.attempt -= u32::from(refund);
        self.state = State::Delayed(from_ms + least_ms, from_ms + most_ms);
        self.pass(now_ms);
    }

    fn pass(&mut self, now_ms: i64) {
        if let State::Leased(due_ms) = self.state
            && due_ms <= now_ms
        {
            "the lease ran out".clone_into(&mut self.last_error);
            self.retry(due_ms, now_ms, None, false);
        }
        if let State::Delayed(_, most_ms) = self.state
            && most_ms <= now_ms
        {
            self.state = State::Ready;
        }
    }
}

/// What the store should be.
#[derive(Default)]
struct Model {
    now_ms: i64,
    revision: u64,
    entries: BTreeMap<KeyName, Entry>,
    /// Entries that were written over what had expired, which may have been collected before.
    overwritten: usize,
    messages: BTreeMap<u64, Message>,
    queues: [bool; 2],
    last_message: u64,
    remembered: HashMap<u8, (Commit, Committed)>,
    /// Every lease there ever was.
    leases: Vec<Lease>,
}

impl Model {
    fn entry(&self, name: &KeyName) -> Option<&Entry> {
        let entry = self.entries.get(name)?;
        entry
            .expire_ms
            .is_none_or(|expire_ms| expire_ms > self.now_ms)
            .then_some(entry)
    }

    /// The store is at `revision`, without having been asked to go there: it has collected what had expired, and each
    /// step of that takes a revision.
    fn catch_up(&mut self, revision: u64) {
        assert!(revision >= self.revision, "{revision} is behind {}", self.revision);
        let expired = self.entries.values().filter(|entry| entry.expire_ms.is_some()).count() + self.overwritten;
        assert!(revision - self.revision <= expired as u64, "nothing had expired");
        self.revision = revision;
    }

    fn judge(&self, lease: Lease) -> Result<(), Settled> {
        match self.messages.get(&lease.message_id) {
            None => Err(Settled::Gone),
            Some(message) if message.epoch == lease.epoch && matches!(message.state, State::Leased(_)) => Ok(()),
            Some(_) => Err(Settled::Stale),
        }
    }

    fn settle(&mut self, settlement: &Settlement) -> Settled {
        if let Err(lost) = self.judge(settlement.lease) {
            return lost;
        }
        let id = settlement.lease.message_id;
        let now_ms = self.now_ms;
        let message = self.messages.get_mut(&id).expect("it was judged");
        let mut lease_expire_ms = None;
        match &settlement.action {
            Action::Ack => {
                self.messages.remove(&id);
            }
            Action::Nack {
                delay_ms,
                error,
                refund_attempt,
            } => {
                message.last_error.clone_from(error);
                message.retry(now_ms, now_ms, *delay_ms, *refund_attempt);
            }
            Action::Extend { lease_ms } => {
                message.state = State::Leased(now_ms + lease_ms);
                lease_expire_ms = Some(now_ms + lease_ms);
            }
            Action::Dead { .. } => message.state = State::Dead,
        }
        Settled::Done { lease_expire_ms }
    }

    fn failed_checks(&self, commit: &Commit) -> (Vec<usize>, Vec<Entry>) {
        let mut failed = Vec::new();
        let mut current = Vec::new();
        for (index, check) in commit.checks.iter().enumerate() {
            let holds = match check {
                Check::Key(name, expect) => {
                    let entry = self.entry(name);
                    let holds = match expect {
                        Expect::Revision(revision) => entry.map_or(0, |entry| entry.revision) == *revision,
                        Expect::Exists(exists) => entry.is_some() == *exists,
                    };
                    if !holds {
                        current.extend(entry.cloned().map(|entry| Entry { content: None, ..entry }));
                    }
                    holds
                }
                Check::PrefixUnchangedSince {
                    namespace,
                    prefix,
                    revision,
                } => !self.entries.keys().any(|name| {
                    let is_under = name.namespace == *namespace && name.key.as_str().starts_with(prefix);
                    is_under && self.entry(name).is_some_and(|entry| entry.revision > *revision)
                }),
            };
            if !holds {
                failed.push(index);
            }
        }
        (failed, current)
    }

    /// None: the request id is another commit's.
    fn commit(&mut self, commit: &Commit, id: Option<u8>) -> Option<Outcome> {
        if let Some((known, committed)) = id.and_then(|id| self.remembered.get(&id))
            && committed.commit_ms + REMEMBERED_MS > self.now_ms
        {
            let replayed = Committed {
                replayed: true,
                ..committed.clone()
            };
            return (known == commit).then_some(Outcome::Committed(replayed));
        }
        let (failed_checks, current) = self.failed_checks(commit);
        let settlements = commit.settlements.iter().enumerate();
        let lost = settlements.filter(|(_, settlement)| self.judge(settlement.lease).is_err());
        let failed_settlements: Vec<usize> = lost.map(|(index, _)| index).collect();
        if !failed_checks.is_empty() || !failed_settlements.is_empty() {
            return Some(Outcome::Conflict(Conflict {
                failed_checks,
                failed_settlements,
                current,
                store_revision: self.revision,
            }));
        }
        let (created, deleted) = self.mutate(&commit.mutations);
        let mut committed = Committed {
            revision: self.revision,
            commit_ms: self.now_ms,
            enqueued: Vec::new(),
            created,
            deleted,
            replayed: false,
        };
        for settlement in &commit.settlements {
            self.settle(settlement);
        }
        for message in &commit.enqueues {
            self.last_message += 1;
            committed.enqueued.push(Enqueued {
                id: self.last_message,
                deduplicated: false,
            });
            let queue = usize::from(message.queue.as_str() == QUEUES[1]);
            self.queues[queue] = true;
            let due_ms = self.now_ms + message.delay_ms;
            let mut message = Message {
                queue,
                state: State::Delayed(due_ms, due_ms),
                epoch: 0,
                attempt: 0,
                enqueue_ms: self.now_ms,
                last_error: String::new(),
            };
            message.pass(self.now_ms);
            self.messages.insert(self.last_message, message);
        }
        let puts = commit
            .mutations
            .iter()
            .any(|mutation| mutation.change != Change::Delete);
        let is_effective = puts || deleted > 0 || !commit.settlements.is_empty() || !commit.enqueues.is_empty();
        if let Some(id) = id.filter(|_| is_effective) {
            self.remembered.insert(id, (commit.clone(), committed.clone()));
        }
        Some(Outcome::Committed(committed))
    }

    /// Whether a commit of them takes a revision.
    fn changes(&self, mutations: &[Mutation]) -> bool {
        let changes = |mutation: &Mutation| mutation.change != Change::Delete || self.entry(&mutation.name).is_some();
        mutations.iter().any(changes)
    }

    fn mutate(&mut self, mutations: &[Mutation]) -> (u32, u32) {
        let revision = self.revision + 1;
        let (mut created, mut deleted) = (0, 0);
        for mutation in mutations {
            let name = &mutation.name;
            let before = self.entry(name).cloned();
            self.overwritten += usize::from(before.is_none() && self.entries.contains_key(name));
            match &mutation.change {
                Change::Delete if before.is_none() => {}
                Change::Delete => {
                    self.revision = revision;
                    deleted += 1;
                    self.entries.remove(name);
                }
                Change::Put {
                    content,
                    expiry,
                    metadata,
                } => {
                    self.revision = revision;
                    created += u32::from(before.is_none());
                    let entry = Entry {
                        name: name.clone(),
                        content: Some(content.clone()),
                        revision,
                        create_revision: before.as_ref().map_or(revision, |entry| entry.create_revision),
                        version: before.map_or(1, |entry| entry.version + 1),
                        update_ms: self.now_ms,
                        expire_ms: match expiry {
                            Expiry::Never => None,
                            Expiry::AfterMs(ttl_ms) => Some(self.now_ms + ttl_ms),
                            Expiry::AtMs(time_ms) => Some(*time_ms),
                        },
                        metadata: metadata.clone(),
                    };
                    self.entries.insert(name.clone(), entry);
                }
            }
        }
        (created, deleted)
    }

    /// The message ids and attempts that a receive must deliver.
    fn receive(&mut self, queue: usize, messages_max: usize) -> Vec<(u64, u32, String)> {
        self.queues[queue] = true;
        let expire_ms = self.now_ms + LEASE_MS;
        let ready = self.messages.iter_mut();
        let ready = ready.filter(|(_, message)| message.queue == queue && message.state == State::Ready);
        let mut delivered = Vec::new();
        for (id, message) in ready.take(messages_max) {
            message.state = State::Leased(expire_ms);
            message.epoch += 1;
            message.attempt += 1;
            self.leases.push(Lease {
                message_id: *id,
                epoch: message.epoch,
            });
            delivered.push((*id, message.attempt, message.last_error.clone()));
        }
        delivered
    }

    /// Lets time pass, and on to where no message may or may not be ready.
    fn pass(&mut self, by_ms: i64) {
        self.now_ms += by_ms;
        loop {
            let now_ms = self.now_ms;
            self.messages.values_mut().for_each(|message| message.pass(now_ms));
            let unsure = self.messages.values().filter_map(|message| match message.state {
                State::Delayed(least_ms, most_ms) if least_ms <= now_ms && now_ms < most_ms => Some(most_ms),
                _ => None,
            });
            match unsure.max() {
                Some(sure_ms) => self.now_ms = sure_ms,
                None => return,
            }
        }
    }

    fn stats(&self, queue: usize) -> QueueStats {
        let messages = self.messages.values().filter(|message| message.queue == queue);
        let count = |matches: fn(&State) -> bool| messages.clone().filter(|message| matches(&message.state)).count();
        let mut ready = messages.clone().filter(|message| message.state == State::Ready);
        QueueStats {
            ready: count(|state| *state == State::Ready) as u64,
            delayed: count(|state| matches!(state, State::Delayed(..))) as u64,
            leased: count(|state| matches!(state, State::Leased(_))) as u64,
            dead: count(|state| *state == State::Dead) as u64,
            blocked: 0,
            oldest_ready_ms: ready.next().map(|message| self.now_ms - message.enqueue_ms),
        }
    }

    fn settlements(&self, chosen: &[(usize, ActionStep)]) -> Vec<Settlement> {
        let held: Vec<Lease> = self
            .leases
            .iter()
            .copied()
            .filter(|lease| self.judge(*lease).is_ok())
            .collect();
        let settlements = chosen.iter().filter_map(|(index, action)| {
            // Mostly one that holds; else any that ever was.
            let among = if index % 4 > 0 && !held.is_empty() {
                &held
            } else {
                &self.leases
            };
            let lease = *among.get(index % among.len().max(1))?;
            let action = match *action {
                ActionStep::Ack => Action::Ack,
                ActionStep::Nack { delay_ms, refund } => Action::Nack {
                    delay_ms,
                    error: format!("error {index}"),
                    refund_attempt: refund,
                },
                ActionStep::Extend => Action::Extend { lease_ms: 45_000 },
                ActionStep::Dead => Action::Dead {
                    reason: "no use".to_owned(),
                },
            };
            Some(Settlement { lease, action })
        });
        settlements.collect()
    }

    fn build(&self, step: &CommitStep) -> Commit {
        let mut commit = Commit::new(Origin::Commit);
        for (key, check) in &step.checks {
            let name = key_name(*key);
            commit.checks.push(match check {
                CheckStep::Current => {
                    let revision = self.entry(&name).map_or(0, |entry| entry.revision);
                    Check::Key(name, Expect::Revision(revision))
                }
                CheckStep::Revision(revision) => Check::Key(name, Expect::Revision(*revision)),
                CheckStep::Exists(exists) => Check::Key(name, Expect::Exists(*exists)),
                CheckStep::PrefixUnchanged { back } => Check::PrefixUnchangedSince {
                    namespace: name.namespace,
                    prefix: name.key.as_str().to_owned(),
                    revision: self.revision.saturating_sub(*back),
                },
            });
        }
        for (key, change) in &step.mutations {
            let change = match change {
                None => Change::Delete,
                Some((value, expiry)) => Change::Put {
                    // Some lie in the entry's row and some do not.
                    content: if value % 2 == 0 {
                        Content::Text(value.to_string().repeat(usize::from(*value)))
                    } else {
                        Content::Bytes(vec![*value; usize::from(*value) * 2].into())
                    },
                    expiry: match expiry {
                        ExpiryStep::Never => Expiry::Never,
                        ExpiryStep::After(ms) => Expiry::AfterMs(*ms),
                        ExpiryStep::At(ms) => Expiry::AtMs(self.now_ms + ms),
                    },
                    metadata: Pairs::from([("value".to_owned(), value.to_string())]),
                },
            };
            let name = key_name(*key);
            commit.mutations.push(Mutation { name, change });
        }
        for (queue, delay_ms) in &step.enqueues {
            commit.enqueues.push(NewMessage {
                queue: queue_name(*queue),
                body: Content::Text("work".to_owned()),
                attributes: Pairs::new(),
                ordering_key: None,
                dedup_id: None,
                delay_ms: *delay_ms,
            });
        }
        commit.settlements = self.settlements(&step.settlements);
        let mut named = std::collections::BTreeSet::new();
        commit
            .settlements
            .retain(|settlement| named.insert(settlement.lease.message_id));
        commit
    }
}

fn key_name(index: usize) -> KeyName {
    KeyName {
        namespace: Namespace::parse(NAMESPACES[index % 2].to_owned()).expect("the name is good"),
        key: Key::parse(KEYS[index / 2].to_owned()).expect("the key is good"),
    }
}

fn queue_name(index: usize) -> QueueName {
    QueueName::parse(QUEUES[index].to_owned()).expect("the name is good")
}

async fn play(steps: Vec<Step>) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let args = store_args(folder.path());
    let clock = Clock::manual(START_MS);
    let mut store = Store::open(&args, clock.clone()).expect("it opens");
    let mut model = Model {
        now_ms: START_MS,
        ..Model::default()
    };
    for step in steps {
        model.pass(0);
        clock.advance_ms(model.now_ms - clock.now_ms());
        match step {
            Step::Commit(step) => {
                let commit = model.build(&step);
                let named = commit.clone();
                let named = named.named(step.request_id.map(|id| id.to_string()).unwrap_or_default());
                let outcome = store.commit(named, None).await;
                match &outcome {
                    Ok(Outcome::Conflict(conflict)) => model.catch_up(conflict.store_revision),
                    Ok(Outcome::Committed(committed)) if !committed.replayed => {
                        let changes = model.changes(&commit.mutations);
                        model.catch_up(committed.revision - u64::from(changes));
                    }
                    _ => {}
                }
                let expected = model.commit(&commit, step.request_id);
                assert_eq!(outcome.ok(), expected, "{step:?}");
            }
            Step::Receive { queue, messages_max } => {
                let receive = Receive {
                    queue: queue_name(queue),
                    messages_max,
                    wait: Duration::ZERO,
                    lease_ms: None,
                };
                let deliveries = store
                    .receive(receive, None, &CancellationToken::new())
                    .await
                    .expect("it receives");
                let delivered: Vec<_> = deliveries
                    .iter()
                    .map(|delivery| (delivery.lease.message_id, delivery.attempt, delivery.last_error.clone()))
                    .collect();
                assert_eq!(delivered, model.receive(queue, messages_max));
            }
            Step::Settle(chosen) => {
                let settlements = model.settlements(&chosen);
                let expected: Vec<_> = settlements.iter().map(|settlement| model.settle(settlement)).collect();
                assert_eq!(store.settle(settlements, None).await.expect("it settles"), expected);
            }
            Step::Pass(ms) => model.pass(ms),
            Step::Restart => {
                store.close().await;
                store = Store::open(&args, clock.clone()).expect("it opens again");
            }
        }
        model.pass(0);
        clock.advance_ms(model.now_ms - clock.now_ms());
        compare(&store, &mut model).await;
    }
    store.close().await;
}

async fn compare(store: &Store, model: &mut Model) {
    for namespace in NAMESPACES {
        let namespace = Namespace::parse(namespace.to_owned()).expect("the name is good");
        for prefix in ["", "a", "a/"] {
            let expected: Vec<Entry> = model
                .entries
                .keys()
                .filter(|name| name.namespace == namespace && name.key.as_str().starts_with(prefix))
                .filter_map(|name| model.entry(name).cloned())
                .collect();
            let mut scan = Scan {
                namespace: namespace.clone(),
                selection: Selection::Prefix(prefix.to_owned()),
                reverse: false,
                rows_max: 100,
                after: None,
                with: With::Content,
                dereference: None,
            };
            let page = store.scan(scan.clone(), None).await.expect("it scans");
            let found: Vec<_> = page.found.rows.into_iter().map(|row| row.entry).collect();
            assert_eq!(found, expected, "{prefix:?}");
            model.catch_up(page.store_revision);
            scan.reverse = true;
            let page = store.scan(scan, None).await.expect("it scans");
            let found: Vec<_> = page.found.rows.into_iter().rev().map(|row| row.entry).collect();
            assert_eq!(found, expected, "{prefix:?} in reverse");
        }
    }
    let names: Vec<_> = (0..KEYS.len() * NAMESPACES.len()).map(key_name).collect();
    let expected: Vec<_> = names.iter().map(|name| model.entry(name).cloned()).collect();
    let found = store.batch_get(names, With::Content, None).await.expect("it reads");
    assert_eq!(found.found, expected);
    for (queue, name) in QUEUES.into_iter().enumerate() {
        let stats = store.queue_stats(queue_name(queue), None).await.ok();
        assert_eq!(stats, model.queues[queue].then(|| model.stats(queue)), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        max_shrink_iters: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn the_store_does_what_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(within(play(steps)));
    }
}
