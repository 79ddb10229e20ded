//! What a first start makes: a signing key and an API secret, each in a file that only its owner reads.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use feed::sign::Signer;
use rand::Rng as _;

/// Random bytes of an API secret.
const API_SECRET_BYTES: usize = 32;

/// Reads the signing key of the data folder; the first time it is made.
pub(crate) fn signing_key(folder: &Path) -> anyhow::Result<String> {
    read_or_make(folder, "signing-key", "signing key", || {
        Signer::generate(&mut rand::rng()).to_pkcs8_hex()
    })
}

/// Reads the API secret of the data folder; the first time it is made.
pub(crate) fn api_secret(folder: &Path) -> anyhow::Result<String> {
    read_or_make(folder, "api-secret", "API secret", || {
        let mut secret = [0; API_SECRET_BYTES];
        rand::rng().fill_bytes(&mut secret);
        URL_SAFE_NO_PAD.encode(secret)
    })
}

fn read_or_make(folder: &Path, name: &str, what: &str, make: impl FnOnce() -> String) -> anyhow::Result<String> {
    let path = &folder.join(name);
    match fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("the {what} in {} cannot be read", path.display())),
    }
    let text = make();
    // Under its own name only once it is whole and on disk: neither a crash nor a power cut leaves half a key, or none.
    let unfinished = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        if let Err(error) = fs::remove_file(&unfinished)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("the {what} cannot be written to {}", path.display()))?;
    println!("made the {what}: {}", path.display());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_was_made_once_is_read_afterwards_and_only_by_its_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = signing_key(folder.path()).expect("a key");
        let secret = api_secret(folder.path()).expect("a secret");
        assert!(Signer::from_hex(&key).is_ok());
        assert_eq!(
            URL_SAFE_NO_PAD.decode(&secret).map(|bytes| bytes.len()),
            Ok(API_SECRET_BYTES)
        );
        for name in ["signing-key", "api-secret"] {
            let mode = fs::metadata(folder.path().join(name))
                .expect("the file")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(signing_key(folder.path()).expect("the key"), key);
        assert_eq!(api_secret(folder.path()).expect("the secret"), secret);
    }
}
