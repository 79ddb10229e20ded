//! One process at a time: an advisory lock on a file beside the database. The system lets go of it when the process
//! ends, however it ends. What the file says tells whether the last holder closed the database: it is written when the
//! database is opened, and emptied when it has been closed.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::OpenError;

/// What the file says while the database is open, for whoever looks into it.
const OPEN: &[u8] = b"open\n";

/// How the last holder left the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastClose {
    /// Closed, or there was none.
    Clean,
    /// It ended with the database open: killed, or with the machine.
    Unclean,
}

/// Held as long as the database is open.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    last_close: LastClose,
}

impl Lock {
    /// Takes the lock of the database at `path`, and marks it as open.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let lock_path = beside(path, ".lock");
        let unusable = |source| OpenError::LockFile {
            path: lock_path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let last_close = if file.metadata().map_err(unusable)?.len() == 0 {
            LastClose::Clean
        } else {
            LastClose::Unclean
        };
        file.write_all(OPEN)
            // A power cut must not take the mark and leave what came after it. The folder is synced by the engine, when
            // it has made its log there.
            .and_then(|()| file.sync_all())
            .map_err(unusable)?;
        Ok(Self { file, last_close })
    }

    /// How the holder before left the database.
    pub(super) fn last_close(&self) -> LastClose {
        self.last_close
    }

    /// Says that the database is closed and in order. Dropped without it, the lock says that it is not.
    pub(super) fn release(self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.sync_all()
    }
}

/// The path of a file beside the database, named after it.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_holder_learns_how_the_last_one_left() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("store.db");
        let first = Lock::take(&path).expect("nobody else has it");
        assert_eq!(first.last_close(), LastClose::Clean);
        assert!(matches!(Lock::take(&path), Err(OpenError::InUse { .. })));
        drop(first);
        let second = Lock::take(&path).expect("nobody else has it");
        assert_eq!(second.last_close(), LastClose::Unclean);
        second.release().expect("the file is written");
        let third = Lock::take(&path).expect("nobody else has it");
        assert_eq!(third.last_close(), LastClose::Clean);
    }
}
