//! `dp1-feed verify`: checks the signatures of one document.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use feed::document::DOCUMENT_BYTES_MAX;
use feed::sign::{Outcome, PublicKey};

use crate::http;

/// What to verify.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file, or a URL that begins with http:// or https://.
    source: String,
    /// Public key of the feed, as 64 hex digits or did:key. Without it only `signatures` can be checked, which name
    /// their keys themselves; then the keys are printed, and whether to trust them is up to you.
    #[arg(long)]
    key: Option<String>,
}

/// Prints a line for each signature; fails unless the document verifies.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let key = args.key.as_deref().map(parse_key).transpose()?;
    let bytes = if args.source.starts_with("http://") || args.source.starts_with("https://") {
        http::get(&args.source).await?
    } else {
        read(Path::new(&args.source))?
    };
    let document = feed::json::parse(&bytes).with_context(|| format!("{} is not JSON", args.source))?;
    let verification = feed::sign::verify(&document, key.as_ref());
    for check in &verification.checks {
        let role = check
            .role
            .as_deref()
            .map(|role| format!(" ({role:?})"))
            .unwrap_or_default();
        println!("{}{role}: {}", check.place, describe(&check.outcome));
    }
    ensure!(!verification.checks.is_empty(), "{} is not signed", args.source);
    ensure!(verification.is_valid(), "{} does not verify", args.source);
    if let Some(key) = key {
        let signed = verification.keys().any(|signer| signer == key);
        ensure!(signed, "{} is not signed by {}", args.source, key.to_did_key());
    }
    println!("{} verifies", args.source);
    Ok(())
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Valid(key) => format!("holds for {}", key.to_did_key()),
        Outcome::Failed(fault) => format!("fails: {fault}"),
        Outcome::Unsupported => "not checked: unknown algorithm".to_owned(),
        Outcome::NoKey => "not checked: it names no key, and --key is not given".to_owned(),
    }
}

fn parse_key(text: &str) -> anyhow::Result<PublicKey> {
    let key = if text.starts_with("did:") {
        PublicKey::from_did_key(text)
    } else {
        PublicKey::from_hex(text)
    };
    key.with_context(|| format!("--key {text:?} is not a public key"))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let describe = || format!("{} cannot be read", path.display());
    let bytes = std::fs::metadata(path).with_context(describe)?.len();
    if bytes > DOCUMENT_BYTES_MAX as u64 {
        bail!("{} is larger than {DOCUMENT_BYTES_MAX} bytes", path.display());
    }
    std::fs::read(path).with_context(describe)
}
