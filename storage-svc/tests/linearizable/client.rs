//! A client that reads and commits a few keys that all the others want as well, over a connection that breaks again and
//! again, and writes down what it was answered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::v1;
use proto::v1::commit_response::{Committed, Conflict, Outcome};
use proto::v1::kv_service_client::KvServiceClient;
use rand::seq::IndexedRandom as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::history::{Answer, Attempt, Check, Commit, History, Read, Seen, State};

pub(crate) const NAMESPACE: &str = "n";
/// A number that rises by one with each commit that writes it.
pub(crate) const COUNTERS: [&str; 2] = ["count/0", "count/1"];
/// Always written together.
const PAIR: [&str; 2] = ["pair/left", "pair/right"];
/// Come and go.
const TOGGLED: [&str; 3] = ["toggle/0", "toggle/1", "toggle/2"];
const TOGGLED_PREFIX: &str = "toggle/";
/// Between two tries to reach a service that is not there.
const PAUSE: Duration = Duration::from_millis(3);
/// A call takes milliseconds, or the connection breaks; what does neither is a fault.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);

/// One of several clients.
pub(crate) struct Client {
    number: usize,
    kv: KvServiceClient<Channel>,
    /// When the time of all histories began.
    start: Instant,
    /// What it saw last.
    view: State,
    history: History,
}

impl Client {
    pub(crate) fn new(number: usize, channel: Channel, start: Instant) -> Self {
        Self {
            number,
            kv: KvServiceClient::new(channel),
            start,
            view: State::default(),
            history: History::default(),
        }
    }

    /// Works until it is told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> History {
        while !stop.is_cancelled() {
            let done = match rand::random_range(0..10) {
                0 | 1 => self.get(choose(&contested())).await,
                2 | 3 => self.look_around().await,
                _ => self.commit().await,
            };
            if let Err(status) = done {
                assert_lost(&status);
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.history
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("no test takes centuries")
    }

    async fn get(&mut self, key: &str) -> Result<(), Status> {
        let request = v1::GetRequest {
            namespace: NAMESPACE.to_owned(),
            key: key.to_owned(),
            ..Default::default()
        };
        let began = self.now();
        let answer = within(self.kv.get(request)).await?.into_inner();
        self.saw(began, answer.store_revision, [(key, answer.entry)]);
        Ok(())
    }

    /// Reads everything that is contested, in one snapshot.
    async fn look_around(&mut self) -> Result<(), Status> {
        let keys = contested();
        let request = v1::BatchGetRequest {
            keys: keys.iter().map(|key| key_ref(key)).collect(),
            ..Default::default()
        };
        let began = self.now();
        let answer = within(self.kv.batch_get(request)).await?.into_inner();
        assert_eq!(answer.items.len(), keys.len(), "they are small");
        let entries = answer.items.into_iter().map(|item| item.entry);
        self.saw(began, answer.store_revision, keys.into_iter().zip(entries));
        Ok(())
    }

    fn saw<'key>(
        &mut self,
        began: u64,
        revision: u64,
        entries: impl IntoIterator<Item = (&'key str, Option<v1::Entry>)>,
    ) {
        let ended = self.now();
        let entries = entries.into_iter();
        let seen: BTreeMap<String, Option<Seen>> = entries
            .map(|(key, entry)| (key.to_owned(), entry.as_ref().map(see)))
            .collect();
        self.view.revision = revision;
        for (key, seen) in &seen {
            match seen {
                Some(seen) => drop(self.view.entries.insert(key.clone(), seen.clone())),
                None => drop(self.view.entries.remove(key)),
            }
        }
        self.history.reads.push(Read {
            began,
            ended,
            revision,
            seen,
        });
    }

    /// Sends one commit: until it is answered, or, if it has no id to be known by, once.
    async fn commit(&mut self) -> Result<(), Status> {
        let (checks, writes) = self.plan().await?;
        let patient = rand::random_ratio(4, 5);
        let mut commit = Commit {
            id: format!("op/{}/{}", self.number, self.history.commits.len()),
            checks,
            writes,
            attempts: Vec::new(),
        };
        commit.writes.insert(commit.id.clone(), Some(String::new()));
        let request = request(&commit, patient);
        while !self.attempt(&mut commit, &request).await && patient {
            tokio::time::sleep(PAUSE).await;
        }
        // Who is not sure that the answer came sends it again.
        if patient && rand::random_ratio(1, 6) {
            self.attempt(&mut commit, &request).await;
        }
        self.history.commits.push(commit);
        Ok(())
    }

    /// Whether it was answered.
    async fn attempt(&self, commit: &mut Commit, request: &v1::CommitRequest) -> bool {
        let began = self.now();
        let answer = match within(self.kv.clone().commit(request.clone())).await {
            Ok(answer) => Some(understand(answer.into_inner())),
            Err(status) => {
                assert_lost(&status);
                None
            }
        };
        let is_answered = answer.is_some();
        commit.attempts.push(Attempt {
            began,
            ended: self.now(),
            answer,
        });
        is_answered
    }

    /// What to commit, on the strength of what was seen.
    async fn plan(&mut self) -> Result<(Vec<Check>, BTreeMap<String, Option<String>>), Status> {
        let unique = Some(format!("{}/{}", self.number, self.history.commits.len()));
        let mut writes = BTreeMap::new();
        let checks = match rand::random_range(0..4) {
            0 => {
                let key = choose(&COUNTERS);
                self.get(key).await?;
                let seen = self.view.entries.get(key);
                let count: u64 = seen.map_or(0, |seen| seen.value.parse().expect("it is a number"));
                writes.insert(key.to_owned(), Some((count + 1).to_string()));
                vec![self.unchanged(key)]
            }
            1 => {
                writes.extend(PAIR.map(|key| (key.to_owned(), unique.clone())));
                if rand::random() {
                    PAIR.map(|key| self.unchanged(key)).into()
                } else {
                    Vec::new()
                }
            }
            2 => {
                let key = choose(&TOGGLED);
                let is_there = self.view.entries.contains_key(key);
                writes.insert(key.to_owned(), unique.filter(|_| !is_there));
                vec![Check::Exists(key.to_owned(), is_there)]
            }
            _ => {
                writes.insert(choose(&TOGGLED).to_owned(), unique.clone());
                writes.insert(PAIR[0].to_owned(), unique.clone());
                writes.insert(PAIR[1].to_owned(), unique);
                vec![
                    Check::PrefixUnchangedSince(TOGGLED_PREFIX.to_owned(), self.view.revision),
                    self.unchanged(choose(&PAIR)),
                ]
            }
        };
        Ok((checks, writes))
    }

    fn unchanged(&self, key: &str) -> Check {
        let revision = self.view.entries.get(key).map_or(0, |seen| seen.revision);
        Check::Revision(key.to_owned(), revision)
    }
}

fn contested() -> Vec<&'static str> {
    [&COUNTERS[..], &PAIR, &TOGGLED].concat()
}

fn choose(keys: &[&'static str]) -> &'static str {
    keys.choose(&mut rand::rng()).expect("there are keys")
}

async fn within<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(CALL_TIME_MAX, call)
        .await
        .expect("a call is answered or breaks")
}

/// The service says no to nothing here: an error is a connection that broke or was not to be had.
#[track_caller]
fn assert_lost(status: &Status) {
    let broke = [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled];
    assert!(broke.contains(&status.code()), "{status:?}");
}

fn key_ref(key: &str) -> v1::KeyRef {
    v1::KeyRef {
        namespace: NAMESPACE.to_owned(),
        key: key.to_owned(),
    }
}

fn request(commit: &Commit, patient: bool) -> v1::CommitRequest {
    let checks = commit.checks.iter().map(|check| {
        let (key, expect) = match check {
            Check::Revision(key, revision) => (key, v1::check::Expect::Revision(*revision)),
            Check::Exists(key, exists) => (key, v1::check::Expect::Exists(*exists)),
            Check::PrefixUnchangedSince(key, revision) => (key, v1::check::Expect::PrefixUnchangedSince(*revision)),
        };
        v1::Check {
            namespace: NAMESPACE.to_owned(),
            key: key.clone(),
            expect: Some(expect),
        }
    });
    let mutations = commit.writes.iter().map(|(key, value)| match value {
        Some(value) => v1::Mutation::put_text(NAMESPACE, key, value.clone(), [].into()),
        None => v1::Mutation::delete(NAMESPACE, key),
    });
    v1::CommitRequest {
        checks: checks.collect(),
        mutations: mutations.collect(),
        request_id: if patient { commit.id.clone() } else { String::new() },
        ..Default::default()
    }
}

fn understand(answer: v1::CommitResponse) -> Answer {
    match answer.outcome.expect("there is an outcome") {
        Outcome::Committed(Committed { revision, replayed, .. }) => Answer::Committed { revision, replayed },
        Outcome::Conflict(Conflict {
            failed_checks,
            current,
            store_revision,
            ..
        }) => Answer::Conflict {
            revision: store_revision,
            failed: failed_checks.into_iter().map(|index| index as usize).collect(),
            current: current.iter().map(|entry| (entry.key.clone(), see(entry))).collect(),
        },
    }
}

pub(crate) fn see(entry: &v1::Entry) -> Seen {
    Seen {
        value: entry.text().unwrap_or_default().to_owned(),
        revision: entry.revision,
        create_revision: entry.create_revision,
        version: entry.version,
    }
}
