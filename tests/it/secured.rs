//! Every binary with TLS, certificates for clients, and tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::client::{ClientError, Connection, StorageClient};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::support::{FeedClient, Issuer, Launch, Manner, Mode, Process, TokenKey, playlist};

/// Longest time until a process is ready, or has ended.
const START_MAX: Duration = Duration::from_secs(20);
const KEY: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Certificates in files.
struct Certificates {
    ca: PathBuf,
    /// Each with its key.
    service: [PathBuf; 2],
    client: [PathBuf; 2],
}

impl Certificates {
    fn make(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("there are no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let ca = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file can be written");
            path
        };
        let sign = |name: &str| {
            let key = KeyPair::generate().expect("a key can be made");
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("it is an address");
            let certificate = params.signed_by(&key, &ca).expect("it is signed");
            [
                write(&format!("{name}.pem"), certificate.pem()),
                write(&format!("{name}.key"), key.serialize_pem()),
            ]
        };
        Self {
            ca: write("ca.pem", ca.pem()),
            service: sign("service"),
            client: sign("client"),
        }
    }

    /// What a service needs that asks for certificates and tokens.
    fn guard(&self, launch: Launch) -> Launch {
        launch
            .variable("STORAGE_TLS_CERT", text(&self.service[0]))
            .variable("STORAGE_TLS_KEY", text(&self.service[1]))
            .variable("STORAGE_TLS_CLIENT_CA", text(&self.ca))
            .variable("STORAGE_TOKEN", "old-token,new-token")
            .variable("STORAGE_ADMIN_TOKEN", "admin-token")
    }

    /// What its clients need.
    fn admit(&self, launch: Launch, address: &str) -> Launch {
        launch
            .variable("STORAGE_URL", format!("https://{address}"))
            .variable("STORAGE_TLS_CA", text(&self.ca))
            .variable("STORAGE_TLS_CLIENT_CERT", text(&self.client[0]))
            .variable("STORAGE_TLS_CLIENT_KEY", text(&self.client[1]))
            .variable("STORAGE_TOKEN", "new-token")
    }

    /// TLS for another service of 127.0.0.1.
    fn acceptor(&self) -> TlsAcceptor {
        let [chain, key] = &self.service;
        let chain = CertificateDer::pem_file_iter(chain).expect("it was written");
        let chain = chain.collect::<Result<_, _>>().expect("a chain");
        let key = PrivateKeyDer::from_pem_file(key).expect("it was written");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("it has these versions")
            .with_no_client_auth()
            .with_single_cert(chain, key);
        TlsAcceptor::from(Arc::new(config.expect("they belong together")))
    }

    /// What a gateway needs that trusts an issuer of tokens behind TLS.
    fn trust(&self, launch: Launch, issuer: &Issuer) -> Launch {
        launch
            .variable("JWT_JWKS_URL", issuer.url())
            .variable("JWT_AUDIENCE", "feed")
            .variable("SSL_CERT_FILE", text(&self.ca))
    }

    fn client(&self, address: &str, token: &str) -> StorageClient {
        let read = |path| std::fs::read(path).expect("it was written");
        let connection = Connection {
            address: format!("https://{address}"),
            token: Some(token.to_owned()),
            ca: Some(read(&self.ca)),
            identity: Some((read(&self.client[0]), read(&self.client[1]))),
        };
        StorageClient::connect_lazy(&connection).expect("the settings are good")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

async fn start(launch: &Launch, prefix: &str) -> (Process, String) {
    let mut process = Process::start(launch);
    let ready = process.ready(prefix, START_MAX).await;
    let ready = ready.unwrap_or_else(|ended| panic!("does not start: {ended:?}"));
    (process, ready)
}

/// Stops it. What it logged.
async fn stop(mut process: Process) -> Vec<String> {
    process.terminate();
    let ended = process.ended(START_MAX).await;
    assert!(ended.status.success(), "{ended:?}");
    let said = format!("{ended:?}");
    for secret in ["old-token", "new-token", "admin-token", "a-secret"] {
        assert!(!said.contains(secret), "a secret is printed: {said}");
    }
    ended.stderr
}

fn launch(binary: &'static str, folder: &Path) -> Launch {
    Launch::new(binary, folder).variable("LOG_LEVEL", "debug")
}

fn gateway(launch: Launch) -> Launch {
    launch
        .variable("PORT", "0")
        .variable("API_SECRET", "a-secret")
        .variable("ED25519_PRIVATE_KEY", KEY)
}

#[tokio::test]
async fn the_services_work_together_behind_certificates_and_tokens() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let certificates = Certificates::make(folder.path());
    let storage = certificates.guard(launch("storage-svc", folder.path()).variable("STORAGE_LISTEN", "127.0.0.1:0"));
    let (storage, address) = start(&storage, "storage-svc ready on ").await;
    let admitted = |binary| certificates.admit(launch(binary, folder.path()), &address);
    let (api, origin) = start(&gateway(admitted("api-gateway")), "api-gateway ready on ").await;
    let (consumer, _) = start(&admitted("consumer"), "consumer ready for ").await;
    let client = FeedClient::new(&origin, "a-secret");
    let accepted = client
        .post("/api/v1/playlists", &playlist("Queued", 1), Mode::Async)
        .await
        .expect(202);
    assert_eq!(client.operation_end(&accepted).await, "applied");
    // The trace of whoever asks the gateway is known to the storage service.
    let traced = client
        .request(reqwest::Method::GET, "/api/v1/playlists")
        .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
        .send()
        .await;
    assert!(traced.is_ok_and(|answer| answer.status().is_success()));
    stop(api).await;

    // Without the token, or without the certificate, nobody gets anywhere.
    let wrong = gateway(admitted("api-gateway")).variable("STORAGE_TOKEN", "wrong");
    let bare = gateway(admitted("api-gateway"))
        .variable("STORAGE_TLS_CLIENT_CERT", "")
        .variable("STORAGE_TLS_CLIENT_KEY", "");
    for launch in [wrong, bare] {
        let (api, origin) = start(&launch, "api-gateway ready on ").await;
        FeedClient::new(&origin, "a-secret")
            .post("/api/v1/playlists", &playlist("Refused", 1), Mode::Sync)
            .await
            .expect(503);
        stop(api).await;
    }
    let refused = certificates.client(&address, "wrong").server_info().await;
    assert!(matches!(refused, Err(ClientError::Unauthorized(_))), "{refused:?}");
    stop(consumer).await;
    let logged = stop(storage).await;
    let call = |line: &&String| line.contains("KvService/Scan") && line.contains(TRACE) && line.contains("call ended");
    assert!(
        logged.iter().any(|line| call(&line)),
        "no call of the trace: {logged:?}"
    );
}

#[tokio::test]
async fn the_one_process_guards_its_storage_port() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let certificates = Certificates::make(folder.path());
    let whole = gateway(launch("dp1-feed", folder.path()))
        .variable("STORAGE_LISTEN", "127.0.0.1:0")
        .variable("METRICS_LISTEN", "127.0.0.1:0");
    let (process, origin) = start(&certificates.guard(whole), "dp1-feed ready on ").await;
    let said = process.stdout();
    let after = |prefix| {
        said.iter()
            .find_map(|line| line.strip_prefix(prefix))
            .expect("it is said")
    };
    let address = after("storage-svc ready on ").to_owned();
    // In memory nobody is asked.
    FeedClient::new(&origin, "a-secret")
        .post("/api/v1/playlists", &playlist("First", 1), Mode::Sync)
        .await
        .expect(201);
    let figures = reqwest::get(after("metrics on ")).await.expect("the port answers");
    let figures = figures.text().await.expect("it is text");
    let commits = r#"storage_calls_total{method="dp1.storage.v1.KvService/Commit",code="OK"} 1"#;
    assert!(figures.contains(commits), "{figures}");
    for token in ["old-token", "new-token", "admin-token"] {
        let info = certificates.client(&address, token).server_info().await;
        info.expect("the token is good");
    }
    let refused = certificates.client(&address, "wrong").server_info().await;
    assert!(matches!(refused, Err(ClientError::Unauthorized(_))), "{refused:?}");
    stop(process).await;
}

/// Tokens bring signatures and an HTTP client along: with the TLS of storage there are three users of cryptography in one
/// process, which must agree on whose it is.
#[tokio::test]
async fn tokens_of_an_issuer_behind_tls_are_read_beside_the_tls_of_storage() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let certificates = Certificates::make(folder.path());
    let key = TokenKey::generate("a");
    let issuer = Issuer::start_with_tls(certificates.acceptor(), &[&key]).await;
    let token = key.token(&json!({}));
    let write = async |origin: &str| {
        for credential in [&token, "a-secret"] {
            FeedClient::new(origin, credential)
                .post("/api/v1/playlists", &playlist("First", 1), Mode::Sync)
                .await
                .expect(201);
        }
    };

    let storage = certificates.guard(launch("storage-svc", folder.path()).variable("STORAGE_LISTEN", "127.0.0.1:0"));
    let (storage, address) = start(&storage, "storage-svc ready on ").await;
    let api = certificates.admit(gateway(launch("api-gateway", folder.path())), &address);
    let (api, origin) = start(&certificates.trust(api, &issuer), "api-gateway ready on ").await;
    write(&origin).await;
    assert_eq!(issuer.asked(), 1);
    stop(api).await;
    stop(storage).await;

    let whole = gateway(launch("dp1-feed", folder.path())).variable("STORAGE_LISTEN", "127.0.0.1:0");
    let whole = certificates.trust(certificates.guard(whole), &issuer);
    let (whole, origin) = start(&whole, "dp1-feed ready on ").await;
    write(&origin).await;
    assert_eq!(issuer.asked(), 2);
    let said = whole.stdout();
    let address = said.iter().find_map(|line| line.strip_prefix("storage-svc ready on "));
    let info = certificates
        .client(address.expect("it is said"), "new-token")
        .server_info()
        .await;
    info.expect("the token is good");
    stop(whole).await;

    // From TLS nobody is led away from it.
    let plain = Issuer::start(&[&key]).await;
    issuer.answer(Manner::Elsewhere(plain.url()));
    let led = certificates.trust(gateway(launch("dp1-feed", folder.path())), &issuer);
    let (led, origin) = start(&led, "dp1-feed ready on ").await;
    FeedClient::new(&origin, &token)
        .post("/api/v1/playlists", &playlist("First", 1), Mode::Sync)
        .await
        .expect(401);
    assert_eq!((issuer.asked(), plain.asked()), (3, 0));
    stop(led).await;
    issuer.publish(&[&key]);

    // An issuer that nobody vouches for is not believed.
    let distrusting = gateway(launch("dp1-feed", folder.path()))
        .variable("JWT_JWKS_URL", issuer.url())
        .variable("SSL_CERT_FILE", text(&certificates.client[0]));
    let (distrusting, origin) = start(&distrusting, "dp1-feed ready on ").await;
    FeedClient::new(&origin, &token)
        .post("/api/v1/playlists", &playlist("First", 1), Mode::Sync)
        .await
        .expect(401);
    assert_eq!(issuer.asked(), 3);
    stop(distrusting).await;
}

#[tokio::test]
async fn the_services_meet_at_a_socket() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = format!("unix:{}", text(&folder.path().join("storage.sock")));
    let storage = launch("storage-svc", folder.path()).variable("STORAGE_LISTEN", &address);
    let (storage, ready) = start(&storage, "storage-svc ready on ").await;
    assert_eq!(ready, address);
    let api = gateway(launch("api-gateway", folder.path())).variable("STORAGE_URL", &address);
    let (api, origin) = start(&api, "api-gateway ready on ").await;
    FeedClient::new(&origin, "a-secret")
        .post("/api/v1/playlists", &playlist("First", 1), Mode::Sync)
        .await
        .expect(201);
    stop(api).await;
    stop(storage).await;
    assert!(!folder.path().join("storage.sock").exists());
}
