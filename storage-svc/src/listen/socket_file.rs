//! A Unix socket in the file system: made for its owner and group, taken over from the dead, removed at the end.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tokio::net::UnixListener;

/// Owner and group may connect.
const MODE: u32 = 0o660;

/// The file of a listening socket; removed when it is dropped, unless somebody has put another in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Makes the socket. One that is there is removed if nobody answers at it; any other file is left alone.
    pub(super) fn bind(path: &Path) -> anyhow::Result<(UnixListener, Self)> {
        remove_stale(path)?;
        let failed = || format!("the storage socket {} cannot be made", path.display());
        let listener = UnixListener::bind(path).with_context(failed)?;
        let inode = fs::symlink_metadata(path).with_context(failed)?.ino();
        let file = Self {
            path: path.to_owned(),
            inode,
        };
        fs::set_permissions(path, Permissions::from_mode(MODE)).with_context(failed)?;
        Ok((listener, file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the socket stays behind");
        }
    }
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        bail!("{} is there and is no socket", path.display());
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("the storage socket {} is in use by another process", path.display()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            let removed = fs::remove_file(path);
            removed.with_context(|| format!("the socket {} that nobody answers at cannot be removed", path.display()))
        }
        Err(error) => {
            Err(error).with_context(|| format!("whether the socket {} is in use cannot be told", path.display()))
        }
    }
}
