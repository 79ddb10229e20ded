//! Queues as a whole: lists, depth, pause, deletion, and what is told of them.

use std::time::Duration;

use proto::v1;
use proto::v1::MessageState::{Dead, Delayed, Leased, Ready};
use proto::v1::settlement_result::Status;
use rusqlite::Connection;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::operator::{ack, create_queue, dead, default_settings, enqueue, ids, keyed, max_depth, nack};
use crate::support::{Service, message, receive, refused, seconds, settlement, within};

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
    let is = service.stats().await;
    let figures = [is.ready, is.delayed, is.leased, is.dead, is.blocked];
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
            .create_queue(create_queue(name, max_depth(9)))
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
    service.one_in_each_state().await;
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
    // By hand, because ten thousand calls take long.
    let file = Connection::open(path).expect("it opens");
    file.execute_batch(
        "insert into queue (id, name, ready) values (1, 'q', 10001); \
         with recursive c(i) as (select 1 union all select i + 1 from c where i < 10001) \
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
    assert_eq!(service.purge(&[10_001], &[Ready]).await, (1, false));
    within(service.queue.delete_queue(delete)).await.expect("now it fits");
    assert_eq!(service.rows(), [].into());
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
        ("delete_queue_messages", 10_000),
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

#[tokio::test]
async fn a_queue_of_the_second_version_is_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let second = Connection::open(crate::support::store_args(folder.path()).sqlite_db_path).expect("it opens");
    second
        .execute_batch(concat!(
            include_str!("../../migrations/0001_kv.sql"),
            include_str!("../../migrations/0002_queue.sql"),
            "pragma application_id = 1146106195; pragma user_version = 2; \
             update store set clock_ms = 1699999999000; \
             insert into queue (id, name, lease_ms, attempts_max, delayed, ready, leased, dead) \
             values (7, 'q', 5000, 4, 1, 1, 1, 1); \
             insert into message (id, queue_id, state, due_ms, epoch, attempt, enqueue_ms, last_error, dead_reason) \
             values (1, 7, 4, 0, 1, 1, 0, 'broken', 'no use'), (2, 7, 2, 0, 0, 0, 0, null, null), \
             (3, 7, 3, 1700000001000, 1, 1, 0, null, null), (4, 7, 1, 1700000060000, 0, 0, 0, null, null); \
             insert into message_body (id, kind, body) select id, 1, cast('old' as blob) from message"
        ))
        .expect("the rows fit");
    drop(second);
    let clock = runtime::clock::Clock::manual(crate::support::START_MS);
    let mut service = Service::start_in(folder, clock).await;
    for (id, state) in (1..).zip([Dead, Ready, Leased, Delayed]) {
        assert_eq!(service.state(id).await, state);
    }
    let buried = service.message(1).await;
    assert_eq!(
        (buried.dead_reason.as_str(), buried.last_error.as_str()),
        ("no use", "broken")
    );
    assert_eq!(buried.dead_time.map(|time| time.seconds), Some(1_699_999_999));
    let listed = service.queue.list_queues(v1::ListQueuesRequest::default()).await;
    let queue = listed.expect("it lists").into_inner().queues.remove(0);
    assert_eq!(queue.create_time, None, "nobody knows");
    let settings = v1::QueueSettings {
        lease: Some(seconds(5)),
        max_attempts: Some(4),
        ..default_settings()
    };
    assert_eq!(queue.settings, Some(settings));
    assert_eq!(service.redrive(&[]).await, (1, false));
    assert_eq!(ids(&service.receive().await), [1, 2]);
    service.clock.advance_ms(1_000);
    assert_eq!(service.state(3).await, Delayed, "the lease has ended");
    assert!(service.enqueue("new").await > 4);
    service.stop().await;
}
