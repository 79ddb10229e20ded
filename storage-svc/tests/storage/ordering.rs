//! Ordering keys: one at a time, by rising id, whatever happens to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proto::v1;
use proto::v1::MessageState::{Blocked, Dead, Delayed, Leased, Ready};

use crate::operator::{ack, dead, id, ids, keyed, nack};
use crate::support::{Service, message, receive, seconds, settlement, within};

/// A service with three messages of one key.
async fn three() -> (Service, u64, u64, u64) {
    let mut service = Service::start().await;
    let sent = service
        .send(["one", "two", "three"].map(|text| keyed("k", text)).into())
        .await;
    (service, sent[0], sent[1], sent[2])
}

#[tokio::test]
async fn one_at_a_time_by_rising_id() {
    let (mut service, one, two, three) = three().await;
    let other = service.send(vec![keyed("other", "1"), message("free")]).await;
    assert_eq!(service.stats().await.blocked, 2);
    let first = service.receive().await;
    assert_eq!(
        ids(&first),
        [one, other[0], other[1]],
        "what is blocked is in nobody's way"
    );
    let delivered = first[0].message.clone().expect("a delivery has a message");
    assert_eq!(delivered.ordering_key, "k");
    assert!(service.receive().await.is_empty());
    service.done(&first[0].receipt, ack()).await;
    let second = service.receive_one().await;
    assert_eq!(id(&second), two);
    assert_eq!(service.state(three).await, Blocked);
    service.done(&second.receipt, ack()).await;
    let third = service.receive_one().await;
    assert_eq!(id(&third), three);
    service.done(&third.receipt, ack()).await;
    let stats = service.stats().await;
    assert_eq!((stats.ready, stats.blocked, stats.leased), (0, 0, 2));
    service.stop().await;
}

#[tokio::test]
async fn keys_of_two_queues_are_two() {
    let (mut service, one, ..) = three().await;
    let elsewhere = v1::NewMessage {
        queue: "elsewhere".to_owned(),
        ..keyed("k", "1")
    };
    service.send(vec![elsewhere]).await;
    assert_eq!(id(&service.receive_one().await), one);
    let request = v1::ReceiveRequest {
        queue: "elsewhere".to_owned(),
        ..receive()
    };
    let answer = service.queue.receive(request).await.expect("it receives");
    assert_eq!(answer.into_inner().deliveries.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_nack_and_a_lease_that_runs_out_hold_the_key_up() {
    let (mut service, one, two, _) = three().await;
    let first = service.receive_one().await;
    service.done(&first.receipt, nack(60, "later")).await;
    assert_eq!(service.state(one).await, Delayed);
    service.clock.advance_ms(59_999);
    assert!(service.receive().await.is_empty());
    service.clock.advance_ms(1);
    let again = service.receive_one().await;
    assert_eq!(id(&again), one);
    // The lease runs out, and its back-off is over.
    service.clock.advance_ms(30_000);
    assert_eq!(service.state(two).await, Blocked);
    assert!(service.receive().await.is_empty());
    service.clock.advance_ms(3_000);
    let again = service.receive_one().await;
    assert_eq!(id(&again), one);
    service.done(&again.receipt, ack()).await;
    assert_eq!(id(&service.receive_one().await), two);
    service.stop().await;
}

#[tokio::test]
async fn what_is_dead_or_purged_is_in_nobodys_way() {
    let (mut service, one, two, three) = three().await;
    let first = service.receive_one().await;
    service.done(&first.receipt, dead("no use")).await;
    assert_eq!(service.state(one).await, Dead);
    let second = service.receive_one().await;
    assert_eq!(id(&second), two);
    assert_eq!(service.purge(&[two], &[Ready, Dead]).await, (0, false), "it is leased");
    assert_eq!(service.state(three).await, Blocked);
    assert_eq!(service.purge(&[two], &[Leased]).await, (1, false));
    assert_eq!(id(&service.receive_one().await), three);
    service.stop().await;
}

#[tokio::test]
async fn a_purge_goes_by_the_states_before_it() {
    let (mut service, one, two, three) = three().await;
    assert_eq!(service.purge(&[one, two, three], &[Ready]).await, (1, false));
    assert_eq!(service.state(two).await, Ready, "the purge let it go, and left it");
    assert_eq!(service.purge(&[], &[Blocked]).await, (1, false));
    assert_eq!(id(&service.receive_one().await), two);
    assert_eq!(service.stats().await.blocked, 0);
    let sent = service.send(vec![keyed("k", "four"), keyed("k", "five")]).await;
    assert_eq!(service.purge(&[], &[Leased, Blocked]).await, (3, false));
    assert!(service.receive().await.is_empty());
    assert!(sent[0] > three);
    service.stop().await;
}

#[tokio::test]
async fn the_next_one_keeps_its_own_delay() {
    let mut service = Service::start().await;
    let later = v1::NewMessage {
        delay: Some(seconds(60)),
        ..keyed("k", "later")
    };
    let sent = service
        .send(vec![later.clone(), keyed("k", "behind"), keyed("k", "last")])
        .await;
    let delayed = service.message(sent[0]).await;
    assert_eq!(delayed.state(), Delayed);
    assert_eq!(service.state(sent[1]).await, Blocked, "a delay holds the key up");
    service.clock.advance_ms(60_000);
    let first = service.receive_one().await;
    assert_eq!(id(&first), sent[0]);
    // Behind it one that has waited long enough, one that has not.
    let late = service.send(vec![later]).await[0];
    let blocked = service.message(late).await;
    assert_eq!(blocked.state(), Blocked);
    assert_eq!(
        blocked.due_time.map(|time| time.seconds),
        delayed.due_time.map(|time| time.seconds + 60)
    );
    service.done(&first.receipt, ack()).await;
    for expected in [sent[1], sent[2]] {
        let next = service.receive_one().await;
        assert_eq!(id(&next), expected);
        service.done(&next.receipt, ack()).await;
    }
    assert_eq!(service.state(late).await, Delayed);
    assert!(service.receive().await.is_empty());
    service.clock.advance_ms(60_000);
    assert_eq!(id(&service.receive_one().await), late);
    service.stop().await;
}

#[tokio::test]
async fn a_redriven_message_takes_its_old_place() {
    let (mut service, one, two, three) = three().await;
    let first = service.receive_one().await;
    service.done(&first.receipt, dead("for a while")).await;
    assert_eq!(service.state(two).await, Ready);
    assert_eq!(service.redrive(&[one]).await, (1, false));
    assert_eq!(service.state(one).await, Ready);
    assert_eq!(service.state(two).await, Blocked, "it is its turn no more");
    let first = service.receive_one().await;
    assert_eq!(id(&first), one);
    service.done(&first.receipt, ack()).await;
    let second = service.receive_one().await;
    assert_eq!(id(&second), two);
    service.done(&second.receipt, dead("for a while")).await;
    let third = service.receive_one().await;
    assert_eq!(id(&third), three);
    assert_eq!(service.redrive(&[]).await, (1, false));
    assert_eq!(service.state(two).await, Blocked, "a later one is out");
    assert!(service.receive().await.is_empty());
    // That one comes back undone: the earlier one goes first.
    service.done(&third.receipt, nack(0, "")).await;
    assert_eq!(service.state(three).await, Blocked);
    let second = service.receive_one().await;
    assert_eq!(id(&second), two);
    service.done(&second.receipt, ack()).await;
    let third = service.receive_one().await;
    assert_eq!(id(&third), three);
    service.done(&third.receipt, ack()).await;
    let stats = service.stats().await;
    assert_eq!((stats.ready, stats.blocked, stats.leased, stats.dead), (0, 0, 0, 0));
    service.stop().await;
}

#[tokio::test]
async fn a_whole_key_that_died_comes_back_in_order() {
    let (mut service, one, two, three) = three().await;
    for _ in 0..3 {
        let delivery = service.receive_one().await;
        service.done(&delivery.receipt, dead("")).await;
    }
    assert_eq!(service.redrive(&[three, one, two, three]).await, (3, false));
    for expected in [one, two, three] {
        let delivery = service.receive_one().await;
        assert_eq!(id(&delivery), expected);
        service.done(&delivery.receipt, ack()).await;
    }
    service.stop().await;
}

#[tokio::test]
async fn a_hot_key_starves_nobody() {
    let mut service = Service::start().await;
    for _ in 0..10 {
        service.send(vec![keyed("hot", ""); 100]).await;
    }
    let others: Vec<_> = (0..20).map(|index| keyed(&format!("k{index}"), "")).collect();
    let others = service.send(others).await;
    let deliveries = service.receive().await;
    assert_eq!(deliveries.len(), 21);
    assert_eq!(ids(&deliveries[1..]), others);
    assert_eq!(service.stats().await.blocked, 999);
    service.stop().await;
}

#[tokio::test]
async fn who_waits_is_served_by_the_ack_before() {
    let (mut service, _, two, _) = three().await;
    let first = service.receive_one().await;
    let mut queue = service.queue.clone();
    let waits = tokio::spawn(async move {
        let request = v1::ReceiveRequest {
            wait: Some(seconds(30)),
            max_messages: 1,
            ..receive()
        };
        queue.receive(request).await
    });
    // Together with the effect, in one transaction.
    let commit = v1::CommitRequest {
        settlements: vec![settlement(&first.receipt, ack())],
        mutations: vec![v1::Mutation::put_text("n", "done", String::new(), [].into())],
        ..Default::default()
    };
    service.kv.commit(commit).await.expect("it commits");
    let answer = within(waits).await.expect("it did not panic").expect("it receives");
    assert_eq!(ids(&answer.into_inner().deliveries), [two]);
    service.stop().await;
}

#[tokio::test]
async fn keys_outlive_a_restart() {
    let (service, one, two, _) = three().await;
    let mut service = service.restart().await;
    let first = service.receive_one().await;
    assert_eq!(id(&first), one);
    let mut service = service.restart().await;
    assert!(service.receive().await.is_empty());
    service.done(&first.receipt, ack()).await;
    assert_eq!(id(&service.receive_one().await), two);
    service.stop().await;
}

/// What the consumers of a test know of the keys.
#[derive(Default)]
struct Watched {
    /// The message of each key that is out.
    out: HashMap<String, u64>,
    /// The last one of each key that was finished.
    finished: HashMap<String, u64>,
    count: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_consumers_keep_the_order_of_every_key() {
    const KEYS: usize = 20;
    const MESSAGES: usize = 15;
    let mut service = Service::start().await;
    service
        .create(v1::QueueSettings {
            max_attempts: Some(3),
            ..Default::default()
        })
        .await;
    for _ in 0..MESSAGES {
        let messages = (0..KEYS).map(|key| keyed(&key.to_string(), "work")).collect();
        service.send(messages).await;
    }
    let watched = Arc::new(Mutex::new(Watched::default()));
    let mut consumers = tokio::task::JoinSet::new();
    for consumer in 0..8_usize {
        let mut queue = service.queue.clone();
        let watched = Arc::clone(&watched);
        consumers.spawn(async move {
            let mut turn = consumer;
            while watched.lock().expect("nobody panicked").count < KEYS * MESSAGES {
                let request = v1::ReceiveRequest {
                    max_messages: 3,
                    ..receive()
                };
                let deliveries = queue
                    .receive(request)
                    .await
                    .expect("it receives")
                    .into_inner()
                    .deliveries;
                for delivery in deliveries {
                    let message = delivery.message.expect("a delivery has a message");
                    let key = message.ordering_key;
                    {
                        let mut watched = watched.lock().expect("nobody panicked");
                        let other = watched.out.insert(key.clone(), message.id);
                        assert_eq!(other, None, "two of a key are out");
                        let before = watched.finished.get(&key).copied();
                        assert!(before < Some(message.id), "{} after {before:?}", message.id);
                    }
                    turn += 1;
                    let (action, ends) = match turn % 7 {
                        0 => (dead("no use"), true),
                        1 | 2 => (nack(0, "once more"), message.attempt == 3),
                        _ => (ack(), true),
                    };
                    {
                        // Before it is settled: from then on the next one may be out.
                        let mut watched = watched.lock().expect("nobody panicked");
                        watched.out.remove(&key);
                        if ends {
                            watched.finished.insert(key, message.id);
                            watched.count += 1;
                        }
                    }
                    let request = v1::SettleRequest {
                        settlements: vec![settlement(&delivery.receipt, action)],
                    };
                    let settled = queue.settle(request).await.expect("it settles").into_inner();
                    assert_eq!(settled.results[0].status(), v1::settlement_result::Status::Ok);
                }
            }
        });
    }
    within(consumers.join_all()).await;
    let stats = service.stats().await;
    assert_eq!((stats.ready, stats.blocked, stats.leased, stats.delayed), (0, 0, 0, 0));
    assert!(stats.dead > 0);
    service.stop().await;
}
