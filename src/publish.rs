//! `dp1-feed publish`: each playlist file of a folder, then one channel over them.
//!
//! Every request carries an `Idempotency-Key` made of feed, path and content: a run that was cut short is finished by
//! running it again, and nothing is there twice. That holds for the 24 hours that a feed remembers such a key; after them
//! what is sent again is published again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use feed::document::DOCUMENT_BYTES_MAX;
use futures_util::{StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::http;

/// Most playlist files in one run: as many as a channel may name.
const FILES_MAX: usize = 1_024;
/// Most folders below the one given.
const FOLDERS_MAX: usize = 10_000;
/// Files sent at once.
const PARALLEL: usize = 4;
/// How often one request is sent while the feed answers that it is busy or away.
const ATTEMPTS_MAX: u32 = 6;
/// Longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What to publish, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Every *.json file in it and below is a playlist; the channel is titled like the folder.
    folder: PathBuf,
    /// The feed, for example http://127.0.0.1:8787.
    #[arg(long)]
    to: String,
    /// The feed's API secret; of two comma-separated ones, the first is used.
    #[arg(long, env = "API_SECRET", hide_env_values = true)]
    secret: String,
    /// Title of the channel, instead of the folder's name.
    #[arg(long)]
    title: Option<String>,
}

struct Feed {
    client: reqwest::Client,
    origin: String,
    secret: String,
}

/// A playlist file, named relative to the folder.
struct File {
    name: String,
    bytes: Vec<u8>,
}

/// Publishes and prints the channel's URL.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let origin = reqwest::Url::parse(&args.to).with_context(|| format!("--to {:?} is not a URL", args.to))?;
    ensure!(
        matches!(origin.scheme(), "http" | "https"),
        "--to {:?} is not an HTTP URL",
        args.to
    );
    let feed = Feed {
        client: http::client()?,
        origin: origin.origin().ascii_serialization(),
        secret: first_secret(&args.secret).to_owned(),
    };

    let folder = args
        .folder
        .canonicalize()
        .with_context(|| format!("{} cannot be read", args.folder.display()))?;
    let title = match args.title {
        Some(title) => title,
        None => folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    let paths = playlist_files(&folder)?;
    ensure!(
        !paths.is_empty(),
        "{} holds no playlist file (*.json)",
        folder.display()
    );

    let progress = ProgressBar::new(paths.len() as u64);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {wide_msg}").context("the bar's own template")?;
    progress.set_style(style);
    let sent = futures_util::stream::iter(paths.into_iter().map(|path| {
        let (feed, progress, folder) = (&feed, progress.clone(), folder.clone());
        async move {
            let file = read(&folder, &path)?;
            let playlist = feed
                .create("playlists", &format!("file {}", file.name), file.bytes)
                .await;
            let playlist = playlist.with_context(|| format!("{} was not published", path.display()))?;
            progress.set_message(file.name);
            progress.inc(1);
            let id = playlist["id"]
                .as_str()
                .context("the feed answered a playlist without an id")?;
            Ok::<_, anyhow::Error>(format!("{}/api/v1/playlists/{id}", feed.origin))
        }
    }));
    let urls: Vec<String> = sent.buffered(PARALLEL).try_collect().await?;
    progress.finish_and_clear();

    let body = serde_json::to_vec(&json!({ "title": title, "playlists": urls }))?;
    let channel = feed
        .create("channels", "channel", body)
        .await
        .context("the channel was not published")?;
    let id = channel["id"]
        .as_str()
        .context("the feed answered a channel without an id")?;
    println!("{} playlists", urls.len());
    println!("{}/api/v1/channels/{id}", feed.origin);
    Ok(())
}

/// While a secret is being changed a feed has two.
fn first_secret(secrets: &str) -> &str {
    secrets.split(',').next().unwrap_or_default().trim()
}

impl Feed {
    /// Creates a document, once however often it is asked to.
    async fn create(&self, collection: &str, name: &str, body: Vec<u8>) -> anyhow::Result<Value> {
        let url = format!("{}/api/v1/{collection}", self.origin);
        let mut digest = Sha256::new();
        for part in [url.as_bytes(), name.as_bytes(), &body] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let idempotency_key = hex::encode(digest.finalize());
        let mut attempt = 1;
        loop {
            let request = self
                .client
                .post(&url)
                .header(AUTHORIZATION, format!("Bearer {}", self.secret))
                .header(CONTENT_TYPE, "application/json")
                .header("idempotency-key", &idempotency_key)
                .body(body.clone());
            let (failure, wait) = match request.send().await {
                Ok(response) if response.status().is_success() => {
                    return serde_json::from_slice(&http::body(response).await?).context("the answer is not JSON");
                }
                Ok(response) => {
                    let status = response.status();
                    let asked = response
                        .headers()
                        .get(RETRY_AFTER)
                        .and_then(|wait| wait.to_str().ok()?.parse().ok());
                    let text = String::from_utf8_lossy(&http::body(response).await?).into_owned();
                    if !(status.as_u16() == 429 || status.as_u16() == 503) {
                        bail!("{url} answers {status}: {text}");
                    }
                    (
                        anyhow::anyhow!("{url} answers {status}: {text}"),
                        asked.map(Duration::from_secs),
                    )
                }
                Err(error) if error.is_builder() => return Err(error.into()),
                Err(error) => (error.into(), None),
            };
            if attempt == ATTEMPTS_MAX {
                return Err(failure.context(format!("given up after {ATTEMPTS_MAX} attempts")));
            }
            let wait = wait.unwrap_or(Duration::from_millis(200) * 2_u32.pow(attempt));
            tokio::time::sleep(wait.min(WAIT_MAX)).await;
            attempt += 1;
        }
    }
}

/// The files, in the order of their paths.
fn playlist_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    let mut visited = 0;
    while let Some(folder) = folders.pop() {
        visited += 1;
        ensure!(visited <= FOLDERS_MAX, "more than {FOLDERS_MAX} folders");
        let entries = std::fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("{} cannot be read", folder.display()))?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                files.push(path);
                ensure!(
                    files.len() <= FILES_MAX,
                    "more than {FILES_MAX} playlist files: a channel holds no more"
                );
            }
        }
    }
    files.sort();
    Ok(files)
}

fn read(folder: &Path, path: &Path) -> anyhow::Result<File> {
    let describe = || format!("{} cannot be read", path.display());
    let size = std::fs::metadata(path).with_context(describe)?.len();
    ensure!(
        size <= DOCUMENT_BYTES_MAX as u64,
        "{} is larger than {DOCUMENT_BYTES_MAX} bytes",
        path.display()
    );
    let name = path
        .strip_prefix(folder.parent().unwrap_or(folder))
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned();
    Ok(File {
        name,
        bytes: std::fs::read(path).with_context(describe)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_from_all_folders_in_the_order_of_their_paths() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in ["b/1.json", "a/2.json", "a/1.json", "a/notes.txt", "c.json"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, "{}").expect("a file");
        }
        let files = playlist_files(folder.path()).expect("files");
        let names: Vec<_> = files
            .iter()
            .map(|file| file.strip_prefix(folder.path()).expect("below"))
            .collect();
        assert_eq!(names, ["a/1.json", "a/2.json", "b/1.json", "c.json"].map(Path::new));
    }

    #[test]
    fn as_many_files_as_a_channel_holds_and_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        for number in 0..FILES_MAX {
            std::fs::write(folder.path().join(format!("{number}.json")), "{}").expect("a file");
        }
        assert_eq!(playlist_files(folder.path()).expect("files").len(), FILES_MAX);
        std::fs::write(folder.path().join("one-more.json"), "{}").expect("a file");
        assert!(playlist_files(folder.path()).is_err());
    }
}
