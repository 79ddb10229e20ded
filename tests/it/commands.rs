//! The commands of `dp1-feed`: publish, verify, keygen.

use std::path::Path;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde_json::Value;

use crate::support::{
    Ended, Form, Launch, Mode, Process, TestFeed, did_key, eventually, playlist, run, verify_document,
};

/// Longest run of a command here, on a busy machine and in a debug build.
pub(crate) const COMMAND_MAX: Duration = Duration::from_mins(1);

/// A folder of playlists, some in folders of their own.
struct Folder(tempfile::TempDir);

impl Folder {
    /// Of so many playlists, spread over three levels, and a file that is none.
    fn of(playlists: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let works = folder.path().join("works");
        for number in 0..playlists {
            let level = ["", "one", "one/two"][number % 3];
            let body = playlist(&format!("File {number}"), number % 4 + 1);
            write(&works.join(level).join(format!("{number:04}.json")), &body.to_string());
        }
        write(&works.join("notes.txt"), "not a playlist");
        Self(folder)
    }

    /// `publish` of it to the feed.
    fn publish(&self, feed: &TestFeed) -> Launch {
        Launch::new("dp1-feed", self.0.path())
            .argument("publish")
            .argument("works")
            .argument("--to")
            .argument(feed.url())
            .variable("API_SECRET", feed.secret())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder can be made");
    std::fs::write(path, text).expect("a file can be written");
}

/// Ended well, with these lines on stdout and nothing on stderr.
#[track_caller]
pub(crate) fn expect_lines(ended: &Ended) -> Vec<&str> {
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stderr, Vec::<String>::new());
    ended.stdout.iter().map(String::as_str).collect()
}

/// Ended with one sentence on stderr, in which each of these words is found.
#[track_caller]
pub(crate) fn expect_failure(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let [sentence] = ended.stderr.as_slice() else {
        panic!("not one line on stderr: {ended:?}")
    };
    assert!(sentence.starts_with("dp1-feed: "), "{sentence}");
    for word in words {
        assert!(sentence.contains(word), "no {word:?} in: {sentence}");
    }
}

async fn published(feed: &TestFeed, playlists: usize) -> Vec<Value> {
    let client = feed.client();
    let listed = client.list("/api/v1/playlists").await;
    let mut titles: Vec<_> = listed.iter().map(|playlist| playlist["title"].to_string()).collect();
    titles.sort_unstable();
    let mut expected: Vec<_> = (0..playlists).map(|number| format!("\"File {number}\"")).collect();
    expected.sort_unstable();
    assert_eq!(titles, expected, "each file once");

    let channels = client.list("/api/v1/channels").await;
    assert_eq!(channels.len(), 1, "{channels:?}");
    assert_eq!(channels[0]["title"], "works");
    let members = client
        .list(&format!(
            "/api/v1/playlists?channel={}",
            channels[0]["id"].as_str().unwrap_or("")
        ))
        .await;
    assert_eq!(members, listed);
    channels
}

#[tokio::test]
async fn a_folder_is_published_and_a_second_run_changes_nothing() {
    const FILES: usize = 20;
    let feed = TestFeed::start(Form::OneProcess).await;
    let folder = Folder::of(FILES);
    let first = run(&folder.publish(&feed), COMMAND_MAX).await;
    let lines = expect_lines(&first);
    let channels = published(&feed, FILES).await;
    let channel_url = format!(
        "{}/api/v1/channels/{}",
        feed.url(),
        channels[0]["id"].as_str().unwrap_or_default()
    );
    assert_eq!(lines, ["20 playlists", &channel_url]);

    // The channel lists the files in the order of their paths.
    let mut titles = Vec::new();
    for url in channels[0]["playlists"].as_array().expect("a channel has playlists") {
        let path = url
            .as_str()
            .and_then(|url| url.strip_prefix(&feed.url()))
            .expect("a URL of the feed");
        titles.push(feed.client().get(path).await.expect(200).member("title"));
    }
    let in_order = |level: usize| {
        (0..FILES)
            .filter(move |number| number % 3 == level)
            .map(|number| format!("File {number}"))
    };
    assert_eq!(
        titles,
        in_order(0).chain(in_order(1)).chain(in_order(2)).collect::<Vec<_>>()
    );

    let second = run(&folder.publish(&feed), COMMAND_MAX).await;
    assert_eq!(expect_lines(&second), lines);
    assert_eq!(published(&feed, FILES).await, channels);
    feed.finish().await;
}

#[tokio::test]
async fn a_run_that_was_killed_half_way_is_finished_by_the_next() {
    // So many that the run lasts much longer than it takes to see that it has begun.
    const FILES: usize = 1_000;
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let folder = Folder::of(FILES);
    let mut killed = Process::start(&folder.publish(&feed));
    eventually(COMMAND_MAX, "some files are published", async || {
        match client.list("/api/v1/playlists").await.len() {
            0 => Err("none is".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    assert!(killed.is_running(), "the run is not over yet");
    killed.kill();
    assert!(
        client.list("/api/v1/playlists").await.len() < FILES,
        "the run was not over yet"
    );

    let ended = run(&folder.publish(&feed), COMMAND_MAX).await;
    assert_eq!(expect_lines(&ended)[0], "1000 playlists");
    published(&feed, FILES).await;
    feed.finish().await;
}

#[tokio::test]
async fn publishing_says_what_stops_it() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let folder = Folder::of(2);

    let wrong_secret = folder.publish(&feed).variable("API_SECRET", "wrong");
    expect_failure(&run(&wrong_secret, COMMAND_MAX).await, &["works", ".json", "401"]);

    write(&folder.path("works/bad.json"), "{\"title\":1}");
    expect_failure(
        &run(&folder.publish(&feed), COMMAND_MAX).await,
        &["works/bad.json", "400", "dpVersion"],
    );

    let mut empty = folder.publish(&feed);
    "empty".clone_into(&mut empty.arguments[1]);
    expect_failure(&run(&empty, COMMAND_MAX).await, &["empty", "cannot be read"]);
    write(&folder.path("empty/notes.txt"), "not a playlist");
    expect_failure(&run(&empty, COMMAND_MAX).await, &["empty", "no playlist file"]);

    let mut no_url = folder.publish(&feed);
    "feed.example.com".clone_into(&mut no_url.arguments[3]);
    expect_failure(&run(&no_url, COMMAND_MAX).await, &["--to", "feed.example.com"]);
    feed.finish().await;
}

#[tokio::test]
async fn documents_verify_as_file_and_as_url_and_not_when_tampered_with() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let created = client
        .post("/api/v1/playlists", &playlist("To verify", 3), Mode::Sync)
        .await
        .expect(201);
    let file = folder.path().join("document.json");
    write(&file, &created.text);
    let verify = |source: &str| {
        Launch::new("dp1-feed", folder.path())
            .argument("verify")
            .argument(source)
    };
    let with_key = |source: &str, key: &str| verify(source).argument("--key").argument(key);

    let key = feed.public_key();
    let (hex_key, did) = (hex::encode(key.as_bytes()), did_key(&key));
    let url = format!("{}/api/v1/playlists/{}", feed.url(), created.member("slug"));
    for source in ["document.json", &url] {
        for launch in [verify(source), with_key(source, &hex_key), with_key(source, &did)] {
            let ended = run(&launch, COMMAND_MAX).await;
            let lines = expect_lines(&ended);
            assert!(lines.iter().any(|line| line.contains(&did)), "{lines:?}");
            assert_eq!(lines.last(), Some(&format!("{source} verifies").as_str()));
        }
    }

    let other = SigningKey::from_bytes(&[7; 32]).verifying_key();
    expect_failure(
        &run(&with_key("document.json", &did_key(&other)), COMMAND_MAX).await,
        &["document.json"],
    );
    expect_failure(
        &run(&with_key("document.json", "abc"), COMMAND_MAX).await,
        &["--key", "abc"],
    );

    write(&file, &created.text.replacen("To verify", "To verifz", 1));
    expect_failure(
        &run(&verify("document.json"), COMMAND_MAX).await,
        &["document.json does not verify"],
    );
    expect_failure(
        &run(&with_key("document.json", &did), COMMAND_MAX).await,
        &["document.json does not verify"],
    );
    write(&file, &playlist("Unsigned", 1).to_string());
    expect_failure(
        &run(&verify("document.json"), COMMAND_MAX).await,
        &["document.json is not signed"],
    );
    write(&file, "{");
    expect_failure(
        &run(&verify("document.json"), COMMAND_MAX).await,
        &["document.json is not JSON"],
    );
    expect_failure(
        &run(&verify("missing.json"), COMMAND_MAX).await,
        &["missing.json cannot be read"],
    );
    let missing = format!("{}/api/v1/playlists/missing-1234", feed.url());
    expect_failure(&run(&verify(&missing), COMMAND_MAX).await, &[&missing, "404"]);
    feed.finish().await;
}

#[tokio::test]
async fn a_made_key_signs_the_feed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keygen = Launch::new("dp1-feed", folder.path()).argument("keygen");
    let ended = run(&keygen, COMMAND_MAX).await;
    let lines = expect_lines(&ended);
    let [private, public, did] = lines.as_slice() else {
        panic!("not three lines: {lines:?}")
    };
    let private = private.strip_prefix("private ").expect("the private key");

    let seed = private
        .strip_prefix("302e020100300506032b657004220420")
        .expect("PKCS#8 in hex");
    let seed: [u8; 32] = hex::decode(seed).expect("hex").try_into().expect("32 bytes");
    let key = SigningKey::from_bytes(&seed).verifying_key();
    assert_eq!(*public, format!("public {}", hex::encode(key.as_bytes())));
    assert_eq!(*did, format!("did {}", did_key(&key)));
    let again = run(&keygen, COMMAND_MAX).await;
    assert_ne!(expect_lines(&again), lines, "every key is another");

    let feed = TestFeed::start_with(Form::OneProcess, &[("ED25519_PRIVATE_KEY", private)]).await;
    let created = feed
        .client()
        .post("/api/v1/playlists", &playlist("Signed", 1), Mode::Sync)
        .await
        .expect(201);
    verify_document(&created.text, &key).expect("signed with the made key");
    feed.finish().await;
}
