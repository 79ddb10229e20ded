//! Opens the file: identity, settings of the engine, migrations. Knows no key and no message.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::lock::{LastClose, beside};
use crate::config::Sync;
use crate::error::OpenError;

/// "DP1S": says that a file is ours.
const APPLICATION_ID: i64 = 0x4450_3153;
/// The first engine that cannot damage a file by two checkpoints at once.
const ENGINE_VERSION_MIN: i32 = 3_051_003;
/// Numbered from 1; never edited once released.
const MIGRATIONS: [&str; 5] = [
    include_str!("../../migrations/0001_kv.sql"),
    include_str!("../../migrations/0002_queue.sql"),
    include_str!("../../migrations/0003_history.sql"),
    include_str!("../../migrations/0004_queue_settings.sql"),
    include_str!("../../migrations/0005_copy.sql"),
];
/// Of a page of the file, in bytes: best for values of 1 to 8 KiB.
pub(super) const PAGE_BYTES: u64 = 8_192;
/// Where the file's header says which kind of journal its readers must know, and what it says there of a file that has no
/// write-ahead log.
const JOURNAL_AT: usize = 19;
const NO_LOG: u8 = 1;
/// Statements that a connection keeps prepared: more than there are.
const STATEMENTS_KEPT: usize = 256;

/// What the one row of facts says.
pub(super) struct Facts {
    pub(super) schema_version: u32,
    pub(super) store_id: [u8; 16],
    pub(super) secret: [u8; 32],
    pub(super) revision: u64,
    pub(super) clock_ms: i64,
}

/// Opens the file for writing, makes it if it is not there, and brings it up to date. After an unclean close it is looked
/// through first.
pub(super) fn open(path: &Path, sync: Sync, last_close: LastClose) -> Result<(Connection, Facts), OpenError> {
    if rusqlite::version_number() < ENGINE_VERSION_MIN {
        return Err(OpenError::UnsafeEngine {
            version: rusqlite::version(),
        });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let unusable = |error| unusable(path, error);
    look_for_lost_file(path)?;
    let mut connection = Connection::open_with_flags(path, flags).map_err(unusable)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(unusable)?;
    let version = identify(&connection, path)?;
    if connection.is_readonly("main").map_err(unusable)? {
        return Err(OpenError::ReadOnly { path: path.to_owned() });
    }
    if version == 0 {
        // Both are fixed by the first page that is written.
        connection
            .execute_batch(&format!(
                "pragma page_size = {PAGE_BYTES}; pragma auto_vacuum = incremental"
            ))
            .map_err(unusable)?;
    }
    let mode: String = connection
        .query_row("pragma journal_mode = wal", (), |row| row.get(0))
        .map_err(unusable)?;
    if mode != "wal" {
        return Err(OpenError::NoWriteAheadLog {
            path: path.to_owned(),
            mode,
        });
    }
    set_up(&connection, -65_536).map_err(unusable)?;
    let synchronous = match sync {
        Sync::Full => "full",
        Sync::Normal => "normal",
    };
    // The checkpoints are made elsewhere; that of the engine is the last resort.
    let journal = "pragma journal_size_limit = 67108864; pragma wal_autocheckpoint = 10000";
    connection
        .execute_batch(&format!("pragma synchronous = {synchronous}; {journal}"))
        .map_err(unusable)?;
    if version > 0 && last_close == LastClose::Unclean {
        quick_check(&connection, path)?;
    }
    migrate(&mut connection, path, version)?;
    make_copy_a_store(&mut connection).map_err(unusable)?;
    // So that the first statements are planned on figures, if there are any to be had: of all tables, of part of the rows.
    connection
        .execute_batch("pragma optimize = 0x10012")
        .map_err(unusable)?;
    let facts = facts(&connection).map_err(|error| match error {
        error @ rusqlite::Error::SqliteFailure(..) => unusable(error),
        // The row is not there, or is not what every version wrote.
        error => damaged(path, &error),
    })?;
    Ok((connection, facts))
}

/// How long a connection waits for a lock that somebody else's tool holds.
pub(super) const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Settings of a connection that only reads.
pub(super) fn set_up_reader(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    set_up(connection, -16_384)?;
    connection.execute_batch("pragma query_only = on")
}

/// A connection for an errand beside the pool: it reads the database, and can write a copy of it elsewhere.
pub(super) fn open_aside(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    set_up(&connection, -16_384)?;
    // It may sort more than should lie in memory.
    connection.execute_batch("pragma temp_store = file")?;
    Ok(connection)
}

/// An empty database with all tables and indexes, for comparison.
pub(super) fn in_memory() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    for sql in MIGRATIONS {
        connection.execute_batch(sql)?;
    }
    Ok(connection)
}

/// Settings that every connection needs. A negative cache is in KiB.
fn set_up(connection: &Connection, cache_size: i32) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    connection.execute_batch(&format!(
        "pragma cache_size = {cache_size}; pragma temp_store = memory; pragma trusted_schema = off; \
         pragma cell_size_check = on; pragma foreign_keys = off"
    ))
}

/// The version of the file's schema, 0 if it is empty. Writes nothing, so that a foreign file stays as it is.
fn identify(connection: &Connection, path: &Path) -> Result<usize, OpenError> {
    let number = |sql| {
        connection
            .query_row(sql, (), |row| row.get::<_, i64>(0))
            .map_err(|error| unusable(path, error))
    };
    let application_id = number("pragma application_id")?;
    let version = number("pragma user_version")?;
    let tables = number("select count(*) from sqlite_schema")?;
    let known = MIGRATIONS.len();
    match usize::try_from(version) {
        Ok(0) if application_id == 0 && tables == 0 => Ok(0),
        Ok(version) if application_id == APPLICATION_ID && (1..=known).contains(&version) => Ok(version),
        Ok(version) if application_id == APPLICATION_ID && version > known => Err(OpenError::Newer {
            path: path.to_owned(),
            found: u32::try_from(version).unwrap_or(u32::MAX),
            known: u32::try_from(known).unwrap_or(u32::MAX),
        }),
        _ => Err(OpenError::Foreign { path: path.to_owned() }),
    }
}

/// The engine takes any log that lies beside a file for the file's own. The first page is in the file before there is a
/// log, so an empty file with a log beside it has lost its pages, and one that is not there is lost itself: the engine
/// would make a new one and delete the log. A file that was never opened by us, as a copy is, has no log: it was put in the
/// place of another, whose log would be written over it.
fn look_for_lost_file(path: &Path) -> Result<(), OpenError> {
    let has_log = std::fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0);
    if !has_log {
        return Ok(());
    }
    let another = || OpenError::LogOfAnother { path: path.to_owned() };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(another()),
        // The engine says what is wrong with it.
        Err(_) => return Ok(()),
    };
    let mut header = [0; JOURNAL_AT + 1];
    match file.read_exact(&mut header) {
        Ok(()) if header[JOURNAL_AT] == NO_LOG => Err(another()),
        Err(_) if file.metadata().is_ok_and(|file| file.len() == 0) => {
            Err(damaged(path, &"it is empty, and its write-ahead log is not"))
        }
        _ => Ok(()),
    }
}

/// Looks through the whole file, all but the indexes' content, and ends at the first fault.
fn quick_check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    tracing::warn!(path = %path.display(), "the database was not closed: it is checked");
    let began = Instant::now();
    let found: String = connection
        .query_row("pragma quick_check(1)", (), |row| row.get(0))
        .map_err(|error| unusable(path, error))?;
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if found != "ok" {
        return Err(damaged(path, &found));
    }
    tracing::info!(elapsed_ms, "the database is in order");
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path, version: usize) -> Result<(), OpenError> {
    for (number, sql) in (1_u32..).zip(MIGRATIONS).skip(version) {
        if version > 0 {
            // It may take a while.
            tracing::info!(number, "the database is being migrated");
        }
        if let Err(source) = apply(connection, number, sql) {
            // What does not fit may be no fault of the migration.
            quick_check(connection, path)?;
            return Err(OpenError::Migration {
                path: path.to_owned(),
                number,
                source,
            });
        }
    }
    Ok(())
}

/// A copy may have gone back in time: it becomes a store of its own, so that nobody takes it for the original.
fn make_copy_a_store(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_copy = transaction.execute(
        "update store set store_id = randomblob(16), secret = randomblob(32), is_copy = 0 where is_copy <> 0",
        (),
    )?;
    transaction.commit()?;
    if is_copy > 0 {
        tracing::info!("the database is a copy: it has become a store of its own");
    }
    Ok(())
}

fn apply(connection: &mut Connection, number: u32, sql: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    transaction.execute_batch(&format!(
        "pragma application_id = {APPLICATION_ID}; pragma user_version = {number}"
    ))?;
    transaction.commit()
}

fn facts(connection: &Connection) -> rusqlite::Result<Facts> {
    let schema_version = connection.query_row("pragma user_version", (), |row| row.get(0))?;
    connection.query_row("select store_id, secret, revision, clock_ms from store", (), |row| {
        Ok(Facts {
            schema_version,
            store_id: row.get(0)?,
            secret: row.get(1)?,
            revision: row.get::<_, i64>(2)?.cast_unsigned(),
            clock_ms: row.get(3)?,
        })
    })
}

fn unusable(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotADatabase { path },
        Some(ErrorCode::ReadOnly) => OpenError::ReadOnly { path },
        Some(ErrorCode::DatabaseCorrupt) => damaged(&path, &source),
        _ => OpenError::Unusable { path, source },
    }
}

fn damaged(path: &Path, found: &dyn std::fmt::Display) -> OpenError {
    let found = found.to_string();
    // Of several lines the first is a heading.
    let found = found.lines().next_back().unwrap_or_default();
    OpenError::Damaged {
        path: path.to_owned(),
        found: found.to_owned(),
    }
}
