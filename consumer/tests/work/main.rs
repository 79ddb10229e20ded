//! What becomes of messages, over a real store in this process.

mod support;

use std::time::{Duration, Instant};

use consumer::{DRAIN_MAX, NotReady, Settings};
use feed::commit::Commit;
use feed::id::DocumentId;
use feed::operation::{OperationMessage, OperationRecord, OperationState};
use feed::withdraw::WITHDRAWN;
use feed_store::{SWEEP_MESSAGES_MAX, SweepPlace, Swept, WRITE_QUEUE};
use proto::limits::COMMIT_ENQUEUES_MAX;
use proto::v1;
use proto::v1::settlement::{Ack, Action};
use proto::v1::settlement_result::Status;

use crate::support::{TestStore, eventually, settings};

const SHORT: Duration = Duration::from_millis(200);
/// After so many the next delivery gives a message up.
const FAILURES: usize = 9;

#[tokio::test]
async fn a_message_over_its_time_is_put_back_and_holds_up_nobody() {
    let store = TestStore::open(SHORT).await;
    let slow = store.write().await;
    store.fate(|fate| fate.held = vec![slow.id]);
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(store.write().await);
    }
    // One at a time: the others' turn comes when the slow one's time is up.
    let running = store.consumer(Settings {
        message_time_max: SHORT,
        ..settings()
    });
    for other in others {
        store.applied(other).await;
    }
    running.end("put_back", 1).await;
    let messages = store.messages().await;
    let [message] = messages.try_into().expect("the slow one is left");
    let failures: Vec<_> = message
        .failures
        .iter()
        .map(|failure| (failure.attempt, failure.error.as_str()))
        .collect();
    assert_eq!(failures[0], (1, "not done within 200 ms"));

    store.fate(|fate| fate.held.clear());
    store.applied(slow).await;
    running.end("applied", 6).await;
    assert_eq!(store.messages().await, []);
    running.stop().await;
}

#[tokio::test]
async fn one_that_is_too_slow_every_time_fails_in_the_end_and_holds_up_nobody() {
    let store = TestStore::open(Duration::ZERO).await;
    let slow = store.write().await;
    store.fate(|fate| fate.held = vec![slow.id]);
    let running = store.consumer(Settings {
        message_time_max: Duration::from_millis(100),
        ..settings()
    });
    running.end("put_back", 1).await;
    let other = store.write().await;
    store.applied(other).await;

    running.end("failed", 1).await;
    let record = store.record(slow).await;
    assert_eq!(record.state, OperationState::Failed);
    assert_eq!(record.reason.as_deref(), Some("not done within 100 ms"));
    let messages = store.messages().await;
    let [message] = messages.try_into().expect("it is kept");
    assert_eq!(message.state(), v1::MessageState::Dead);
    assert_eq!(
        (message.attempt, message.dead_reason.as_str()),
        (9, "not done within 100 ms")
    );
    assert_eq!(running.ended("put_back").await, 8);
    running.stop().await;
}

/// Its operation cannot even be looked at: so the message is all that ends, and a sweep does the rest.
#[tokio::test]
async fn one_whose_every_read_is_too_slow_is_dead_in_the_end() {
    let store = TestStore::open(Duration::ZERO).await;
    let stuck = store.write().await;
    store.fate(|fate| fate.stuck = vec!["BatchGet"]);
    let running = store.consumer(Settings {
        message_time_max: Duration::from_millis(100),
        ..settings()
    });
    running.end("failed", 1).await;
    running.stop().await;
    let messages = store.messages().await;
    let [message] = messages.try_into().expect("it is kept");
    assert_eq!(
        (message.state(), message.dead_reason.as_str()),
        (v1::MessageState::Dead, "not done within 100 ms")
    );
    assert_eq!(store.state(stuck).await, OperationState::Accepted);
    let (mut place, mut swept) = (SweepPlace::default(), Swept::default());
    let sweeping = store.aside.sweep(&mut place, &mut swept, 0);
    sweeping.await.expect("the store is there");
    assert_eq!(swept.failed, 1);
    let record = store.record(stuck).await;
    assert_eq!(record.reason.as_deref(), Some("not done within 100 ms"));
}

#[tokio::test]
async fn what_owns_nothing_any_more_is_not_given_up() {
    for is_withdrawn in [false, true] {
        let store = TestStore::open(Duration::ZERO).await;
        let queued = store.write().await;
        store.fail(FAILURES).await;
        let expected = if is_withdrawn {
            let message = OperationMessage::parse(store.messages().await[0].text().expect("text"));
            let message = message.expect("our own");
            let withdrawn = store.aside.withdraw(&message, 0).await;
            assert_eq!(withdrawn.expect("nothing needs it"), 1);
            (OperationState::Failed, Some(WITHDRAWN))
        } else {
            store.write_again(queued.id).await;
            (OperationState::Superseded, None)
        };
        let consumer = store.idle_consumer(settings());
        let messages = if is_withdrawn { 1 } else { 2 };
        assert_eq!(consumer.drain().await.expect("the store is there"), messages);
        assert_eq!(store.messages().await, []);
        let record = store.record(queued).await;
        assert_eq!((record.state, record.reason.as_deref()), expected);
        let figures = consumer.figures().await;
        assert!(
            figures.contains("consumer_messages_total{outcome=\"superseded\"} 1\n"),
            "{figures}"
        );
    }
}

#[tokio::test]
async fn what_is_replaced_while_it_is_given_up_has_not_failed() {
    let store = TestStore::open(Duration::ZERO).await;
    let queued = store.write().await;
    store.fail(FAILURES).await;
    store.fate(|fate| fate.stuck = vec!["Commit"]);
    let consumer = store.idle_consumer(settings());
    let draining = tokio::spawn(async move { consumer.drain().await });
    store.called("Commit", 1).await;
    let newer = store.write_again(queued.id).await;
    store.fate(|fate| fate.stuck.clear());
    assert_eq!(draining.await.expect("no panic").expect("the store is there"), 2);
    assert_eq!(store.record(queued).await.state, OperationState::Superseded);
    assert_eq!(store.record(newer).await.state, OperationState::Applied);
    assert_eq!(store.messages().await, []);
}

#[tokio::test]
async fn a_message_that_the_queue_gave_up_fails_its_operation_until_it_is_redriven() {
    let store = TestStore::open(Duration::ZERO).await;
    let update = v1::UpdateQueueRequest {
        name: WRITE_QUEUE.to_owned(),
        settings: Some(v1::QueueSettings {
            max_attempts: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    };
    store
        .queue
        .clone()
        .update_queue(update)
        .await
        .expect("the queue is there");
    let queued = store.write().await;
    let receive = v1::ReceiveRequest {
        queue: WRITE_QUEUE.to_owned(),
        lease: Some(SHORT.try_into().expect("it is short")),
        ..Default::default()
    };
    let received = store.aside.client().receive(receive).await;
    assert_eq!(received.expect("the store is there").len(), 1);
    eventually("its lease runs out", async || match store.messages().await.as_slice() {
        [message] if message.state() == v1::MessageState::Dead => Ok(()),
        messages => Err(format!("{messages:?}")),
    })
    .await;
    assert_eq!(store.state(queued).await, OperationState::Accepted);

    let running = store.consumer(settings());
    let record = store.record(queued).await;
    assert_eq!(record.state, OperationState::Failed);
    assert_eq!(
        record.reason.as_deref(),
        Some("attempts exhausted; last: the lease ran out")
    );
    running.becomes("consumer_swept_total{outcome=\"failed\"}", "1").await;
    running.becomes("consumer_sweeps_total{outcome=\"done\"}", "1").await;

    let message = OperationMessage::parse(store.messages().await[0].text().expect("text"));
    let message = message.expect("our own");
    store.aside.accept_again(&message).await.expect("the store is there");
    let redriven = store.aside.client().redrive(WRITE_QUEUE, Vec::new()).await;
    assert_eq!(redriven.expect("the store is there").moved, 1);
    store.applied(queued).await;
    assert_eq!(store.record(queued).await.state, OperationState::Applied);
    running.stop().await;
}

/// Its message was deleted by hand, and nothing waits to be applied.
#[tokio::test]
async fn what_owns_nothing_and_has_no_message_is_recorded_as_superseded() {
    let store = TestStore::open(Duration::ZERO).await;
    let older = store.write().await;
    let message = OperationMessage::parse(store.messages().await[0].text().expect("text"));
    let mut commit = Commit::default();
    let long_ago = OperationMessage {
        accepted_at: "2025-06-03T17:01:00.000Z".to_owned(),
        ..message.expect("our own")
    };
    OperationRecord::new(&long_ago, OperationState::Accepted).put(&mut commit);
    let committed = store.aside.commit(commit, Vec::new()).await;
    committed.expect("the store is there");
    let purged = store
        .aside
        .client()
        .purge(WRITE_QUEUE, vec![], &[v1::MessageState::Ready]);
    assert_eq!(purged.await.expect("the store is there").deleted, 1);
    let newer = store.write_again(older.id).await;
    let consumer = store.idle_consumer(settings());
    assert_eq!(consumer.drain().await.expect("the store is there"), 1);
    assert_eq!(store.record(newer).await.state, OperationState::Applied);
    assert_eq!(store.state(older).await, OperationState::Accepted);

    let running = store.consumer(settings());
    assert_eq!(store.record(older).await.state, OperationState::Superseded);
    running
        .becomes("consumer_swept_total{outcome=\"superseded\"}", "1")
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_sweep_that_fails_is_counted_and_does_what_it_can() {
    let store = TestStore::open(Duration::ZERO).await;
    let lost = store.write().await;
    let purged = store
        .aside
        .client()
        .purge(WRITE_QUEUE, vec![], &[v1::MessageState::Ready]);
    assert_eq!(purged.await.expect("the store is there").deleted, 1);
    let mut forgotten = Commit::default();
    let message = OperationMessage {
        operation: DocumentId::random(&mut rand::rng()).uuid(),
        accepted_at: "2025-06-03T17:01:00.000Z".to_owned(),
        documents: Vec::new(),
    };
    OperationRecord::new(&message, OperationState::Accepted).put(&mut forgotten);
    let committed = store.aside.commit(forgotten, Vec::new()).await;
    committed.expect("the store is there");
    store.fate(|fate| fate.refused = vec!["ListMessages"]);
    let running = store.consumer(settings());
    running.becomes("consumer_sweeps_total{outcome=\"failed\"}", "1").await;
    for (figure, expected) in [
        ("consumer_sweeps_total{outcome=\"done\"}", "0"),
        ("consumer_swept_total{outcome=\"enqueued\"}", "0"),
        ("consumer_swept_total{outcome=\"superseded\"}", "1"),
    ] {
        assert_eq!(running.figure(figure).await, expected, "{figure}");
    }
    assert_eq!(store.state(lost).await, OperationState::Accepted);
    running.stop().await;
}

#[tokio::test]
async fn a_sweep_that_gives_up_before_a_long_queue_is_counted() {
    let store = TestStore::open(Duration::ZERO).await;
    let mut queue = store.queue.clone();
    let update = v1::UpdateQueueRequest {
        name: WRITE_QUEUE.to_owned(),
        settings: Some(v1::QueueSettings {
            paused: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    };
    queue.update_queue(update).await.expect("the queue is there");
    store.write().await;
    let client = store.aside.client();
    let purged = client.purge(WRITE_QUEUE, vec![], &[v1::MessageState::Ready]);
    assert_eq!(purged.await.expect("the store is there").deleted, 1);
    let message = v1::NewMessage {
        queue: WRITE_QUEUE.to_owned(),
        ..Default::default()
    };
    for _ in 0..=SWEEP_MESSAGES_MAX / COMMIT_ENQUEUES_MAX {
        let enqueue = v1::EnqueueRequest {
            messages: vec![message.clone(); COMMIT_ENQUEUES_MAX],
            ..Default::default()
        };
        queue.enqueue(enqueue).await.expect("they are added");
    }
    let running = store.consumer(settings());
    running.becomes("consumer_sweeps_total{outcome=\"gave_up\"}", "1").await;
    running.stop().await;
}

#[tokio::test]
async fn a_poison_message_fails_its_operation_and_holds_up_nobody() {
    let backoff = Duration::from_millis(50);
    let store = TestStore::open(backoff).await;
    let poison = store.write().await;
    store.poison(poison).await;
    let began = Instant::now();
    let running = store.consumer(settings());
    running.end("put_back", 1).await;
    // While it is tried again and again, one at a time.
    for _ in 0..10 {
        let other = store.write().await;
        store.applied(other).await;
    }
    let record = store.record(poison).await;
    assert!(
        began.elapsed() > 7 * backoff,
        "the queue's back-off: {:?}",
        began.elapsed()
    );
    assert_eq!(record.state, OperationState::Failed);
    let reason = record.reason.expect("it says why");
    assert!(reason.contains("is malformed"), "{reason}");
    running.end("failed", 1).await;
    assert_eq!(
        (running.ended("put_back").await, running.ended("applied").await),
        (8, 10)
    );
    let messages = store.messages().await;
    let [message] = messages.try_into().expect("it is kept");
    assert_eq!(message.state(), v1::MessageState::Dead);
    assert_eq!(
        (message.dead_reason.as_str(), message.failures.len()),
        (reason.as_str(), 9)
    );
    running.stop().await;
}

#[tokio::test]
async fn what_is_no_message_of_ours_is_buried_at_once() {
    let store = TestStore::open(SHORT).await;
    let enqueue = v1::EnqueueRequest {
        messages: vec![v1::NewMessage {
            queue: feed_store::WRITE_QUEUE.to_owned(),
            content: Some(v1::new_message::Content::Text("{}".to_owned())),
            ..Default::default()
        }],
        ..Default::default()
    };
    store.queue.clone().enqueue(enqueue).await.expect("it is added");
    let queued = store.write().await;
    let consumer = store.idle_consumer(settings());
    assert_eq!(consumer.drain().await.expect("the store is there"), 2);
    assert_eq!(store.record(queued).await.state, OperationState::Applied);
    let messages = store.messages().await;
    let [message] = messages.try_into().expect("it is kept");
    assert_eq!(message.state(), v1::MessageState::Dead);
    assert_eq!(
        (message.attempt, message.dead_reason.as_str()),
        (1, "stored operation message is malformed")
    );
    let figures = consumer.figures().await;
    assert!(
        figures.contains("consumer_messages_total{outcome=\"failed\"} 1\n"),
        "{figures}"
    );
    assert_eq!(consumer.ready().await, Err(NotReady::NotOpenYet));
}

#[tokio::test]
async fn while_storage_is_away_a_message_is_kept_in_hand() {
    let store = TestStore::open(Duration::ZERO).await;
    store.fate(|fate| fate.refused = vec!["Commit", "Settle"]);
    let queued = store.write().await;
    let running = store.consumer(settings());
    // Each attempt is made again by the client, and then by the consumer.
    store.called("Commit", 10).await;
    store.fate(|fate| fate.refused.clear());
    store.applied(queued).await;
    running.end("applied", 1).await;
    assert_eq!(running.ended("put_back").await, 0);
    assert_eq!(store.messages().await, []);
    running.stop().await;
}

/// With a pause between tries, that is.
#[tokio::test]
async fn while_storage_is_away_nobody_is_busy() {
    let store = TestStore::open(Duration::ZERO).await;
    store.fate(|fate| fate.refused = vec!["Commit", "Consume", "Settle"]);
    let running = store.consumer(settings());
    let began = Instant::now();
    store.called("Consume", 6).await;
    // 50 to 800 ms, doubled each time, each by half less at most, are 775 ms.
    assert!(began.elapsed() > Duration::from_millis(750), "{:?}", began.elapsed());
    let why = running
        .consumer
        .ready()
        .await
        .expect_err("it has no stream")
        .to_string();
    assert_eq!(
        why,
        "the stream of messages is broken: storage is unavailable: code: 'The service is currently unavailable', \
         message: \"it is away\""
    );
    store.fate(|fate| fate.refused.clear());
    running.is_ready().await;
    running.stop().await;
}

#[tokio::test]
async fn a_lease_is_held_for_as_long_as_the_work_takes() {
    let store = TestStore::open(Duration::ZERO).await;
    let slow = store.write().await;
    store.fate(|fate| fate.held = vec![slow.id]);
    let running = store.consumer(Settings {
        lease: SHORT,
        ..settings()
    });
    // Each for a third of the lease: two leases.
    store.called("Settle", 6).await;
    running.becomes("consumer_messages_in_flight", "1").await;
    assert!(store.receive().await.is_empty(), "it is nobody else's");
    store.fate(|fate| fate.held.clear());
    running.end("applied", 1).await;
    running.becomes("consumer_messages_in_flight", "0").await;
    assert_eq!(running.ended("lease_lost").await, 0);
    running.becomes("consumer_message_seconds_count", "1").await;
    assert!(running.seconds("consumer_message_seconds_sum").await > SHORT.as_secs_f64());
    running.stop().await;
}

#[tokio::test]
async fn a_lease_that_its_own_commit_has_ended_is_not_lost() {
    let store = TestStore::open(Duration::ZERO).await;
    store.fate(|fate| fate.late = vec!["Commit"]);
    let queued = store.write().await;
    let running = store.consumer(Settings {
        lease: SHORT,
        ..settings()
    });
    store.applied(queued).await;
    // The next extension finds no message any more.
    let extensions = store.calls("Settle");
    store.called("Settle", extensions + 1).await;
    // Asked after it, and answered after it.
    running.is_ready().await;
    store.fate(|fate| fate.late.clear());
    running.end("applied", 1).await;
    assert_eq!(running.ended("lease_lost").await, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_lost_is_counted_and_nothing_is_changed() {
    for can_extend in [true, false] {
        let store = TestStore::open(Duration::ZERO).await;
        let slow = store.write().await;
        store.fate(|fate| fate.held = vec![slow.id]);
        let running = store.consumer(Settings {
            lease: SHORT,
            ..settings()
        });
        store.called("BatchGet", 1).await;
        // It goes back to the queue, and does not come again.
        store.fate(|fate| {
            fate.cuts += 1;
            fate.refused.push("Consume");
            if !can_extend {
                fate.refused.push("Settle");
            }
        });
        let taken = eventually("somebody else has it", async || {
            let mut deliveries = store.receive().await;
            deliveries.pop().ok_or_else(|| "nothing".to_owned())
        })
        .await;
        assert_eq!(taken.message.expect("it has one").attempt, 2);
        if can_extend {
            running.end("lease_lost", 1).await;
        }
        store.fate(|fate| fate.held.clear());
        running.end("lease_lost", 1).await;
        let settlement = v1::Settlement {
            receipt: taken.receipt,
            action: Some(Action::Ack(Ack {})),
        };
        let settled = store.aside.client().settle(vec![settlement]).await;
        assert_eq!(settled.expect("the store is there")[0].status(), Status::Ok);
        assert!(!store.is_applied(slow).await);
        assert_eq!(running.ended("applied").await, 0);
        running.stop().await;
    }
}

#[tokio::test]
async fn what_was_delivered_and_not_begun_is_somebody_elses_at_once() {
    let store = TestStore::open(Duration::from_mins(1)).await;
    let slow = store.write().await;
    store.fate(|fate| fate.held = vec![slow.id]);
    let running = store.consumer(settings());
    store.called("BatchGet", 1).await;
    // The stream breaks while a message is worked on; the next one brings another.
    store.fate(|fate| fate.cuts += 1);
    let waiting = store.write().await;
    running.becomes("consumer_messages_waiting", "1").await;

    running.shutdown.cancel();
    let delivery = eventually("it is handed back", async || {
        store.receive().await.pop().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    let message = delivery.message.expect("it has one");
    assert_eq!(
        (message.attempt, message.last_error.as_str()),
        (1, ""),
        "as if it had not been delivered"
    );
    let v1::message::Content::Text(text) = message.content.expect("it has some") else {
        panic!("it is text")
    };
    assert!(text.contains(&waiting.operation.to_string()), "{text}");
    running.end("handed_back", 1).await;
    assert_eq!(running.consumer.ready().await, Err(NotReady::Stopping));

    store.fate(|fate| fate.held.clear());
    running.stop().await;
}

#[tokio::test]
async fn a_stop_waits_for_what_was_begun_and_not_for_ever() {
    let store = TestStore::open(Duration::ZERO).await;
    store.write().await;
    store.fate(|fate| fate.stuck = vec!["BatchGet", "Settle"]);
    let running = store.consumer(settings());
    store.called("BatchGet", 1).await;
    let began = Instant::now();
    running.stop().await;
    let took = began.elapsed();
    // Two clocks need not agree to the millisecond.
    assert!(
        took + SHORT > DRAIN_MAX && took < DRAIN_MAX + Duration::from_secs(5),
        "{took:?}"
    );
    let delivery = eventually("it goes back", async || {
        store.receive().await.pop().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    assert_eq!(delivery.message.expect("it has one").attempt, 2, "it was tried");
}

#[tokio::test]
async fn what_was_begun_is_finished_at_a_stop() {
    let store = TestStore::open(Duration::ZERO).await;
    let slow = store.write().await;
    store.fate(|fate| fate.held = vec![slow.id]);
    let running = store.consumer(settings());
    store.called("BatchGet", 1).await;
    running.shutdown.cancel();
    eventually("it stops", async || match running.consumer.ready().await {
        Err(NotReady::Stopping) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    store.fate(|fate| fate.held.clear());
    running.stop().await;
    assert!(store.is_applied(slow).await);
    assert_eq!(store.messages().await, []);
}

#[tokio::test]
async fn no_more_is_taken_than_two_messages_for_each_permit() {
    let store = TestStore::open(Duration::from_mins(1)).await;
    // What is begun is not done, and not given up.
    store.fate(|fate| fate.refused = vec!["Commit", "Settle"]);
    let running = store.consumer(Settings {
        lease: SHORT,
        ..settings()
    });
    // One is worked on. The stream breaks, and the next one brings another, which waits for its permit.
    for figure in ["consumer_messages_in_flight", "consumer_messages_waiting"] {
        store.write().await;
        running.becomes(figure, "1").await;
        store.fate(|fate| fate.cuts += 1);
        store.leased(0).await;
    }
    store.write().await;
    // Tries to extend the leases take longer than a stream to be opened.
    let extensions = store.calls("Settle");
    store.called("Settle", extensions + 10).await;
    assert_eq!(store.calls("Consume"), 2);
    running.becomes("consumer_messages_waiting", "1").await;
    running.stop().await;
}

#[tokio::test]
async fn the_age_of_what_waits_is_told() {
    let store = TestStore::open(SHORT).await;
    let running = store.consumer(settings());
    running.is_ready().await;
    running.becomes("consumer_stream_open", "1").await;
    let oldest = "consumer_queue_oldest_ready_seconds";
    assert_eq!(running.figure(oldest).await, "0.0");
    let slow = store.write().await;
    store.fate(|fate| fate.held = vec![slow.id]);
    let waiting = store.write().await;
    eventually("it waits", async || match running.seconds(oldest).await {
        age if age > 0.1 => Ok(()),
        age => Err(age.to_string()),
    })
    .await;
    store.fate(|fate| fate.refused = vec!["GetQueueStats"]);
    let figures = running.consumer.figures().await;
    assert!(
        !figures.contains(oldest) && figures.contains("consumer_stream_open 1"),
        "{figures}"
    );
    store.fate(|fate| {
        fate.held.clear();
        fate.refused.clear();
    });
    store.applied(waiting).await;
    running.becomes(oldest, "0.0").await;
    running.stop().await;
}
