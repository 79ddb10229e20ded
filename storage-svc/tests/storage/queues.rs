//! Queues as a whole: settings, lists, depth, pause, deletion; and messages looked at.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::limits::{LIST_BYTES, LIST_ROWS_MAX};
use proto::v1;
use proto::v1::MessageState::{Blocked, Dead, Delayed, Leased, Ready};
use proto::v1::settlement_result::Status;
use rusqlite::Connection;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::operator::{ack, dead, enqueue, id, ids, keyed, nack};
use crate::support::{Service, message, receive, refused, seconds, settlement, within};

fn milliseconds(milliseconds: i32) -> prost_types::Duration {
    prost_types::Duration {
        seconds: 0,
        nanos: milliseconds * 1_000_000,
    }
}

fn create(name: &str, settings: v1::QueueSettings) -> v1::CreateQueueRequest {
    v1::CreateQueueRequest {
        name: name.to_owned(),
        settings: Some(settings),
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

fn defaults() -> v1::QueueSettings {
    v1::QueueSettings {
        lease: Some(seconds(30)),
        max_attempts: Some(10),
        backoff: Some(v1::BackoffPolicy {
            initial: Some(seconds(1)),
            max: Some(seconds(600)),
            jitter_percent: Some(20),
        }),
        dedup_window: Some(seconds(600)),
        dead_retention: Some(seconds(14 * 86_400)),
        max_depth: Some(1_000_000),
        paused: Some(false),
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

fn max_depth(messages: u64) -> v1::QueueSettings {
    v1::QueueSettings {
        max_depth: Some(messages),
        ..Default::default()
    }
}

fn paused(paused: bool) -> v1::QueueSettings {
    v1::QueueSettings {
        paused: Some(paused),
        ..Default::default()
    }
}

fn waiting() -> v1::ReceiveRequest {
    v1::ReceiveRequest {
        wait: Some(seconds(30)),
        max_messages: 1,
        ..receive()
    }
}

#[tokio::test]
async fn a_queue_is_made_once_with_its_settings() {
    let mut service = Service::start().await;
    let answer = service
        .queue
        .create_queue(create("q", v1::QueueSettings::default()))
        .await;
    let queue = answer.expect("it is made").into_inner().queue.expect("it is answered");
    assert_eq!((queue.name.as_str(), queue.settings), ("q", Some(defaults())));
    assert_eq!(queue.create_time.map(|time| time.seconds), Some(1_700_000_000));
    assert_eq!(queue.stats, Some(v1::QueueStats::default()));
    service.clock.advance_ms(5_000);
    let again = service.queue.create_queue(create("q", defaults())).await;
    let again = again
        .expect("it is the same")
        .into_inner()
        .queue
        .expect("it is answered");
    assert_eq!(again, queue);
    let other = service.queue.create_queue(create("q", max_depth(7))).await;
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
    let same = service.queue.create_queue(create("used", defaults())).await;
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
        .create_queue(create("used", defaults()))
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
        refused(service.queue.create_queue(create(&name, past)).await, field);
        let made = service.queue.create_queue(create(&name, at)).await;
        made.unwrap_or_else(|status| panic!("{field} at its limit: {status:?}"));
        service
            .queue
            .update_queue(update(defaults(), &["backoff"]))
            .await
            .expect("it is as new");
        refused(service.queue.update_queue(update(past, &[])).await, field);
        let changed = service.queue.update_queue(update(at, &[])).await;
        changed.unwrap_or_else(|status| panic!("{field} at its limit: {status:?}"));
    }
    refused(service.queue.create_queue(create("Q", none)).await, "name");
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
    expected.backoff = defaults().backoff;
    assert_eq!(now.await.expect("it is changed"), expected, "only what is named");
    let all = ["max_attempts", "dedup_window", "dead_retention", "max_depth"];
    assert_eq!(changed(none, &all).await.expect("it is changed"), defaults());
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

#[tokio::test]
async fn a_queue_holds_no_more_than_it_may() {
    let mut service = Service::start().await;
    service.create(max_depth(5)).await;
    let later = v1::NewMessage {
        delay: Some(seconds(60)),
        ..message("later")
    };
    service
        .send(vec![keyed("k", "ready"), keyed("k", "blocked"), later])
        .await;
    let held = service.receive_one().await;
    service.send(vec![message("dies")]).await;
    let dies = service.receive_one().await;
    service.done(&dies.receipt, dead("")).await;
    let two = enqueue(vec![message("fits"), message("does not")]);
    let status = service.queue.enqueue(two).await.expect_err("there is room for one");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status
            .get_details_retry_info()
            .is_some_and(|retry| retry.retry_delay.is_some())
    );
    let quota = status.get_details_quota_failure().expect("it says what is full");
    assert_eq!(quota.violations[0].subject, "queue:q");
    service.send(vec![message("fits")]).await;
    let stats = service.stats().await;
    let figures = [stats.ready, stats.delayed, stats.leased, stats.dead, stats.blocked];
    assert_eq!(figures, [1; 5], "one of each state fills it");

    // What a commit acks makes room for what it enqueues; and nothing of one that does not fit is done.
    let mut commit = v1::CommitRequest {
        settlements: vec![settlement(&held.receipt, ack())],
        enqueues: vec![message("m"); 2],
        mutations: vec![v1::Mutation::put_text("n", "k", String::new(), [].into())],
        ..Default::default()
    };
    let status = service
        .kv
        .commit(commit.clone())
        .await
        .expect_err("there is room for one");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(service.get("k").await, None);
    commit.enqueues.pop();
    service.kv.commit(commit).await.expect("it fits");
    assert_eq!(service.redrive(&[]).await, (1, false), "it was there before");
    service.change(max_depth(1)).await;
    let status = service.queue.enqueue(enqueue(vec![message("m")])).await;
    assert_eq!(
        status.expect_err("it is more than full").code(),
        Code::ResourceExhausted
    );
    service.change(max_depth(6)).await;
    service.send(vec![message("fits")]).await;
    service.stop().await;
}

#[tokio::test]
async fn a_paused_queue_delivers_nothing_and_wakes_who_waits_when_it_goes_on() {
    let mut service = Service::start().await;
    service.send(vec![message("one"), message("two")]).await;
    let request = v1::ReceiveRequest {
        max_messages: 1,
        ..receive()
    };
    let answer = service.queue.receive(request).await.expect("it receives");
    let held = answer.into_inner().deliveries.remove(0);
    service.change(paused(true)).await;
    assert!(service.receive().await.is_empty());
    service.send(vec![message("three")]).await;
    assert!(service.receive().await.is_empty());
    service.done(&held.receipt, ack()).await;
    let mut queue = service.queue.clone();
    let waits = tokio::spawn(async move { queue.receive(waiting()).await });
    service.send(vec![message("four")]).await;
    assert_eq!(service.stats().await.ready, 3);
    service.change(paused(false)).await;
    let answer = within(waits).await.expect("it did not panic").expect("it receives");
    assert_eq!(answer.into_inner().deliveries.len(), 1);
    assert_eq!(service.receive().await.len(), 2);
    service.stop().await;
}

#[tokio::test]
async fn queues_are_listed_by_name_page_by_page() {
    let mut service = Service::start().await;
    let mut other = Service::start().await;
    let names: Vec<_> = (0..25).map(|index| format!("q.{index:02}")).collect();
    for name in names.iter().rev() {
        service
            .queue
            .create_queue(create(name, max_depth(9)))
            .await
            .expect("it is made");
    }
    let first = v1::NewMessage {
        queue: "q.00".to_owned(),
        delay: Some(seconds(1)),
        ..message("m")
    };
    service.send(vec![first]).await;
    service.clock.advance_ms(1_000);
    let mut listed = Vec::new();
    let mut page_token = String::new();
    let mut pages = 0;
    loop {
        let request = v1::ListQueuesRequest {
            page_size: 5,
            page_token,
        };
        let page = service.queue.list_queues(request).await.expect("it lists").into_inner();
        pages += 1;
        listed.extend(page.queues);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        let foreign = v1::ListQueuesRequest {
            page_size: 5,
            page_token: page_token.clone(),
        };
        refused(other.queue.list_queues(foreign).await, "page_token");
    }
    assert_eq!(pages, 5, "the last page knows that it is the last");
    let found: Vec<_> = listed.iter().map(|queue| queue.name.clone()).collect();
    assert_eq!(found, names);
    assert_eq!(listed[0].stats.map(|stats| (stats.ready, stats.delayed)), Some((1, 0)));
    assert_eq!(
        listed[0]
            .stats
            .and_then(|stats| stats.oldest_ready_age)
            .map(|age| age.seconds),
        Some(1)
    );
    assert!(
        listed
            .iter()
            .all(|queue| queue.settings.and_then(|settings| settings.max_depth) == Some(9))
    );
    let bad = v1::ListQueuesRequest {
        page_size: 5,
        page_token: "nonsense".to_owned(),
    };
    refused(service.queue.list_queues(bad).await, "page_token");
    service.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_queue_is_deleted_with_all_that_belongs_to_it() {
    let mut service = Service::start().await;
    let delete = |force| v1::DeleteQueueRequest {
        name: "q".to_owned(),
        force,
    };
    let answer = service.queue.delete_queue(delete(true)).await.expect("it answers");
    assert!(!answer.into_inner().deleted, "there is none");
    service.change_all_states().await;
    let held = service.receive().await.remove(0);
    let status = service
        .queue
        .delete_queue(delete(false))
        .await
        .expect_err("it is not empty");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let details = status.get_details_precondition_failure().expect("it says why");
    assert_eq!(
        (
            details.violations[0].r#type.as_str(),
            details.violations[0].subject.as_str()
        ),
        ("QUEUE_NOT_EMPTY", "queue:q")
    );
    let last = service.send(vec![message("last")]).await[0];
    let answer = service.queue.delete_queue(delete(true)).await.expect("it is deleted");
    assert!(answer.into_inner().deleted);
    assert_eq!(service.rows(), [].into());
    assert_eq!(service.settle(&held.receipt, ack()).await, Status::Gone);

    // The next one of the name is another.
    let again = v1::NewMessage {
        dedup_id: "once".to_owned(),
        ..keyed("k", "m")
    };
    let answer = service
        .queue
        .enqueue(enqueue(vec![again]))
        .await
        .expect("it is enqueued");
    let result = answer.into_inner().results[0];
    assert!(result.id > last && !result.deduplicated);
    assert_eq!(service.stats().await.ready, 1);
    let delivery = service.receive_one().await;
    service.done(&delivery.receipt, ack()).await;
    let answer = service.queue.delete_queue(delete(false)).await.expect("it is empty");
    assert!(answer.into_inner().deleted);
    service.stop().await;
}

#[tokio::test]
async fn who_waits_at_a_deleted_queue_is_told_and_not_served_by_the_next_one() {
    let mut service = Service::start().await;
    let mut queue = service.queue.clone();
    let waits = tokio::spawn(async move { queue.receive(waiting()).await });
    // Who waits has made the queue, in the same batch.
    within(async {
        while service.rows().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let delete = v1::DeleteQueueRequest {
        name: "q".to_owned(),
        force: false,
    };
    let deleted = service.queue.delete_queue(delete).await.expect("it is empty");
    assert!(deleted.into_inner().deleted);
    service.enqueue("next").await;
    let status = within(waits).await.expect("it did not panic").expect_err("it is told");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert!(status.get_details_resource_info().is_some());
    assert_eq!(service.receive().await.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_queue_that_is_too_large_is_purged_first() {
    let service = Service::start().await;
    let path = service.path();
    let folder = service.stop().await;
    // By hand, because a hundred thousand calls take long.
    let file = Connection::open(path).expect("it opens");
    file.execute_batch(
        "insert into queue (id, name, ready) values (1, 'q', 100001); \
         with recursive c(i) as (select 1 union all select i + 1 from c where i < 100001) \
         insert into message (id, queue_id, state, due_ms, enqueue_ms) select i, 1, 2, 0, 0 from c; \
         insert into message_body (id, kind, body) select id, 0, x'00' from message",
    )
    .expect("the rows fit");
    drop(file);
    let mut service = Service::start_in(folder, runtime::clock::Clock::manual(crate::support::START_MS)).await;
    let delete = v1::DeleteQueueRequest {
        name: "q".to_owned(),
        force: true,
    };
    let status = service
        .queue
        .delete_queue(delete.clone())
        .await
        .expect_err("it is too large");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let details = status.get_details_precondition_failure().expect("it says why");
    assert_eq!(details.violations[0].r#type, "QUEUE_TOO_LARGE");
    assert_eq!(service.purge(&[100_001], &[Ready]).await, (1, false));
    within(service.queue.delete_queue(delete)).await.expect("now it fits");
    assert_eq!(service.rows(), [].into());
    service.stop().await;
}

impl Service {
    /// One message in every state, one of them delivered before; ids in the order of the states' numbers.
    async fn change_all_states(&mut self) -> [u64; 5] {
        let dies = self.send(vec![message("dies")]).await[0];
        let delivery = self.receive_one().await;
        self.done(&delivery.receipt, dead("no use")).await;
        let leased = v1::NewMessage {
            dedup_id: "once".to_owned(),
            attributes: [("trace".to_owned(), "t".to_owned())].into(),
            ..keyed("k", "leased")
        };
        let leased = self.send(vec![leased]).await[0];
        let delivery = self.receive_one().await;
        self.done(&delivery.receipt, nack(0, "once more")).await;
        let request = v1::ReceiveRequest {
            lease: Some(seconds(300)),
            ..receive()
        };
        let again = self.queue.receive(request).await.expect("it receives");
        assert_eq!(ids(&again.into_inner().deliveries), [leased]);
        let later = v1::NewMessage {
            delay: Some(seconds(60)),
            ..message("later")
        };
        let sent = self.send(vec![later, message("ready"), keyed("k", "blocked")]).await;
        [sent[0], sent[1], leased, dies, sent[2]]
    }

    async fn listed(&mut self, state: v1::MessageState) -> Vec<u64> {
        let answer = self
            .queue
            .list_messages(list(state))
            .await
            .expect("it lists")
            .into_inner();
        assert_eq!(answer.next_page_token, "");
        answer.messages.iter().map(|message| message.id).collect()
    }
}

fn list(state: v1::MessageState) -> v1::ListMessagesRequest {
    v1::ListMessagesRequest {
        queue: "q".to_owned(),
        state: state.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn messages_are_seen_in_every_state() {
    let mut service = Service::start().await;
    let all = service.change_all_states().await;
    let states = [Delayed, Ready, Leased, Dead, Blocked];
    for (id, state) in all.into_iter().zip(states) {
        assert_eq!(service.state(id).await, state);
        assert_eq!(service.listed(state).await, [id]);
    }
    let mut sorted = all;
    sorted.sort_unstable();
    assert_eq!(service.listed(v1::MessageState::Unspecified).await, sorted);
    let leased = service.message(all[2]).await;
    assert_eq!(leased.queue, "q");
    assert_eq!(leased.content, Some(v1::message::Content::Text("leased".to_owned())));
    assert_eq!(leased.attributes, [("trace".to_owned(), "t".to_owned())].into());
    assert_eq!((leased.ordering_key.as_str(), leased.dedup_id.as_str()), ("k", "once"));
    assert_eq!((leased.attempt, leased.last_error.as_str()), (2, "once more"));
    assert_eq!(
        leased.due_time.map(|time| time.seconds),
        Some(1_700_000_300),
        "the lease's end"
    );
    let due = |message: v1::Message| message.due_time.map(|time| time.seconds);
    assert_eq!(due(service.message(all[0]).await), Some(1_700_000_060));
    assert_eq!(due(service.message(all[1]).await), None);
    assert_eq!(due(service.message(all[4]).await), Some(1_700_000_000));
    // Looking changes nothing.
    assert_eq!(service.message(all[2]).await, leased);

    // The figures and the list are those of now.
    service.clock.advance_ms(60_000);
    assert_eq!(service.listed(Ready).await, [all[0], all[1]]);
    let get = |queue: &str, which| v1::GetMessageRequest {
        queue: queue.to_owned(),
        which,
    };
    let by_id = |id| Some(v1::get_message_request::Which::Id(id));
    let elsewhere = v1::NewMessage {
        queue: "elsewhere".to_owned(),
        ..message("m")
    };
    let elsewhere = service.send(vec![elsewhere]).await[0];
    for request in [
        get("q", by_id(elsewhere)),
        get("q", by_id(0)),
        get("q", by_id(u64::MAX)),
        get("no", by_id(1)),
    ] {
        let status = service.queue.get_message(request).await.expect_err("it is not there");
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.get_details_resource_info().is_some());
    }
    refused(service.queue.get_message(get("q", None)).await, "which");
    let name = |length: usize| Some(v1::get_message_request::Which::DedupId("é".repeat(length)));
    let longest = service
        .queue
        .get_message(get("q", name(64)))
        .await
        .expect_err("it is not there");
    assert_eq!(longest.code(), Code::NotFound);
    refused(service.queue.get_message(get("q", name(65))).await, "dedup_id");
    service.stop().await;
}

#[tokio::test]
async fn names_of_messages_have_limits() {
    let mut service = Service::start().await;
    let key = |key: &str| enqueue(vec![keyed(key, "m")]);
    let dedup_id = |id: &str| {
        enqueue(vec![v1::NewMessage {
            dedup_id: id.to_owned(),
            ..message("m")
        }])
    };
    let (longest, too_long) = ("é".repeat(64), "é".repeat(64) + "x");
    service.queue.enqueue(key(&longest)).await.expect("it fits");
    service.queue.enqueue(dedup_id(&longest)).await.expect("it fits");
    for bad in [too_long.as_str(), "a\0b", "\0"] {
        refused(service.queue.enqueue(key(bad)).await, "messages[0].ordering_key");
        refused(service.queue.enqueue(dedup_id(bad)).await, "messages[0].dedup_id");
        let commit = v1::CommitRequest {
            enqueues: vec![message("m"), keyed(bad, "m")],
            ..Default::default()
        };
        refused(service.kv.commit(commit).await, "enqueues[1].ordering_key");
    }
    // Names that mean something to others mean nothing here.
    for odd in ["%", "_", "'; drop table message; --", " ", "\u{10ffff}", "K", "k"] {
        service.queue.enqueue(key(odd)).await.expect("it is a name");
    }
    assert_eq!(service.receive().await.len(), 9, "nine keys are nine");
    service.stop().await;
}

#[tokio::test]
async fn messages_are_listed_page_by_page() {
    let mut service = Service::start().await;
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.extend(service.send(vec![message("m"), keyed("k", "m"), message("m")]).await);
    }
    service.receive().await;
    sent.extend(service.send(vec![message("m")]).await);
    let page = |page_token: &str| v1::ListMessagesRequest {
        page_size: 3,
        page_token: page_token.to_owned(),
        ..list(v1::MessageState::Unspecified)
    };
    let mut seen = Vec::new();
    let mut token = String::new();
    for left in (0..4).rev() {
        let answer = service
            .queue
            .list_messages(page(&token))
            .await
            .expect("it lists")
            .into_inner();
        seen.extend(answer.messages.iter().map(|message| message.id));
        token = answer.next_page_token;
        assert_eq!(token.is_empty(), left == 0);
        if left == 3 {
            for other in [
                v1::ListMessagesRequest {
                    state: Ready.into(),
                    ..page(&token)
                },
                v1::ListMessagesRequest {
                    queue: "other".to_owned(),
                    ..page(&token)
                },
                v1::ListMessagesRequest {
                    omit_bodies: true,
                    ..page(&token)
                },
                page("AAAA"),
                page(&token[..token.len() - 2]),
            ] {
                refused(service.queue.list_messages(other).await, "page_token");
            }
            let queues = v1::ListQueuesRequest {
                page_size: 0,
                page_token: token.clone(),
            };
            refused(service.queue.list_queues(queues).await, "page_token");
        }
    }
    assert_eq!(seen, sent);

    let without = v1::ListMessagesRequest {
        omit_bodies: true,
        ..list(Ready)
    };
    let answer = service
        .queue
        .list_messages(without)
        .await
        .expect("it lists")
        .into_inner();
    assert!(answer.messages.iter().all(|message| message.content.is_none()));
    let most = i32::try_from(LIST_ROWS_MAX).expect("it fits");
    let size = |page_size| v1::ListMessagesRequest {
        page_size,
        ..list(Ready)
    };
    service.queue.list_messages(size(most)).await.expect("so many are fine");
    refused(service.queue.list_messages(size(most + 1)).await, "page_size");
    refused(service.queue.list_messages(size(-1)).await, "page_size");
    let unknown = v1::ListMessagesRequest {
        state: 99,
        ..list(Ready)
    };
    refused(service.queue.list_messages(unknown).await, "state");
    let unknown = v1::ListMessagesRequest {
        queue: "unknown".to_owned(),
        ..list(Ready)
    };
    let status = service.queue.list_messages(unknown).await.expect_err("nobody used it");
    assert_eq!(status.code(), Code::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn a_page_of_messages_ends_at_its_size() {
    let mut service = Service::start().await;
    let large = message(&"x".repeat(LIST_BYTES / 4));
    service.send(vec![large; 6]).await;
    let mut request = list(Ready);
    let mut pages = Vec::new();
    loop {
        let page = service
            .queue
            .list_messages(request.clone())
            .await
            .expect("it lists")
            .into_inner();
        pages.push(page.messages.len());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages, [4, 2]);
    service.stop().await;
}

#[tokio::test]
async fn finished_messages_leave_nothing_behind() {
    let mut service = Service::start().await;
    service.change_all_states().await;
    let tables: BTreeSet<_> = service.rows().into_keys().collect();
    let all = ["dedup", "failure", "message", "message_body", "queue"];
    assert_eq!(tables, all.map(str::to_owned).into(), "every table is used");
    // The leases and delays end; everything is acked, but for the dead one.
    service.clock.advance_ms(310_000);
    let mut acked = 0;
    while acked < 4 {
        let deliveries = within(service.queue.receive(waiting()))
            .await
            .expect("it receives")
            .into_inner();
        for delivery in &deliveries.deliveries {
            service.done(&delivery.receipt, ack()).await;
            acked += 1;
        }
    }
    assert_eq!(service.purge(&[], &[Dead]).await, (1, false));
    service.clock.advance_ms(600_000);
    within(async {
        while service.rows().contains_key("dedup") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(service.rows(), [("queue".to_owned(), 1)].into());
    let stats = service.stats().await;
    assert_eq!(stats, v1::QueueStats::default());
    service.stop().await;
}

#[tokio::test]
async fn what_others_hold_or_held_cannot_be_settled() {
    let mut service = Service::start().await;
    let one = service.enqueue("one").await;
    let first = service.receive_one().await;
    service.done(&first.receipt, nack(0, "first")).await;
    let second = service.receive_one().await;
    let before = service.message(one).await;
    for action in [ack(), nack(0, "late"), dead("late")] {
        assert_eq!(service.settle(&first.receipt, action).await, Status::Stale);
    }
    assert_eq!(service.message(one).await, before, "nothing has changed");
    service.clock.advance_ms(30_000);
    let before = service.message(one).await;
    for action in [ack(), nack(0, "late"), dead("late")] {
        assert_eq!(service.settle(&second.receipt, action).await, Status::Stale);
    }
    assert_eq!(service.message(one).await, before, "nothing has changed");
    service.clock.advance_ms(3_000);
    let third = service.receive_one().await;
    let request = v1::SettleRequest {
        settlements: vec![
            settlement(&third.receipt, nack(0, "")),
            settlement(&third.receipt, ack()),
        ],
    };
    let answer = service.queue.settle(request).await.expect("it settles").into_inner();
    let said: Vec<_> = answer.results.iter().map(v1::SettlementResult::status).collect();
    assert_eq!(said, [Status::Ok, Status::Stale], "the second is told so");
    assert_eq!(service.state(one).await, Ready);
    service.stop().await;
}

#[tokio::test]
async fn limits_and_capabilities_are_told() {
    let mut service = Service::start().await;
    let info = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    let info = info.expect("it answers").into_inner();
    let expected = [
        ("ordering_key_bytes", 128),
        ("dedup_id_bytes", 128),
        ("dedup_window_seconds", 604_800),
        ("dead_retention_seconds", 31_622_400),
        ("backoff_jitter_percent", 100),
        ("queue_attempts", 1_000),
        ("queue_depth", 10_000_000),
        ("delete_queue_messages", 100_000),
        ("failures_kept", 20),
        ("swept_messages", 1_000),
        ("list_rows", 1_000),
        ("list_rows_default", 100),
        ("list_bytes", 1_048_576),
    ];
    for (name, limit) in expected {
        assert_eq!(info.limits.get(name), Some(&limit), "{name}");
    }
    for capability in ["dead_letters", "dedup", "ordering_keys", "queue_settings"] {
        assert!(info.capabilities.contains(&capability.to_owned()), "{capability}");
    }
    service.stop().await;
}
