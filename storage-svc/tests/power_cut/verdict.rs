//! Opens what a power cut left, and compares it with what had been promised by then.
//!
//! Every commit of the load is known, with its revision: so what is found must be exactly what the commits up to some
//! revision made, and that revision no lower than any that had been answered. What was promised outside of commits,
//! messages and their settlements, must be there if it was promised before the cut, and may be if it was promised later.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use proto::client::{Content, StorageClient};
use proto::v1;
use proto::v1::commit_response::Outcome;
use runtime::clock::Clock;
use rusqlite::{Connection, OpenFlags};
use storage_svc::{Store, StoreArgs, Sync};

use crate::load::{Commit, Deed, Enqueued, NAMESPACE, QUEUE};
use crate::recording::{Recording, STORE};
use crate::trace::Place;

/// How long the power is away: leases run out and back-offs are over, but commits are remembered still.
const AWAY_MS: i64 = 300_000;
/// The last promised commits are sent again: so many.
const RESENT: usize = 3;

/// What is not as it should be.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Which image it is of.
    pub(crate) image: String,
    /// Had been promised.
    pub(crate) lost: Vec<String>,
    /// Must never be, whatever was promised.
    pub(crate) wrong: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.image)?;
        for (kind, faults) in [("lost", &self.lost), ("wrong", &self.wrong)] {
            writeln!(
                formatter,
                "{} {kind}, such as {:?}",
                faults.len(),
                &faults[..faults.len().min(5)]
            )?;
        }
        Ok(())
    }
}

/// Judges the store in a folder, which is as after a cut at this place.
pub(crate) async fn judge(folder: &Path, image: String, cut: Place, recording: &Recording) -> Verdict {
    let mut verdict = Verdict {
        image,
        ..Verdict::default()
    };
    let path = folder.join(STORE);
    let args = StoreArgs {
        storage_sync: Sync::Normal,
        ..StoreArgs::at(&path)
    };
    let clock = Clock::manual(Clock::system().now_ms() + AWAY_MS);
    let store = match Store::open(&args, clock) {
        Ok(store) => store,
        Err(error) => {
            verdict.wrong.push(format!("the store does not open: {error:?}"));
            return verdict;
        }
    };
    let found = Found {
        client: StorageClient::in_process(storage_svc::routes(&store)),
        cut,
        recording,
    };
    found.judge(&mut verdict).await;
    drop(found);
    store.close().await;
    let file = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let said: rusqlite::Result<String> =
        file.and_then(|file| file.query_row("pragma integrity_check", (), |row| row.get(0)));
    if said != Ok("ok".to_owned()) {
        verdict.wrong.push(format!("integrity_check says {said:?}"));
    }
    verdict
}

/// What was found.
struct Found<'recording> {
    client: StorageClient,
    cut: Place,
    recording: &'recording Recording,
}

impl Found<'_> {
    async fn judge(&self, verdict: &mut Verdict) {
        let info = self.client.server_info().await.expect("it answers");
        let revision = info.store_revision;
        let promised = self.promised().filter_map(|deed| match deed {
            Deed::Commit(commit) => Some(commit.revision),
            _ => None,
        });
        let promised = promised.max().unwrap_or(0);
        if revision < promised {
            verdict
                .lost
                .push(format!("the store is at {revision}, and {promised} was promised"));
        }
        self.judge_keys(revision, verdict).await;
        self.judge_messages(revision, verdict).await;
        self.judge_memory(revision, verdict).await;
        let next = v1::CommitRequest {
            mutations: vec![v1::Mutation::put_text(NAMESPACE, "next", String::new(), [].into())],
            ..Default::default()
        };
        match self.client.commit(next).await {
            Ok(Outcome::Committed(committed)) if committed.revision == revision + 1 => {}
            other => verdict.wrong.push(format!("after {revision} comes {other:?}")),
        }
    }

    fn commits(&self) -> BTreeMap<u64, &Commit> {
        let deeds = self.recording.promises.iter().filter_map(|(_, deed)| match deed {
            Deed::Commit(commit) => Some((commit.revision, commit)),
            _ => None,
        });
        deeds.collect()
    }

    fn promised(&self) -> impl Iterator<Item = &Deed> {
        let before = self.recording.promises.iter().filter(|(at, _)| *at < self.cut);
        before.map(|(_, deed)| deed)
    }

    /// Exactly what the commits up to the revision made.
    async fn judge_keys(&self, revision: u64, verdict: &mut Verdict) {
        let mut expected: BTreeMap<&str, Option<(u64, &str)>> = BTreeMap::new();
        for (at, commit) in &self.commits() {
            for mutation in &commit.request.mutations {
                let key = expected.entry(&mutation.key).or_default();
                if *at <= revision {
                    *key = text_of(mutation).map(|text| (*at, text));
                }
            }
        }
        let keys = expected.keys().map(|key| v1::KeyRef {
            namespace: NAMESPACE.to_owned(),
            key: (*key).to_owned(),
        });
        let found = match self.client.batch_get(keys.collect(), Content::Included).await {
            Ok(found) => found,
            Err(error) => return verdict.wrong.push(format!("the keys cannot be read: {error:?}")),
        };
        assert_eq!(found.len(), expected.len(), "they are small");
        for ((key, expected), found) in expected.into_iter().zip(found) {
            let found = found.as_ref().map(|entry| (entry.revision, entry.text().unwrap_or("")));
            if found != expected {
                let told = |entry: Option<(u64, &str)>| entry.map(|(revision, text)| (revision, text.len()));
                let (found, expected) = (told(found), told(expected));
                verdict.wrong.push(format!(
                    "{key} is {found:?} at {revision}, not {expected:?} (revision, length)"
                ));
            }
        }
    }

    async fn judge_messages(&self, revision: u64, verdict: &mut Verdict) {
        let mut should = Messages::default();
        for (at, deed) in &self.recording.promises {
            let is_promised = *at < self.cut;
            match deed {
                Deed::Commit(commit) => {
                    let certainty = Certainty::of_commit(commit.revision <= revision);
                    should.enqueue(&commit.enqueued, certainty);
                    if let Some(id) = commit.acked {
                        should.settle(id, certainty);
                    }
                }
                Deed::Enqueued(messages) => should.enqueue(messages, Certainty::of_call(is_promised)),
                Deed::Settled(settled) => {
                    for settled in settled {
                        should.settle(settled.id, Certainty::of_call(is_promised));
                    }
                    let dead = settled.iter().filter(|settled| settled.is_dead).count() as u64;
                    should.dead_max += dead;
                    should.dead_min += if is_promised { dead } else { 0 };
                }
                Deed::Received => {}
            }
        }
        let mut found = BTreeMap::new();
        loop {
            let request = v1::ReceiveRequest {
                queue: QUEUE.to_owned(),
                max_messages: 100,
                ..Default::default()
            };
            let deliveries = match self.client.receive(request).await {
                Ok(deliveries) => deliveries,
                Err(error) => return verdict.wrong.push(format!("messages cannot be received: {error:?}")),
            };
            if deliveries.is_empty() {
                break;
            }
            found.extend(deliveries.into_iter().filter_map(|delivery| {
                let message = delivery.message?;
                let text = match message.content {
                    Some(v1::message::Content::Text(text)) => text,
                    _ => String::new(),
                };
                Some((message.id, text))
            }));
        }
        should.judge(&found, verdict);
        let stats = self.client.queue_stats(QUEUE).await.expect("it answers");
        let dead = stats.map_or(0, |stats| stats.dead);
        if dead < should.dead_min {
            verdict.lost.push(format!(
                "{dead} messages are dead, and {} were promised",
                should.dead_min
            ));
        }
        if dead > should.dead_max {
            verdict
                .wrong
                .push(format!("{dead} messages are dead, of {} at most", should.dead_max));
        }
    }

    /// Who sends a promised commit again is told that it has happened.
    async fn judge_memory(&self, revision: u64, verdict: &mut Verdict) {
        let mut commits: Vec<&Commit> = self
            .promised()
            .filter_map(|deed| match deed {
                Deed::Commit(commit) if commit.revision <= revision => Some(commit),
                _ => None,
            })
            .collect();
        commits.sort_by_key(|commit| commit.revision);
        for commit in commits.into_iter().rev().take(RESENT) {
            match self.client.commit(commit.request.clone()).await {
                Ok(Outcome::Committed(again)) if again.replayed && again.revision == commit.revision => {}
                other => verdict
                    .wrong
                    .push(format!("the commit at {}, sent again, is {other:?}", commit.revision)),
            }
        }
    }
}

fn text_of(mutation: &v1::Mutation) -> Option<&str> {
    match mutation.op.as_ref()? {
        v1::mutation::Op::Put(v1::mutation::Put {
            content: Some(v1::mutation::put::Content::Text(text)),
            ..
        }) => Some(text),
        _ => None,
    }
}

/// What the messages should be.
#[derive(Default)]
struct Messages<'text> {
    fates: BTreeMap<u64, Fate<'text>>,
    dead_min: u64,
    dead_max: u64,
}

#[derive(Default)]
struct Fate<'text> {
    text: &'text str,
    enqueued: Certainty,
    settled: Certainty,
}

/// Whether something happened, as far as one can know.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Certainty {
    #[default]
    No,
    Maybe,
    /// It was promised.
    Promised,
    /// It is part of a commit that is there.
    Yes,
}

impl Certainty {
    fn of_commit(is_there: bool) -> Self {
        if is_there { Self::Yes } else { Self::No }
    }

    fn of_call(is_promised: bool) -> Self {
        if is_promised { Self::Promised } else { Self::Maybe }
    }
}

impl<'text> Messages<'text> {
    fn enqueue(&mut self, messages: &'text [Enqueued], certainty: Certainty) {
        for message in messages {
            let fate = self.fates.entry(message.id).or_default();
            fate.text = &message.text;
            fate.enqueued = certainty;
        }
    }

    fn settle(&mut self, id: u64, certainty: Certainty) {
        self.fates.entry(id).or_default().settled = certainty;
    }

    fn judge(&self, found: &BTreeMap<u64, String>, verdict: &mut Verdict) {
        for (id, fate) in &self.fates {
            let there = found.get(id);
            match (there, fate.enqueued, fate.settled) {
                (Some(_), Certainty::No, _) => verdict.wrong.push(format!("message {id} is there without its commit")),
                (Some(_), _, Certainty::Yes) => {
                    verdict
                        .wrong
                        .push(format!("message {id} came again after the commit that acked it"));
                }
                (Some(_), _, Certainty::Promised) => {
                    verdict
                        .lost
                        .push(format!("message {id} came again after it was settled"));
                }
                (Some(text), _, _) if text != fate.text => verdict.wrong.push(format!("message {id} is another")),
                (None, Certainty::Yes, Certainty::No) => {
                    verdict
                        .wrong
                        .push(format!("message {id} is missing, and its commit is there"));
                }
                (None, Certainty::Promised, Certainty::No) => verdict.lost.push(format!("message {id} is missing")),
                _ => {}
            }
        }
        for id in found.keys().filter(|id| !self.fates.contains_key(id)) {
            verdict.wrong.push(format!("message {id} was never sent"));
        }
    }
}
