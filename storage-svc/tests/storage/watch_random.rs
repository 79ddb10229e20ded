//! KvService.Watch: writers at full speed, and followers that watch, drop and resume at random.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proto::v1;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::watch_event::Kind;
use proto::v1::watch_response::Body;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use runtime::clock::Clock;
use tonic::transport::Channel;

use crate::support::{Service, eventually, within};
use crate::watching::{Watching, all, prefix, range, rows, selector};

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
