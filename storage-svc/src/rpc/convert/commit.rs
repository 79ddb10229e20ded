//! Commit, and the calls that are commits of one thing: Put, Delete, Enqueue.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use proto::limits::{
    COMMIT_BYTES_MAX, COMMIT_CHECKS_MAX, COMMIT_ENQUEUES_MAX, COMMIT_MUTATIONS_MAX, COMMIT_SETTLEMENTS_MAX,
    DEDUP_ID_BYTES_MAX, MESSAGE_ATTRIBUTES_BYTES_MAX, MESSAGE_BODY_BYTES_MAX, MESSAGE_DELAY_MAX,
    ORDERING_KEY_BYTES_MAX, TTL_MAX,
};
use proto::v1;
use proto::v1::commit_response::Outcome as WireOutcome;

use super::queue::settlements;
use super::read::bound;
use super::{
    count, entry, index, key, label, metadata, namespace, pairs, queue_name, request_id, span_ms, time_ms, timestamp,
    value,
};
use crate::error::StoreError;
use crate::model::{
    Change, Check, Commit, Committed, Conflict, Content, Enqueued, Expect, Expiry, KeyName, Mutation, NewMessage,
    Origin, Outcome, Pairs,
};
use crate::receipt::Seals;

/// More than nothing.
const TTL_MIN: Duration = Duration::from_nanos(1);

pub(in crate::rpc) fn commit(request: v1::CommitRequest, seals: &Seals) -> Result<Commit, StoreError> {
    count(request.checks.len(), 0, COMMIT_CHECKS_MAX, "checks")?;
    count(request.mutations.len(), 0, COMMIT_MUTATIONS_MAX, "mutations")?;
    count(request.enqueues.len(), 0, COMMIT_ENQUEUES_MAX, "enqueues")?;
    count(request.settlements.len(), 0, COMMIT_SETTLEMENTS_MAX, "settlements")?;
    let mut commit = Commit::new(Origin::Commit);
    for (index, wire) in request.checks.into_iter().enumerate() {
        commit.checks.push(check(wire, index)?);
    }
    for (index, wire) in request.mutations.into_iter().enumerate() {
        commit.mutations.push(mutation(wire, index)?);
    }
    let mut named = HashSet::with_capacity(commit.mutations.len());
    for (index, mutation) in commit.mutations.iter().enumerate() {
        if !named.insert(&mutation.name) {
            return Err(StoreError::invalid(
                format!("mutations[{index}].key"),
                "must be changed once in a commit",
            ));
        }
    }
    commit.enqueues = messages(request.enqueues, Origin::Commit)?;
    commit.settlements = settlements(request.settlements, seals)?;
    let mut settled = HashSet::with_capacity(commit.settlements.len());
    for (index, settlement) in commit.settlements.iter().enumerate() {
        if !settled.insert(settlement.lease.message_id) {
            return Err(StoreError::invalid(
                format!("settlements[{index}].receipt"),
                "must be of a message that is settled once in a commit",
            ));
        }
    }
    commit.bytes = bytes(&commit);
    if commit.bytes > COMMIT_BYTES_MAX {
        let rule = format!("must be at most {COMMIT_BYTES_MAX} bytes, enqueues added up");
        return Err(StoreError::invalid("mutations", rule));
    }
    Ok(commit.named(request_id(request.request_id)?))
}

pub(in crate::rpc) fn put(request: v1::PutRequest) -> Result<Commit, StoreError> {
    let name = KeyName {
        namespace: namespace(request.namespace, "namespace")?,
        key: key(request.key, "key")?,
    };
    let content = match request.content {
        None => Content::Bytes(Bytes::new()),
        Some(v1::put_request::Content::Value(bytes)) => Content::Bytes(bytes),
        Some(v1::put_request::Content::Text(text)) => Content::Text(text),
    };
    let change = Change::Put {
        content: value(content, str::to_owned)?,
        expiry: match request.expiry {
            None => Expiry::Never,
            Some(v1::put_request::Expiry::Ttl(ttl)) => Expiry::AfterMs(span_ms(ttl, TTL_MIN, TTL_MAX, "ttl")?),
            Some(v1::put_request::Expiry::ExpireTime(time)) => Expiry::AtMs(time_ms(time, "expire_time")?),
        },
        metadata: metadata(request.metadata, "metadata")?,
    };
    one_key(Origin::Put, name, change, request.expected_revision, request.request_id)
}

pub(in crate::rpc) fn delete(request: v1::DeleteRequest) -> Result<Commit, StoreError> {
    let name = KeyName {
        namespace: namespace(request.namespace, "namespace")?,
        key: key(request.key, "key")?,
    };
    one_key(
        Origin::Delete,
        name,
        Change::Delete,
        request.expected_revision,
        request.request_id,
    )
}

fn one_key(
    origin: Origin,
    name: KeyName,
    change: Change,
    expected_revision: Option<u64>,
    id: String,
) -> Result<Commit, StoreError> {
    let mut commit = Commit::new(origin);
    if let Some(revision) = expected_revision {
        commit.checks.push(Check::Key(name.clone(), Expect::Revision(revision)));
    }
    commit.mutations.push(Mutation { name, change });
    commit.bytes = bytes(&commit);
    Ok(commit.named(request_id(id)?))
}

pub(in crate::rpc) fn enqueue(request: v1::EnqueueRequest) -> Result<Commit, StoreError> {
    count(request.messages.len(), 1, COMMIT_ENQUEUES_MAX, "messages")?;
    let mut commit = Commit::new(Origin::Enqueue);
    commit.enqueues = messages(request.messages, Origin::Enqueue)?;
    commit.bytes = bytes(&commit);
    Ok(commit.named(request_id(request.request_id)?))
}

/// What happened, for a call that cannot conflict but on the revision it expected.
pub(in crate::rpc) fn committed(outcome: Outcome) -> Result<Committed, StoreError> {
    match outcome {
        Outcome::Committed(committed) => Ok(committed),
        Outcome::Conflict(conflict) => Err(StoreError::RevisionMismatch {
            current: conflict.current.first().map_or(0, |entry| entry.revision),
        }),
    }
}

pub(in crate::rpc) fn outcome(outcome: Outcome) -> v1::CommitResponse {
    let outcome = match outcome {
        Outcome::Committed(committed) => WireOutcome::Committed(v1::commit_response::Committed {
            revision: committed.revision,
            commit_time: Some(timestamp(committed.commit_ms)),
            enqueued: committed.enqueued.into_iter().map(enqueued).collect(),
            replayed: committed.replayed,
        }),
        Outcome::Conflict(conflict) => WireOutcome::Conflict(wire_conflict(conflict)),
    };
    v1::CommitResponse { outcome: Some(outcome) }
}

pub(in crate::rpc) fn enqueued(enqueued: Enqueued) -> v1::EnqueueResult {
    v1::EnqueueResult {
        id: enqueued.id,
        deduplicated: enqueued.deduplicated,
    }
}

fn wire_conflict(conflict: Conflict) -> v1::commit_response::Conflict {
    v1::commit_response::Conflict {
        failed_checks: conflict.failed_checks.into_iter().map(index).collect(),
        failed_settlements: conflict.failed_settlements.into_iter().map(index).collect(),
        current: conflict
            .current
            .into_iter()
            .map(|current| entry(current, false))
            .collect(),
        store_revision: conflict.store_revision,
    }
}

fn check(wire: v1::Check, index: usize) -> Result<Check, StoreError> {
    let namespace = namespace(wire.namespace, format!("checks[{index}].namespace"))?;
    let key_field = format!("checks[{index}].key");
    let expect = match wire.expect {
        Some(v1::check::Expect::PrefixUnchangedSince(revision)) => {
            return Ok(Check::PrefixUnchangedSince {
                namespace,
                prefix: bound(wire.key, key_field)?,
                revision,
            });
        }
        Some(v1::check::Expect::Revision(revision)) => Expect::Revision(revision),
        Some(v1::check::Expect::Exists(exists)) => Expect::Exists(exists),
        None => return Err(StoreError::invalid(format!("checks[{index}].expect"), "must be set")),
    };
    let key = key(wire.key, key_field)?;
    Ok(Check::Key(KeyName { namespace, key }, expect))
}

fn mutation(wire: v1::Mutation, index: usize) -> Result<Mutation, StoreError> {
    let field = |name: &str| Origin::Commit.mutation_field(index, name);
    let name = KeyName {
        namespace: namespace(wire.namespace, field("namespace"))?,
        key: key(wire.key, field("key"))?,
    };
    let change = match wire.op {
        Some(v1::mutation::Op::Delete(_)) => Change::Delete,
        Some(v1::mutation::Op::Put(put)) => Change::Put {
            content: value(put_content(put.content), |name| field(&format!("put.{name}")))?,
            expiry: match put.expiry {
                None => Expiry::Never,
                Some(v1::mutation::put::Expiry::Ttl(ttl)) => {
                    Expiry::AfterMs(span_ms(ttl, TTL_MIN, TTL_MAX, &field("put.ttl"))?)
                }
                Some(v1::mutation::put::Expiry::ExpireTime(time)) => {
                    Expiry::AtMs(time_ms(time, &field("put.expire_time"))?)
                }
            },
            metadata: metadata(put.metadata, field("put.metadata"))?,
        },
        None => return Err(StoreError::invalid(field("op"), "must be set")),
    };
    Ok(Mutation { name, change })
}

fn put_content(content: Option<v1::mutation::put::Content>) -> Content {
    match content {
        None => Content::Bytes(Bytes::new()),
        Some(v1::mutation::put::Content::Value(bytes)) => Content::Bytes(bytes),
        Some(v1::mutation::put::Content::Text(text)) => Content::Text(text),
    }
}

fn messages(wire: Vec<v1::NewMessage>, origin: Origin) -> Result<Vec<NewMessage>, StoreError> {
    wire.into_iter()
        .enumerate()
        .map(|(index, message)| new_message(message, |name| origin.message_field(index, name)))
        .collect()
}

fn new_message(wire: v1::NewMessage, field: impl Fn(&str) -> String) -> Result<NewMessage, StoreError> {
    let (body, name) = match wire.content {
        None => (Content::Bytes(Bytes::new()), "body"),
        Some(v1::new_message::Content::Body(bytes)) => (Content::Bytes(bytes), "body"),
        Some(v1::new_message::Content::Text(text)) => (Content::Text(text), "text"),
    };
    if body.as_bytes().len() > MESSAGE_BODY_BYTES_MAX {
        let rule = format!("must be at most {MESSAGE_BODY_BYTES_MAX} bytes");
        return Err(StoreError::invalid(field(name), rule));
    }
    Ok(NewMessage {
        queue: queue_name(wire.queue, field("queue"))?,
        body,
        attributes: pairs(wire.attributes, MESSAGE_ATTRIBUTES_BYTES_MAX, field("attributes"))?,
        ordering_key: label(wire.ordering_key, ORDERING_KEY_BYTES_MAX, field("ordering_key"))?,
        dedup_id: label(wire.dedup_id, DEDUP_ID_BYTES_MAX, field("dedup_id"))?,
        delay_ms: match wire.delay {
            Some(delay) => span_ms(delay, Duration::ZERO, MESSAGE_DELAY_MAX, &field("delay"))?,
            None => 0,
        },
    })
}

/// Keys, values, metadata and messages added up.
fn bytes(commit: &Commit) -> usize {
    let mutations = commit.mutations.iter().map(|mutation| {
        let change = match &mutation.change {
            Change::Put { content, metadata, .. } => content.as_bytes().len() + stored_bytes(metadata),
            Change::Delete => 0,
        };
        mutation.name.key.as_str().len() + change
    });
    let messages = commit
        .enqueues
        .iter()
        .map(|message| message.body.as_bytes().len() + stored_bytes(&message.attributes));
    mutations.chain(messages).sum()
}

fn stored_bytes(stored: &Pairs) -> usize {
    super::pairs_bytes(stored.iter())
}
