//! QueueService: leases, back-off, waiting, and callers who go away.

use std::time::{Duration, Instant};

use proto::v1;
use proto::v1::queue_service_client::QueueServiceClient;
use proto::v1::settlement::Action;
use proto::v1::settlement_result::Status;
use tonic::{Code, Request};

use crate::support::{Service, message, receive, refused, seconds, within};

fn ack() -> Action {
    Action::Ack(v1::settlement::Ack {})
}

fn nack(delay_seconds: i64, error: &str) -> Action {
    Action::Nack(v1::settlement::Nack {
        delay: Some(seconds(delay_seconds)),
        error: error.to_owned(),
        refund_attempt: false,
    })
}

fn waiting(wait_seconds: i64) -> v1::ReceiveRequest {
    v1::ReceiveRequest {
        wait: Some(seconds(wait_seconds)),
        max_messages: 1,
        ..receive()
    }
}

/// Waits until somebody waits for messages: the queue is there then.
async fn queue_is_made(service: &mut Service) {
    let request = v1::GetQueueStatsRequest { queue: "q".to_owned() };
    within(async {
        while service.queue.get_queue_stats(request.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_is_delivered_once_and_acked_once() {
    let mut service = Service::start().await;
    let request = v1::EnqueueRequest {
        messages: vec![v1::NewMessage {
            attributes: [("trace".to_owned(), "t".to_owned())].into(),
            ..message("one")
        }],
        request_id: String::new(),
    };
    service.queue.enqueue(request).await.expect("it is enqueued");
    let second = service.enqueue("two").await;
    let deliveries = service.receive().await;
    let [first, other] = &deliveries[..] else {
        panic!("two messages: {deliveries:?}")
    };
    let delivered = first.message.clone().expect("a delivery has a message");
    assert_eq!(delivered.content, Some(v1::message::Content::Text("one".to_owned())));
    assert_eq!(delivered.attributes, [("trace".to_owned(), "t".to_owned())].into());
    assert_eq!((delivered.attempt, delivered.state()), (1, v1::MessageState::Leased));
    assert_eq!(other.message.as_ref().map(|message| message.id), Some(second));
    assert!(delivered.id < second);
    assert!(service.receive().await.is_empty());
    assert_eq!(service.settle(&first.receipt, ack()).await, Status::Ok);
    assert_eq!(service.settle(&first.receipt, ack()).await, Status::Gone);
    let stats = service.stats().await;
    assert_eq!((stats.ready, stats.delayed, stats.leased, stats.dead), (0, 0, 1, 0));
    service.stop().await;
}

#[tokio::test]
async fn a_stale_receipt_changes_nothing() {
    let mut service = Service::start().await;
    service.enqueue("one").await;
    let first = service.receive().await.remove(0);
    service.clock.advance_ms(30_000);
    service.clock.advance_ms(2_000);
    let second = service.receive().await.remove(0);
    let message = second.message.expect("a delivery has a message");
    assert_eq!((message.attempt, message.last_error.as_str()), (2, "the lease ran out"));
    let extend = Action::Extend(v1::settlement::Extend {
        lease: Some(seconds(60)),
    });
    let dead = Action::Dead(v1::settlement::Dead::default());
    for action in [ack(), nack(0, ""), extend.clone(), dead] {
        assert_eq!(service.settle(&first.receipt, action).await, Status::Stale);
    }
    service.clock.advance_ms(29_999);
    assert_eq!(service.settle(&second.receipt, extend).await, Status::Ok);
    service.clock.advance_ms(59_999);
    assert_eq!(service.settle(&second.receipt, ack()).await, Status::Ok);
    service.stop().await;
}

#[tokio::test]
async fn receipts_are_of_their_store_alone_and_outlive_a_restart() {
    let mut service = Service::start().await;
    let mut other = Service::start().await;
    service.enqueue("one").await;
    other.enqueue("one").await;
    let foreign = other.receive().await.remove(0);
    let own = service.receive().await.remove(0);
    let mut forged = own.receipt.to_vec();
    forged[8] ^= 1;
    for receipt in [foreign.receipt, forged.into(), bytes::Bytes::new()] {
        let request = v1::SettleRequest {
            settlements: vec![crate::support::settlement(&receipt, ack())],
        };
        refused(service.queue.settle(request).await, "settlements[0].receipt");
    }
    let mut service = service.restart().await;
    assert_eq!(service.settle(&own.receipt, ack()).await, Status::Ok);
    service.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn nacks_back_off_until_the_message_is_dead() {
    let mut service = Service::start().await;
    service.enqueue("poison").await;
    for attempt in 1..=10_u32 {
        let delivery = service.receive().await.remove(0);
        let message = delivery.message.expect("a delivery has a message");
        assert_eq!(message.attempt, attempt);
        let said = if attempt == 1 {
            String::new()
        } else {
            format!("failure {}", attempt - 1)
        };
        assert_eq!(message.last_error, said);
        let action = Action::Nack(v1::settlement::Nack {
            error: format!("failure {attempt}"),
            ..Default::default()
        });
        assert_eq!(service.settle(&delivery.receipt, action).await, Status::Ok);
        let plain_ms = (1_000_i64 << (attempt - 1)).min(600_000);
        service.clock.advance_ms(plain_ms * 8 / 10 - 1);
        assert!(service.receive().await.is_empty(), "too early after attempt {attempt}");
        service.clock.advance_ms(plain_ms * 4 / 10 + 1);
    }
    assert!(service.receive().await.is_empty());
    let stats = service.stats().await;
    assert_eq!((stats.ready, stats.delayed, stats.leased, stats.dead), (0, 0, 0, 1));
    service.stop().await;
}

#[tokio::test]
async fn a_refunded_attempt_does_not_count() {
    let mut service = Service::start().await;
    service.enqueue("one").await;
    for _ in 0..12 {
        let delivery = service.receive().await.remove(0);
        assert_eq!(delivery.message.expect("a delivery has a message").attempt, 1);
        let action = Action::Nack(v1::settlement::Nack {
            delay: Some(seconds(0)),
            refund_attempt: true,
            ..Default::default()
        });
        assert_eq!(service.settle(&delivery.receipt, action).await, Status::Ok);
    }
    let delivery = service.receive().await.remove(0);
    let dead = Action::Dead(v1::settlement::Dead {
        reason: "no use".to_owned(),
    });
    assert_eq!(service.settle(&delivery.receipt, dead).await, Status::Ok);
    assert_eq!(service.stats().await.dead, 1);
    service.stop().await;
}

#[tokio::test]
async fn a_delayed_message_comes_when_it_is_due() {
    let mut service = Service::start().await;
    let request = v1::EnqueueRequest {
        messages: vec![v1::NewMessage {
            delay: Some(seconds(60)),
            ..message("later")
        }],
        request_id: String::new(),
    };
    service.queue.enqueue(request).await.expect("it is enqueued");
    service.clock.advance_ms(59_999);
    assert!(service.receive().await.is_empty());
    assert_eq!(service.stats().await.delayed, 1);
    service.clock.advance_ms(1);
    let stats = service.stats().await;
    assert_eq!((stats.delayed, stats.ready), (0, 1), "the figures are those of now");
    assert_eq!(stats.oldest_ready_age.map(|age| age.seconds), Some(60));
    assert_eq!(service.receive().await.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn who_waits_is_woken_by_the_enqueue_and_by_the_clock() {
    let mut service = Service::start().await;
    let mut queue = service.queue.clone();
    let waits = tokio::spawn(async move { queue.receive(waiting(30)).await });
    queue_is_made(&mut service).await;
    service.enqueue("now").await;
    let answer = within(waits)
        .await
        .expect("it did not panic")
        .expect("it receives")
        .into_inner();
    assert_eq!(answer.deliveries.len(), 1);

    // The lease runs out by the clock alone.
    let mut queue = service.queue.clone();
    let waits = tokio::spawn(async move { queue.receive(waiting(30)).await });
    service.clock.advance_ms(32_000);
    let answer = within(waits)
        .await
        .expect("it did not panic")
        .expect("it receives")
        .into_inner();
    assert_eq!(answer.deliveries.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_wait_ends_before_the_deadline_and_a_late_call_is_told_so() {
    let mut service = Service::start().await;
    let mut request = Request::new(waiting(30));
    request.set_timeout(Duration::from_millis(400));
    let began = Instant::now();
    let answer = within(service.queue.receive(request))
        .await
        .expect("it ends with an answer");
    assert!(answer.into_inner().deliveries.is_empty());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "the wait ended with the deadline, not with the 30 s"
    );

    // Nothing between that keeps time itself, so that it is the service that says it.
    let mut queue = QueueServiceClient::new(storage_svc::routes(service.store()));
    let mut request = Request::new(waiting(30));
    request.set_timeout(Duration::from_nanos(1));
    let status = within(queue.receive(request)).await.expect_err("it is too late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_leaves_nothing_leased() {
    let mut service = Service::start().await;
    let mut told = 0;
    for round in 0..50 {
        // In memory, because a socket may swallow an answer on the way.
        let mut queue = QueueServiceClient::new(storage_svc::routes(service.store()));
        let waits = tokio::spawn(async move { queue.receive(waiting(30)).await });
        queue_is_made(&mut service).await;
        let enqueued = if round % 2 == 0 {
            let enqueued = service.enqueue("one").await;
            waits.abort();
            enqueued
        } else {
            waits.abort();
            service.enqueue("one").await
        };
        // Whether it was told before it went is a race. Told, it holds the lease; else the message is there, untouched.
        let delivery = if let Ok(answer) = waits.await {
            told += 1;
            answer.expect("it received").into_inner().deliveries.remove(0)
        } else {
            let answer = within(service.queue.receive(waiting(10))).await.expect("it receives");
            let mut deliveries = answer.into_inner().deliveries;
            assert_eq!(deliveries.len(), 1, "the message is there");
            deliveries.remove(0)
        };
        let message = delivery.message.expect("a delivery has a message");
        assert_eq!(
            (message.id, message.attempt),
            (enqueued, 1),
            "round {round}, {told} told"
        );
        assert_eq!(service.settle(&delivery.receipt, ack()).await, Status::Ok);
    }
    service.stop().await;
}

#[tokio::test]
async fn many_consumers_share_the_work_and_nothing_is_delivered_twice() {
    let mut service = Service::start().await;
    let mut consumers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut queue = service.queue.clone();
        consumers.spawn(async move {
            let mut ids = Vec::new();
            loop {
                let answer = queue.receive(waiting(2)).await.expect("it receives").into_inner();
                let Some(delivery) = answer.deliveries.into_iter().next() else {
                    return ids;
                };
                ids.push(delivery.message.expect("a delivery has a message").id);
                let request = v1::SettleRequest {
                    settlements: vec![crate::support::settlement(&delivery.receipt, ack())],
                };
                queue.settle(request).await.expect("it settles");
            }
        });
    }
    let mut sent = Vec::new();
    for _ in 0..100 {
        sent.push(service.enqueue("work").await);
    }
    let mut received: Vec<u64> = within(consumers.join_all()).await.concat();
    received.sort_unstable();
    assert_eq!(received, sent);
    service.stop().await;
}
