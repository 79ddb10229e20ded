//! The HTTP client of the commands that call a feed.

use std::time::Duration;

use anyhow::{Context as _, bail};
use feed::document::DOCUMENT_BYTES_MAX;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A client with our limits.
pub(crate) fn client() -> anyhow::Result<reqwest::Client> {
    // The provider is named here because no crate of the graph may choose one by a default feature.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let installed = rustls::crypto::ring::default_provider().install_default();
        debug_assert!(installed.is_ok(), "nothing else installs a provider");
    }
    let client = reqwest::Client::builder()
        .timeout(REQUEST_TIMEOUT)
        .user_agent(concat!("dp1-feed/", env!("CARGO_PKG_VERSION")))
        .build();
    client.context("the HTTP client cannot start")
}

/// The body behind a URL, up to the size of a document.
pub(crate) async fn get(url: &str) -> anyhow::Result<Vec<u8>> {
    let response = client()?
        .get(url)
        .send()
        .await
        .with_context(|| format!("{url} cannot be fetched"))?;
    let status = response.status();
    if !status.is_success() {
        bail!("{url} answers {status}");
    }
    body(response).await.with_context(|| format!("{url} cannot be read"))
}

/// A body, up to the size of a document.
pub(crate) async fn body(mut response: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > DOCUMENT_BYTES_MAX {
            bail!("the answer is larger than {DOCUMENT_BYTES_MAX} bytes");
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
