//! Integrity check: each table as the engine sees it, then what the tables promise each other. One step after the other,
//! each on a snapshot of its own, so that the write-ahead log can be emptied in between.
//!
//! The statements walk whole tables on purpose: they are no part of serving anybody.

use std::collections::BTreeMap;
use std::path::Path;

use proto::limits::CHECK_PROBLEMS_MAX;
use rusqlite::{Connection, ErrorCode};

use super::errand::Teller;
use super::flow::End;
use super::schema;
use crate::model::CheckReport;

/// Kept of a problem's text, in characters.
const PROBLEM_CHARS_MAX: usize = 500;
/// Value ids that are looked at together; one bit of memory each.
const VALUE_IDS_MAX: i64 = 64 * 1024 * 1024;

const TABLES: &str = "select name from sqlite_schema where type = 'table' order by name";
const SCHEMA: &str = "select type || ' ' || name, sql from sqlite_schema where name not like 'sqlite@_%' escape '@'";
const VALUE_IDS: &str = "select id from value where id >= ? and id < ? order by id";
const FIRST_VALUE_ID: &str = "select min(id) from value where id >= ?";
const ENTRY_VALUE_IDS: &str = "select value_id from entry where value_id >= ? and value_id < ?";
const CHANGE_VALUE_IDS: &str = "select value_id from change where value_id >= ? and value_id < ?";

/// What the tables promise each other: the subject, and a statement whose every row is a problem.
const PROMISES: [(&str, &str); 13] = [
    (
        "the store's row",
        "select printf('there are %d rows of facts about the store', count(*)) from store having count(*) <> 1 \
         union all \
         select printf('the history begins after revision %d, and the store is at %d', history_revision, revision) \
         from store where history_revision > revision or history_revision < 0 or revision < 0",
    ),
    (
        "figures of the history",
        "select printf('the history says %d changes of %d bytes, and has %d of %d', history_changes, history_bytes, n, \
         b) from store, (select count(*) as n, coalesce(sum(bytes), 0) as b from change) \
         where history_changes <> n or history_bytes <> b",
    ),
    (
        "namespaces of entries",
        "select printf('an entry %Q is of the namespace %d, which there is not', cast(key as text), namespace_id) \
         from entry where not exists (select 1 from namespace where namespace.id = entry.namespace_id)",
    ),
    (
        "revisions of entries",
        "select printf('the entry %Q of the namespace %d has revision %d, created by %d, version %d, and the store is \
         at %d', cast(key as text), namespace_id, entry.revision, create_revision, version, store.revision) \
         from entry, store where entry.revision > store.revision or create_revision > entry.revision \
         or create_revision < 1 or version < 1",
    ),
    (
        "values of entries",
        "select printf('the entry %Q of the namespace %d has lost its value %d', cast(key as text), namespace_id, \
         value_id) from entry where value_id is not null \
         and not exists (select 1 from value where value.id = entry.value_id)",
    ),
    (
        "changes",
        "select printf('the change %d is of revision %d, and the store is at %d', change.id, change.revision, \
         store.revision) from change, store where change.revision > store.revision or change.revision < 1 \
         union all \
         select printf('the change %d is of the namespace %d, which there is not', id, namespace_id) from change \
         where not exists (select 1 from namespace where namespace.id = change.namespace_id) \
         union all \
         select printf('the change %d has lost its value %d', change.id, value_id) from change, store \
         where value_id is not null and change.revision > history_revision \
         and not exists (select 1 from value where value.id = change.value_id)",
    ),
    (
        "bodies of messages",
        "select printf('the message %d has lost its body', id) from message \
         where not exists (select 1 from message_body where message_body.id = message.id)",
    ),
    (
        "messages of bodies",
        "select printf('the body %d belongs to no message', id) from message_body \
         where not exists (select 1 from message where message.id = message_body.id)",
    ),
    (
        "queues of messages",
        "select printf('the message %d is of the queue %d, which there is not', id, queue_id) from message \
         where not exists (select 1 from queue where queue.id = message.queue_id) \
         union all \
         select printf('the message %d is in state %d', id, state) from message where state not between 1 and 5",
    ),
    (
        "figures of queues",
        "select printf('the queue %Q says %d delayed, %d ready, %d leased, %d dead, %d blocked, and has %d, %d, %d, %d, \
         %d', name, delayed, ready, leased, dead, blocked, coalesce(n1, 0), coalesce(n2, 0), coalesce(n3, 0), \
         coalesce(n4, 0), coalesce(n5, 0)) from queue left join (select queue_id, sum(state = 1) as n1, \
         sum(state = 2) as n2, sum(state = 3) as n3, sum(state = 4) as n4, sum(state = 5) as n5 from message \
         group by queue_id) on queue_id = id where delayed <> coalesce(n1, 0) or ready <> coalesce(n2, 0) \
         or leased <> coalesce(n3, 0) or dead <> coalesce(n4, 0) or blocked <> coalesce(n5, 0)",
    ),
    (
        "order of messages",
        "select printf('%d messages of the ordering key %Q in the queue %d are not blocked', count(*), ordering_key, \
         queue_id) from message where ordering_key is not null and state < 4 \
         group by queue_id, ordering_key having count(*) > 1 \
         union all \
         select printf('the message %d is blocked behind nothing', id) from message as blocked where state = 5 \
         and not exists (select 1 from message where queue_id = blocked.queue_id \
         and ordering_key = blocked.ordering_key and state < 4) \
         union all \
         select printf('the message %d is blocked, and a later one of its ordering key is not', id) \
         from message as blocked where state = 5 and exists (select 1 from message \
         where queue_id = blocked.queue_id and ordering_key = blocked.ordering_key and state < 4 and state <> 3 \
         and id > blocked.id)",
    ),
    (
        "failures of messages",
        "select printf('the failure %d belongs to the message %d, which there is not', number, message_id) from failure \
         where not exists (select 1 from message where message.id = failure.message_id)",
    ),
    (
        "dedup ids of queues",
        "select printf('the dedup id %Q belongs to the queue %d, which there is not', dedup_id, queue_id) from dedup \
         where not exists (select 1 from queue where queue.id = dedup.queue_id)",
    ),
];

/// Checks the database at `path` and tells how it goes. Ends at the last problem that can be told.
pub(super) fn check(path: &Path, teller: &Teller<CheckReport>) -> Result<(), End> {
    let connection = teller.connection(path)?;
    let mut problems = Problems { teller, told: 0 };
    let mut tables = Vec::new();
    problems.look(|_| rows(&connection, TABLES, &mut tables, usize::MAX))?;
    // Asked for this one, the engine looks at the free pages as well.
    tables.insert(0, "sqlite_schema".to_owned());
    let steps = u32::try_from(tables.len() + PROMISES.len() + 2).unwrap_or(u32::MAX);
    let subjects = tables
        .iter()
        .map(|table| Subject::Table(table))
        .chain([Subject::Schema])
        .chain(PROMISES.map(|(subject, sql)| Subject::Promise(subject, sql)))
        .chain([Subject::OwnersOfValues]);
    for (step, subject) in (1..).zip(subjects) {
        if problems.room() == 0 {
            break;
        }
        teller.tell(CheckReport::Progress {
            step,
            steps,
            subject: subject.name(),
        })?;
        let room = problems.room();
        problems.look(|found| subject.look_at(&connection, found, room))?;
    }
    teller.tell(CheckReport::Finished {
        problems: problems.told as u64,
    })
}

/// What a step looks at.
enum Subject<'names> {
    Table(&'names str),
    Schema,
    Promise(&'static str, &'static str),
    OwnersOfValues,
}

impl Subject<'_> {
    fn name(&self) -> String {
        match self {
            Self::Table(table) => format!("table {table}"),
            Self::Schema => "tables and indexes".to_owned(),
            Self::Promise(name, _) => (*name).to_owned(),
            Self::OwnersOfValues => "owners of values".to_owned(),
        }
    }

    /// Adds at most `room` problems to those found.
    fn look_at(&self, connection: &Connection, found: &mut Vec<String>, room: usize) -> rusqlite::Result<()> {
        match self {
            Self::Table(table) => {
                let table = table.replace('\'', "''");
                rows(connection, &format!("pragma integrity_check('{table}')"), found, room)?;
                found.retain(|problem| problem != "ok");
                Ok(())
            }
            Self::Schema => tables_and_indexes(connection, found, room),
            Self::Promise(_, sql) => rows(connection, sql, found, room),
            Self::OwnersOfValues => owners_of_values(connection, found, room),
        }
    }
}

/// The problems told so far.
struct Problems<'teller> {
    teller: &'teller Teller<CheckReport>,
    told: usize,
}

impl Problems<'_> {
    /// How many more can be told.
    fn room(&self) -> usize {
        CHECK_PROBLEMS_MAX.saturating_sub(self.told)
    }

    /// Tells what `work` finds; that it cannot read the file is such a find, too.
    fn look(&mut self, work: impl FnOnce(&mut Vec<String>) -> rusqlite::Result<()>) -> Result<(), End> {
        let mut found = Vec::new();
        if let Err(error) = work(&mut found) {
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => found.push(error.to_string()),
                _ => return Err(error.into()),
            }
        }
        for problem in found.iter().take(self.room()) {
            let problem = problem.chars().take(PROBLEM_CHARS_MAX).collect();
            self.teller.tell(CheckReport::Problem(problem))?;
            self.told += 1;
        }
        Ok(())
    }
}

/// Adds the first column of at most `room` rows.
fn rows(connection: &Connection, sql: &str, found: &mut Vec<String>, room: usize) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(())?;
    let end = found.len().saturating_add(room);
    while found.len() < end
        && let Some(row) = rows.next()?
    {
        found.push(row.get(0)?);
    }
    Ok(())
}

/// Finds what is not as the migrations make it: an index that is gone makes slow, or lets in what it should keep out.
fn tables_and_indexes(connection: &Connection, found: &mut Vec<String>, room: usize) -> rusqlite::Result<()> {
    let listed = |connection: &Connection| {
        let mut statement = connection.prepare(SCHEMA)?;
        let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<BTreeMap<String, String>>>()
    };
    let (wanted, mut there) = (listed(&schema::in_memory()?)?, listed(connection)?);
    for (name, wanted) in wanted {
        match there.remove(&name) {
            Some(there) if there == wanted => {}
            Some(_) => found.push(format!("the {name} is not as it should be")),
            None => found.push(format!("the {name} is not there")),
        }
    }
    found.extend(there.into_keys().map(|name| format!("the {name} is not the store's")));
    found.truncate(room);
    Ok(())
}

/// Finds values that nobody names, and those that two entries name. There is no index from a value to its owners: ids are
/// marked in a map of bits, a range at a time.
fn owners_of_values(connection: &Connection, found: &mut Vec<String>, room: usize) -> rusqlite::Result<()> {
    let snapshot = connection.unchecked_transaction()?;
    let mut from = i64::MIN;
    while let Some(first) = snapshot.query_row(FIRST_VALUE_ID, [from], |row| row.get::<_, Option<i64>>(0))? {
        let end = first.saturating_add(VALUE_IDS_MAX);
        let mut named = Bits::default();
        for (sql, shares) in [(ENTRY_VALUE_IDS, false), (CHANGE_VALUE_IDS, true)] {
            let mut statement = snapshot.prepare_cached(sql)?;
            let mut rows = statement.query((first, end))?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                let was_named = named.set(id.abs_diff(first));
                if was_named && !shares && found.len() < room {
                    found.push(format!("the value {id} belongs to more than one entry"));
                }
            }
        }
        let mut statement = snapshot.prepare_cached(VALUE_IDS)?;
        let mut rows = statement.query((first, end))?;
        while found.len() < room
            && let Some(row) = rows.next()?
        {
            let id: i64 = row.get(0)?;
            if !named.is_set(id.abs_diff(first)) {
                found.push(format!("the value {id} belongs to nobody"));
            }
        }
        if end == i64::MAX {
            break;
        }
        from = end;
    }
    Ok(())
}

/// Marks of numbers from 0 on, as long as the largest of them.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// Marks a number; whether it was marked.
    fn set(&mut self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let was_set = self.0[word] & bit != 0;
        self.0[word] |= bit;
        was_set
    }

    fn is_set(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    fn place(number: u64) -> (usize, u64) {
        // Numbers are within a range of ids, which is small.
        (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
    }
}
