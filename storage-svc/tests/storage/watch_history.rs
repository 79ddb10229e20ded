//! KvService.Watch: history that is forgotten, clients that fall behind it, and what is left in the file.

use std::time::{Duration, Instant};

use runtime::clock::Clock;
use storage_svc::StoreArgs;
use tonic::Code;

use crate::support::{START_MS, Service, eventually, put, within};
use crate::watching::{Watching, all, deletion, metadata, oldest, reason, rows, told};

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
async fn without_history_a_watch_still_follows() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let none = |args: &mut StoreArgs| args.storage_history_seconds = 0;
    let mut service = Service::start_with(folder, Clock::manual(START_MS), none).await;
    let mut watching = Watching::begin(&mut service.kv, all(None)).await.expect("it begins");
    // For longer than the writer goes without looking what can be forgotten.
    let end = Instant::now() + Duration::from_millis(1_500);
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let mut kv = service.kv.clone();
            tokio::spawn(async move {
                while Instant::now() < end {
                    kv.put(put("k", "1")).await.expect("it is written");
                }
            })
        })
        .collect();
    let mut kv = service.kv.clone();
    let ending = tokio::spawn(async move {
        for writer in writers {
            writer.await.expect("it writes");
        }
        kv.put(put("k", "last"))
            .await
            .expect("it is written")
            .into_inner()
            .revision
    });
    let mut last = 0;
    loop {
        let batch = watching.batch().await;
        last += 1;
        assert_eq!(batch.revision, last);
        if told(&[batch])[0].3 == Some("last") {
            break;
        }
    }
    assert_eq!(within(ending).await.expect("it writes"), last);
    service.clock.advance_ms(1_000);
    eventually("it is forgotten", async || oldest(&mut service).await == last).await;
    service.put("k", "1").await;
    assert_eq!(watching.batch().await.revision, last + 1);
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
