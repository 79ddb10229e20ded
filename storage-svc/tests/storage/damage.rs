//! Damaged files: what the service says at its start, and what it finds only later.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use runtime::clock::Clock;
use rusqlite::Connection;
use storage_svc::{OpenError, Store, StoreArgs};
use tempfile::TempDir;
use tonic::Code;

use crate::support::{START_MS, Service, store_args};

const PAGE_BYTES: usize = 8_192;

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// A store with some pages, closed.
async fn closed() -> (TempDir, PathBuf) {
    let mut service = Service::start().await;
    for number in 0..200 {
        service.put(&format!("{number:03}"), &"x".repeat(190)).await;
        service
            .put(&format!("large/{number:03}"), &format!("{number:03}").repeat(300))
            .await;
    }
    let path = service.path();
    (service.stop().await, path)
}

/// As if the last holder had been killed.
fn mark_as_not_closed(path: &Path) {
    fs::write(beside(path, ".lock"), "open\n").expect("it is written");
}

fn is_marked(path: &Path) -> bool {
    fs::metadata(beside(path, ".lock")).expect("it is there").len() > 0
}

fn open(path: &Path) -> Result<Store, OpenError> {
    Store::open(&StoreArgs::at(path), Clock::manual(START_MS))
}

/// It does not open, and one sentence says what to do.
#[track_caller]
fn found_damaged(path: &Path) -> String {
    let error = open(path).expect_err("it does not open");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    let sentence = error.to_string();
    for words in [&*path.to_string_lossy(), "restore a backup", "`.recover`", "3.51.3"] {
        assert!(sentence.contains(words), "{words:?}: {sentence}");
    }
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    assert!(is_marked(path), "the next start looks again");
    sentence
}

/// The page where a table begins, in bytes of the file.
fn root_of(path: &Path, table: &str) -> usize {
    let file = Connection::open(path).expect("it opens");
    let sql = "select rootpage from sqlite_schema where name = ?";
    let page: u32 = file.query_row(sql, [table], |row| row.get(0)).expect("it is there");
    (page as usize - 1) * PAGE_BYTES
}

/// Overwrites a part of a file, in its place.
fn overwrite(path: &Path, at: usize, length: usize) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("it opens");
    file.write_all_at(&vec![0xab; length], at as u64)
        .expect("it is written");
}

#[tokio::test]
async fn a_page_overwritten_is_found_at_the_start_after_an_unclean_end() {
    let (_folder, path) = closed().await;
    let good = fs::read(&path).expect("it reads");
    for table in ["entry", "value", "message_state"] {
        overwrite(&path, root_of(&path, table), PAGE_BYTES);
        mark_as_not_closed(&path);
        found_damaged(&path);
        found_damaged(&path);
        fs::write(&path, &good).expect("it is written");
    }
    open(&path).expect("the file of before opens").close().await;
    assert!(!is_marked(&path), "it was closed");
}

#[tokio::test]
async fn a_page_overwritten_later_is_told_to_whoever_reads_it() {
    let (folder, path) = closed().await;
    let bytes = fs::read(&path).expect("it reads");
    let value = "007".repeat(100);
    let at = bytes.windows(value.len()).position(|bytes| bytes == value.as_bytes());
    let page = at.expect("it is in the file") / PAGE_BYTES;
    let mut service = Service::start_in(folder, Clock::manual(START_MS)).await;
    overwrite(&path, page * PAGE_BYTES, PAGE_BYTES);
    assert!(service.get("007").await.is_some(), "the rest is there");
    let request = proto::v1::GetRequest {
        namespace: "n".to_owned(),
        key: "large/007".to_owned(),
        ..Default::default()
    };
    let status = service.kv.get(request).await.expect_err("its value is lost");
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    let mut reports = service
        .admin
        .integrity_check(proto::v1::IntegrityCheckRequest {})
        .await
        .expect("there is none yet")
        .into_inner();
    let mut problems = 0;
    while let Some(report) = reports.message().await.expect("it goes on") {
        problems += usize::from(matches!(
            report.body,
            Some(proto::v1::integrity_check_response::Body::Problem(_))
        ));
    }
    assert!(problems > 0, "a check finds it");
    service.stop().await;
}

#[tokio::test]
async fn a_file_that_was_cut_is_found_at_any_start() {
    let (_folder, path) = closed().await;
    let good = fs::read(&path).expect("it reads");
    for bytes in [good.len() - PAGE_BYTES, good.len() / 2 + 100, PAGE_BYTES, 50] {
        fs::write(&path, &good[..bytes]).expect("it is written");
        found_damaged(&path);
        fs::write(beside(&path, ".lock"), "").expect("it is written");
    }
    // With nothing beside it an empty file is a new one's.
    fs::write(&path, "").expect("it is written");
    fs::write(beside(&path, "-wal"), "a log that the file has lost").expect("it is written");
    found_damaged(&path);
}

#[tokio::test]
async fn a_backup_put_in_the_place_of_a_killed_store_is_not_opened_with_its_log() {
    let mut service = Service::start().await;
    for number in 0..50 {
        service.put(&format!("early/{number}"), "1").await;
    }
    let (_, copy) = crate::backup::back_up(&mut service.admin).await.expect("there is room");
    for number in 0..50 {
        service.put(&format!("late/{number}"), "2").await;
    }
    let database = fs::read(service.path()).expect("it reads");
    let log = fs::read(beside(&service.path(), "-wal")).expect("there is a log");
    assert!(!log.is_empty());
    service.stop().await;

    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = store_args(folder.path()).sqlite_db_path;
    fs::write(beside(&path, "-wal"), &log).expect("it is written");
    mark_as_not_closed(&path);
    // Not there at all, and there with somebody else's log.
    for put_there in [None, Some(&copy)] {
        if let Some(file) = put_there {
            fs::write(&path, file).expect("it is written");
        }
        let error = open(&path).expect_err("it does not open");
        assert!(matches!(error, OpenError::LogOfAnother { .. }), "{error:?}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert_eq!(
            fs::read(beside(&path, "-wal")).expect("it reads"),
            log,
            "it is untouched"
        );
        assert_eq!(fs::read(&path).ok().as_ref(), put_there, "as is the file");
    }
    fs::write(&path, &database).expect("it is written");
    open(&path).expect("the log is its own").close().await;
    // Without the log the copy opens.
    fs::write(&path, &copy).expect("it is written");
    let mut service = Service::start_in(folder, Clock::manual(START_MS)).await;
    assert!(service.get("early/49").await.is_some());
    assert!(service.get("late/0").await.is_none());
    crate::admin::assert_in_order(&mut service.admin).await;
    service.stop().await;
}

#[tokio::test]
async fn a_header_overwritten_is_no_database() {
    let (_folder, path) = closed().await;
    let good = fs::read(&path).expect("it reads");
    overwrite(&path, 0, 16);
    let error = open(&path).expect_err("it does not open");
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
    assert!(error.to_string().contains("restore a backup"), "{error}");
    fs::write(&path, &good).expect("it is written");
    // Behind the header the first page has the list of tables.
    overwrite(&path, 100, 1_000);
    found_damaged(&path);
    fs::write(&path, &good).expect("it is written");
    open(&path).expect("the file of before opens").close().await;
}

#[tokio::test]
async fn a_schema_or_a_row_of_facts_that_does_not_read_is_damage() {
    let (_folder, path) = closed().await;
    let good = fs::read(&path).expect("it reads");
    for damage in [
        "pragma writable_schema = on; update sqlite_schema set sql = 'create tabel entry' where name = 'entry'",
        "delete from store",
        "update store set store_id = x'00'",
    ] {
        let file = Connection::open(&path).expect("it opens");
        file.execute_batch(damage).expect("the damage can be done");
        drop(file);
        found_damaged(&path);
        fs::write(&path, &good).expect("it is written");
    }
}

#[tokio::test]
async fn garbage_in_the_log_costs_what_it_covers_and_nothing_before_it() {
    let mut service = Service::start().await;
    service.put("moved", "1").await;
    service
        .admin
        .checkpoint(proto::v1::CheckpointRequest {})
        .await
        .expect("it answers");
    // A reader keeps what follows in the log.
    let reader = Connection::open(service.path()).expect("it opens");
    reader.execute_batch("begin; select * from store").expect("it reads");
    for number in 0..50 {
        service.put(&number.to_string(), "1").await;
    }
    let database = fs::read(service.path()).expect("it reads");
    let log = fs::read(beside(&service.path(), "-wal")).expect("there is a log");
    drop(reader);
    service.stop().await;

    let mut appended = log.clone();
    appended.extend(vec![0xab; 3 * PAGE_BYTES]);
    let mut middle = log.clone();
    middle[log.len() / 2..][..2 * PAGE_BYTES].fill(0xab);
    let mut start = log.clone();
    start[..32].fill(0xab);
    // What is after the first fault of a log was never committed, as far as the engine can tell: this is how it ends a
    // log that a power cut has torn.
    for (log, revisions) in [
        (log, 51..=51),
        (appended, 51..=51),
        (middle, 2..=50),
        (start, 1..=1),
        (vec![0xab; 100_000], 1..=1),
    ] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = store_args(folder.path()).sqlite_db_path;
        fs::write(&path, &database).expect("it is written");
        fs::write(beside(&path, "-wal"), log).expect("it is written");
        mark_as_not_closed(&path);
        let mut service = Service::start_in(folder, Clock::manual(START_MS)).await;
        let info = service.admin.get_server_info(proto::v1::GetServerInfoRequest {}).await;
        let revision = info.expect("it answers").into_inner().store_revision;
        assert!(revisions.contains(&revision), "{revision} not in {revisions:?}");
        assert!(service.get("moved").await.is_some());
        for number in 0..50 {
            let is_there = service.get(&number.to_string()).await.is_some();
            assert_eq!(is_there, number + 2 <= revision, "{number} at {revision}");
        }
        crate::admin::assert_in_order(&mut service.admin).await;
        service.stop().await;
    }
}
