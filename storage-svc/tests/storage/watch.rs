//! KvService.Watch: every change in order, without gaps or repeats, or a plain refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::limits::{WATCH_PROGRESS_MAX, WATCH_PROGRESS_MIN, WATCH_SELECTORS_MAX, WATCHES_MAX};
use proto::v1;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::selector::Keys;
use proto::v1::watch_event::Kind;
use proto::v1::watch_response::{Batch, Body, Head};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use runtime::clock::Clock;
use rusqlite::Connection;
use storage_svc::StoreArgs;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::{START_MS, Service, put, refused, seconds, within};

fn selector(namespace: &str, keys: Option<Keys>) -> v1::Selector {
    v1::Selector {
        namespace: namespace.to_owned(),
        keys,
    }
}

fn prefix(namespace: &str, prefix: &str) -> v1::Selector {
    selector(namespace, Some(Keys::Prefix(prefix.to_owned())))
}

fn range(namespace: &str, start: &str, end: &str) -> v1::Selector {
    let (start, end) = (start.to_owned(), end.to_owned());
    selector(namespace, Some(Keys::Range(v1::KeyRange { start, end })))
}

/// All of a namespace, with marks as often as can be.
fn all(after_revision: impl Into<Option<u64>>) -> v1::WatchRequest {
    v1::WatchRequest {
        selectors: vec![selector("n", None)],
        after_revision: after_revision.into(),
        progress_interval: prost_types::Duration::try_from(WATCH_PROGRESS_MIN).ok(),
        ..Default::default()
    }
}

fn deletion(key: &str) -> v1::DeleteRequest {
    v1::DeleteRequest {
        namespace: "n".to_owned(),
        key: key.to_owned(),
        ..Default::default()
    }
}

fn expiring(key: &str, text: &str) -> v1::PutRequest {
    v1::PutRequest {
        expiry: Some(v1::put_request::Expiry::Ttl(seconds(1))),
        ..put(key, text)
    }
}

/// A watch that has been begun.
struct Watching {
    head: Head,
    stream: Streaming<v1::WatchResponse>,
}

impl Watching {
    async fn begin(kv: &mut KvServiceClient<Channel>, request: v1::WatchRequest) -> Result<Self, Status> {
        let mut stream = within(kv.watch(request)).await?.into_inner();
        let first = within(stream.message()).await?.expect("there is a head");
        let Some(Body::Head(head)) = first.body else {
            panic!("a head: {first:?}")
        };
        Ok(Self { head, stream })
    }

    async fn next(&mut self) -> Result<Body, Status> {
        let message = within(self.stream.message()).await?;
        let message = message.expect("a watch does not end without a word");
        Ok(message.body.expect("a message says something"))
    }

    /// Batches up to the next mark, and its revision.
    async fn until_mark(&mut self) -> (Vec<Batch>, u64) {
        let mut batches = Vec::new();
        loop {
            match self.next().await.expect("the watch goes on") {
                Body::Head(head) => panic!("a second head: {head:?}"),
                Body::Batch(batch) => batches.push(batch),
                Body::Progress(mark) => return (batches, mark.revision),
            }
        }
    }

    async fn batch(&mut self) -> Batch {
        loop {
            match self.next().await.expect("the watch goes on") {
                Body::Batch(batch) => return batch,
                Body::Progress(_) => {}
                Body::Head(head) => panic!("a second head: {head:?}"),
            }
        }
    }

    /// Reads on until it ends; the revisions of the whole batches on the way.
    async fn until_end(&mut self) -> (Vec<u64>, Status) {
        let mut revisions = Vec::new();
        loop {
            match self.next().await {
                Ok(Body::Batch(batch)) if !batch.more => revisions.push(batch.revision),
                Ok(_) => {}
                Err(status) => return (revisions, status),
            }
        }
    }
}

/// Revision, kind, key and text of each event.
fn told(batches: &[Batch]) -> Vec<(u64, Kind, &str, Option<&str>)> {
    let told = batches.iter().flat_map(|batch| {
        batch.events.iter().map(|event| {
            let entry = event.entry.as_ref().expect("an event names its key");
            assert_eq!(entry.revision, batch.revision);
            (batch.revision, event.kind(), entry.key.as_str(), entry.text())
        })
    });
    told.collect()
}

#[track_caller]
fn reason(status: &Status, code: Code, reason: &str) -> std::collections::HashMap<String, String> {
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info().expect("it says why");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "storage.dp1"));
    info.metadata
}

fn metadata<const N: usize>(numbers: [(&str, u64); N]) -> std::collections::HashMap<String, String> {
    numbers
        .map(|(name, number)| (name.to_owned(), number.to_string()))
        .into()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn oldest(service: &mut Service) -> u64 {
    let info = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    info.expect("it answers").into_inner().oldest_watch_revision
}

fn rows(service: &Service, table: &str) -> i64 {
    let file = Connection::open(service.path()).expect("the file opens");
    file.busy_timeout(Duration::from_secs(5)).expect("it is set");
    file.query_row(&format!("select count(*) from {table}"), (), |row| row.get(0))
        .expect("it counts")
}

#[tokio::test]
async fn a_watch_begins_behind_the_revision_it_names_and_marks_where_it_has_caught_up() {
    let mut service = Service::start().await;
    let large = "x".repeat(300);
    service.put("a", &large).await;
    service.put("a", "2").await;
    service.kv.delete(deletion("a")).await.expect("it is deleted");
    service.put("b", "4").await;
    let history = [
        (1, Kind::Put, "a", Some(large.as_str())),
        (2, Kind::Put, "a", Some("2")),
        (3, Kind::Delete, "a", None),
        (4, Kind::Put, "b", Some("4")),
    ];
    for after in 0..=4 {
        let mut watching = Watching::begin(&mut service.kv, all(after)).await.expect("it is kept");
        assert_eq!((watching.head.store_revision, watching.head.oldest_revision), (4, 0));
        let (batches, mark) = watching.until_mark().await;
        let expected = &history[usize::try_from(after).expect("it is small")..];
        assert_eq!((told(&batches).as_slice(), mark), (expected, 4), "after {after}");
        assert_eq!(watching.until_mark().await.1, 4, "silence is marked");
    }
    let ahead = Watching::begin(&mut service.kv, all(5))
        .await
        .err()
        .expect("there is no such revision");
    assert_eq!(
        reason(&ahead, Code::OutOfRange, "REVISION_AHEAD"),
        metadata([("store_revision", 4)])
    );
    let ahead = Watching::begin(&mut service.kv, all(u64::MAX))
        .await
        .err()
        .expect("there is no such revision");
    reason(&ahead, Code::OutOfRange, "REVISION_AHEAD");

    let mut live = Watching::begin(&mut service.kv, all(None)).await.expect("it begins");
    assert_eq!(live.until_mark().await, (Vec::new(), 4), "nothing of before");
    service.put("c", "5").await;
    let batch = live.batch().await;
    assert_eq!(told(std::slice::from_ref(&batch)), [(5, Kind::Put, "c", Some("5"))]);
    assert_eq!(batch.commit_time.map(|time| time.seconds), Some(START_MS / 1_000));
    assert!(!batch.more);
    service.stop().await;
}

#[tokio::test]
async fn an_event_is_what_its_revision_wrote() {
    let mut service = Service::start().await;
    let first = v1::PutRequest {
        metadata: [("made".to_owned(), "first".to_owned())].into(),
        ..expiring("k", &"1".repeat(10_000))
    };
    service.kv.put(first).await.expect("it is written");
    let bytes = v1::PutRequest {
        content: Some(v1::put_request::Content::Value(vec![0, 255].into())),
        ..put("k", "")
    };
    service.kv.put(bytes).await.expect("it is written");
    service.kv.delete(deletion("k")).await.expect("it is deleted");
    let entries = async |kv: &mut _, request| {
        let mut watching = Watching::begin(kv, request).await.expect("it is kept");
        let batches = watching.until_mark().await.0.into_iter();
        let entries = batches.flat_map(|batch| batch.events).filter_map(|event| event.entry);
        entries.collect::<Vec<_>>()
    };
    let [first, second, gone] = &entries(&mut service.kv, all(0)).await[..] else {
        panic!("three events")
    };
    assert_eq!(first.text(), Some("1".repeat(10_000).as_str()));
    assert_eq!(first.metadata, [("made".to_owned(), "first".to_owned())].into());
    assert_eq!((first.revision, first.create_revision, first.version), (1, 1, 1));
    assert_eq!(first.expire_time.map(|time| time.seconds), Some(START_MS / 1_000 + 1));
    assert_eq!(second.content, Some(v1::entry::Content::Value(vec![0, 255].into())));
    assert_eq!((second.revision, second.create_revision, second.version), (2, 1, 2));
    assert_eq!((second.expire_time, second.metadata.len()), (None, 0));
    assert_eq!(
        (gone.namespace.as_str(), gone.key.as_str(), gone.revision),
        ("n", "k", 3)
    );
    assert_eq!((&gone.content, gone.version), (&None, 0));
    let omitting = v1::WatchRequest {
        omit_values: true,
        ..all(0)
    };
    let found = entries(&mut service.kv, omitting).await;
    assert!(found.iter().all(|entry| entry.content.is_none()));
    assert_eq!(found[0].metadata.len(), 1);
    let as_bytes = v1::WatchRequest {
        as_bytes: true,
        ..all(0)
    };
    let found = entries(&mut service.kv, as_bytes).await;
    assert_eq!(
        found[0].content,
        Some(v1::entry::Content::Value("1".repeat(10_000).into()))
    );
    service.stop().await;
}

#[tokio::test]
async fn expiry_is_told_when_it_is_collected_and_once() {
    let mut service = Service::start().await;
    let mut watching = Watching::begin(&mut service.kv, all(0)).await.expect("it is kept");
    for key in ["collected", "again"] {
        service.kv.put(expiring(key, "1")).await.expect("it is written");
        watching.batch().await;
    }
    service.clock.advance_ms(1_000);
    assert_eq!(service.get("collected").await, None, "gone for who reads");
    let gone = service.kv.delete(deletion("collected")).await.expect("it is no error");
    assert!(!gone.into_inner().deleted, "there was nothing to delete");
    let mut live: BTreeSet<String> = ["collected".to_owned(), "again".to_owned()].into();
    let written = service.put("again", "2").await;
    let mut events = Vec::new();
    while live.contains("collected") {
        let batch = watching.batch().await;
        for (revision, kind, key, text) in told(std::slice::from_ref(&batch)) {
            assert_eq!(text.is_none(), kind == Kind::Expire);
            if kind == Kind::Expire {
                assert!(live.remove(key), "{key} is told of once");
            } else {
                live.insert(key.to_owned());
            }
            events.push((revision, kind, key.to_owned()));
        }
    }
    // The key that was written again may have been collected before, but not after.
    let last = events.iter().rfind(|event| event.2 == "again");
    assert!(
        last.is_none_or(|last| (last.0, last.1) == (written, Kind::Put)),
        "{events:?}"
    );
    assert!(service.get("again").await.is_some());
    service.stop().await;
}

#[tokio::test]
async fn a_key_is_watched_if_a_selector_picks_it() {
    let mut service = Service::start().await;
    let request = v1::WatchRequest {
        selectors: vec![
            prefix("n", "a/"),
            // Overlaps: a key is told once.
            range("n", "a/b", "a/d"),
            range("n", "x", ""),
            prefix("later", ""),
            selector("never", None),
        ],
        ..all(0)
    };
    let mut watching = Watching::begin(&mut service.kv, request).await.expect("it begins");
    let keys = [
        "a",
        "a/",
        "a/b",
        "a/c/d",
        "a0",
        "a\u{10ffff}",
        "b",
        "w",
        "x",
        "x\u{10ffff}",
        "é",
    ];
    let mutations = keys.map(|key| v1::Mutation::put_text("n", key, String::new(), [].into()));
    let commit = v1::CommitRequest {
        mutations: mutations.into(),
        ..Default::default()
    };
    service.kv.commit(commit).await.expect("it commits");
    let batch = watching.batch().await;
    let found: Vec<_> = told(std::slice::from_ref(&batch)).iter().map(|event| event.2).collect();
    assert_eq!(found, ["a/", "a/b", "a/c/d", "x", "x\u{10ffff}", "é"]);
    service.put("b", "not watched").await;
    let later = v1::PutRequest {
        namespace: "later".to_owned(),
        ..put("k", "made just now")
    };
    service.kv.put(later).await.expect("it is written");
    let batch = watching.batch().await;
    assert_eq!(
        told(std::slice::from_ref(&batch)),
        [(3, Kind::Put, "k", Some("made just now"))]
    );
    service.put("b", "not watched").await;
    eventually("the mark passes over what is not watched", async || {
        watching.until_mark().await == (Vec::new(), 4)
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn a_large_commit_comes_in_parts() {
    let mut service = Service::start().await;
    let mutations =
        (0..6).map(|index| v1::Mutation::put_text("n", &format!("k{index}"), "x".repeat(600 * 1024), [].into()));
    let commit = v1::CommitRequest {
        mutations: mutations.collect(),
        ..Default::default()
    };
    service.kv.commit(commit).await.expect("it commits");
    service.put("next", "2").await;
    let mut watching = Watching::begin(&mut service.kv, all(0)).await.expect("it is kept");
    let (batches, mark) = watching.until_mark().await;
    let shape: Vec<_> = batches
        .iter()
        .map(|batch| (batch.revision, batch.events.len(), batch.more))
        .collect();
    assert_eq!(shape, [(1, 2, true), (1, 2, true), (1, 2, false), (2, 1, false)]);
    assert_eq!(mark, 2);
    service.stop().await;
}

/// What a follower has seen over all its watches.
#[derive(Default)]
struct Log {
    revision: u64,
    events: BTreeMap<u64, Vec<(Kind, Name, Option<String>)>>,
    watches: usize,
    marks: usize,
}

type Name = (String, String);

/// What a commit wrote: each key with its text, or none if it was deleted.
type Commits = Arc<Mutex<BTreeMap<u64, Vec<(Name, Option<String>)>>>>;

/// Watches, drops and resumes at random until `last` is set and reached.
async fn follow(
    mut kv: KvServiceClient<Channel>,
    selectors: Vec<v1::Selector>,
    seed: u64,
    last: tokio::sync::watch::Receiver<Option<u64>>,
) -> Log {
    let mut random = StdRng::seed_from_u64(seed);
    let mut log = Log::default();
    loop {
        let request = v1::WatchRequest {
            selectors: selectors.clone(),
            ..all(log.revision)
        };
        let mut watching = Watching::begin(&mut kv, request).await.expect("it is kept");
        log.watches += 1;
        let mut part = Vec::new();
        let mut at = log.revision;
        for _ in 0..random.random_range(1..200) {
            match watching.next().await.expect("the watch goes on") {
                Body::Head(head) => panic!("a second head: {head:?}"),
                Body::Batch(batch) => {
                    assert!(batch.revision > at, "{} after {at}", batch.revision);
                    part.extend(batch.events);
                    if batch.more {
                        continue;
                    }
                    at = batch.revision;
                    let events = part.drain(..).map(|event| {
                        let kind = event.kind();
                        let entry = event.entry.expect("an event names its key");
                        let text = entry.text().map(str::to_owned);
                        (kind, (entry.namespace, entry.key), text)
                    });
                    log.events.insert(at, events.collect());
                    log.revision = at;
                }
                Body::Progress(mark) => {
                    assert!(part.is_empty() && mark.revision >= at);
                    at = mark.revision;
                    log.revision = at;
                    log.marks += 1;
                }
            }
            if last.borrow().is_some_and(|last| log.revision >= last) {
                return log;
            }
        }
    }
}

async fn write(mut kv: KvServiceClient<Channel>, seed: u64, commits: Commits) {
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..250 {
        let mut mutations = BTreeMap::new();
        for _ in 0..random.random_range(1..5) {
            let namespace = if round > 100 && random.random_bool(0.3) {
                "late"
            } else {
                "n"
            };
            let key = format!(
                "{}/{}",
                ["a", "b", "c"][random.random_range(0..3)],
                random.random_range(0..8)
            );
            let text = random.random_bool(0.8).then(|| {
                let length = [1, 100, 300, 2_000][random.random_range(0..4)];
                format!("{seed}-{round}-{}", "x".repeat(length))
            });
            mutations.insert((namespace.to_owned(), key), text);
        }
        let wire = mutations.iter().map(|((namespace, key), text)| {
            let Some(text) = text else {
                return v1::Mutation::delete(namespace, key);
            };
            let mut mutation = v1::Mutation::put_text(namespace, key, text.clone(), [].into());
            if let Some(v1::mutation::Op::Put(put)) = &mut mutation.op
                && random.random_bool(0.2)
            {
                let ttl = prost_types::Duration {
                    seconds: 0,
                    nanos: random.random_range(1..300) * 1_000_000,
                };
                put.expiry = Some(v1::mutation::put::Expiry::Ttl(ttl));
            }
            mutation
        });
        let request = v1::CommitRequest {
            mutations: wire.collect(),
            ..Default::default()
        };
        let answer = kv.commit(request).await.expect("it commits").into_inner();
        let Some(v1::commit_response::Outcome::Committed(done)) = answer.outcome else {
            panic!("nothing was checked: {answer:?}")
        };
        let is_effective = mutations.values().any(Option::is_some);
        if is_effective {
            let written = mutations.into_iter().collect();
            let before = commits.lock().expect("nobody panicked").insert(done.revision, written);
            assert_eq!(before, None, "a revision is one commit's");
        }
    }
}

/// The log is exactly what the commits did to the selected keys, and what of the rest it tells is expiries.
fn check(log: &Log, commits: &BTreeMap<u64, Vec<(Name, Option<String>)>>, selects: impl Fn(&Name) -> bool) {
    let mut map: BTreeMap<Name, String> = BTreeMap::new();
    for revision in 1..=log.revision {
        let events = log.events.get(&revision).map_or(&[][..], Vec::as_slice);
        if let Some(written) = commits.get(&revision) {
            let puts: Vec<_> = written
                .iter()
                .filter(|(name, text)| selects(name) && text.is_some())
                .map(|(name, text)| (Kind::Put, name.clone(), text.clone()))
                .collect();
            let told: Vec<_> = events.iter().filter(|event| event.0 == Kind::Put).cloned().collect();
            assert_eq!(told, puts, "puts of {revision}");
            for (name, _) in written.iter().filter(|(name, text)| selects(name) && text.is_none()) {
                let is_told = events.contains(&(Kind::Delete, name.clone(), None));
                // One that had expired is not there to be deleted; its end is told by itself.
                assert!(
                    is_told || !map.contains_key(name) || expires_later(log, revision, name),
                    "{name:?}"
                );
            }
        } else {
            // Of keys that expired, or a commit of deletions alone.
            assert!(
                events.iter().all(|event| event.0 != Kind::Put),
                "{revision}: {events:?}"
            );
        }
        for (kind, name, text) in events {
            assert!(selects(name), "{name:?} is not watched");
            if *kind == Kind::Put {
                map.insert(name.clone(), text.clone().expect("a put has a text"));
            } else {
                assert!(map.remove(name).is_some(), "{name:?} goes twice at {revision}");
            }
        }
    }
}

/// Whether the next that is told of the key is its expiry, or another put over it.
fn expires_later(log: &Log, revision: u64, name: &Name) -> bool {
    let later = log.events.range(revision..).flat_map(|(_, events)| events);
    let mut later = later.filter(|event| event.1 == *name);
    later.next().is_some_and(|event| event.0 != Kind::Delete)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_what_happened_whoever_comes_and_goes_meanwhile() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut service = Service::start_in(folder, Clock::system()).await;
    let (sender, last) = tokio::sync::watch::channel(None);
    let watched = [
        vec![selector("n", None), selector("late", None)],
        vec![prefix("n", "a/")],
        vec![range("n", "a/5", "b/3"), prefix("n", "b/"), prefix("late", "c/")],
        vec![selector("late", None)],
    ];
    let followers: Vec<_> = (0..8_u64)
        .map(|seed| {
            let selectors = watched[usize::try_from(seed).expect("it is small") % watched.len()].clone();
            tokio::spawn(follow(service.kv.clone(), selectors, seed, last.clone()))
        })
        .collect();
    let commits = Commits::default();
    let writers: Vec<_> = (0..4)
        .map(|seed| tokio::spawn(write(service.kv.clone(), 100 + seed, Arc::clone(&commits))))
        .collect();
    for writer in writers {
        within(writer).await.expect("it writes");
    }
    eventually("everything that expires is collected", async || {
        rows(&service, "entry where expire_ms is not null") == 0
    })
    .await;
    let info = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    let revision = info.expect("it answers").into_inner().store_revision;
    sender.send_replace(Some(revision));
    let commits = commits.lock().expect("nobody panicked").clone();
    let selects: [fn(&Name) -> bool; 4] = [
        |_| true,
        |(namespace, key)| namespace == "n" && key.starts_with("a/"),
        |(namespace, key)| match namespace.as_str() {
            "n" => key.starts_with("b/") || ("a/5".."b/3").contains(&key.as_str()),
            _ => key.starts_with("c/"),
        },
        |(namespace, _)| namespace == "late",
    ];
    let mut maps = Vec::new();
    for (index, follower) in followers.into_iter().enumerate() {
        let log = within(follower).await.expect("it follows");
        assert_eq!(log.revision, revision);
        assert!(
            log.watches > 1 && log.marks > 0,
            "{} watches, {} marks",
            log.watches,
            log.marks
        );
        check(&log, &commits, selects[index % selects.len()]);
        let mut map = BTreeMap::new();
        for (kind, name, text) in log.events.values().flatten() {
            match (kind, text) {
                (Kind::Put, Some(text)) => map.insert(name.clone(), text.clone()),
                _ => map.remove(name),
            };
        }
        maps.push((map, log.events));
    }
    let mut stored = BTreeMap::new();
    for namespace in ["n", "late"] {
        let request = v1::ScanRequest {
            selector: Some(selector(namespace, None)),
            page_size: 1_000,
            ..Default::default()
        };
        let page = service.kv.scan(request).await.expect("it scans").into_inner();
        assert_eq!((page.next_page_token.as_str(), page.store_revision), ("", revision));
        for entry in page.rows.into_iter().filter_map(|row| row.entry) {
            let text = entry.text().expect("it was written as text").to_owned();
            stored.insert((entry.namespace, entry.key), text);
        }
    }
    for (index, (map, events)) in maps.iter().enumerate() {
        let selects = selects[index % selects.len()];
        let expected: BTreeMap<_, _> = stored.clone().into_iter().filter(|(name, _)| selects(name)).collect();
        assert_eq!(*map, expected, "follower {index}");
        assert_eq!(
            *events,
            maps[index % watched.len()].1,
            "two that watch the same are told the same"
        );
    }
    service.stop().await;
}

#[tokio::test]
async fn a_watch_that_falls_behind_its_age_is_told_and_misses_nothing_before() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut service = Service::start_in(folder, Clock::manual(START_MS)).await;
    let mut paused = Watching::begin(&mut service.kv, all(0)).await.expect("it is kept");
    let mut current = Watching::begin(&mut service.kv, all(0)).await.expect("it is kept");
    // More than what is on its way can hold.
    let count = 40;
    for index in 1..=count {
        service.put(&format!("k{index}"), &"x".repeat(256 * 1024)).await;
        assert_eq!(current.batch().await.revision, index);
    }
    service.clock.advance_ms(3_600_000);
    eventually("the history is forgotten", async || oldest(&mut service).await == count).await;
    let (revisions, status) = paused.until_end().await;
    let got: Vec<u64> = (1..=revisions.len() as u64).collect();
    assert_eq!(revisions, got, "no gaps before the end");
    assert!(revisions.len() < 40);
    let expected = metadata([("oldest_revision", count), ("store_revision", count)]);
    assert_eq!(reason(&status, Code::OutOfRange, "HISTORY_GONE"), expected);

    // Who was up to date stays so.
    service.put("next", "1").await;
    assert_eq!(current.batch().await.revision, count + 1);
    let late = Watching::begin(&mut service.kv, all(count - 1))
        .await
        .err()
        .expect("it is forgotten");
    let expected = metadata([("oldest_revision", count), ("store_revision", count + 1)]);
    assert_eq!(reason(&late, Code::OutOfRange, "HISTORY_GONE"), expected);
    let mut resumed = Watching::begin(&mut service.kv, all(count)).await.expect("it is kept");
    assert_eq!(resumed.head.oldest_revision, count);
    assert_eq!(resumed.batch().await.revision, count + 1);
    eventually("its rows are gone", async || rows(&service, "change") == 1).await;
    assert_eq!(
        rows(&service, "value"),
        i64::try_from(count).expect("it is small"),
        "those of the entries"
    );
    service.stop().await;
}

#[tokio::test]
async fn history_is_bounded_by_its_size_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let bounded = |args: &mut StoreArgs| args.storage_history_bytes = 100_000;
    let mut service = Service::start_with(folder, Clock::manual(START_MS), bounded).await;
    for index in 1..=50 {
        assert_eq!(service.put("k", &"x".repeat(10_000)).await, index);
    }
    eventually("the oldest is forgotten", async || oldest(&mut service).await == 41).await;
    let late = Watching::begin(&mut service.kv, all(40))
        .await
        .err()
        .expect("it is forgotten");
    let expected = metadata([("oldest_revision", 41), ("store_revision", 50)]);
    assert_eq!(reason(&late, Code::OutOfRange, "HISTORY_GONE"), expected);
    let mut watching = Watching::begin(&mut service.kv, all(41)).await.expect("it is kept");
    let revisions: Vec<_> = watching
        .until_mark()
        .await
        .0
        .iter()
        .map(|batch| batch.revision)
        .collect();
    assert_eq!(revisions, (42..=50).collect::<Vec<_>>());
    assert_eq!((rows(&service, "change"), rows(&service, "value")), (9, 9));
    let stats = service.store().history(None).await.expect("it reads");
    assert_eq!(stats.changes, 9);
    assert!((90_000..100_000).contains(&stats.bytes), "{}", stats.bytes);

    service.kv.delete(deletion("k")).await.expect("it is deleted");
    let oldest = service
        .store()
        .compact_history(Duration::ZERO)
        .await
        .expect("it forgets");
    assert_eq!(oldest, 51);
    assert_eq!((rows(&service, "change"), rows(&service, "value")), (0, 0));
    let stats = service.store().history(None).await.expect("it reads");
    assert_eq!((stats.changes, stats.bytes), (0, 0));
    service.stop().await;
}

#[tokio::test]
async fn compaction_keeps_what_is_younger() {
    let mut service = Service::start().await;
    service.put("a", "1").await;
    service.clock.advance_ms(10_000);
    service.put("a", "2").await;
    service.clock.advance_ms(1_000);
    let compact = async |keep| service.store().compact_history(Duration::from_millis(keep)).await;
    assert_eq!(compact(11_001).await.expect("it looks"), 0);
    assert_eq!(compact(1_001).await.expect("it forgets"), 1);
    assert_eq!(compact(1_000).await.expect("it forgets"), 2);
    assert_eq!(compact(0).await.expect("there is nothing"), 2);
    service.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_stops_nobody() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let impatient = |args: &mut StoreArgs| args.streams.watch_stall_max = Duration::from_millis(300);
    let mut service = Service::start_with(folder, Clock::manual(START_MS), impatient).await;
    let mut stalled = Watching::begin(&mut service.kv, all(0)).await.expect("it is kept");
    for index in 1..=40 {
        assert_eq!(service.put(&format!("k{index}"), &"x".repeat(256 * 1024)).await, index);
    }
    eventually("it is cut off", async || service.store().watches() == 0).await;
    let (revisions, status) = stalled.until_end().await;
    let last = *revisions.last().expect("something came");
    assert!(last < 40);
    assert_eq!(revisions, (1..=last).collect::<Vec<_>>());
    assert_eq!(
        reason(&status, Code::ResourceExhausted, "SLOW_WATCHER"),
        metadata([("last_revision", last)])
    );
    let mut resumed = Watching::begin(&mut service.kv, all(last)).await.expect("it is kept");
    assert_eq!(resumed.batch().await.revision, last + 1);
    // Silence is no stall.
    let mut silent = Watching::begin(&mut service.kv, all(None)).await.expect("it begins");
    for _ in 0..6 {
        assert_eq!(silent.until_mark().await.1, 40);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_watch_is_resumed_over_a_restart() {
    let mut service = Service::start().await;
    service.put("k", &"1".repeat(300)).await;
    let mut before = Watching::begin(&mut service.kv, all(None)).await.expect("it begins");
    assert_eq!(before.until_mark().await.1, 1);
    service.put("k", &"2".repeat(300)).await;
    assert_eq!(before.batch().await.revision, 2);
    let head = before.head.clone();
    let mut service = service.restart().await;
    service.put("k", "3").await;
    let mut after = Watching::begin(&mut service.kv, all(1)).await.expect("it is kept");
    assert_eq!(after.head.store_id, head.store_id);
    assert_ne!(after.head.incarnation, head.incarnation);
    let (batches, mark) = after.until_mark().await;
    let second = "2".repeat(300);
    assert_eq!(
        told(&batches),
        [
            (2, Kind::Put, "k", Some(second.as_str())),
            (3, Kind::Put, "k", Some("3"))
        ]
    );
    assert_eq!(mark, 3);
    service.stop().await;
}

#[tokio::test]
async fn stopping_ends_watches() {
    let mut service = Service::start().await;
    let mut idle = Watching::begin(&mut service.kv, all(None)).await.expect("it begins");
    let mut stalled = Watching::begin(&mut service.kv, all(0)).await.expect("it begins");
    for index in 0..40 {
        service.put(&format!("k{index}"), &"x".repeat(256 * 1024)).await;
    }
    service.begin_stop();
    assert_eq!(idle.until_end().await.1.code(), Code::Unavailable);
    assert_eq!(stalled.until_end().await.1.code(), Code::Unavailable);
    service.stop().await;
}

#[tokio::test]
async fn the_store_ends_watches_when_it_closes() {
    let mut service = Service::start().await;
    let mut idle = Watching::begin(&mut service.kv, all(None)).await.expect("it begins");
    idle.until_mark().await;
    service.store().clone().close().await;
    assert_eq!(idle.until_end().await.1.code(), Code::Unavailable);
    service.begin_stop();
}

#[tokio::test]
async fn limits_at_their_edge_and_past_it() {
    let mut service = Service::start().await;
    let selectors = |count| v1::WatchRequest {
        selectors: vec![selector("n", None); count],
        ..Default::default()
    };
    let kv = &mut service.kv;
    refused(kv.watch(selectors(0)).await, "selectors");
    refused(kv.watch(selectors(WATCH_SELECTORS_MAX + 1)).await, "selectors");
    kv.watch(selectors(WATCH_SELECTORS_MAX))
        .await
        .expect("so many are fine");
    let interval = |interval: Duration| v1::WatchRequest {
        progress_interval: prost_types::Duration::try_from(interval).ok(),
        ..all(0)
    };
    let least = Duration::from_nanos(1);
    for edge in [WATCH_PROGRESS_MIN, WATCH_PROGRESS_MAX] {
        kv.watch(interval(edge)).await.expect("so long is fine");
    }
    refused(
        kv.watch(interval(WATCH_PROGRESS_MIN - least)).await,
        "progress_interval",
    );
    refused(
        kv.watch(interval(WATCH_PROGRESS_MAX + least)).await,
        "progress_interval",
    );
    let with = |wrong| v1::WatchRequest {
        selectors: vec![selector("n", None), wrong],
        ..Default::default()
    };
    refused(kv.watch(with(selector("N", None))).await, "selectors[1].namespace");
    refused(
        kv.watch(with(prefix("n", &"k".repeat(513)))).await,
        "selectors[1].prefix",
    );
    refused(kv.watch(with(range("n", "a\0", ""))).await, "selectors[1].range.start");
    refused(
        kv.watch(with(range("n", "", &"k".repeat(513)))).await,
        "selectors[1].range.end",
    );

    eventually("who is gone is noticed", async || service.store().watches() == 0).await;
    let mut watches = Vec::new();
    for _ in 0..WATCHES_MAX {
        watches.push(
            Watching::begin(&mut service.kv, all(None))
                .await
                .expect("there is room"),
        );
    }
    assert_eq!(service.store().watches(), WATCHES_MAX);
    let status = Watching::begin(&mut service.kv, all(None))
        .await
        .err()
        .expect("there is no room");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.get_details_retry_info().is_some());
    // All of them are told of one change.
    let revision = service.put("k", "1").await;
    for watching in &mut watches {
        assert_eq!(watching.batch().await.revision, revision);
    }
    watches.pop();
    eventually("its place is free", async || service.store().watches() < WATCHES_MAX).await;
    watches.push(
        Watching::begin(&mut service.kv, all(None))
            .await
            .expect("there is room again"),
    );
    let limits = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    let info = limits.expect("it answers").into_inner();
    assert_eq!((info.limits["watches"], info.limits["watch_selectors"]), (256, 16));
    assert_eq!(
        (info.limits["history_seconds"], info.limits["history_bytes"]),
        (3_600, 256 << 20)
    );
    assert!(info.capabilities.contains(&"watch".to_owned()));
    drop(watches);
    service.stop().await;
}
