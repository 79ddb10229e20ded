//! Random histories of keys against a model in memory: every call of KvService, several of them at once, over restarts
//! and with the clock in hand.
//!
//! Calls that were under way at once are explained by one serial order: that of the revisions in their answers. Whatever
//! changed nothing must fit somewhere in it. Revisions that no call took are those of expired entries that were
//! collected, of which there can be no more than have expired.

mod entries;
mod steps;
mod watching;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

use proptest::test_runner::TestRunner;
use proto::v1;
use proto::v1::commit_response::Outcome;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use self::entries::{Answer, Effect, Event, Name, State, Write, expire_ms, shown, timestamp};
use self::steps::{
    BAD_KEYS, Call, CheckStep, ContentStep, ExpiryStep, KEY_COUNT, KEYS, KeyNumber, Kind, PREFIXES, PutStep, ScanStep,
    SelectorStep, Step, WriteStep, steps,
};
use crate::in_process::{InProcess, cases, runtime};
use crate::support::{START_MS, within};

/// A store has room for so many namespaces; each case takes two.
const CASES_IN_A_STORE: usize = 400;
/// Pages of a scan, at most: there are not so many keys.
const PAGES_MAX: usize = 40;

/// A store and what is known of it, over many cases.
struct World {
    service: Option<InProcess>,
    now_ms: i64,
    /// The highest that was seen.
    revision: u64,
    /// Entries that have expired and may not have been collected.
    expired: u64,
    /// When what earlier cases left expires.
    lingering: Vec<i64>,
    cases: usize,
}

/// What a case did.
struct Case {
    number: usize,
    state: State,
    /// By revision: when, and what changed.
    log: BTreeMap<u64, (i64, Vec<Event>)>,
    /// Writes with a request id.
    sent: Vec<Write>,
}

/// An answer that was read, and the revision that it names.
enum Read {
    Get(v1::GetRequest, v1::GetResponse),
    BatchGet(v1::BatchGetRequest, v1::BatchGetResponse),
    Scan(v1::ScanRequest, v1::ScanResponse),
}

impl World {
    fn new() -> Self {
        Self {
            service: Some(InProcess::start()),
            now_ms: START_MS,
            revision: 0,
            expired: 0,
            lingering: Vec::new(),
            cases: 0,
        }
    }

    fn service(&mut self) -> &mut InProcess {
        self.service.as_mut().expect("it runs")
    }

    /// Lets time pass.
    fn pass(&mut self, case: &mut Case, by_ms: i64) {
        self.now_ms += by_ms;
        self.service().clock.advance_ms(by_ms);
        let now_ms = self.now_ms;
        let before = self.lingering.len();
        self.lingering.retain(|expire_ms| *expire_ms > now_ms);
        self.expired += (before - self.lingering.len()) as u64 + case.state.expire(now_ms);
    }

    /// Takes note of a revision of which `changes` are accounted for; the others are collections.
    fn saw(&mut self, revision: u64, changes: u64) {
        let collections = revision.checked_sub(self.revision + changes);
        let collections = collections.expect("revisions rise");
        assert!(
            collections <= self.expired,
            "{collections} revisions are nobody's; {} entries have expired",
            self.expired
        );
        self.expired -= collections;
        self.revision = revision;
    }

    /// Makes calls at once and explains their answers.
    async fn together(&mut self, case: &mut Case, calls: Vec<Call>) {
        let mut writes = Vec::new();
        let mut reads = Vec::new();
        for call in calls {
            let write = match call {
                Call::Write(step) => case.build(&step, self.now_ms, self.revision),
                Call::Again(number) if !case.sent.is_empty() => case.sent[number % case.sent.len()].clone(),
                Call::Again(_) => continue,
                read => {
                    reads.push(tokio::spawn(case.read(read, self.service())));
                    continue;
                }
            };
            if !write.commit().request_id.is_empty() && !case.sent.contains(&write) {
                case.sent.push(write.clone());
            }
            writes.push((write.clone(), tokio::spawn(send(write, self.service().kv.clone()))));
        }
        let mut answered = Vec::new();
        for (write, answer) in writes {
            answered.push((write, answer.await.expect("the call does not panic")));
        }
        let mut seen = Vec::new();
        for read in reads {
            seen.push(read.await.expect("the call does not panic"));
        }
        self.explain(case, &answered, &seen);
    }

    /// Finds the order in which the answers make sense.
    fn explain(&mut self, case: &mut Case, answered: &[(Write, Answer)], seen: &[Read]) {
        let mut by_revision = BTreeMap::<u64, Vec<usize>>::new();
        for (index, (_, answer)) in answered.iter().enumerate() {
            match answer.revision() {
                Some(revision) if revision > self.revision && !matches!(answer, Answer::Conflict(_)) => {
                    by_revision.entry(revision).or_default().push(index);
                }
                _ => {}
            }
        }
        let mut chain = vec![(self.revision, case.state.clone())];
        let mut explained = HashSet::new();
        for (revision, claimants) in by_revision {
            for index in claimants {
                let (write, answer) = &answered[index];
                let (_, state) = chain.last().expect("it begins with one");
                let judged = state.judge(write, self.now_ms, revision);
                if let Effect::Changed(changed) = judged.effect
                    && judged.answer == *answer
                {
                    self.expired += changed.still_born;
                    case.log.insert(revision, (self.now_ms, changed.events));
                    chain.push((revision, changed.state));
                    explained.insert(index);
                    break;
                }
            }
        }
        let told = answered.iter().filter_map(|(_, answer)| answer.revision());
        let latest = told.chain(seen.iter().map(Read::revision)).max().unwrap_or(0);
        let latest = latest.max(self.revision);
        let span = |index: usize| {
            let end = chain.get(index + 1).map_or(latest, |(next, _)| next - 1);
            chain[index].0..=end
        };
        for (index, (write, answer)) in answered.iter().enumerate() {
            let fits = |place: usize| {
                let (revision, state) = &chain[place];
                let judged = state.judge(write, self.now_ms, answer.revision().unwrap_or(*revision));
                let is_then = match judged.effect {
                    Effect::Changed(_) => false,
                    Effect::Nothing => true,
                    Effect::Seen => answer.revision().is_none_or(|revision| span(place).contains(&revision)),
                };
                is_then && judged.answer == *answer
            };
            assert!(
                explained.contains(&index) || (0..chain.len()).any(fits),
                "nothing explains {answer:?} to {write:?}\namong {answered:?}\nfrom {:?}",
                case.state.entries
            );
        }
        for read in seen {
            let fits = |place: usize| span(place).contains(&read.revision()) && read.fits(&chain[place].1);
            assert!((0..chain.len()).any(fits), "nothing explains {read:?}");
        }
        self.saw(latest, chain.len() as u64 - 1);
        case.state = chain.pop().expect("it begins with one").1;
    }

    /// Reads all pages of a scan, while writes go on between them.
    async fn pages(&mut self, case: &mut Case, step: &ScanStep, writes: Vec<WriteStep>) {
        let mut request = case.scan(step);
        let rows_max = if request.page_size == 0 { 100 } else { step.page_size };
        let mut after: Option<String> = None;
        let mut writes = writes.into_iter();
        for _ in 0..PAGES_MAX {
            let page = self
                .service()
                .kv
                .scan(request.clone())
                .await
                .expect("it scans")
                .into_inner();
            self.saw(page.store_revision, 0);
            let mut expected = case.state.scan(&request, after.as_deref());
            let is_last = expected.len() <= rows_max;
            expected.truncate(rows_max);
            assert_eq!(page.rows, expected, "{request:?} after {after:?}");
            if page.next_page_token.is_empty() {
                assert!(is_last, "{request:?} ends early after {after:?}");
                return;
            }
            request.page_token = page.next_page_token;
            let other = v1::ScanRequest {
                reverse: !request.reverse,
                ..request.clone()
            };
            let refused = self
                .service()
                .kv
                .scan(other)
                .await
                .expect_err("the token is another scan's");
            assert_eq!(refused.code(), Code::InvalidArgument);
            after = page
                .rows
                .last()
                .and_then(|row| row.entry.as_ref())
                .map(|entry| entry.key.clone())
                .or(after);
            if let Some(write) = writes.next() {
                self.together(case, vec![Call::Write(write)]).await;
            }
        }
        panic!("the scan does not end: {request:?}");
    }

    /// Reads a scan as a stream, then once more from where its first message ended.
    async fn stream(&mut self, case: &mut Case, step: &ScanStep) {
        let mut request = case.scan(step);
        let mut skipped = 0;
        loop {
            let call = v1::ScanStreamRequest {
                scan: Some(request.clone()),
            };
            let mut stream = self
                .service()
                .kv
                .scan_stream(call)
                .await
                .expect("it scans")
                .into_inner();
            let mut rows = Vec::new();
            let mut parts = Vec::new();
            while let Some(part) = stream.message().await.expect("the scan goes on") {
                rows.extend(part.rows.iter().cloned());
                parts.push(part);
            }
            let last = parts.last().expect("a stream tells at least that there is nothing");
            assert_eq!(last.resume_token, "", "the stream ends when there is no more");
            assert!(parts.iter().all(|part| part.store_revision == last.store_revision));
            self.saw(last.store_revision, 0);
            assert_eq!(rows, case.state.scan(&request, None)[skipped..], "{request:?}");
            if parts.len() == 1 || !request.page_token.is_empty() {
                return;
            }
            skipped = parts[0].rows.len();
            request.page_token.clone_from(&parts[0].resume_token);
        }
    }

    /// Reads every key.
    async fn compare(&mut self, case: &mut Case) {
        let keys = (0..2 * KEY_COUNT).map(|number| case.key_ref(number)).collect();
        let request = v1::BatchGetRequest {
            keys,
            ..Default::default()
        };
        let answer = self
            .service()
            .kv
            .batch_get(request.clone())
            .await
            .expect("it reads")
            .into_inner();
        self.explain(case, &[], &[Read::BatchGet(request, answer)]);
    }

    async fn restart(&mut self) {
        let service = self.service.take().expect("it runs");
        self.service = Some(service.restart().await);
    }
}

impl Case {
    fn namespace(&self, number: usize) -> String {
        format!("case{}.{}", self.number, number % 2)
    }

    fn name(&self, number: KeyNumber) -> Name {
        (self.namespace(number), KEYS[number / 2].clone())
    }

    fn key_ref(&self, number: KeyNumber) -> v1::KeyRef {
        let (namespace, key) = self.name(number);
        v1::KeyRef { namespace, key }
    }

    fn selector(&self, step: SelectorStep) -> v1::Selector {
        let bound = |key: Option<usize>| key.map(|key| KEYS[key].clone()).unwrap_or_default();
        let (namespace, keys) = match step {
            SelectorStep::All(namespace) => (namespace, None),
            SelectorStep::Prefix(namespace, prefix) => {
                (namespace, Some(v1::selector::Keys::Prefix(PREFIXES[prefix].clone())))
            }
            SelectorStep::Range(namespace, start, end) => {
                let (start, end) = (bound(start), bound(end));
                (namespace, Some(v1::selector::Keys::Range(v1::KeyRange { start, end })))
            }
        };
        v1::Selector {
            namespace: self.namespace(namespace),
            keys,
        }
    }

    fn scan(&self, step: &ScanStep) -> v1::ScanRequest {
        v1::ScanRequest {
            selector: Some(self.selector(step.selector)),
            reverse: step.reverse,
            page_size: i32::try_from(step.page_size).expect("it is small"),
            page_token: String::new(),
            omit_values: step.view.omit_values,
            dereference: step.dereference.map(|skip_dangling| v1::Dereference {
                target_namespace: self.namespace(1),
                skip_dangling,
            }),
            as_bytes: step.view.as_bytes,
        }
    }

    /// A call that reads.
    fn read(&self, call: Call, service: &InProcess) -> impl Future<Output = Read> + Send + 'static {
        let mut kv = service.kv.clone();
        let read = match call {
            Call::Get(number, view) => {
                let (namespace, key) = self.name(number);
                let request = v1::GetRequest {
                    namespace,
                    key,
                    omit_value: view.omit_values,
                    as_bytes: view.as_bytes,
                };
                Read::Get(request, v1::GetResponse::default())
            }
            Call::BatchGet(numbers, view) => {
                let request = v1::BatchGetRequest {
                    keys: numbers.into_iter().map(|number| self.key_ref(number)).collect(),
                    omit_values: view.omit_values,
                    as_bytes: view.as_bytes,
                };
                Read::BatchGet(request, v1::BatchGetResponse::default())
            }
            Call::Scan(step) => Read::Scan(self.scan(&step), v1::ScanResponse::default()),
            Call::Write(_) | Call::Again(_) => unreachable!("these write"),
        };
        async move {
            match read {
                Read::Get(request, _) => {
                    let answer = kv.get(request.clone()).await.expect("it reads");
                    Read::Get(request, answer.into_inner())
                }
                Read::BatchGet(request, _) => {
                    let answer = kv.batch_get(request.clone()).await.expect("it reads");
                    Read::BatchGet(request, answer.into_inner())
                }
                Read::Scan(request, _) => {
                    let answer = kv.scan(request.clone()).await.expect("it reads");
                    Read::Scan(request, answer.into_inner())
                }
            }
        }
    }

    fn build(&self, step: &WriteStep, now_ms: i64, revision: u64) -> Write {
        let mut commit = v1::CommitRequest {
            request_id: step
                .request_id
                .map(|id| format!("case{}-{id}", self.number))
                .unwrap_or_default(),
            ..Default::default()
        };
        for (number, check) in &step.checks {
            let (namespace, mut key) = self.name(*number);
            let current = self.state.entries.get(&(namespace.clone(), key.clone()));
            let expect = match check {
                CheckStep::Current => v1::check::Expect::Revision(current.map_or(0, |entry| entry.revision)),
                CheckStep::Revision(revision) => v1::check::Expect::Revision(*revision),
                CheckStep::Exists(exists) => v1::check::Expect::Exists(*exists),
                CheckStep::PrefixUnchanged { prefix, back } => {
                    key.clone_from(&PREFIXES[*prefix]);
                    v1::check::Expect::PrefixUnchangedSince(revision.saturating_sub(*back))
                }
            };
            commit.checks.push(v1::Check {
                namespace,
                key,
                expect: Some(expect),
            });
        }
        let mut named = HashSet::new();
        for (number, put) in &step.mutations {
            if named.insert(number) {
                let (namespace, key) = self.name(*number);
                let op = match put {
                    None => v1::mutation::Op::Delete(v1::mutation::Delete {}),
                    Some(put) => v1::mutation::Op::Put(build_put(*put, now_ms)),
                };
                commit.mutations.push(v1::Mutation {
                    namespace,
                    key,
                    op: Some(op),
                });
            }
        }
        if let Some(bad) = step.bad
            && let Some(first) = commit.mutations.first_mut()
        {
            match BAD_KEYS.get(bad) {
                Some(bad_key) => first.key.clone_from(bad_key),
                None if step.kind == Kind::Commit => {
                    let twice = first.clone();
                    commit.mutations.push(twice);
                }
                None => {}
            }
        }
        if step.kind == Kind::Commit {
            return Write::Commit(commit);
        }
        let Some(first) = commit.mutations.into_iter().next() else {
            let (namespace, key) = self.name(0);
            return Write::Delete(v1::DeleteRequest {
                namespace,
                key,
                ..Default::default()
            });
        };
        // About the written key, whichever the check was about.
        let expected_revision = step.checks.first().and_then(|(_, check)| match check {
            CheckStep::Current => {
                let current = self.state.entries.get(&(first.namespace.clone(), first.key.clone()));
                Some(current.map_or(0, |entry| entry.revision))
            }
            CheckStep::Revision(revision) => Some(*revision),
            CheckStep::Exists(_) | CheckStep::PrefixUnchanged { .. } => None,
        });
        match first.op {
            Some(v1::mutation::Op::Put(put)) if step.kind == Kind::Put => Write::Put(v1::PutRequest {
                namespace: first.namespace,
                key: first.key,
                content: put.content.map(|content| match content {
                    v1::mutation::put::Content::Value(bytes) => v1::put_request::Content::Value(bytes),
                    v1::mutation::put::Content::Text(text) => v1::put_request::Content::Text(text),
                }),
                expected_revision,
                expiry: put.expiry.map(|expiry| match expiry {
                    v1::mutation::put::Expiry::Ttl(ttl) => v1::put_request::Expiry::Ttl(ttl),
                    v1::mutation::put::Expiry::ExpireTime(time) => v1::put_request::Expiry::ExpireTime(time),
                }),
                metadata: put.metadata,
                request_id: commit.request_id,
            }),
            _ => Write::Delete(v1::DeleteRequest {
                namespace: first.namespace,
                key: first.key,
                expected_revision,
                request_id: commit.request_id,
            }),
        }
    }
}

fn build_put(step: PutStep, now_ms: i64) -> v1::mutation::Put {
    v1::mutation::Put {
        content: Some(match step.content {
            ContentStep::Text(value) => v1::mutation::put::Content::Text(value.to_string().repeat(usize::from(value))),
            ContentStep::Bytes(value) => v1::mutation::put::Content::Value(vec![value; usize::from(value) * 2].into()),
            ContentStep::Key(key) => v1::mutation::put::Content::Text(KEYS[key].clone()),
        }),
        expiry: match step.expiry {
            ExpiryStep::Never => None,
            ExpiryStep::After(ms) => Some(v1::mutation::put::Expiry::Ttl(prost_types::Duration {
                seconds: ms / 1_000,
                nanos: i32::try_from(ms % 1_000 * 1_000_000).expect("parts of a second fit"),
            })),
            ExpiryStep::At(ms) => Some(v1::mutation::put::Expiry::ExpireTime(timestamp(now_ms + ms))),
        },
        metadata: [("step".to_owned(), format!("{:?}", step.content))].into(),
    }
}

impl Read {
    fn revision(&self) -> u64 {
        match self {
            Self::Get(_, answer) => answer.store_revision,
            Self::BatchGet(_, answer) => answer.store_revision,
            Self::Scan(_, answer) => answer.store_revision,
        }
    }

    /// Whether the answer is what these keys give.
    fn fits(&self, state: &State) -> bool {
        match self {
            Self::Get(request, answer) => {
                let entry = state.entries.get(&(request.namespace.clone(), request.key.clone()));
                answer.entry == entry.map(|entry| shown(entry, request.omit_value, request.as_bytes))
            }
            Self::BatchGet(request, answer) => {
                let entries = request.keys.iter().map(|key| {
                    let entry = state.entries.get(&(key.namespace.clone(), key.key.clone()));
                    entry.map(|entry| shown(entry, request.omit_values, request.as_bytes))
                });
                entries.eq(answer.items.iter().map(|item| item.entry.clone()))
            }
            Self::Scan(request, answer) => {
                let mut rows = state.scan(request, None);
                if request.page_size > 0 {
                    rows.truncate(usize::try_from(request.page_size).expect("it is positive"));
                }
                answer.rows == rows
            }
        }
    }
}

impl std::fmt::Debug for Read {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Get(request, answer) => write!(formatter, "{answer:?} to {request:?}"),
            Self::BatchGet(request, answer) => write!(formatter, "{answer:?} to {request:?}"),
            Self::Scan(request, answer) => write!(formatter, "{answer:?} to {request:?}"),
        }
    }
}

type Client = proto::v1::kv_service_client::KvServiceClient<tonic::service::Routes>;

/// Sends a write and tells its answer.
async fn send(write: Write, mut kv: Client) -> Answer {
    let answer = match write {
        Write::Put(put) => kv.put(put).await.map(|answer| Answer::Put(answer.into_inner())),
        Write::Delete(delete) => kv
            .delete(delete)
            .await
            .map(|answer| Answer::Deleted(answer.into_inner())),
        Write::Commit(commit) => {
            kv.commit(commit)
                .await
                .map(|answer| match answer.into_inner().outcome.expect("it has an outcome") {
                    Outcome::Committed(committed) => Answer::Committed(committed),
                    Outcome::Conflict(conflict) => Answer::Conflict(conflict),
                })
        }
    };
    answer.unwrap_or_else(|status| refusal(&status))
}

fn refusal(status: &Status) -> Answer {
    match status.code() {
        Code::Aborted => {
            let info = status.get_details_error_info().expect("it says why");
            assert_eq!(info.reason, "REVISION_MISMATCH");
            let current = info.metadata["current_revision"].parse().expect("a revision");
            Answer::Mismatch { current }
        }
        Code::InvalidArgument => {
            let request = status.get_details_bad_request().expect("it names the field");
            assert!(!request.field_violations.is_empty());
            Answer::Refused
        }
        _ => panic!("{status:?}"),
    }
}

async fn play(world: &mut World, steps: Vec<Step>) {
    world.cases += 1;
    let mut case = Case {
        number: world.cases,
        state: State::default(),
        log: BTreeMap::new(),
        sent: Vec::new(),
    };
    let mut live = world.follow(&case).await;
    for step in steps {
        match step {
            Step::Together(calls) => world.together(&mut case, calls).await,
            Step::Pages(scan, writes) => world.pages(&mut case, &scan, writes).await,
            Step::Stream(scan) => world.stream(&mut case, &scan).await,
            Step::Watch(watch) => {
                let selectors = watch.selectors.iter().map(|step| case.selector(*step)).collect();
                let after = world.revision.saturating_sub(watch.back);
                world.replay(&mut case, selectors, after, watch.view).await;
            }
            Step::Pass(ms) => world.pass(&mut case, ms),
            Step::Restart => {
                drop(live);
                world.restart().await;
                live = world.follow(&case).await;
            }
        }
        world.compare(&mut case).await;
    }
    live.end(&case, world.now_ms).await;
    world
        .lingering
        .extend(case.state.entries.values().filter_map(expire_ms));
}

#[test]
fn keys_are_what_the_model_says() {
    let runtime = runtime("model_kv");
    let world = RefCell::new(None::<World>);
    let mut runner = TestRunner::new(cases(2_000));
    let done = runner.run(&steps(), |steps| {
        // Taken, so that none is left over from a case that failed.
        let mut current = world.take().unwrap_or_else(World::new);
        runtime.block_on(async {
            within(play(&mut current, steps)).await;
            if current.cases >= CASES_IN_A_STORE {
                let mut service = current.service.take().expect("it runs");
                service.check().await;
                service.stop().await;
            }
        });
        if current.service.is_some() {
            world.replace(Some(current));
        }
        Ok(())
    });
    if let Err(failure) = done {
        panic!("{failure}");
    }
    runtime.block_on(async {
        if let Some(mut current) = world.take() {
            let mut service = current.service.take().expect("it runs");
            service.check().await;
            service.stop().await;
        }
    });
}
