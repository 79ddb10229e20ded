//! Dedup ids: what is sent twice within the window is there once.

use std::time::Duration;

use proto::v1;
use proto::v1::get_message_request::Which;
use tonic::Code;

use crate::operator::{ack, enqueue};
use crate::support::{Service, message, receive, seconds, within};

fn named(dedup_id: &str) -> v1::NewMessage {
    v1::NewMessage {
        dedup_id: dedup_id.to_owned(),
        ..message(dedup_id)
    }
}

async fn send(service: &mut Service, messages: Vec<v1::NewMessage>) -> Vec<(u64, bool)> {
    let answer = service.queue.enqueue(enqueue(messages)).await.expect("it is enqueued");
    let results = answer.into_inner().results.into_iter();
    results.map(|result| (result.id, result.deduplicated)).collect()
}

#[tokio::test]
async fn a_second_one_within_the_window_is_not_added() {
    let mut service = Service::start().await;
    let sent = send(&mut service, vec![named("a"), named("b"), named("a"), message("a")]).await;
    let (a, b) = (sent[0].0, sent[1].0);
    assert_eq!(sent[..3], [(a, false), (b, false), (a, true)]);
    assert!(!sent[3].1, "a message without an id is never the same");
    let elsewhere = v1::NewMessage {
        queue: "elsewhere".to_owned(),
        ..named("a")
    };
    assert!(!send(&mut service, vec![elsewhere]).await[0].1);
    let deliveries = service.receive().await;
    assert_eq!(deliveries.len(), 3);
    let delivered = deliveries[0].message.clone().expect("a delivery has a message");
    assert_eq!(delivered.dedup_id, "a");
    service.done(&deliveries[0].receipt, ack()).await;

    // Not even after it is done, nor after a restart, until the window ends.
    let mut service = service.restart().await;
    service.clock.advance_ms(599_999);
    assert_eq!(send(&mut service, vec![named("a")]).await, [(a, true)]);
    service.clock.advance_ms(1);
    let again = send(&mut service, vec![named("a"), named("a")]).await;
    assert!(again[0].0 > b && !again[0].1);
    assert_eq!(again[1], (again[0].0, true), "the window begins anew");
    service.stop().await;
}

#[tokio::test]
async fn a_commit_says_so_too_and_remembers_what_it_said() {
    let mut service = Service::start().await;
    let first = send(&mut service, vec![named("a")]).await[0].0;
    let commit = |request_id: &str| v1::CommitRequest {
        enqueues: vec![named("a"), named("b")],
        request_id: request_id.to_owned(),
        ..Default::default()
    };
    let mut said = Vec::new();
    for replayed in [false, true] {
        let answer = service
            .kv
            .commit(commit("once"))
            .await
            .expect("it commits")
            .into_inner();
        let Some(v1::commit_response::Outcome::Committed(committed)) = answer.outcome else {
            panic!("a conflict")
        };
        assert_eq!(committed.replayed, replayed);
        said.push(committed.enqueued);
    }
    assert_eq!(said[0], said[1]);
    let flags: Vec<_> = said[0].iter().map(|result| result.deduplicated).collect();
    assert_eq!((said[0][0].id, flags), (first, vec![true, false]));
    assert_eq!(service.stats().await.ready, 2);

    // The digest of a request knows both names.
    let mut other = commit("once");
    other.enqueues[1].dedup_id = "c".to_owned();
    crate::support::refused(service.kv.commit(other).await, "request_id");
    let mut other = commit("once");
    other.enqueues[1].ordering_key = "c".to_owned();
    crate::support::refused(service.kv.commit(other).await, "request_id");
    service.stop().await;
}

#[tokio::test]
async fn a_request_that_fails_remembers_no_id() {
    let mut service = Service::start().await;
    service
        .create(v1::QueueSettings {
            max_depth: Some(1),
            ..Default::default()
        })
        .await;
    let too_many = enqueue(vec![named("a"), named("b")]);
    let status = service.queue.enqueue(too_many).await.expect_err("it is full");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(!send(&mut service, vec![named("a")]).await[0].1);
    assert!(
        send(&mut service, vec![named("a"), named("a")]).await[1].1,
        "what adds nothing needs no room"
    );
    service.stop().await;
}

#[tokio::test]
async fn the_window_is_the_queues() {
    let mut service = Service::start().await;
    let window = |window| v1::QueueSettings {
        dedup_window: Some(seconds(window)),
        ..Default::default()
    };
    service.create(window(60)).await;
    assert!(!send(&mut service, vec![named("a")]).await[0].1);
    service.change(window(0)).await;
    let sent = send(&mut service, vec![named("a"), named("b"), named("b")]).await;
    let flags: Vec<_> = sent.iter().map(|(_, deduplicated)| *deduplicated).collect();
    assert_eq!(
        flags,
        [true, false, false],
        "what was remembered stays so; nothing new is"
    );
    service.clock.advance_ms(60_000);
    assert!(!send(&mut service, vec![named("a")]).await[0].1);
    service.stop().await;
}

#[tokio::test]
async fn a_message_is_found_by_its_id_while_the_window_lasts() {
    let mut service = Service::start().await;
    let id = send(&mut service, vec![named("a")]).await[0].0;
    let by_name = |name: &str| v1::GetMessageRequest {
        queue: "q".to_owned(),
        which: Some(Which::DedupId(name.to_owned())),
    };
    let found = service.queue.get_message(by_name("a")).await.expect("it is there");
    assert_eq!(found.into_inner().message.map(|message| message.id), Some(id));
    let status = service
        .queue
        .get_message(by_name("b"))
        .await
        .expect_err("nobody sent it");
    assert_eq!(status.code(), Code::NotFound);
    service.clock.advance_ms(600_000);
    let status = service
        .queue
        .get_message(by_name("a"))
        .await
        .expect_err("it is too late");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(service.message(id).await.dedup_id, "a");
    service.stop().await;
}

#[tokio::test]
async fn ids_are_collected_when_their_time_is_over() {
    let mut service = Service::start().await;
    for chunk in 0..6 {
        let messages = (0..100).map(|index| named(&format!("{chunk}/{index}"))).collect();
        service.send(messages).await;
        let deliveries = service.receive().await;
        let settlements = deliveries
            .iter()
            .map(|delivery| crate::support::settlement(&delivery.receipt, ack()));
        let request = v1::SettleRequest {
            settlements: settlements.collect(),
        };
        service.queue.settle(request).await.expect("it settles");
    }
    assert_eq!(
        service.rows(),
        [("queue".to_owned(), 1), ("dedup".to_owned(), 600)].into()
    );
    service.clock.advance_ms(600_000);
    within(async {
        while service.rows().contains_key("dedup") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(service.queue.receive(receive()).await.is_ok());
    service.stop().await;
}
