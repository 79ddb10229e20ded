//! What an operator can set, checked before anything is served.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, bail};
use feed::sign::Signer;
use feed_store::StorageArgs;
use runtime::secret::{Secret, Secrets};
use tokio::net::TcpListener;

use crate::auth::{Credentials, Terms, Times, Tokens};
use crate::origins::Origins;

/// Environments in which the signing keys that the TypeScript feed publishes as samples may be used.
const SAMPLE_KEY_ENVIRONMENTS: [&str; 2] = ["development", "test"];

/// How long an issuer's keys may be used without asking again.
const FRESH_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(24);
/// How often an issuer may be asked at most.
const COOL_DOWN_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);
/// How long keys may be used of an issuer that is away.
const STALE_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(7 * 24);

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
    /// Which tokens permit a write too.
    #[command(flatten)]
    pub jwt: JwtArgs,
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

/// Tokens (JWT) that permit a write, beside the secret or instead of it. With neither key nor URL there are none.
#[derive(Clone, Debug, clap::Args)]
pub struct JwtArgs {
    /// Public key of the tokens' issuer: a PEM block PUBLIC KEY, or base64 of one.
    #[arg(long, env = "JWT_PUBLIC_KEY", allow_hyphen_values = true)]
    pub jwt_public_key: Option<String>,
    /// Where the issuer publishes its keys (a JWK set), instead of JWT_PUBLIC_KEY.
    #[arg(long, env = "JWT_JWKS_URL")]
    pub jwt_jwks_url: Option<String>,
    /// What `iss` of a token must be; unset: anything.
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// What `aud` of a token must be or have; unset: anything.
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Refuse tokens without `exp`.
    #[arg(long, env = "JWT_REQUIRE_EXP")]
    pub jwt_require_exp: bool,
    /// How long published keys are used without asking again, in milliseconds, 100 to 86,400,000.
    #[arg(long, env = "JWT_JWKS_FRESH_MS", default_value = "600000", value_parser = parse_fresh)]
    pub jwt_jwks_fresh_ms: Duration,
    /// Pause before the issuer is asked again, such as for a key that is not known, in milliseconds, 100 to 3,600,000.
    #[arg(long, env = "JWT_JWKS_COOLDOWN_MS", default_value = "30000", value_parser = parse_cool_down)]
    pub jwt_jwks_cooldown_ms: Duration,
    /// How much longer published keys are used while the issuer is away, in milliseconds, 0 to 604,800,000.
    #[arg(long, env = "JWT_JWKS_STALE_MS", default_value = "3600000", value_parser = parse_stale)]
    pub jwt_jwks_stale_ms: Duration,
}

impl JwtArgs {
    /// The tokens that permit a write, if any do.
    fn tokens(&self) -> anyhow::Result<Option<Tokens>> {
        let terms = Terms {
            issuer: set(self.jwt_issuer.as_ref()).map(str::to_owned),
            audience: set(self.jwt_audience.as_ref()).map(str::to_owned),
            needs_expiry: self.jwt_require_exp,
        };
        let times = Times {
            fresh: self.jwt_jwks_fresh_ms,
            cool_down: self.jwt_jwks_cooldown_ms,
            stale: self.jwt_jwks_stale_ms,
        };
        // The URL wins, as in the TypeScript feed.
        match (set(self.jwt_jwks_url.as_ref()), set(self.jwt_public_key.as_ref())) {
            (Some(url), _) => Tokens::of_issuer(url, times, terms).map(Some),
            (None, Some(key)) => Tokens::of_key(key, terms).map(Some),
            (None, None) => Ok(None),
        }
    }
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
        let secrets = self.api_secret.as_ref().and_then(Secret::reveal).map(Secrets::parse);
        let secrets = secrets.transpose().context("API_SECRET cannot be used")?;
        let tokens = self.jwt.tokens()?;
        if secrets.is_none() && tokens.is_none() {
            bail!("API_SECRET is not set, nor JWT_PUBLIC_KEY or JWT_JWKS_URL: nobody could write");
        }
        Ok(Settings {
            signer,
            credentials: Credentials::new(secrets, tokens),
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

/// A setting that is there and not blank.
fn set(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn parse_fresh(text: &str) -> Result<Duration, String> {
    parse_ms(text, FRESH_RANGE)
}

fn parse_cool_down(text: &str) -> Result<Duration, String> {
    parse_ms(text, COOL_DOWN_RANGE)
}

fn parse_stale(text: &str) -> Result<Duration, String> {
    parse_ms(text, STALE_RANGE)
}

fn parse_ms(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let time = text
        .parse()
        .map(Duration::from_millis)
        .map_err(|_| "not a number of milliseconds".to_owned())?;
    if !range.contains(&time) {
        let (min, max) = (range.start().as_millis(), range.end().as_millis());
        return Err(format!("not from {min} to {max} milliseconds"));
    }
    Ok(time)
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
        check_refused(
            |args| args.jwt.jwt_public_key = Some("secret".to_owned()),
            "JWT_PUBLIC_KEY cannot be used",
        );
        check_refused(
            |args| args.jwt.jwt_jwks_url = Some("issuer.test".to_owned()),
            "JWT_JWKS_URL cannot be used",
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
    fn secret_or_tokens_will_do_and_blank_is_not_set() {
        let url = || Some("http://127.0.0.1:1/jwks".to_owned());
        let tokens_alone = settings(|args| {
            args.api_secret = None;
            args.jwt.jwt_jwks_url = url();
        });
        assert!(tokens_alone.is_ok());
        // The URL wins: the key is not even looked at.
        let both = settings(|args| {
            args.jwt.jwt_jwks_url = url();
            args.jwt.jwt_public_key = Some("secret".to_owned());
        });
        assert!(both.is_ok());
        check_refused(
            |args| {
                args.api_secret = None;
                args.jwt.jwt_jwks_url = Some(" ".to_owned());
                args.jwt.jwt_public_key = Some(String::new());
            },
            "nobody could write",
        );
    }

    #[test]
    fn a_key_may_be_an_argument() {
        let args = Args::try_parse_from(["api-gateway", "--jwt-public-key", "-----BEGIN PUBLIC KEY-----"]);
        let key = args.map(|args| args.gateway.jwt.jwt_public_key);
        assert_eq!(key.ok().flatten().as_deref(), Some("-----BEGIN PUBLIC KEY-----"));
    }

    #[test]
    fn times_are_checked_at_their_limits() {
        for (parse, min, max) in [
            (parse_fresh as fn(&str) -> _, 100, 86_400_000_u64),
            (parse_cool_down, 100, 3_600_000),
            (parse_stale, 0, 604_800_000),
        ] {
            assert_eq!(parse(&min.to_string()), Ok(Duration::from_millis(min)));
            assert_eq!(parse(&max.to_string()), Ok(Duration::from_millis(max)));
            assert!(parse(&(max + 1).to_string()).is_err());
            assert!(min == 0 || parse(&(min - 1).to_string()).is_err());
            assert!(parse("-1").is_err() && parse("").is_err() && parse("1.5").is_err());
        }
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
