//! KvService.Watch: what is told, in which order, to whom and until when.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::time::Duration;

use proto::limits::{WATCH_PROGRESS_MAX, WATCH_PROGRESS_MIN, WATCH_SELECTORS_MAX, WATCHES_MAX};
use proto::v1;
use proto::v1::watch_event::Kind;
use storage_svc::StoreError;
use storage_svc::model::{Told, Watch, With};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{START_MS, Service, eventually, put, refused, within};
use crate::watching::{Watching, all, deletion, expiring, metadata, prefix, range, reason, selector, told};

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

/// On the store itself: a service whose store is gone also cuts its connections.
#[tokio::test]
async fn the_store_ends_watches_when_it_closes() {
    let service = Service::start().await;
    let store = service.store().clone();
    let watch = Watch {
        selectors: Vec::new(),
        after_revision: None,
        with: With::NoContent,
        progress_interval: WATCH_PROGRESS_MAX,
    };
    let never = CancellationToken::new();
    let mut flow = store.watch(watch.clone(), None, &never).await.expect("it begins");
    for _ in 0..2 {
        let told = within(poll_fn(|context| flow.poll_next(context))).await;
        assert!(
            matches!(told, Some(Ok(Told::Head { .. } | Told::Progress(0)))),
            "{told:?}"
        );
    }
    within(store.clone().close()).await;
    let ended = within(poll_fn(|context| flow.poll_next(context))).await;
    assert!(matches!(ended, Some(Err(StoreError::Closing))), "{ended:?}");
    let late = store.watch(watch, None, &never).await;
    assert!(matches!(late, Err(StoreError::Closing)), "{late:?}");
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
        kv.watch(interval(WATCH_PROGRESS_MIN.saturating_sub(least))).await,
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
