//! The keys that an issuer publishes: fetched when a token needs them, kept for a time, and kept on for a longer one
//! while the issuer cannot be asked.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{HeaderValue, StatusCode, header};
use jsonwebtoken::Algorithm;
use reqwest::redirect::{Attempt, Policy};
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use super::key::{Key, KeySet, KeySetError};
use super::token::TokenError;

/// How long an issuer is waited for: from connecting to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest set of keys, in bytes.
pub(super) const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// Most redirects on the way to it.
pub(super) const REDIRECTS_MAX: usize = 3;
const ACCEPTED: HeaderValue = HeaderValue::from_static("application/jwk-set+json, application/json");

/// How old keys may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// They are used for so long without asking again.
    pub(crate) fresh: Duration,
    /// The issuer is not asked again before so long, whatever tokens come.
    pub(crate) cool_down: Duration,
    /// They are used for so much longer while the issuer cannot be asked.
    pub(crate) stale: Duration,
}

/// The keys behind a URL.
#[derive(Debug)]
pub(super) struct Jwks {
    issuer: Issuer,
    times: Times,
    cache: Arc<Mutex<Cache>>,
}

#[derive(Clone, Debug)]
struct Issuer {
    url: Url,
    http: reqwest::Client,
}

#[derive(Debug, Default)]
struct Cache {
    /// With the time of their arrival.
    keys: Option<(KeySet, Instant)>,
    /// When the issuer was asked last, whatever it answered.
    asked: Option<Instant>,
    /// Whether it could not be asked then.
    is_away: bool,
    /// Ends when it has been asked.
    asking: Option<watch::Receiver<()>>,
}

/// What becomes of a token's question.
enum Look {
    Answered(Result<Arc<Key>, TokenError>),
    /// To be asked again when this ends.
    Asking(watch::Receiver<()>),
}

/// Why there are no keys from the issuer.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the request failed")]
    Http(#[from] reqwest::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer is larger than {KEY_SET_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the answer cannot be used")]
    Keys(#[from] KeySetError),
}

impl Jwks {
    /// Asks nothing yet: an issuer that is away does not keep a gateway from starting.
    pub(super) fn new(url: &str, times: Times) -> anyhow::Result<Self> {
        let url: Url = url.parse().context("it is not a URL")?;
        if !matches!(url.scheme(), "http" | "https") {
            bail!("it is neither an http nor an https URL");
        }
        if url.scheme() == "http" {
            tracing::warn!("JWT_JWKS_URL is not https: whoever can change what is on its way can make tokens");
        }
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Whoever else installs one at this moment installs the same.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let http = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            .redirect(Policy::custom(redirect))
            .no_proxy()
            .user_agent(concat!("dp1-feed/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("the HTTP client cannot start")?;
        Ok(Self {
            issuer: Issuer { url, http },
            times,
            cache: Arc::default(),
        })
    }

    /// The key of a token, fetched if need be.
    pub(super) async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, TokenError> {
        match self.look(id, algorithm) {
            Look::Answered(answer) => answer,
            Look::Asking(mut asking) => {
                // Nothing is ever sent: it ends with the task that asks, however that ends.
                let _ = asking.changed().await;
                lock(&self.cache).find(id, algorithm, self.times)
            }
        }
    }

    fn look(&self, id: Option<&str>, algorithm: Algorithm) -> Look {
        let mut cache = lock(&self.cache);
        let found = cache.find(id, algorithm, self.times);
        let is_unknown = matches!(found, Err(TokenError::UnknownKey | TokenError::NoKeys));
        if cache.age().is_some_and(|age| age < self.times.fresh) && !is_unknown {
            return Look::Answered(found);
        }
        let asking = cache.asking.clone().filter(|asking| asking.has_changed().is_ok());
        let asking = match asking {
            Some(asking) => asking,
            None if cache.asked.is_some_and(|at| at.elapsed() < self.times.cool_down) => return Look::Answered(found),
            None => self.ask(&mut cache),
        };
        // An issuer that was away the last time would be waited for in vain, as a rule.
        if cache.is_away && found.is_ok() {
            return Look::Answered(found);
        }
        Look::Asking(asking)
    }

    /// Asks the issuer. In a task of its own, because whoever began it may leave: a fetch that ended with its request
    /// could be kept from ever coming to an end.
    fn ask(&self, cache: &mut Cache) -> watch::Receiver<()> {
        let (end, asking) = watch::channel(());
        cache.asked = Some(Instant::now());
        cache.asking = Some(asking.clone());
        let (issuer, shared) = (self.issuer.clone(), Arc::clone(&self.cache));
        tokio::spawn(async move {
            let fetched = issuer.fetch().await;
            let mut cache = lock(&shared);
            cache.is_away = fetched.is_err();
            match fetched {
                Ok(keys) => cache.keys = Some((keys, Instant::now())),
                Err(error) => tracing::warn!(
                    error = &error as &dyn Error,
                    "the keys of the tokens' issuer cannot be fetched"
                ),
            }
            drop(cache);
            drop(end);
        });
        asking
    }
}

impl Cache {
    fn age(&self) -> Option<Duration> {
        self.keys.as_ref().map(|(_, at)| at.elapsed())
    }

    /// The key, if it is known and not too old.
    fn find(&self, id: Option<&str>, algorithm: Algorithm, times: Times) -> Result<Arc<Key>, TokenError> {
        match &self.keys {
            Some((keys, at)) if at.elapsed() < times.fresh + times.stale => keys.find(id, algorithm),
            _ => Err(TokenError::NoKeys),
        }
    }
}

impl Issuer {
    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let request = self.http.get(self.url.clone()).header(header::ACCEPT, ACCEPTED);
        let mut response = request.send().await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > KEY_SET_BYTES_MAX {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(KeySet::parse(&body)?)
    }
}

/// Few, and none that leaves TLS.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let leaves_tls = attempt.url().scheme() != "https" && attempt.previous().iter().any(|url| url.scheme() == "https");
    if leaves_tls {
        attempt.error("a redirect from https to http")
    } else if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}
