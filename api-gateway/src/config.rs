//! What an operator can set, checked before anything is served.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use feed::sign::Signer;
use feed_store::StorageArgs;
use runtime::secret::Secret;
use tokio::net::TcpListener;

use crate::auth::Credentials;
use crate::origins::Origins;

/// Environments in which the signing keys that the TypeScript feed publishes as samples may be used.
const SAMPLE_KEY_ENVIRONMENTS: [&str; 2] = ["development", "test"];

/// Settings of the gateway process.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "api-gateway", version, about = "The REST API of a DP-1 feed")]
pub struct Args {
    /// What it serves.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// Where the storage service is.
    #[command(flatten)]
    pub storage: StorageArgs,
    /// How it logs.
    #[command(flatten)]
    pub telemetry: runtime::telemetry::Args,
}

/// Settings of the API itself, the same in a process of its own and beside the others.
#[derive(Clone, Debug, clap::Args)]
pub struct GatewayArgs {
    /// Host to listen on.
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 is any free one.
    #[arg(long, env = "PORT", default_value_t = 8787)]
    pub port: u16,
    /// Shown by /api/v1/health. `development` and `test` accept published sample keys.
    #[arg(long, env = "ENVIRONMENT", default_value = "sqlite")]
    pub environment: String,
    /// Secret of write requests; two, separated by a comma, while it is being changed.
    #[arg(long, env = "API_SECRET", hide_env_values = true)]
    pub api_secret: Option<Secret>,
    /// Signing key: hex of the 48-byte PKCS#8 form or of the 32-byte seed.
    #[arg(long, env = "ED25519_PRIVATE_KEY", hide_env_values = true)]
    pub ed25519_private_key: Option<Secret>,
    /// Where this feed is reached from outside, separated by commas: playlist URLs there are its own.
    #[arg(long, env = "PUBLIC_URL", value_delimiter = ',')]
    pub public_url: Vec<String>,
    /// Further hosts of its own, separated by commas, each `host` or `host:port`.
    #[arg(long, env = "SELF_HOSTED_DOMAINS", value_delimiter = ',')]
    pub self_hosted_domains: Vec<String>,
}

impl GatewayArgs {
    /// Opens the port.
    pub async fn bind(&self) -> anyhow::Result<TcpListener> {
        let Self { host, port, .. } = self;
        let bound = TcpListener::bind((host.as_str(), *port)).await;
        bound.with_context(|| format!("cannot listen on {host}:{port}"))
    }

    /// The settings, checked; `bound` is the address that was opened.
    pub fn settings(&self, bound: SocketAddr) -> anyhow::Result<Settings> {
        let key = self.ed25519_private_key.as_ref().and_then(Secret::reveal);
        let key = key.context("ED25519_PRIVATE_KEY is not set: `dp1-feed keygen` makes a key")?;
        let signer = Signer::from_hex(key).context("ED25519_PRIVATE_KEY is not a signing key")?;
        let may_be_sample = SAMPLE_KEY_ENVIRONMENTS.contains(&self.environment.as_str());
        if signer.public_key().is_published_sample() && !may_be_sample {
            bail!(
                "ED25519_PRIVATE_KEY is a published sample key, which anyone can sign with: it is accepted only with \
                 ENVIRONMENT=development or test"
            );
        }
        let secret = self.api_secret.as_ref().and_then(Secret::reveal);
        let secret = secret.context("API_SECRET is not set: nobody could write")?;
        Ok(Settings {
            signer,
            credentials: Credentials::parse(secret).context("API_SECRET cannot be used")?,
            environment: self.environment.clone(),
            origins: Origins::new(&self.public_url, &self.self_hosted_domains, bound)?,
        })
    }
}

/// What the gateway needs to know, checked.
#[derive(Debug)]
pub struct Settings {
    pub(crate) signer: Signer,
    pub(crate) credentials: Credentials,
    pub(crate) environment: String,
    pub(crate) origins: Origins,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    const KEY: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

    fn settings(change: impl FnOnce(&mut GatewayArgs)) -> anyhow::Result<Settings> {
        let mut args = Args::parse_from(["api-gateway"]).gateway;
        args.api_secret = Some("secret".to_owned().into());
        args.ed25519_private_key = Some(KEY.to_owned().into());
        change(&mut args);
        args.settings(SocketAddr::from(([127, 0, 0, 1], 8787)))
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut GatewayArgs), expected: &str) {
        let error = settings(change).expect_err("refused");
        let sentence = format!("{error:#}");
        assert!(sentence.contains(expected), "{sentence}");
        assert!(!sentence.contains(KEY), "the key is not repeated");
    }

    #[test]
    fn a_wrong_setting_is_one_sentence() {
        assert!(settings(|_| {}).is_ok());
        check_refused(|args| args.api_secret = None, "API_SECRET is not set");
        check_refused(
            |args| args.api_secret = Some(" ".to_owned().into()),
            "API_SECRET is not set",
        );
        check_refused(
            |args| args.api_secret = Some("a,b,c".to_owned().into()),
            "more than the 2 secrets",
        );
        check_refused(|args| args.ed25519_private_key = None, "ED25519_PRIVATE_KEY is not set");
        check_refused(
            |args| args.ed25519_private_key = Some(KEY[1..].to_owned().into()),
            "not hexadecimal",
        );
        check_refused(
            |args| args.ed25519_private_key = Some(format!("{KEY}00").into()),
            "33 bytes",
        );
        check_refused(
            |args| args.public_url = vec!["feed.example.com".to_owned()],
            "PUBLIC_URL",
        );
        check_refused(
            |args| args.self_hosted_domains = vec!["https://feed.example.com".to_owned()],
            "SELF_HOSTED_DOMAINS",
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let args = Args::parse_from(["api-gateway", "--api-secret", "hush", "--ed25519-private-key", KEY]);
        let printed = format!("{args:?}");
        assert!(!printed.contains("hush") && !printed.contains(KEY));
        let settings = args.gateway.settings(SocketAddr::from(([127, 0, 0, 1], 8787)));
        let printed = format!("{settings:?}");
        assert!(settings.is_ok());
        assert!(!printed.contains("hush") && !printed.contains(KEY));
    }
}
