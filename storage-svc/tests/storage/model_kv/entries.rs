//! What keys should be: entries in memory, and what every write should be answered.

use std::collections::{BTreeMap, HashMap, HashSet};

use proto::v1;
use proto::v1::check::Expect;
use proto::v1::commit_response::{Committed, Conflict};
use proto::v1::mutation::Op;
use proto::v1::mutation::put::Content as NewContent;
use proto::v1::selector::Keys;

/// A write is remembered by its request id for so long.
const REMEMBERED_MS: i64 = 600_000;

/// A namespace and a key.
pub(super) type Name = (String, String);

/// One write, as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    Put(v1::PutRequest),
    Delete(v1::DeleteRequest),
    Commit(v1::CommitRequest),
}

/// What a write was answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Put(v1::PutResponse),
    Deleted(v1::DeleteResponse),
    Committed(Committed),
    Conflict(Conflict),
    Mismatch { current: u64 },
    Refused,
}

impl Answer {
    /// The store's revision that it names.
    pub(super) fn revision(&self) -> Option<u64> {
        match self {
            Self::Put(put) => Some(put.revision),
            Self::Deleted(deleted) => Some(deleted.revision),
            Self::Committed(committed) => Some(committed.revision),
            Self::Conflict(conflict) => Some(conflict.store_revision),
            Self::Mismatch { .. } | Self::Refused => None,
        }
    }
}

/// How a key changed; none: deleted.
pub(super) type Event = (Name, Option<v1::Entry>);

/// What a write does at some point of the order.
pub(super) struct Judged {
    pub(super) answer: Answer,
    pub(super) effect: Effect,
}

pub(super) enum Effect {
    /// Nothing, and the answer is the same at every revision.
    Nothing,
    /// Nothing, and the answer names the store's revision.
    Seen,
    /// The keys are these from now on.
    Changed(Box<Changed>),
}

pub(super) struct Changed {
    pub(super) state: State,
    pub(super) events: Vec<Event>,
    /// Entries that were written and are not there, for they have expired already.
    pub(super) still_born: u64,
}

/// The keys that are there at one revision.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<Name, v1::Entry>,
    remembered: HashMap<String, (Write, Answer, i64)>,
}

impl State {
    /// What the write is answered, if it is the next one, at this moment. `revision` is the store's or, if the write
    /// changes something, the one that it takes.
    pub(super) fn judge(&self, write: &Write, now_ms: i64, revision: u64) -> Judged {
        let commit = write.commit();
        let seen = |answer| Judged {
            answer,
            effect: Effect::Seen,
        };
        let told = |answer| Judged {
            answer,
            effect: Effect::Nothing,
        };
        if is_bad(&commit) {
            return told(Answer::Refused);
        }
        if let Some((known, answer, commit_ms)) = self.remembered.get(&commit.request_id)
            && commit_ms + REMEMBERED_MS > now_ms
        {
            return told(if known != write {
                Answer::Refused
            } else if let Answer::Committed(committed) = answer {
                Answer::Committed(Committed {
                    replayed: true,
                    ..committed.clone()
                })
            } else {
                answer.clone()
            });
        }
        let (failed_checks, current) = self.failed_checks(&commit.checks);
        if !failed_checks.is_empty() {
            if !matches!(write, Write::Commit(_)) {
                let current = current.first().map_or(0, |entry| entry.revision);
                return told(Answer::Mismatch { current });
            }
            return seen(Answer::Conflict(Conflict {
                failed_checks,
                failed_settlements: Vec::new(),
                current,
                store_revision: revision,
            }));
        }
        let mut changed = Changed {
            state: self.clone(),
            events: Vec::new(),
            still_born: 0,
        };
        let (mut created, mut deleted) = (false, false);
        for mutation in &commit.mutations {
            let name = (mutation.namespace.clone(), mutation.key.clone());
            let before = changed.state.entries.remove(&name);
            match mutation.op.as_ref().expect("it is set") {
                Op::Delete(_) if before.is_none() => {}
                Op::Delete(_) => {
                    deleted = true;
                    changed.events.push((name, None));
                }
                Op::Put(put) => {
                    created = before.is_none();
                    let entry = written(&name, put, before.as_ref(), now_ms, revision);
                    changed.events.push((name.clone(), Some(entry.clone())));
                    if expire_ms(&entry).is_none_or(|expire_ms| expire_ms > now_ms) {
                        changed.state.entries.insert(name, entry);
                    } else {
                        changed.still_born += 1;
                    }
                }
            }
        }
        let answer = match write {
            Write::Put(_) => Answer::Put(v1::PutResponse { revision, created }),
            Write::Delete(_) => Answer::Deleted(v1::DeleteResponse { revision, deleted }),
            Write::Commit(_) => Answer::Committed(Committed {
                revision,
                commit_time: Some(timestamp(now_ms)),
                enqueued: Vec::new(),
                replayed: false,
            }),
        };
        if changed.events.is_empty() {
            return seen(answer);
        }
        if !commit.request_id.is_empty() {
            let known = (write.clone(), answer.clone(), now_ms);
            changed.state.remembered.insert(commit.request_id, known);
        }
        Judged {
            answer,
            effect: Effect::Changed(Box::new(changed)),
        }
    }

    fn failed_checks(&self, checks: &[v1::Check]) -> (Vec<u32>, Vec<v1::Entry>) {
        let mut failed = Vec::new();
        let mut current = Vec::new();
        for (index, check) in (0..).zip(checks) {
            let entry = self.entries.get(&(check.namespace.clone(), check.key.clone()));
            let holds = match check.expect.as_ref().expect("it is set") {
                Expect::Revision(revision) => entry.map_or(0, |entry| entry.revision) == *revision,
                Expect::Exists(exists) => entry.is_some() == *exists,
                Expect::PrefixUnchangedSince(revision) => {
                    let mut entries = self.entries.values();
                    let holds = !entries.any(|entry| {
                        entry.namespace == check.namespace
                            && entry.key.starts_with(&check.key)
                            && entry.revision > *revision
                    });
                    if !holds {
                        failed.push(index);
                    }
                    continue;
                }
            };
            if !holds {
                failed.push(index);
                current.extend(entry.cloned().map(|entry| v1::Entry { content: None, ..entry }));
            }
        }
        (failed, current)
    }

    /// Drops what has expired; how many.
    pub(super) fn expire(&mut self, now_ms: i64) -> u64 {
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| expire_ms(entry).is_none_or(|expire_ms| expire_ms > now_ms));
        (before - self.entries.len()) as u64
    }

    /// The rows of a scan behind a key, in its order.
    pub(super) fn scan(&self, scan: &v1::ScanRequest, after: Option<&str>) -> Vec<v1::ScanRow> {
        let selector = scan.selector.as_ref().expect("it is set");
        let mut entries: Vec<&v1::Entry> = self
            .entries
            .values()
            .filter(|entry| selects(selector, &entry.namespace, &entry.key))
            .collect();
        if scan.reverse {
            entries.reverse();
        }
        let entries = entries.into_iter().filter(|entry| match after {
            None => true,
            Some(after) if scan.reverse => entry.key.as_str() < after,
            Some(after) => entry.key.as_str() > after,
        });
        let rows = entries.filter_map(|entry| {
            let target = scan.dereference.as_ref().and_then(|dereference| {
                let key = String::from_utf8(content_bytes(entry)).ok()?;
                let target = self.entries.get(&(dereference.target_namespace.clone(), key))?;
                Some(shown(target, false, scan.as_bytes))
            });
            let skips = scan.dereference.as_ref().is_some_and(|found| found.skip_dangling);
            (target.is_some() || !skips).then(|| v1::ScanRow {
                entry: Some(shown(entry, scan.omit_values, scan.as_bytes)),
                target,
            })
        });
        rows.collect()
    }
}

impl Write {
    /// The same as a commit.
    pub(super) fn commit(&self) -> v1::CommitRequest {
        let one = |namespace: &str, key: &str, expected: Option<u64>, op: Op, id: &str| v1::CommitRequest {
            checks: expected
                .map(|revision| v1::Check {
                    namespace: namespace.to_owned(),
                    key: key.to_owned(),
                    expect: Some(Expect::Revision(revision)),
                })
                .into_iter()
                .collect(),
            mutations: vec![v1::Mutation {
                namespace: namespace.to_owned(),
                key: key.to_owned(),
                op: Some(op),
            }],
            request_id: id.to_owned(),
            ..Default::default()
        };
        match self {
            Self::Commit(commit) => commit.clone(),
            Self::Delete(delete) => {
                let op = Op::Delete(v1::mutation::Delete {});
                one(
                    &delete.namespace,
                    &delete.key,
                    delete.expected_revision,
                    op,
                    &delete.request_id,
                )
            }
            Self::Put(put) => {
                let op = Op::Put(v1::mutation::Put {
                    content: put.content.as_ref().map(|content| match content {
                        v1::put_request::Content::Value(bytes) => NewContent::Value(bytes.clone()),
                        v1::put_request::Content::Text(text) => NewContent::Text(text.clone()),
                    }),
                    expiry: put.expiry.map(|expiry| match expiry {
                        v1::put_request::Expiry::Ttl(ttl) => v1::mutation::put::Expiry::Ttl(ttl),
                        v1::put_request::Expiry::ExpireTime(time) => v1::mutation::put::Expiry::ExpireTime(time),
                    }),
                    metadata: put.metadata.clone(),
                });
                one(&put.namespace, &put.key, put.expected_revision, op, &put.request_id)
            }
        }
    }
}

/// Whether the commit breaks a rule, whatever is there.
fn is_bad(commit: &v1::CommitRequest) -> bool {
    let mut named = HashSet::new();
    let mutations = commit.mutations.iter();
    let repeats = mutations
        .clone()
        .any(|mutation| !named.insert((&mutation.namespace, &mutation.key)));
    let bad_key = |key: &str| key.is_empty() || key.len() > 512 || key.contains('\0');
    let bad_check = commit.checks.iter().any(|check| match check.expect {
        Some(Expect::PrefixUnchangedSince(_)) => !check.key.is_empty() && bad_key(&check.key),
        _ => bad_key(&check.key),
    });
    repeats || bad_check || mutations.clone().any(|mutation| bad_key(&mutation.key))
}

fn written(
    (namespace, key): &Name,
    put: &v1::mutation::Put,
    before: Option<&v1::Entry>,
    now_ms: i64,
    revision: u64,
) -> v1::Entry {
    v1::Entry {
        namespace: namespace.clone(),
        key: key.clone(),
        content: put.content.as_ref().map(|content| match content {
            NewContent::Value(bytes) => v1::entry::Content::Value(bytes.clone()),
            NewContent::Text(text) => v1::entry::Content::Text(text.clone()),
        }),
        revision,
        create_revision: before.map_or(revision, |before| before.create_revision),
        version: before.map_or(1, |before| before.version + 1),
        update_time: Some(timestamp(now_ms)),
        expire_time: put.expiry.map(|expiry| match expiry {
            v1::mutation::put::Expiry::Ttl(ttl) => {
                timestamp(now_ms + ttl.seconds * 1_000 + i64::from(ttl.nanos / 1_000_000))
            }
            v1::mutation::put::Expiry::ExpireTime(time) => time,
        }),
        metadata: put.metadata.clone(),
    }
}

pub(super) fn expire_ms(entry: &v1::Entry) -> Option<i64> {
    let time = entry.expire_time?;
    Some(time.seconds * 1_000 + i64::from(time.nanos / 1_000_000))
}

pub(super) fn timestamp(time_ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time_ms.div_euclid(1_000),
        nanos: i32::try_from(time_ms.rem_euclid(1_000) * 1_000_000).expect("parts of a second fit"),
    }
}

fn content_bytes(entry: &v1::Entry) -> Vec<u8> {
    match entry.content.as_ref().expect("the model keeps contents") {
        v1::entry::Content::Value(bytes) => bytes.to_vec(),
        v1::entry::Content::Text(text) => text.clone().into_bytes(),
    }
}

/// An entry as a reader wants it.
pub(super) fn shown(entry: &v1::Entry, omit_values: bool, as_bytes: bool) -> v1::Entry {
    let content = match &entry.content {
        _ if omit_values => None,
        Some(v1::entry::Content::Text(text)) if as_bytes => Some(v1::entry::Content::Value(text.clone().into())),
        content => content.clone(),
    };
    v1::Entry {
        content,
        ..entry.clone()
    }
}

/// Whether the selector means the key.
pub(super) fn selects(selector: &v1::Selector, namespace: &str, key: &str) -> bool {
    let means = match &selector.keys {
        None => true,
        Some(Keys::Prefix(prefix)) => key.starts_with(prefix.as_str()),
        Some(Keys::Range(range)) => key >= range.start.as_str() && (range.end.is_empty() || key < range.end.as_str()),
    };
    means && selector.namespace == namespace
}
