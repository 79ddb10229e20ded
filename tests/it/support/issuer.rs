//! Whoever issues tokens: its keys, the tokens that they sign, and the server that publishes them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A key of P-256 that signs tokens (ES256).
#[derive(Debug)]
pub(crate) struct TokenKey {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl TokenKey {
    /// A new key of this id.
    pub(crate) fn generate(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key can be made");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("a key");
        Self { id, pair }
    }

    /// A token for the feed that holds for ten minutes, with these claims besides or instead.
    pub(crate) fn token(&self, changes: &Value) -> String {
        let mut claims =
            json!({ "iss": "the-issuer", "aud": ["feed"], "sub": "someone", "exp": seconds_from_now(600) });
        let members = claims.as_object_mut().expect("an object");
        members.extend(changes.as_object().expect("an object").clone());
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", part(&json!({ "alg": "ES256", "kid": self.id })), part(&claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.expect("it signs")))
    }

    /// The public key as PEM.
    pub(crate) fn pem(&self) -> String {
        let prefix = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").expect("hex");
        let der = [&prefix, self.pair.public_key().as_ref()].concat();
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": self.id, "x": text(x), "y": text(y) })
    }
}

/// The time in seconds, so many later (or earlier).
pub(crate) fn seconds_from_now(seconds: i64) -> i64 {
    #[expect(clippy::disallowed_methods, reason = "tokens are of the time that is")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.expect("it is later than 1970").as_secs()).expect("it is not that late") + seconds
}

/// What the server answers.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// A body.
    Text(String),
    /// A status and no body.
    Status(&'static str),
    /// So many redirects, and then the body.
    Redirects(usize, String),
    /// A redirect to this URL.
    Elsewhere(String),
    /// A body without end.
    Endless,
    /// Nothing, as long as that; then the body.
    Late(Duration, String),
    /// The end of the connection.
    Away,
}

/// A set of these keys.
pub(crate) fn key_set(keys: &[&TokenKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// The server, until it is dropped.
#[derive(Debug)]
pub(crate) struct Issuer {
    origin: String,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    manner: Manner,
    asked: usize,
}

impl Issuer {
    /// A server that publishes these keys.
    pub(crate) async fn start(keys: &[&TokenKey]) -> Self {
        Self::serve(None, keys).await
    }

    /// The same over TLS.
    pub(crate) async fn start_with_tls(tls: TlsAcceptor, keys: &[&TokenKey]) -> Self {
        Self::serve(Some(tls), keys).await
    }

    async fn serve(tls: Option<TlsAcceptor>, keys: &[&TokenKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Mutex::new(Shared {
            manner: Manner::Text(key_set(keys)),
            asked: 0,
        }));
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Self {
            origin: url(scheme, address),
            shared,
            task,
        }
    }

    /// Where the keys are.
    pub(crate) fn url(&self) -> String {
        format!("{}/jwks", self.origin)
    }

    /// From now on it answers so.
    pub(crate) fn answer(&self, manner: Manner) {
        self.shared.lock().expect("no holder panics").manner = manner;
    }

    /// From now on it publishes these keys.
    pub(crate) fn publish(&self, keys: &[&TokenKey]) {
        self.answer(Manner::Text(key_set(keys)));
    }

    /// How often it was asked, redirects not counted.
    pub(crate) fn asked(&self) -> usize {
        self.shared.lock().expect("no holder panics").asked
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn url(scheme: &str, address: SocketAddr) -> String {
    format!("{scheme}://{address}")
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Mutex<Shared>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            match tls {
                None => answer(stream, &shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => answer(stream, &shared).await,
                    Err(_) => Ok(()),
                },
            }
        });
    }
}

/// Answers one request; what cannot be said is nobody's loss.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let hops = path.strip_prefix("/hop/").and_then(|hops| hops.parse().ok());
    let manner = {
        let mut shared = shared.lock().expect("no holder panics");
        shared.asked += usize::from(hops.is_none());
        shared.manner.clone()
    };
    match manner {
        Manner::Text(body) => text(&mut stream, &body).await?,
        Manner::Status(status) => {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
        }
        Manner::Redirects(all, body) => {
            let done = hops.unwrap_or(0);
            if done < all {
                redirect(&mut stream, &format!("/hop/{}", done + 1)).await?;
            } else {
                text(&mut stream, &body).await?;
            }
        }
        Manner::Elsewhere(url) => redirect(&mut stream, &url).await?,
        Manner::Endless => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
                .await?;
            loop {
                stream.write_all(&[b' '; 4096]).await?;
            }
        }
        Manner::Late(pause, body) => {
            tokio::time::sleep(pause).await;
            text(&mut stream, &body).await?;
        }
        Manner::Away => {}
    }
    stream.shutdown().await
}

async fn redirect(stream: &mut (impl AsyncWrite + Unpin), to: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await
}

async fn text(stream: &mut (impl AsyncWrite + Unpin), body: &str) -> std::io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await
}
