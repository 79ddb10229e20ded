//! Backup: a copy of the store as of one moment, made beside the database, then told in chunks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proto::limits::BACKUP_CHUNK_BYTES_MAX;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::errand::Teller;
use super::flow::End;
use super::lock::beside;
use crate::error::StoreError;
use crate::model::{BackupHeader, BackupPart};

/// What a copy's file name has after the database's, before its own id.
const ENDING: &str = ".backup-";
/// The engine's code for a write that the system refused for another reason than a full disk: in a copy that is a quota,
/// or a limit on the size of files.
const WRITE_REFUSED: i32 = rusqlite::ffi::SQLITE_IOERR_WRITE;

/// Makes a copy of the database at `path` and tells it.
pub(super) fn back_up(path: &Path, teller: &Teller<BackupPart>) -> Result<(), End> {
    let (file, header) = make(path, teller)?;
    teller.tell(BackupPart::Header(header))?;
    let mut digest = Sha256::new();
    loop {
        let mut chunk = Vec::with_capacity(BACKUP_CHUNK_BYTES_MAX);
        let limit = BACKUP_CHUNK_BYTES_MAX as u64;
        (&file).take(limit).read_to_end(&mut chunk).map_err(unusable)?;
        if chunk.is_empty() {
            break;
        }
        digest.update(&chunk);
        teller.tell(BackupPart::Chunk(Bytes::from(chunk)))?;
    }
    teller.tell(BackupPart::Trailer {
        sha256: digest.finalize().into(),
    })
}

/// Removes what a process that was killed has left of its copies.
pub(super) fn remove_leftovers(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let mut prefix = name.as_encoded_bytes().to_vec();
    prefix.extend(ENDING.as_bytes());
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    for file in files {
        let name = file.file_name();
        let id = name.as_encoded_bytes().strip_prefix(&*prefix);
        // An operator's own files may be named much like that.
        let is_ours = id.is_some_and(|id| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit));
        if is_ours && let Err(error) = fs::remove_file(file.path()) {
            tracing::warn!(%error, path = %file.path().display(), "a leftover of a backup cannot be removed");
        }
    }
}

/// The copy, open to be read and without a name any more: it goes with the last handle, whatever happens.
fn make(path: &Path, teller: &Teller<BackupPart>) -> Result<(File, BackupHeader), End> {
    let source = teller.connection(path)?;
    let store_id: [u8; 16] = source.query_row("select store_id from store", (), |row| row.get(0))?;
    let named = Named::new(beside(path, &format!("{ENDING}{}", Uuid::new_v4().simple())))?;
    // As bytes, for a path need not be text.
    source
        .execute("vacuum into cast(? as text)", [named.0.as_os_str().as_encoded_bytes()])
        .map_err(no_room)?;
    drop(source);
    let header = mark(&named.0, store_id).map_err(no_room)?;
    let file = File::open(&named.0).map_err(unusable)?;
    let total_bytes = file.metadata().map_err(unusable)?.len();
    Ok((file, BackupHeader { total_bytes, ..header }))
}

/// Marks the copy as one, and says what it is a copy of.
fn mark(copy: &Path, store_id: [u8; 16]) -> rusqlite::Result<BackupHeader> {
    let connection = Connection::open(copy)?;
    // If this fails the copy is void: it needs no journal, and leaves none beside it.
    connection.execute_batch("pragma journal_mode = off; pragma synchronous = off; update store set is_copy = 1")?;
    let schema_version = connection.query_row("pragma user_version", (), |row| row.get(0))?;
    let revision: i64 = connection.query_row("select revision from store", (), |row| row.get(0))?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(BackupHeader {
        store_revision: revision.cast_unsigned(),
        total_bytes: 0,
        schema_version,
        store_id: Uuid::from_bytes(store_id).to_string(),
    })
}

/// A file that is removed when this is dropped.
struct Named(PathBuf);

impl Named {
    /// Makes it, empty, for nobody else to read: it holds all that the store holds.
    fn new(path: PathBuf) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        let made = options.create_new(true).write(true).mode(0o600).open(&path);
        made.map_err(unusable)?;
        Ok(Self(path))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a backup's file cannot be removed");
        }
    }
}

/// While a copy is made nothing is written but the copy.
fn no_room(error: rusqlite::Error) -> StoreError {
    let is_full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
    let is_refused = error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == WRITE_REFUSED);
    if is_full || is_refused {
        StoreError::NoRoom(Arc::new(error))
    } else {
        error.into()
    }
}

fn unusable(error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoRoom(Arc::new(error)),
        _ => StoreError::File(Arc::new(error)),
    }
}
