//! Dead letters: why they are dead, how they come back, and when they go.

use std::time::Duration;

use proto::limits::{FAILURES_KEPT, SWEPT_MESSAGES_MAX};
use proto::v1;
use proto::v1::MessageState::{Dead, Delayed, Ready};
use proto::v1::settlement_result::Status;
use tonic::Code;

use crate::operator::{ack, dead, id, nack, purge};
use crate::support::{START_MS, Service, message, refused, seconds, within};

fn ms(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.expect("there is a time");
    time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000
}

/// What went wrong, by attempt.
fn told(message: &v1::Message) -> Vec<(u32, &str)> {
    let failures = message.failures.iter();
    failures.map(|failure| (failure.attempt, &failure.error[..])).collect()
}

/// Makes a message and lets it die.
async fn dead_one(service: &mut Service) -> u64 {
    service.enqueue("one").await;
    let delivery = service.receive_one().await;
    service.done(&delivery.receipt, dead("no use")).await;
    id(&delivery)
}

#[tokio::test]
async fn a_dead_message_tells_its_story() {
    let mut service = Service::start().await;
    service
        .create(v1::QueueSettings {
            max_attempts: Some(3),
            ..Default::default()
        })
        .await;
    let one = service.enqueue("poison").await;
    let first = service.receive_one().await;
    service.done(&first.receipt, nack(0, "first")).await;
    let refunded = service.receive_one().await;
    let refund = v1::settlement::Action::Nack(v1::settlement::Nack {
        delay: Some(seconds(0)),
        error: "not tried".to_owned(),
        refund_attempt: true,
    });
    service.done(&refunded.receipt, refund).await;
    service.receive_one().await;
    // The lease runs out while nobody looks; the story says when.
    service.clock.advance_ms(40_000);
    let waiting = service.message(one).await;
    assert_eq!((waiting.state(), waiting.attempt), (Ready, 2));
    assert_eq!(
        (waiting.last_error.as_str(), waiting.due_time),
        ("the lease ran out", None)
    );
    assert_eq!(told(&waiting), [(1, "first"), (2, "the lease ran out")]);
    assert_eq!(ms(waiting.failures[1].time), START_MS + 30_000);
    let delivery = service.receive_one().await;
    let delivered = delivery.message.clone().expect("a delivery has a message");
    assert_eq!(
        (delivered.attempt, delivered.failures.len()),
        (3, 0),
        "a delivery tells less"
    );
    service.clock.advance_ms(1_000);
    service.done(&delivery.receipt, nack(0, "third")).await;
    let buried = service.message(one).await;
    assert_eq!(buried.state(), Dead);
    assert_eq!(buried.dead_reason, "attempts exhausted");
    assert_eq!(buried.last_error, "third");
    assert_eq!(ms(buried.dead_time), START_MS + 41_000);
    assert_eq!(told(&buried), [(1, "first"), (2, "the lease ran out"), (3, "third")]);
    assert_eq!((buried.due_time, buried.redrives), (None, 0));

    // One whose last lease ran out is dead since then.
    let two = service.enqueue("forgotten").await;
    for _ in 0..3 {
        service.receive_one().await;
        service.clock.advance_ms(40_000);
    }
    let forgotten = service.message(two).await;
    assert_eq!(
        (forgotten.state(), forgotten.last_error.as_str()),
        (Dead, "the lease ran out")
    );
    assert_eq!(ms(forgotten.dead_time), START_MS + 41_000 + 110_000);
    assert_eq!(forgotten.failures[2].time, forgotten.dead_time);
    assert_eq!(service.purge(&[two], &[Dead]).await, (1, false));

    // Another life, with the story of the first.
    assert_eq!(service.redrive(&[one]).await, (1, false));
    let revived = service.message(one).await;
    assert_eq!((revived.state(), revived.attempt, revived.redrives), (Ready, 0, 1));
    assert_eq!((revived.dead_reason.as_str(), revived.dead_time), ("", None));
    assert_eq!((revived.last_error.as_str(), revived.failures.len()), ("third", 3));
    assert_eq!(revived.enqueue_time, buried.enqueue_time);
    let delivery = service.receive_one().await;
    let delivered = delivery.message.clone().expect("a delivery has a message");
    assert_eq!((delivered.attempt, delivered.redrives), (1, 1));
    service.done(&delivery.receipt, dead("no use")).await;
    let buried = service.message(one).await;
    assert_eq!(
        (buried.dead_reason.as_str(), buried.last_error.as_str()),
        ("no use", "third")
    );
    assert_eq!(told(&buried)[3], (1, "no use"));
    service.stop().await;
}

#[tokio::test]
async fn the_last_failures_are_kept() {
    let mut service = Service::start().await;
    service
        .create(v1::QueueSettings {
            max_attempts: Some(1_000),
            ..Default::default()
        })
        .await;
    let one = service.enqueue("poison").await;
    for attempt in 1..=FAILURES_KEPT + 5 {
        let delivery = service.receive_one().await;
        service.done(&delivery.receipt, nack(0, &attempt.to_string())).await;
        let kept = service.message(one).await.failures;
        assert_eq!(kept.len(), attempt.min(FAILURES_KEPT));
        assert_eq!(
            kept.last().map(|failure| failure.error.clone()),
            Some(attempt.to_string())
        );
    }
    let kept = service.message(one).await.failures;
    assert_eq!(kept.first().map(|failure| failure.attempt), Some(6));
    service.stop().await;
}

#[tokio::test]
async fn redriving_moves_the_dead_alone() {
    let mut service = Service::start().await;
    let gone = dead_one(&mut service).await;
    assert_eq!(service.purge(&[gone], &[Dead]).await, (1, false));
    let (first, second) = (dead_one(&mut service).await, dead_one(&mut service).await);
    let later = v1::NewMessage {
        delay: Some(seconds(60)),
        ..message("later")
    };
    let later = service.send(vec![later]).await[0];
    let elsewhere = v1::NewMessage {
        queue: "elsewhere".to_owned(),
        ..message("m")
    };
    let elsewhere = service.send(vec![elsewhere]).await[0];
    assert_eq!(
        service
            .redrive(&[gone, second, later, elsewhere, 0, u64::MAX, second])
            .await,
        (1, false)
    );
    assert_eq!((service.state(first).await, service.state(second).await), (Dead, Ready));
    assert_eq!(service.state(later).await, Delayed);
    assert_eq!(service.redrive(&[]).await, (1, false));
    assert_eq!(service.redrive(&[]).await, (0, false));
    assert_eq!(service.stats().await.ready, 2);

    let many = |count: usize| v1::RedriveRequest {
        queue: "q".to_owned(),
        ids: vec![1; count],
    };
    service
        .queue
        .redrive(many(SWEPT_MESSAGES_MAX))
        .await
        .expect("so many are fine");
    refused(service.queue.redrive(many(SWEPT_MESSAGES_MAX + 1)).await, "ids");
    let unknown = v1::RedriveRequest {
        queue: "unknown".to_owned(),
        ids: Vec::new(),
    };
    let status = service.queue.redrive(unknown).await.expect_err("nobody used it");
    assert_eq!(status.code(), Code::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn many_are_redriven_and_purged_in_steps() {
    let mut service = Service::start().await;
    let count = SWEPT_MESSAGES_MAX + 100;
    for _ in 0..count / 100 {
        service.send(vec![message("m"); 100]).await;
        let deliveries = service.receive().await;
        let settlements = deliveries
            .iter()
            .map(|delivery| crate::support::settlement(&delivery.receipt, dead("")));
        let request = v1::SettleRequest {
            settlements: settlements.collect(),
        };
        service.queue.settle(request).await.expect("it settles");
    }
    assert_eq!(service.redrive(&[]).await, (1_000, true));
    assert_eq!(service.redrive(&[]).await, (100, false));
    assert_eq!(service.purge(&[], &[Dead]).await, (0, false));
    assert_eq!(service.purge(&[], &[Ready, Dead]).await, (1_000, true));
    assert_eq!(service.purge(&[], &[Ready, Dead]).await, (100, false));
    assert_eq!(service.rows(), [("queue".to_owned(), 1)].into());

    let many = |count: usize| purge(&vec![1; count], &[Dead]);
    service
        .queue
        .purge(many(SWEPT_MESSAGES_MAX))
        .await
        .expect("so many are fine");
    refused(service.queue.purge(many(SWEPT_MESSAGES_MAX + 1)).await, "ids");
    refused(service.queue.purge(purge(&[], &[])).await, "states");
    let mut bad = purge(&[], &[Dead, v1::MessageState::Unspecified]);
    refused(service.queue.purge(bad.clone()).await, "states[1]");
    bad.states[1] = 99;
    refused(service.queue.purge(bad).await, "states[1]");
    service.stop().await;
}

#[tokio::test]
async fn receipts_of_another_life_or_of_nothing_change_nothing() {
    let mut service = Service::start().await;
    service.enqueue("one").await;
    let first = service.receive_one().await;
    service.done(&first.receipt, dead("")).await;
    assert_eq!(service.settle(&first.receipt, ack()).await, Status::Stale);
    service.redrive(&[]).await;
    assert_eq!(service.settle(&first.receipt, dead("")).await, Status::Stale);
    let second = service.receive_one().await;
    assert_eq!(service.settle(&first.receipt, ack()).await, Status::Stale);
    assert_eq!(service.purge(&[], &[v1::MessageState::Leased]).await, (1, false));
    for receipt in [&first.receipt, &second.receipt] {
        for action in [ack(), nack(0, ""), dead("")] {
            assert_eq!(service.settle(receipt, action).await, Status::Gone);
        }
    }
    let commit = v1::CommitRequest {
        settlements: vec![crate::support::settlement(&second.receipt, ack())],
        mutations: vec![v1::Mutation::put_text("n", "k", String::new(), [].into())],
        ..Default::default()
    };
    let answer = service.kv.commit(commit).await.expect("it answers").into_inner();
    assert!(matches!(
        answer.outcome,
        Some(v1::commit_response::Outcome::Conflict(conflict)) if conflict.failed_settlements == [0]
    ));
    assert_eq!(service.get("k").await, None);
    assert_eq!(service.rows(), [("queue".to_owned(), 1)].into());
    service.stop().await;
}

#[tokio::test]
async fn dead_messages_go_when_they_were_kept_long_enough() {
    let mut service = Service::start().await;
    let kept = |days: i64| v1::QueueSettings {
        dead_retention: Some(seconds(days * 86_400)),
        ..Default::default()
    };
    let first = dead_one(&mut service).await;
    service.clock.advance_ms(1_000);
    let second = dead_one(&mut service).await;
    service.clock.advance_ms(14 * 86_400_000 - 1_001);
    assert_eq!(service.stats().await.dead, 2);
    service.clock.advance_ms(1);
    assert_eq!(service.stats().await.dead, 1, "the one that is old enough");
    assert_eq!(service.state(second).await, Dead);
    let request = v1::GetMessageRequest {
        queue: "q".to_owned(),
        which: Some(v1::get_message_request::Which::Id(first)),
    };
    let status = service.queue.get_message(request).await.expect_err("it is gone");
    assert_eq!(status.code(), Code::NotFound);

    // For ever; then for a while again, which is over for the one that is there.
    service.change(kept(0)).await;
    service.clock.advance_ms(366 * 86_400_000);
    assert_eq!(service.stats().await.dead, 1);
    service.change(kept(366)).await;
    assert_eq!(service.stats().await.dead, 0);
    assert_eq!(service.rows(), [("queue".to_owned(), 1)].into());
    service.stop().await;
}

#[tokio::test]
async fn what_is_too_old_goes_in_steps_and_without_being_asked() {
    let mut service = Service::start().await;
    for _ in 0..12 {
        service.send(vec![message("m"); 100]).await;
        let deliveries = service.receive().await;
        let settlements = deliveries
            .iter()
            .map(|delivery| crate::support::settlement(&delivery.receipt, dead("")));
        let request = v1::SettleRequest {
            settlements: settlements.collect(),
        };
        service.queue.settle(request).await.expect("it settles");
    }
    service.clock.advance_ms(14 * 86_400_000);
    within(async {
        while service.rows().contains_key("message") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(service.rows(), [("queue".to_owned(), 1)].into());
    service.stop().await;
}
