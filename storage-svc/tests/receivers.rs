//! A hundred receivers on ten queues, half of them by Receive and half by Consume, that crash at random in the middle of
//! their work, and some that sleep past their leases.
//!
//! Whatever they do, each message is done exactly once, those of an ordering key in their order, and the poison ones are
//! the dead ones, no others. What was done is not counted here but read from the store: doing a message is one Commit
//! that writes its key, which must not be there, and acks it.
//!
//! `RECEIVERS_MESSAGES` says how many messages; 100,000 unless it is set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::v1;
use proto::v1::commit_response::Outcome;
use proto::v1::consume_request::{Body as Ask, Open};
use proto::v1::consume_response::Body as Answer;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::queue_service_client::QueueServiceClient;
use proto::v1::settlement::{Ack, Action, Nack};
use proto::v1::settlement_result::Status as Settled;
use rand::RngExt as _;
use runtime::clock::Clock;
use storage_svc::{Store, StoreArgs, Sync};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

const MESSAGES: usize = 100_000;
const RECEIVERS: usize = 100;
const QUEUES: usize = 10;
/// Half of the queues have ordering keys, so many each.
const KEYS: usize = 200;
/// One message in so many fails at every attempt.
const POISON_EVERY: usize = 500;
/// More than crashes can use up of a message that is not poison.
const ATTEMPTS_MAX: u32 = 10;
/// A receiver crashes whenever so many messages have been done.
const CRASH_EVERY: usize = 400;
/// One batch in so many is kept past its lease by who receives it.
const SLEEP_EVERY: u32 = 100;
/// By then all must be done.
const PATIENCE: Duration = Duration::from_mins(3);

/// A message as it was sent.
struct Sent {
    queue: usize,
    body: String,
    is_poison: bool,
}

/// What receivers tell of themselves while they live.
#[derive(Debug, Default)]
struct Log {
    done: AtomicUsize,
    conflicts: AtomicUsize,
    slept: AtomicUsize,
    /// Most attempts that a message took that was done in the end.
    attempts: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashing_receivers_do_each_message_exactly_once_and_in_order() {
    let messages = std::env::var_os("RECEIVERS_MESSAGES").map_or(MESSAGES, |count| {
        let count = count.to_str().and_then(|count| count.parse().ok());
        count.expect("RECEIVERS_MESSAGES is a number")
    });
    let folder = tempfile::tempdir().expect("a folder can be made");
    let args = StoreArgs {
        storage_sync: Sync::Normal,
        ..StoreArgs::at(folder.path().join("store.db"))
    };
    let store = Store::open(&args, Clock::system()).expect("the store opens");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = format!("http://{}", listener.local_addr().expect("it is bound"));
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(storage_svc::serve(listener, store.clone(), shutdown.clone()));
    let mut client = Client::new(&address);
    for queue in 0..QUEUES {
        client.create(queue).await;
    }

    let began = Instant::now();
    let log = Arc::new(Log::default());
    let mut senders = JoinSet::new();
    for queue in 0..QUEUES {
        let count = messages / QUEUES + usize::from(queue < messages % QUEUES);
        senders.spawn(send(Client::new(&address), queue, count));
    }
    let mut receivers: Vec<JoinHandle<()>> = (0..RECEIVERS).map(|number| receiver(&address, number, &log)).collect();
    let mut crashes = 0;
    let mut sent: BTreeMap<u64, Sent> = BTreeMap::new();
    loop {
        assert!(began.elapsed() < PATIENCE, "not done in time: {log:?}");
        if let Some(number) = receivers.iter().position(JoinHandle::is_finished) {
            let finished = receivers.swap_remove(number).await;
            panic!("a receiver has no end: {finished:?}");
        }
        if let Some(more) = senders.try_join_next() {
            sent.extend(more.expect("a sender does not panic"));
        }
        if log.done.load(Ordering::SeqCst) >= (crashes + 1) * CRASH_EVERY {
            crashes += 1;
            let number = rand::rng().random_range(0..RECEIVERS);
            let victim = std::mem::replace(&mut receivers[number], receiver(&address, number, &log));
            victim.abort();
            assert!(
                victim.await.expect_err("it has no end").is_cancelled(),
                "it did not panic"
            );
            continue;
        }
        if senders.is_empty() && client.is_idle().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let elapsed = began.elapsed();
    for receiver in receivers {
        receiver.abort();
        assert!(
            receiver.await.expect_err("it has no end").is_cancelled(),
            "it did not panic"
        );
    }
    println!("{messages} messages, {crashes} crashes, {elapsed:?}, {log:?}");

    assert_eq!(sent.len(), messages);
    judge(&mut client, &sent).await;
    drop(client);
    shutdown.cancel();
    serving.await.expect("serving did not panic").expect("it ended well");
    store.close().await;
}

/// Compares what the store has with what was sent.
async fn judge(client: &mut Client, sent: &BTreeMap<u64, Sent>) {
    let done = client.done().await;
    let healthy: BTreeSet<u64> = ids(sent, |message| !message.is_poison);
    assert_eq!(
        done.keys().copied().collect::<BTreeSet<_>>(),
        healthy,
        "each is done, and nothing else"
    );
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for (id, entry) in &done {
        assert_eq!(entry.version, 1, "message {id} was done once");
        let message = &sent[id];
        assert_eq!(entry.content, Some(v1::entry::Content::Text(message.body.clone())));
        if let Some(key) = ordering_key(&message.body) {
            let before = last.insert(key, entry.revision);
            assert!(
                before.is_none_or(|before| before < entry.revision),
                "message {id} of {key} was done out of its order"
            );
        }
    }
    let mut dead = BTreeSet::new();
    for queue in 0..QUEUES {
        let of_queue = client.dead(queue).await;
        let stats = client.stats(queue).await;
        assert_eq!(stats.dead, of_queue.len() as u64);
        dead.extend(of_queue);
    }
    assert_eq!(
        dead,
        ids(sent, |message| message.is_poison),
        "the poison ones are dead, and no others"
    );
}

fn ids(sent: &BTreeMap<u64, Sent>, which: impl Fn(&Sent) -> bool) -> BTreeSet<u64> {
    let which = sent.iter().filter(|(_, message)| which(message));
    which.map(|(id, _)| *id).collect()
}

fn queue_name(queue: usize) -> String {
    format!("queue-{queue}")
}

/// The part of a body that is the message's ordering key.
fn ordering_key(body: &str) -> Option<&str> {
    let key = body.split(' ').next()?;
    key.contains("key").then_some(key)
}

/// Enqueues messages in the order of their numbers.
async fn send(mut client: Client, queue: usize, count: usize) -> Vec<(u64, Sent)> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let some: Vec<Sent> = (all.len()..count)
            .take(100)
            .map(|number| {
                let is_poison = number % POISON_EVERY == queue;
                let key = if queue.is_multiple_of(2) {
                    format!("{queue}-key-{}", rand::rng().random_range(0..KEYS))
                } else {
                    format!("{queue}-none")
                };
                let kind = if is_poison { "poison" } else { "work" };
                let body = format!("{key} {number} {kind}");
                Sent { queue, body, is_poison }
            })
            .collect();
        let messages = some.iter().map(|message| v1::NewMessage {
            queue: queue_name(message.queue),
            content: Some(v1::new_message::Content::Text(message.body.clone())),
            ordering_key: ordering_key(&message.body).unwrap_or_default().to_owned(),
            ..Default::default()
        });
        let request = v1::EnqueueRequest {
            messages: messages.collect(),
            request_id: String::new(),
        };
        let results = client
            .queue
            .enqueue(request)
            .await
            .expect("it is enqueued")
            .into_inner()
            .results;
        all.extend(results.iter().map(|result| result.id).zip(some));
    }
    all
}

/// Starts a receiver that works until it is aborted, on a connection of its own.
fn receiver(address: &str, number: usize, log: &Arc<Log>) -> JoinHandle<()> {
    let mut random = rand::rng();
    let batch = [1, 10, 100][random.random_range(0..3)];
    // Many messages take their time where everything is slow.
    let lease_ms_min = match batch {
        1 => 200,
        10 => 500,
        _ => 1_000,
    };
    let lease_ms = random.random_range(lease_ms_min..2_000);
    let receiver = Receiver {
        client: Client::new(address),
        queue: number % QUEUES,
        batch,
        lease: prost_types::Duration {
            seconds: i64::from(lease_ms / 1_000),
            nanos: lease_ms % 1_000 * 1_000_000,
        },
        log: Arc::clone(log),
    };
    if (number / QUEUES).is_multiple_of(2) {
        tokio::spawn(receiver.receive())
    } else {
        tokio::spawn(receiver.consume())
    }
}

struct Receiver {
    client: Client,
    queue: usize,
    batch: u32,
    lease: prost_types::Duration,
    log: Arc<Log>,
}

impl Receiver {
    async fn receive(mut self) {
        loop {
            let request = v1::ReceiveRequest {
                queue: queue_name(self.queue),
                max_messages: self.batch,
                wait: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
                lease: Some(self.lease),
            };
            let received = self.client.queue.receive(request).await.expect("it receives");
            let poison = self.work(received.into_inner().deliveries).await;
            if !poison.is_empty() {
                let request = v1::SettleRequest { settlements: poison };
                self.client.queue.settle(request).await.expect("it settles");
            }
        }
    }

    async fn consume(mut self) {
        let (requests, heard) = mpsc::channel(16);
        let open = Ask::Open(Open {
            queue: queue_name(self.queue),
            max_outstanding_messages: self.batch,
            max_outstanding_bytes: 0,
            lease: Some(self.lease),
        });
        let ask = |body| v1::ConsumeRequest { body: Some(body) };
        requests.send(ask(open)).await.expect("the stream lives");
        let answers = self.client.queue.consume(ReceiverStream::new(heard)).await;
        let mut answers = answers.expect("there is a place").into_inner();
        loop {
            let answer = answers.message().await.expect("the stream lives");
            match answer.and_then(|answer| answer.body) {
                Some(Answer::Deliveries(deliveries)) => {
                    assert!(deliveries.deliveries.len() <= self.batch as usize, "the window holds");
                    let poison = self.work(deliveries.deliveries).await;
                    if !poison.is_empty() {
                        let settle = Ask::Settle(v1::SettleRequest { settlements: poison });
                        requests.send(ask(settle)).await.expect("the stream lives");
                    }
                }
                Some(Answer::Settled(settled)) => {
                    let results = settled.results.iter().map(v1::SettlementResult::status);
                    let are_nacked = results.map(|status| matches!(status, Settled::Ok | Settled::Stale));
                    assert!(are_nacked.min().unwrap_or(true), "{settled:?}");
                }
                Some(Answer::Opened(_) | Answer::Heartbeat(_)) => {}
                other => panic!("a stream goes on: {other:?}"),
            }
        }
    }

    /// Does the messages but for the poison ones; how those are settled.
    async fn work(&mut self, deliveries: Vec<v1::Delivery>) -> Vec<v1::Settlement> {
        if !deliveries.is_empty() && rand::rng().random_range(0..SLEEP_EVERY) == 0 {
            self.log.slept.fetch_add(1, Ordering::SeqCst);
            let lease = Duration::try_from(self.lease).expect("it is positive");
            tokio::time::sleep(lease + Duration::from_millis(50)).await;
        }
        let mut poison = Vec::new();
        let mut work = Vec::new();
        for v1::Delivery { message, receipt, .. } in deliveries {
            let message = message.expect("a delivery has a message");
            let Some(v1::message::Content::Text(body)) = message.content else {
                panic!("a body: {:?}", message.content)
            };
            if body.ends_with("poison") {
                poison.push(settlement(receipt, Action::Nack(Nack::default())));
            } else {
                work.push((message.id, message.attempt, body, receipt));
            }
        }
        while !work.is_empty() {
            let request = v1::CommitRequest {
                checks: work.iter().map(|(id, ..)| absent(*id)).collect(),
                mutations: work.iter().map(|(id, _, body, _)| done(*id, body)).collect(),
                settlements: work
                    .iter()
                    .map(|(.., receipt)| settlement(receipt.clone(), Action::Ack(Ack {})))
                    .collect(),
                ..Default::default()
            };
            let answer = self.client.kv.commit(request).await.expect("it answers").into_inner();
            match answer.outcome.expect("there is an outcome") {
                Outcome::Committed(_) => {
                    self.log.done.fetch_add(work.len(), Ordering::SeqCst);
                    let attempts = work.iter().map(|(_, attempt, ..)| *attempt as usize).max();
                    self.log.attempts.fetch_max(attempts.unwrap_or(0), Ordering::SeqCst);
                    break;
                }
                Outcome::Conflict(conflict) => {
                    self.log.conflicts.fetch_add(1, Ordering::SeqCst);
                    let lost: BTreeSet<u32> = conflict.failed_settlements.into_iter().collect();
                    assert!(
                        conflict.failed_checks.iter().all(|index| lost.contains(index)),
                        "a message that is done is delivered to nobody"
                    );
                    assert!(!lost.is_empty(), "a conflict has a reason");
                    let mut index = 0;
                    work.retain(|_| {
                        index += 1;
                        !lost.contains(&(index - 1))
                    });
                }
            }
        }
        poison
    }
}

fn settlement(receipt: Bytes, action: Action) -> v1::Settlement {
    v1::Settlement {
        receipt,
        action: Some(action),
    }
}

fn absent(id: u64) -> v1::Check {
    v1::Check {
        namespace: "done".to_owned(),
        key: format!("{id:020}"),
        expect: Some(v1::check::Expect::Exists(false)),
    }
}

fn done(id: u64, body: &str) -> v1::Mutation {
    let put = v1::mutation::Put {
        content: Some(v1::mutation::put::Content::Text(body.to_owned())),
        ..Default::default()
    };
    v1::Mutation {
        namespace: "done".to_owned(),
        key: format!("{id:020}"),
        op: Some(v1::mutation::Op::Put(put)),
    }
}

/// Clients on one connection.
struct Client {
    kv: KvServiceClient<Channel>,
    queue: QueueServiceClient<Channel>,
}

impl Client {
    fn new(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(address.to_owned()).expect("the address is good");
        let channel = endpoint.connect_lazy();
        Self {
            kv: KvServiceClient::new(channel.clone()),
            queue: QueueServiceClient::new(channel),
        }
    }

    async fn create(&mut self, queue: usize) {
        let millis = |millis: i32| {
            Some(prost_types::Duration {
                seconds: 0,
                nanos: millis * 1_000_000,
            })
        };
        let request = v1::CreateQueueRequest {
            name: queue_name(queue),
            settings: Some(v1::QueueSettings {
                max_attempts: Some(ATTEMPTS_MAX),
                backoff: Some(v1::BackoffPolicy {
                    initial: millis(10),
                    max: millis(100),
                    jitter_percent: None,
                }),
                ..Default::default()
            }),
        };
        self.queue.create_queue(request).await.expect("it is made");
    }

    async fn stats(&mut self, queue: usize) -> v1::QueueStats {
        let request = v1::GetQueueStatsRequest {
            queue: queue_name(queue),
        };
        let answer = self.queue.get_queue_stats(request).await.expect("the queue is there");
        answer.into_inner().stats.expect("there are figures")
    }

    /// Whether every message is done or dead.
    async fn is_idle(&mut self) -> bool {
        for queue in 0..QUEUES {
            let stats = self.stats(queue).await;
            if stats.ready + stats.delayed + stats.leased + stats.blocked > 0 {
                return false;
            }
        }
        true
    }

    async fn dead(&mut self, queue: usize) -> BTreeSet<u64> {
        let mut dead = BTreeSet::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListMessagesRequest {
                queue: queue_name(queue),
                state: v1::MessageState::Dead.into(),
                page_size: 1_000,
                page_token,
                omit_bodies: true,
            };
            let page = self.queue.list_messages(request).await.expect("it lists").into_inner();
            for message in page.messages {
                assert_eq!(message.attempt, ATTEMPTS_MAX);
                dead.insert(message.id);
            }
            if page.next_page_token.is_empty() {
                return dead;
            }
            page_token = page.next_page_token;
        }
    }

    /// All that was done, by message.
    async fn done(&mut self) -> BTreeMap<u64, v1::Entry> {
        let mut done = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ScanRequest {
                selector: Some(v1::Selector {
                    namespace: "done".to_owned(),
                    ..Default::default()
                }),
                page_size: 1_000,
                page_token,
                ..Default::default()
            };
            let page = self.kv.scan(request).await.expect("it scans").into_inner();
            for row in page.rows {
                let entry = row.entry.expect("a row has an entry");
                done.insert(entry.key.parse().expect("the key is a number"), entry);
            }
            if page.next_page_token.is_empty() {
                return done;
            }
            page_token = page.next_page_token;
        }
    }
}
