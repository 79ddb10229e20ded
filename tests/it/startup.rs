//! How `dp1-feed` starts: what a first start makes, and what it says when it cannot start.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::support::{FeedClient, Launch, Mode, Process, playlist, run};

/// Longest time until a process is ready, or has failed.
const START_MAX: Duration = Duration::from_secs(20);
const KEY: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
/// Where SQLite's header keeps the `application_id`.
const APPLICATION_ID_OFFSET: usize = 68;

fn launch(folder: &Path) -> Launch {
    Launch::new("dp1-feed", folder)
        .variable("PORT", "0")
        .variable("LOG_LEVEL", "error")
}

fn launch_with_key(folder: &Path) -> Launch {
    launch(folder)
        .variable("API_SECRET", "a-secret")
        .variable("ED25519_PRIVATE_KEY", KEY)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Fails with one sentence on stderr, which is answered and in which each of these words is found.
async fn expect_refusal(launch: &Launch, words: &[&str]) -> String {
    let ended = run(launch, START_MAX).await;
    assert!(ended.status.code().is_some_and(|code| code != 0), "{ended:?}");
    let [sentence] = ended.stderr.as_slice() else {
        panic!("not one line on stderr: {ended:?}")
    };
    assert!(sentence.starts_with(&format!("{}: ", launch.binary)), "{sentence}");
    for word in words {
        assert!(sentence.contains(word), "no {word:?} in: {sentence}");
    }
    assert!(!ended.stdout.iter().any(|line| line.contains("ready")), "{ended:?}");
    sentence.clone()
}

async fn ready(launch: &Launch) -> (Process, FeedClient) {
    let mut process = Process::start(launch);
    let ready = process.ready("dp1-feed ready on ", START_MAX).await;
    let origin = ready.unwrap_or_else(|ended| panic!("does not start: {ended:?}"));
    (process, FeedClient::new(&origin, "a-secret"))
}

async fn stop(mut process: Process) {
    process.terminate();
    let ended = process.ended(START_MAX).await;
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stderr, Vec::<String>::new());
}

#[tokio::test]
async fn the_first_start_makes_folder_key_and_secret_and_the_second_uses_them() {
    let folder = folder();
    let (process, _) = ready(&launch(folder.path())).await;
    let lines = process.stdout();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, what, name) in [
        (&lines[0], "the signing key", "data/signing-key"),
        (&lines[1], "the API secret", "data/api-secret"),
    ] {
        assert!(
            line.starts_with(&format!("made {what}: ")) && line.ends_with(name),
            "{line}"
        );
        let mode = std::fs::metadata(folder.path().join(name))
            .expect("it was made")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(folder.path().join("data/dp1-feed.db").exists());
    let secret = std::fs::read_to_string(folder.path().join("data/api-secret")).expect("the secret");
    let origin = lines[2].strip_prefix("dp1-feed ready on ").expect("the ready line");
    let client = FeedClient::new(origin, secret.trim());
    let created = client
        .post("/api/v1/playlists", &playlist("First", 1), Mode::Sync)
        .await
        .expect(201);
    stop(process).await;

    let (process, _) = ready(&launch(folder.path())).await;
    let lines = process.stdout();
    assert_eq!(lines.len(), 1, "nothing is made again: {lines:?}");
    let origin = lines[0].strip_prefix("dp1-feed ready on ").expect("the ready line");
    let client = FeedClient::new(origin, secret.trim());
    let path = format!("/api/v1/playlists/{}", created.member("id"));
    assert_eq!(client.get(&path).await.expect(200).text, created.text);
    // The same key signs: a change that is taken back has the signature it had.
    let signature = created.member("signature");
    let changed = client
        .patch(&path, &serde_json::json!({ "title": "Changed" }), Mode::Sync)
        .await
        .expect(200);
    assert_ne!(changed.member("signature"), signature);
    let restored = client
        .patch(&path, &serde_json::json!({ "title": "First" }), Mode::Sync)
        .await
        .expect(200);
    assert_eq!(restored.member("signature"), signature);
    stop(process).await;
}

#[tokio::test]
async fn a_key_and_a_secret_that_are_given_are_not_made() {
    let folder = folder();
    let (process, client) = ready(&launch_with_key(folder.path())).await;
    assert_eq!(process.stdout().len(), 1, "{:?}", process.stdout());
    client
        .post("/api/v1/playlists", &playlist("First", 1), Mode::Sync)
        .await
        .expect(201);
    let made: Vec<_> = std::fs::read_dir(folder.path().join("data"))
        .expect("the data folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("dp1-feed.db"))
        .collect();
    assert_eq!(made, Vec::<String>::new());
    stop(process).await;
}

#[tokio::test]
async fn a_bad_signing_key_is_refused() {
    let folder = folder();
    for key in ["abc", "zz", &KEY[2..], &format!("{KEY}00"), &"0".repeat(96)] {
        let launch = launch_with_key(folder.path()).variable("ED25519_PRIVATE_KEY", key);
        let sentence = expect_refusal(&launch, &["ED25519_PRIVATE_KEY"]).await;
        assert!(!sentence.contains(key), "the key is repeated: {sentence}");
    }
    std::fs::create_dir_all(folder.path().join("data")).expect("a folder");
    std::fs::write(folder.path().join("data/signing-key"), "not a key\n").expect("a file");
    expect_refusal(&launch(folder.path()), &["key"]).await;
}

#[tokio::test]
async fn a_database_that_cannot_be_made_is_refused() {
    let folder = folder();
    std::fs::write(folder.path().join("file"), "not a folder").expect("a file");
    let launch = launch_with_key(folder.path()).variable("SQLITE_DB_PATH", "file/below/dp1-feed.db");
    expect_refusal(&launch, &["file/below"]).await;
    std::fs::create_dir(folder.path().join("folder.db")).expect("a folder");
    expect_refusal(&launch.variable("SQLITE_DB_PATH", "folder.db"), &["folder.db"]).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_of_this_feed_is_refused_and_left_alone() {
    let folder = folder();
    let path = folder.path().join("other.db");
    let launch = launch_with_key(folder.path()).variable("SQLITE_DB_PATH", "other.db");
    let text = "This is not a database, however long it may be. "
        .repeat(100)
        .into_bytes();
    for bytes in [text, empty_sqlite_file(0x1234_5678)] {
        std::fs::write(&path, &bytes).expect("a file");
        expect_refusal(&launch, &["other.db"]).await;
        assert!(
            std::fs::read(&path).expect("the file") == bytes,
            "the file is as it was"
        );
    }
}

#[tokio::test]
async fn a_port_in_use_is_refused() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("a bound address");
    let launch = launch_with_key(folder.path());
    expect_refusal(
        &launch.clone().variable("PORT", address.port().to_string()),
        &[&address.to_string(), "in use"],
    )
    .await;
    expect_refusal(
        &launch.variable("STORAGE_LISTEN", address.to_string()),
        &[&address.to_string(), "in use"],
    )
    .await;
}

#[tokio::test]
async fn a_storage_port_for_everyone_is_refused_unless_it_is_meant() {
    let folder = folder();
    let launch = launch_with_key(folder.path()).variable("STORAGE_LISTEN", "0.0.0.0:0");
    expect_refusal(&launch, &["0.0.0.0:0", "STORAGE_INSECURE"]).await;
}

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused() {
    let folder = folder();
    let launch = launch_with_key(folder.path());
    let (first, client) = ready(&launch).await;
    expect_refusal(&launch, &["dp1-feed.db"]).await;
    client
        .post("/api/v1/playlists", &playlist("Still served", 1), Mode::Sync)
        .await
        .expect(201);
    stop(first).await;
    let (next, client) = ready(&launch).await;
    assert_eq!(client.list("/api/v1/playlists").await.len(), 1);
    stop(next).await;
}

/// A database of one empty page, of another application.
fn empty_sqlite_file(application_id: u32) -> Vec<u8> {
    const PAGE_BYTES: u16 = 4096;
    let mut file = vec![0; usize::from(PAGE_BYTES)];
    file[..16].copy_from_slice(b"SQLite format 3\0");
    file[16..18].copy_from_slice(&PAGE_BYTES.to_be_bytes());
    // Rollback journal, no reserved bytes, the payload fractions that are always the same.
    file[18..24].copy_from_slice(&[1, 1, 0, 64, 32, 32]);
    // Written once; one page long; the length is of that write.
    file[24..28].copy_from_slice(&1_u32.to_be_bytes());
    file[28..32].copy_from_slice(&1_u32.to_be_bytes());
    file[92..96].copy_from_slice(&1_u32.to_be_bytes());
    // Schema format 4, UTF-8.
    file[44..48].copy_from_slice(&4_u32.to_be_bytes());
    file[56..60].copy_from_slice(&1_u32.to_be_bytes());
    file[APPLICATION_ID_OFFSET..APPLICATION_ID_OFFSET + 4].copy_from_slice(&application_id.to_be_bytes());
    file[96..100].copy_from_slice(&3_045_000_u32.to_be_bytes());
    // A leaf of the schema's table without a cell; its content begins at the end of the page.
    file[100] = 13;
    file[105..107].copy_from_slice(&PAGE_BYTES.to_be_bytes());
    file
}
