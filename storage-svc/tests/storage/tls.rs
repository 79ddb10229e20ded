//! TLS on the port, and the certificates that clients must show.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::v1::kv_service_client::KvServiceClient;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use storage_svc::{ListenArgs, bind};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::guarded::{Guarded, get};
use crate::support::within;

/// Who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("there are no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("it signs itself"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
        let certificate = params.signed_by(&key, &self.0).expect("it is signed");
        (certificate.pem(), key.serialize_pem())
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("it is written");
    path
}

/// Settings with a certificate of `authority`'s for `localhost`.
fn args(folder: &Path, authority: &Authority) -> ListenArgs {
    let (certificate, key) = authority.sign("localhost");
    ListenArgs {
        storage_tls_cert: Some(write(folder, "cert.pem", &certificate)),
        storage_tls_key: Some(write(folder, "key.pem", &key)),
        ..ListenArgs::default()
    }
}

fn client(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .domain_name("localhost")
}

fn channel(service: &Guarded, tls: ClientTlsConfig) -> Channel {
    let endpoint = Endpoint::from_shared(format!("https://{}", service.address)).expect("it is an address");
    endpoint.tls_config(tls).expect("it is good").connect_lazy()
}

async fn works(channel: Channel) -> bool {
    within(KvServiceClient::new(channel).get(get())).await.is_ok()
}

#[tokio::test]
async fn a_port_with_a_certificate_speaks_tls_only() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let args = args(folder.path(), &authority);
    let service = Guarded::start_in(folder, "127.0.0.1:0", &args).await;
    assert!(works(channel(&service, client(&authority))).await);
    assert!(
        !works(channel(&service, client(&Authority::new()))).await,
        "it is another's certificate"
    );
    let plain = Endpoint::from_shared(format!("http://{}", service.address)).expect("it is an address");
    assert!(!works(plain.connect_lazy()).await, "it is not encrypted");
    service.stop().await;
}

#[tokio::test]
async fn a_client_must_show_a_certificate_where_one_is_asked_for() {
    let authority = Authority::new();
    let clients = Authority::new();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let args = ListenArgs {
        storage_tls_client_ca: Some(write(folder.path(), "clients.pem", &clients.pem())),
        ..args(folder.path(), &authority)
    };
    bind("0.0.0.0:0", &args).await.expect("it does not let everybody in");
    let service = Guarded::start_in(folder, "127.0.0.1:0", &args).await;
    let with = |(certificate, key): (String, String)| client(&authority).identity(Identity::from_pem(certificate, key));
    assert!(works(channel(&service, with(clients.sign("consumer")))).await);
    assert!(!works(channel(&service, client(&authority))).await, "it shows none");
    let strangers = with(Authority::new().sign("consumer"));
    assert!(!works(channel(&service, strangers)).await, "it shows another's");
    assert!(
        works(channel(&service, with(clients.sign("other")))).await,
        "the others did no harm"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_holds_up_nobody_and_not_the_stop() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let args = args(folder.path(), &authority);
    let service = Guarded::start_in(folder, "127.0.0.1:0", &args).await;
    let mut half_open = Vec::new();
    for begin in [&b""[..], b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(&service.address).await.expect("it connects");
        stream.write_all(begin).await.expect("it is sent");
        half_open.push(stream);
    }
    assert!(works(channel(&service, client(&authority))).await, "others get in");
    let began = Instant::now();
    service.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the stop did not wait for its bound"
    );
    drop(half_open);
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_said_by_name() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let good = args(folder.path(), &authority);
    let text = Some(write(folder.path(), "text", "no certificate"));
    let absent = Some(folder.path().join("absent"));
    let other_key = Some(write(folder.path(), "other.pem", &authority.sign("localhost").1));
    let wrong = [
        (
            "STORAGE_TLS_CERT",
            ListenArgs {
                storage_tls_cert: text.clone(),
                ..good.clone()
            },
        ),
        (
            "STORAGE_TLS_CERT",
            ListenArgs {
                storage_tls_cert: absent.clone(),
                ..good.clone()
            },
        ),
        (
            "STORAGE_TLS_CERT",
            ListenArgs {
                storage_tls_cert: None,
                ..good.clone()
            },
        ),
        (
            "STORAGE_TLS_KEY",
            ListenArgs {
                storage_tls_key: text.clone(),
                ..good.clone()
            },
        ),
        (
            "STORAGE_TLS_KEY",
            ListenArgs {
                storage_tls_key: None,
                ..good.clone()
            },
        ),
        (
            "do not fit together",
            ListenArgs {
                storage_tls_key: other_key,
                ..good.clone()
            },
        ),
        (
            "STORAGE_TLS_CLIENT_CA",
            ListenArgs {
                storage_tls_client_ca: absent,
                ..good.clone()
            },
        ),
        (
            "STORAGE_TLS_CLIENT_CA",
            ListenArgs {
                storage_tls_client_ca: text.clone(),
                ..ListenArgs::default()
            },
        ),
    ];
    for (variable, args) in wrong {
        let refused = bind("127.0.0.1:0", &args).await.expect_err(variable);
        assert!(format!("{refused:#}").contains(variable), "{variable}: {refused:#}");
    }
    bind("127.0.0.1:0", &good).await.expect("it is good");
}
