//! The file: who may open it, and what it must be.

use std::path::Path;

use runtime::clock::Clock;
use rusqlite::Connection;
use storage_svc::model::{Change, Commit, Content, Expiry, Key, KeyName, Mutation, Namespace, Origin, Pairs};
use storage_svc::{OpenError, Store, StoreArgs, StoreError};

use crate::support::{START_MS, Service, within};

fn open(path: &Path) -> Result<Store, OpenError> {
    Store::open(&StoreArgs::at(path), Clock::manual(START_MS))
}

/// Opening fails with one sentence that names the path.
#[track_caller]
fn refused(path: &Path) -> OpenError {
    let error = open(path).expect_err("it does not open");
    let sentence = error.to_string();
    assert!(sentence.contains(&path.display().to_string()), "{sentence}");
    assert!(!sentence.contains('\n'), "{sentence}");
    error
}

#[tokio::test]
async fn one_process_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("deep/er/store.db");
    let store = open(&path).expect("it opens, with its folder");
    assert!(matches!(refused(&path), OpenError::InUse { .. }));
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("a link can be made");
    assert!(
        matches!(open(&link), Err(OpenError::InUse { .. })),
        "another way to the same file"
    );
    let kept = store.clone();
    within(store.close()).await;
    within(kept.ended()).await;
    assert!(kept.info(None).await.is_err(), "a handle that is left reads no more");
    open(&path).expect("it opens again").close().await;
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let text = folder.path().join("text.db");
    std::fs::write(&text, "this is no database, however long it is. ".repeat(100)).expect("it is written");
    assert!(matches!(refused(&text), OpenError::NotADatabase { .. }));

    let foreign = folder.path().join("foreign.db");
    let other = Connection::open(&foreign).expect("it opens");
    other.execute_batch("create table t (a)").expect("it is made");
    drop(other);
    let before = std::fs::read(&foreign).expect("it reads");
    assert!(matches!(refused(&foreign), OpenError::Foreign { .. }));
    assert_eq!(std::fs::read(&foreign).expect("it reads"), before);

    let marked = folder.path().join("marked.db");
    let other = Connection::open(&marked).expect("it opens");
    other.execute_batch("pragma application_id = 7").expect("it is marked");
    drop(other);
    assert!(matches!(refused(&marked), OpenError::Foreign { .. }));

    let newer = folder.path().join("newer.db");
    open(&newer).expect("it opens").close().await;
    let later = Connection::open(&newer).expect("it opens");
    later.execute_batch("pragma user_version = 6").expect("it is marked");
    drop(later);
    assert!(matches!(refused(&newer), OpenError::Newer { found: 6, known: 5, .. }));

    assert!(matches!(refused(folder.path()), OpenError::Unusable { .. }));
    let under_a_file = text.join("store.db");
    let error = open(&under_a_file).expect_err("a file is no folder");
    assert!(matches!(error, OpenError::Folder { .. }), "{error}");
}

#[tokio::test]
async fn the_file_is_set_up_as_it_should_be() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("store.db");
    open(&path).expect("it opens").close().await;
    let connection = Connection::open(&path).expect("it opens");
    let ask = |pragma: &str| -> rusqlite::types::Value {
        let sql = format!("pragma {pragma}");
        connection.query_row(&sql, (), |row| row.get(0)).expect("it answers")
    };
    assert_eq!(ask("journal_mode"), "wal".to_owned().into());
    assert_eq!(ask("page_size"), 8_192_i64.into());
    assert_eq!(ask("auto_vacuum"), 2_i64.into());
    assert_eq!(ask("application_id"), 0x4450_3153_i64.into());
    assert_eq!(ask("user_version"), 5_i64.into());
    assert_eq!(ask("integrity_check"), "ok".to_owned().into());
    let loose: i64 = connection
        .query_row(
            "select count(*) from pragma_table_list where schema = 'main' and not strict \
                    and name not like 'sqlite%'",
            (),
            |row| row.get(0),
        )
        .expect("it counts");
    assert_eq!(loose, 0, "every table is strict");
}

#[tokio::test]
async fn a_store_that_was_closed_is_one_file() {
    let mut service = Service::start().await;
    service.put("k", "1").await;
    let path = service.path();
    let folder = service.stop().await;
    let names = std::fs::read_dir(folder.path()).expect("it lists");
    let mut names: Vec<_> = names.map(|file| file.expect("it lists").path()).collect();
    names.sort();
    assert_eq!(
        names,
        [path.clone(), path.with_extension("db.lock")],
        "one file to back up"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_the_line_is_refused_and_the_rest_is_done() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("store.db");
    let store = open(&path).expect("it opens");
    let other = Connection::open(&path).expect("it opens");
    // Somebody's tool holds the file for a moment: the writer waits, and the line behind it grows.
    other.execute_batch("begin immediate").expect("the lock is free");
    let mut commits = tokio::task::JoinSet::new();
    for index in 0..2_000 {
        let store = store.clone();
        commits.spawn(async move {
            let mut commit = Commit::new(Origin::Commit);
            commit.mutations.push(Mutation {
                name: KeyName {
                    namespace: Namespace::parse("n".to_owned()).expect("the name is good"),
                    key: Key::parse(index.to_string()).expect("the key is good"),
                },
                change: Change::Put {
                    content: Content::Text(String::new()),
                    expiry: Expiry::Never,
                    metadata: Pairs::new(),
                },
            });
            store.commit(commit, None).await
        });
    }
    let first = within(commits.join_next())
        .await
        .expect("there are commits")
        .expect("it did not panic");
    assert!(matches!(first, Err(StoreError::Overloaded)), "{first:?}");
    other.execute_batch("rollback").expect("the lock is given back");
    let mut done = 0;
    while let Some(answer) = within(commits.join_next()).await {
        match answer.expect("it did not panic") {
            Ok(_) => done += 1,
            Err(error) => assert!(matches!(error, StoreError::Overloaded), "{error}"),
        }
    }
    assert_eq!(store.info(None).await.expect("it answers").store_revision, done);
    assert!(done >= 1_024, "{done}");
    store.close().await;
}
