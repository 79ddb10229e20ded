//! Settings of queues: made, changed, at their limits, and on messages under way.

use proto::limits::LIST_ROWS_MAX;
use proto::v1;
use proto::v1::MessageState::{Dead, Delayed};
use proto::v1::settlement_result::Status;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::operator::{ack, create_queue, default_settings, id, max_depth};
use crate::support::{Service, message, refused, seconds};

fn milliseconds(milliseconds: i32) -> prost_types::Duration {
    prost_types::Duration {
        seconds: 0,
        nanos: milliseconds * 1_000_000,
    }
}

fn update(settings: v1::QueueSettings, paths: &[&str]) -> v1::UpdateQueueRequest {
    v1::UpdateQueueRequest {
        name: "q".to_owned(),
        settings: Some(settings),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
    }
}

fn backoff(initial: Option<i64>, max: Option<i64>, jitter_percent: Option<u32>) -> v1::QueueSettings {
    v1::QueueSettings {
        backoff: Some(v1::BackoffPolicy {
            initial: initial.map(seconds),
            max: max.map(seconds),
            jitter_percent,
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_queue_is_made_once_with_its_settings() {
    let mut service = Service::start().await;
    let answer = service
        .queue
        .create_queue(create_queue("q", v1::QueueSettings::default()))
        .await;
    let queue = answer.expect("it is made").into_inner().queue.expect("it is answered");
    assert_eq!((queue.name.as_str(), queue.settings), ("q", Some(default_settings())));
    assert_eq!(queue.create_time.map(|time| time.seconds), Some(1_700_000_000));
    assert_eq!(queue.stats, Some(v1::QueueStats::default()));
    service.clock.advance_ms(5_000);
    let again = service.queue.create_queue(create_queue("q", default_settings())).await;
    let again = again
        .expect("it is the same")
        .into_inner()
        .queue
        .expect("it is answered");
    assert_eq!(again, queue);
    let other = service.queue.create_queue(create_queue("q", max_depth(7))).await;
    let status = other.expect_err("it is another");
    assert_eq!(status.code(), Code::AlreadyExists);
    let resource = status.get_details_resource_info().expect("it names the queue");
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("queue", "q")
    );

    // One that is made by being used is the same.
    service.enqueue("m").await;
    let used = v1::NewMessage {
        queue: "used".to_owned(),
        ..message("m")
    };
    service.send(vec![used]).await;
    let same = service
        .queue
        .create_queue(create_queue("used", default_settings()))
        .await;
    let same = same
        .expect("it is the same")
        .into_inner()
        .queue
        .expect("it is answered");
    assert_eq!(same.create_time.map(|time| time.seconds), Some(1_700_000_005));
    assert_eq!(same.stats.map(|stats| stats.ready), Some(1));
    let mut service = service.restart().await;
    service
        .queue
        .create_queue(create_queue("used", default_settings()))
        .await
        .expect("it is the same");
    service.stop().await;
}

#[tokio::test]
async fn settings_have_limits() {
    let mut service = Service::start().await;
    let none = v1::QueueSettings::default();
    let half_day = 43_200;
    let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let with = |change: fn(&mut v1::QueueSettings, Option<prost_types::Duration>), span| {
        let mut settings = none;
        change(&mut settings, span);
        settings
    };
    let lease = |span| with(|settings, span| settings.lease = span, span);
    let window = |span| with(|settings, span| settings.dedup_window = span, span);
    let retention = |span| with(|settings, span| settings.dead_retention = span, span);
    let attempts = |attempts| v1::QueueSettings {
        max_attempts: Some(attempts),
        ..none
    };
    let long = Some(half_day);
    let cases = [
        (
            "settings.lease",
            lease(span(0, 100_000_000)),
            lease(span(0, 99_999_999)),
        ),
        ("settings.lease", lease(span(half_day, 0)), lease(span(half_day, 1))),
        ("settings.max_attempts", attempts(1), attempts(0)),
        ("settings.max_attempts", attempts(1_000), attempts(1_001)),
        (
            "settings.backoff.initial",
            backoff(Some(0), None, None),
            backoff(Some(-1), None, None),
        ),
        (
            "settings.backoff.initial",
            backoff(long, long, None),
            backoff(Some(43_201), long, None),
        ),
        (
            "settings.backoff.max",
            backoff(long, long, None),
            backoff(Some(1), Some(43_201), None),
        ),
        (
            "settings.backoff.max",
            backoff(Some(5), Some(5), None),
            backoff(Some(5), Some(4), None),
        ),
        (
            "settings.backoff.max",
            backoff(Some(600), None, None),
            backoff(Some(601), None, None),
        ),
        (
            "settings.backoff.jitter_percent",
            backoff(None, None, Some(100)),
            backoff(None, None, Some(101)),
        ),
        ("settings.dedup_window", window(span(0, 0)), window(span(-1, 0))),
        (
            "settings.dedup_window",
            window(span(604_800, 0)),
            window(span(604_800, 1)),
        ),
        ("settings.dead_retention", retention(span(0, 0)), retention(span(-1, 0))),
        (
            "settings.dead_retention",
            retention(span(31_622_400, 0)),
            retention(span(31_622_400, 1)),
        ),
        ("settings.max_depth", max_depth(1), max_depth(0)),
        ("settings.max_depth", max_depth(10_000_000), max_depth(10_000_001)),
    ];
    service.create(none).await;
    for (index, (field, at, past)) in cases.into_iter().enumerate() {
        let name = format!("made-{index}");
        refused(service.queue.create_queue(create_queue(&name, past)).await, field);
        let made = service.queue.create_queue(create_queue(&name, at)).await;
        made.unwrap_or_else(|status| panic!("{field} at its limit: {status:?}"));
        service
            .queue
            .update_queue(update(default_settings(), &["backoff"]))
            .await
            .expect("it is as new");
        refused(service.queue.update_queue(update(past, &[])).await, field);
        let changed = service.queue.update_queue(update(at, &[])).await;
        changed.unwrap_or_else(|status| panic!("{field} at its limit: {status:?}"));
    }
    refused(service.queue.create_queue(create_queue("Q", none)).await, "name");
    let unnamed = v1::UpdateQueueRequest::default();
    refused(service.queue.update_queue(unnamed).await, "name");
    let list = |page_size| v1::ListQueuesRequest {
        page_size,
        page_token: String::new(),
    };
    let most = i32::try_from(LIST_ROWS_MAX).expect("it fits");
    service.queue.list_queues(list(most)).await.expect("so many are fine");
    refused(service.queue.list_queues(list(most + 1)).await, "page_size");
    refused(service.queue.list_queues(list(-1)).await, "page_size");
    service.stop().await;
}

#[tokio::test]
async fn a_mask_says_which_settings_are_changed() {
    let mut service = Service::start().await;
    let other = v1::QueueSettings {
        lease: Some(seconds(5)),
        max_attempts: Some(3),
        dedup_window: Some(seconds(0)),
        dead_retention: Some(seconds(0)),
        max_depth: Some(77),
        paused: Some(true),
        ..backoff(Some(2), Some(20), Some(0))
    };
    service.create(other).await;
    let mut changed = async |settings, paths: &[&str]| {
        let answer = service.queue.update_queue(update(settings, paths)).await?;
        let queue = answer.into_inner().queue.expect("it is answered");
        Ok::<_, tonic::Status>(queue.settings.expect("it has settings"))
    };
    let none = v1::QueueSettings::default();
    assert_eq!(changed(none, &[]).await.expect("it is changed"), other);
    let now = changed(none, &["lease", "backoff.max"]).await.expect("it is changed");
    let mut expected = other;
    expected.lease = Some(seconds(30));
    expected.backoff.as_mut().expect("it is set").max = Some(seconds(600));
    assert_eq!(now, expected, "what is named and unset has its default");
    let partly = backoff(Some(7), None, None);
    expected.backoff.as_mut().expect("it is set").initial = Some(seconds(7));
    assert_eq!(
        changed(partly, &[]).await.expect("it is changed"),
        expected,
        "what is set"
    );
    let now = changed(partly, &["backoff"]).await.expect("it is changed");
    expected.backoff.as_mut().expect("it is set").jitter_percent = Some(20);
    assert_eq!(now, expected, "the whole of it");
    let now = changed(max_depth(5), &["paused", "backoff.initial", "backoff.jitter_percent"]);
    expected.paused = Some(false);
    expected.backoff = default_settings().backoff;
    assert_eq!(now.await.expect("it is changed"), expected, "only what is named");
    let all = ["max_attempts", "dedup_window", "dead_retention", "max_depth"];
    assert_eq!(changed(none, &all).await.expect("it is changed"), default_settings());
    // The new end does not fit the one that is there.
    refused(
        changed(backoff(Some(700), None, None), &["backoff.initial"]).await,
        "settings.backoff.max",
    );
    for path in [
        "",
        "leases",
        "backoff.",
        "settings.lease",
        "backoff.initial.seconds",
        "name",
        "Lease",
        "le%se\0",
    ] {
        let status = changed(none, &["lease", path]).await.expect_err("it is no setting");
        assert!(status.message().contains(&format!("{path:?}")), "{status:?}");
        refused(Err::<(), _>(status), "update_mask");
    }
    let unknown = v1::UpdateQueueRequest {
        name: "unknown".to_owned(),
        ..update(none, &[])
    };
    let status = service.queue.update_queue(unknown).await.expect_err("nobody used it");
    assert_eq!(status.code(), Code::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn settings_hold_for_what_happens_from_then_on() {
    let mut service = Service::start().await;
    service.send(vec![message("one"), message("two")]).await;
    let mut held = service.receive().await;
    service
        .change(v1::QueueSettings {
            lease: Some(milliseconds(500)),
            max_attempts: Some(2),
            ..backoff(Some(5), Some(5), Some(0))
        })
        .await;
    // The lease that runs keeps its end; its back-off is the new one.
    service.clock.advance_ms(29_999);
    service.done(&held.remove(0).receipt, ack()).await;
    service.clock.advance_ms(1);
    let two = id(&held[0]);
    assert_eq!(service.state(two).await, Delayed);
    service.clock.advance_ms(4_999);
    assert_eq!(service.state(two).await, Delayed);
    service.change(backoff(Some(500), Some(600), None)).await;
    service.clock.advance_ms(1);
    let second = service.receive_one().await;
    service.clock.advance_ms(500);
    assert_eq!(
        service.settle(&second.receipt, ack()).await,
        Status::Stale,
        "the new lease"
    );
    let buried = service.message(two).await;
    assert_eq!((buried.state(), buried.attempt), (Dead, 2), "the new limit");
    service.stop().await;
}
