//! TLS of the port: its certificate, and those that clients must show.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// HTTP/2, which is all that gRPC speaks.
const PROTOCOL: &[u8] = b"h2";

pub(super) fn acceptor(cert: &Path, key: &Path, client_ca: Option<&Path>) -> anyhow::Result<TlsAcceptor> {
    let chain = certificates(cert, "STORAGE_TLS_CERT")?;
    let named = || format!("STORAGE_TLS_KEY {} holds no private key", key.display());
    let private_key = PrivateKeyDer::from_pem_file(key).with_context(named)?;
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, "STORAGE_TLS_CLIENT_CA")? {
                let added = roots.add(certificate);
                added.with_context(|| format!("STORAGE_TLS_CLIENT_CA {} cannot be used", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.context("STORAGE_TLS_CLIENT_CA cannot be used")?)
        }
    };
    let config = config.with_single_cert(chain, private_key);
    let mut config = config.context("STORAGE_TLS_CERT and STORAGE_TLS_KEY do not fit together")?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path, variable: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let read: Vec<_> = read.with_context(|| format!("{variable} {} cannot be read", path.display()))?;
    ensure!(!read.is_empty(), "{variable} {} holds no certificate", path.display());
    Ok(read)
}
