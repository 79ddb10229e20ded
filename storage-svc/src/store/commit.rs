//! A commit, within the caller's savepoint: judged on the state before it, then applied in order, or nothing.

use std::collections::HashMap;

use proto::limits::{NAMESPACES_MAX, PREFIX_CHECK_KEYS_MAX};
use rusqlite::Connection;

use super::effects::{Effects, Moment};
use super::history::{Recorder, Written};
use super::kv::{self, PrefixState};
use super::queue::{self, Lately};
use super::request;
use crate::error::StoreError;
use crate::model::{
    Change, Check, Commit, Committed, Conflict, Content, Entry, Event, Expect, Expiry, KeyName, Mutation, Namespace,
    Origin, Outcome, Pairs, With,
};
use crate::store::pairs;

/// Values up to this size lie in the entry's own row: ids in indexes do, documents do not.
const INLINE_BYTES_MAX: usize = 200;

const NEW_NAMESPACE: &str = "insert into namespace (name) values (?)";
const PUT: &str = "insert into entry (namespace_id, key, revision, create_revision, version, update_ms, expire_ms, \
     metadata, kind, inline_value, value_id) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
     on conflict (namespace_id, key) do update set revision = excluded.revision, \
     create_revision = excluded.create_revision, version = excluded.version, update_ms = excluded.update_ms, \
     expire_ms = excluded.expire_ms, metadata = excluded.metadata, kind = excluded.kind, \
     inline_value = excluded.inline_value, value_id = excluded.value_id";
const DELETE: &str = "delete from entry where namespace_id = ? and key = ?";
const NEW_VALUE: &str = "insert into value (content) values (?)";
const DELETE_VALUE: &str = "delete from value where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 2] = [DELETE, DELETE_VALUE];

/// Judges and applies a commit.
pub(super) fn commit(
    connection: &Connection,
    moment: Moment,
    commit: &Commit,
) -> Result<(Outcome, Effects), StoreError> {
    let Moment { now_ms, revision } = moment;
    if let Some(request) = &commit.request_id
        && let Some(committed) = request::recall(connection, now_ms, request)?
    {
        return Ok((Outcome::Committed(committed), Effects::default()));
    }
    if let Some(conflict) = judge(connection, moment, commit)? {
        return Ok((Outcome::Conflict(conflict), Effects::default()));
    }

    let mut writer = KeyWriter::new(connection, now_ms, revision + 1, commit.origin);
    for (index, mutation) in commit.mutations.iter().enumerate() {
        writer.apply(index, mutation)?;
    }
    let (created, deleted, changed) = (writer.created, writer.deleted, writer.changed);
    let growth = writer.recorder.growth();
    let mut lately = Lately::default();
    for settlement in &commit.settlements {
        queue::settle(connection, now_ms, settlement, &mut lately)?;
    }
    let enqueued = queue::enqueue(connection, now_ms, commit.origin, &commit.enqueues, &mut lately)?;
    let mut effects = lately.finish(connection)?;
    if changed {
        effects.wrote = true;
        effects.revision = Some(revision + 1);
        effects.history.add(growth);
    }
    let committed = Committed {
        revision: if changed { revision + 1 } else { revision },
        commit_ms: now_ms,
        enqueued,
        created,
        deleted,
        replayed: false,
    };
    // What had no effect can be judged anew.
    if effects.wrote
        && let Some(request) = &commit.request_id
    {
        request::remember(connection, request, &committed)?;
    }
    Ok((Outcome::Committed(committed), effects))
}

/// Why the commit must not happen, if it must not.
fn judge(connection: &Connection, moment: Moment, commit: &Commit) -> Result<Option<Conflict>, StoreError> {
    let mut conflict = Conflict {
        failed_checks: Vec::new(),
        failed_settlements: Vec::new(),
        current: Vec::new(),
        store_revision: moment.revision,
    };
    for (index, check) in commit.checks.iter().enumerate() {
        let (holds, current) = judge_check(connection, moment.now_ms, index, check)?;
        if !holds {
            conflict.failed_checks.push(index);
            conflict.current.extend(current);
        }
    }
    for (index, settlement) in commit.settlements.iter().enumerate() {
        if queue::judge(connection, moment.now_ms, settlement.lease)?.is_err() {
            conflict.failed_settlements.push(index);
        }
    }
    let failed = !conflict.failed_checks.is_empty() || !conflict.failed_settlements.is_empty();
    Ok(failed.then_some(conflict))
}

/// Whether the check holds, and the entry that it named.
fn judge_check(
    connection: &Connection,
    now_ms: i64,
    index: usize,
    check: &Check,
) -> Result<(bool, Option<Entry>), StoreError> {
    match check {
        Check::Key(name, expect) => {
            let current = kv::get(connection, now_ms, name.clone(), With::NoContent)?;
            let holds = match expect {
                Expect::Revision(revision) => current.as_ref().map_or(0, |entry| entry.revision) == *revision,
                Expect::Exists(exists) => current.is_some() == *exists,
            };
            Ok((holds, current))
        }
        Check::PrefixUnchangedSince {
            namespace,
            prefix,
            revision,
        } => {
            let state =
                kv::prefix_changed_since(connection, now_ms, namespace, prefix, *revision, PREFIX_CHECK_KEYS_MAX)?;
            match state {
                PrefixState::Unchanged => Ok((true, None)),
                PrefixState::Changed => Ok((false, None)),
                PrefixState::TooLarge => Err(StoreError::invalid(
                    format!("checks[{index}].key"),
                    format!("must be a prefix of at most {PREFIX_CHECK_KEYS_MAX} keys"),
                )),
            }
        }
    }
}

/// Writes keys at one revision.
struct KeyWriter<'connection> {
    connection: &'connection Connection,
    now_ms: i64,
    revision: u64,
    origin: Origin,
    recorder: Recorder<'connection>,
    namespace_ids: HashMap<Namespace, Option<i64>>,
    created: u32,
    deleted: u32,
    changed: bool,
}

impl<'connection> KeyWriter<'connection> {
    fn new(connection: &'connection Connection, now_ms: i64, revision: u64, origin: Origin) -> Self {
        Self {
            connection,
            now_ms,
            revision,
            origin,
            recorder: Recorder::new(connection, now_ms, revision),
            namespace_ids: HashMap::new(),
            created: 0,
            deleted: 0,
            changed: false,
        }
    }

    fn apply(&mut self, index: usize, mutation: &Mutation) -> Result<(), StoreError> {
        match &mutation.change {
            Change::Put {
                content,
                expiry,
                metadata,
            } => {
                let namespace_id = match self.namespace_id(&mutation.name.namespace)? {
                    Some(id) => id,
                    None => self.new_namespace(index, &mutation.name.namespace)?,
                };
                self.put(namespace_id, &mutation.name, content, *expiry, metadata)
            }
            Change::Delete => match self.namespace_id(&mutation.name.namespace)? {
                Some(namespace_id) => self.delete(namespace_id, &mutation.name),
                None => Ok(()),
            },
        }
    }

    fn put(
        &mut self,
        namespace_id: i64,
        name: &KeyName,
        content: &Content,
        expiry: Expiry,
        metadata: &Pairs,
    ) -> Result<(), StoreError> {
        let before = kv::stored(self.connection, namespace_id, &name.key)?;
        if let Some(stored) = &before
            && let Some(value_id) = stored.value_id
            && !self.recorder.tells(stored.revision)?
        {
            self.connection.prepare_cached(DELETE_VALUE)?.execute([value_id])?;
        }
        // One that has expired is not there, collected or not. Whoever watches has not been told of its end, and needs
        // not be: this put follows its last one.
        let before = before.filter(|stored| stored.is_live(self.now_ms));
        let (create_revision, version) = match &before {
            Some(stored) => (stored.create_revision, stored.version + 1),
            None => (self.revision, 1),
        };
        let bytes = content.as_bytes();
        let (inline_value, value_id) = if bytes.len() <= INLINE_BYTES_MAX {
            (Some(bytes), None)
        } else {
            self.connection.prepare_cached(NEW_VALUE)?.execute([bytes])?;
            (None, Some(self.connection.last_insert_rowid()))
        };
        let expire_ms = match expiry {
            Expiry::Never => None,
            Expiry::AfterMs(ttl_ms) => Some(self.now_ms.saturating_add(ttl_ms)),
            Expiry::AtMs(time_ms) => Some(time_ms),
        };
        let metadata = pairs::encode(metadata);
        let is_text = matches!(content, Content::Text(_));
        self.connection.prepare_cached(PUT)?.execute(rusqlite::params![
            namespace_id,
            name.key.as_str().as_bytes(),
            self.revision.cast_signed(),
            create_revision.cast_signed(),
            version.cast_signed(),
            self.now_ms,
            expire_ms,
            metadata,
            is_text,
            inline_value,
            value_id,
        ])?;
        let written = Written {
            create_revision,
            version,
            expire_ms,
            metadata: metadata.as_deref(),
            is_text,
            inline_value,
            value_id,
            value_bytes: bytes.len(),
        };
        self.recorder
            .put(namespace_id, name.key.as_str().as_bytes(), &written)?;
        self.changed = true;
        self.created += u32::from(before.is_none());
        Ok(())
    }

    /// An entry that has expired is left to be collected: it is not there already, and its end is told then.
    fn delete(&mut self, namespace_id: i64, name: &KeyName) -> Result<(), StoreError> {
        let before = kv::stored(self.connection, namespace_id, &name.key)?;
        let Some(stored) = before.filter(|stored| stored.is_live(self.now_ms)) else {
            return Ok(());
        };
        let gone = Gone {
            namespace_id,
            key: name.key.as_str().as_bytes(),
            revision: stored.revision,
            value_id: stored.value_id,
        };
        remove(self.connection, &mut self.recorder, gone, Event::Delete)?;
        self.changed = true;
        self.deleted += 1;
        Ok(())
    }

    fn namespace_id(&mut self, namespace: &Namespace) -> Result<Option<i64>, StoreError> {
        if let Some(id) = self.namespace_ids.get(namespace) {
            return Ok(*id);
        }
        let id = kv::namespace_id(self.connection, namespace)?;
        self.namespace_ids.insert(namespace.clone(), id);
        Ok(id)
    }

    fn new_namespace(&mut self, index: usize, namespace: &Namespace) -> Result<i64, StoreError> {
        let count: i64 = self
            .connection
            .query_row("select count(*) from namespace", (), |row| row.get(0))?;
        if usize::try_from(count).is_ok_and(|count| count >= NAMESPACES_MAX) {
            return Err(StoreError::invalid(
                self.origin.mutation_field(index, "namespace"),
                format!("must be one of the {NAMESPACES_MAX} namespaces there are: there can be no more"),
            ));
        }
        self.connection
            .prepare_cached(NEW_NAMESPACE)?
            .execute([namespace.as_str()])?;
        let id = self.connection.last_insert_rowid();
        self.namespace_ids.insert(namespace.clone(), Some(id));
        Ok(id)
    }
}

/// An entry that goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone<'key> {
    pub(super) namespace_id: i64,
    pub(super) key: &'key [u8],
    /// That last wrote it.
    pub(super) revision: u64,
    pub(super) value_id: Option<i64>,
}

/// Takes an entry out of the file and records it. Its value goes too, unless the history still tells it.
pub(super) fn remove(
    connection: &Connection,
    recorder: &mut Recorder<'_>,
    gone: Gone<'_>,
    event: Event,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(DELETE)?
        .execute((gone.namespace_id, gone.key))?;
    if let Some(value_id) = gone.value_id
        && !recorder.tells(gone.revision)?
    {
        connection.prepare_cached(DELETE_VALUE)?.execute([value_id])?;
    }
    recorder.removed(gone.namespace_id, gone.key, event)
}
