//! What an operator sets so that a process finds its storage service and is let in.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::builder::{OsStringValueParser, TypedValueParser};
use proto::client::{Connection, StorageClient};
use runtime::secret::{Secret, Secrets};

/// Settings of a process that calls the storage service, the same for all that do.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct StorageArgs {
    /// Address of the storage service: http://host:port, https://host:port or unix:/path.
    #[arg(long, env = "STORAGE_URL", default_value = "http://127.0.0.1:50051")]
    pub storage_url: String,
    /// Token that the storage service asks for; of two, separated by a comma, the first is sent.
    #[arg(long, env = "STORAGE_TOKEN", hide_env_values = true)]
    pub storage_token: Option<Secret>,
    /// File with the certificates that sign the storage service's, PEM. Unset: whom this machine trusts.
    #[arg(long, env = "STORAGE_TLS_CA", value_parser = path())]
    pub storage_tls_ca: Option<PathBuf>,
    /// File with the certificate chain that is shown to the storage service, PEM.
    #[arg(long, env = "STORAGE_TLS_CLIENT_CERT", value_parser = path())]
    pub storage_tls_client_cert: Option<PathBuf>,
    /// File with the private key of that certificate, PEM.
    #[arg(long, env = "STORAGE_TLS_CLIENT_KEY", value_parser = path())]
    pub storage_tls_client_key: Option<PathBuf>,
}

impl StorageArgs {
    /// A client that connects at its first call. Fails if the settings cannot be used.
    pub fn connect_lazy(&self) -> anyhow::Result<StorageClient> {
        let certificate = read(self.storage_tls_client_cert.as_deref(), "STORAGE_TLS_CLIENT_CERT")?;
        let key = read(self.storage_tls_client_key.as_deref(), "STORAGE_TLS_CLIENT_KEY")?;
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => anyhow::bail!("STORAGE_TLS_CLIENT_CERT and STORAGE_TLS_CLIENT_KEY need each other"),
        };
        let tokens = self.storage_token.as_ref().and_then(Secret::reveal);
        // The storage service does not start with what is refused here.
        tokens
            .map(Secrets::parse)
            .transpose()
            .context("STORAGE_TOKEN cannot be used")?;
        let token = tokens.and_then(|tokens| tokens.split(',').next());
        let connection = Connection {
            address: self.storage_url.clone(),
            token: token.map(|token| token.trim().to_owned()),
            ca: read(self.storage_tls_ca.as_deref(), "STORAGE_TLS_CA")?,
            identity,
        };
        Ok(StorageClient::connect_lazy(&connection)?)
    }
}

/// Takes an empty path too: a variable that is there but not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// A file that is set; a variable that is there but empty sets none.
fn read(path: Option<&Path>, variable: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let path = path.filter(|path| !path.as_os_str().is_empty());
    path.map(|path| std::fs::read(path).with_context(|| format!("{variable} {} cannot be read", path.display())))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(token: &str) -> anyhow::Result<StorageClient> {
        let args = StorageArgs {
            storage_url: "http://127.0.0.1:1".to_owned(),
            storage_token: Some(token.to_owned().into()),
            storage_tls_ca: None,
            storage_tls_client_cert: None,
            storage_tls_client_key: None,
        };
        args.connect_lazy()
    }

    #[tokio::test]
    async fn a_token_is_taken_as_the_storage_service_takes_it() {
        for token in ["", " ", "hush", "hush, hash"] {
            assert!(connect(token).is_ok(), "{token:?}");
        }
        for token in [",", ",hush", "hush,", "a,b,c"] {
            let error = format!("{:#}", connect(token).expect_err("it is refused"));
            assert!(error.contains("STORAGE_TOKEN") && !error.contains("hush"), "{error}");
        }
    }
}
