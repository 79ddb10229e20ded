//! Pages without content: how many there are, and how they go back to the file system.

use rusqlite::Connection;

use super::schema::PAGE_BYTES;

/// Most pages that are given back at a time, so that no write waits long behind it.
const PAGES_GIVEN_MAX: u64 = 512;

/// The file's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) all: u64,
    /// Of them, without content.
    pub(super) free: u64,
    /// Of each, in bytes.
    pub(super) bytes: u64,
}

/// Counts them, as of the caller's snapshot.
pub(super) fn pages(connection: &Connection) -> rusqlite::Result<Pages> {
    Ok(Pages {
        all: connection.query_row("pragma page_count", (), number)?,
        free: free_pages(connection)?,
        bytes: PAGE_BYTES,
    })
}

/// Gives some of the free pages back, all but `kept` at most, and says how many. The file is cut when the write-ahead log
/// is moved into it.
pub(super) fn give_back_pages(connection: &Connection, kept: u64) -> rusqlite::Result<u64> {
    let before = free_pages(connection)?;
    let given = before.saturating_sub(kept).min(PAGES_GIVEN_MAX);
    if given == 0 {
        return Ok(0);
    }
    // The statement moves one page a step.
    let mut statement = connection.prepare(&format!("pragma incremental_vacuum({given})"))?;
    let mut steps = statement.query(())?;
    while steps.next()?.is_some() {}
    Ok(given)
}

fn free_pages(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("pragma freelist_count", (), number)
}

fn number(row: &rusqlite::Row<'_>) -> rusqlite::Result<u64> {
    row.get::<_, i64>(0).map(i64::cast_unsigned)
}
