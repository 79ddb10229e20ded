//! A load of commits, messages and settlements over gRPC, and what each answer promised. Whoever sends waits for the
//! answer before it sends again, over a connection of its own, so that the n-th answer on it is that of the n-th call.

use std::io;
use std::sync::{Arc, OnceLock};

use hyper_util::rt::TokioIo;
use proto::v1;
use proto::v1::commit_response::Outcome;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::queue_service_client::QueueServiceClient;
use rand::seq::IndexedRandom as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

pub(crate) const NAMESPACE: &str = "n";
pub(crate) const QUEUE: &str = "q";
const PRODUCERS: usize = 3;
const CONSUMERS: usize = 2;
/// Keys that the producers write over each other's.
const KEYS: usize = 12;
/// Sizes of values, in bytes: in the row, in a page, in several pages, in many.
const SIZES: [usize; 7] = [10, 150, 300, 3_000, 3_000, 30_000, 120_000];

/// What an answer promised.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Commit(Commit),
    Enqueued(Vec<Enqueued>),
    Settled(Vec<Settled>),
    /// Nothing that must last.
    Received,
}

#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) revision: u64,
    pub(crate) request: v1::CommitRequest,
    pub(crate) enqueued: Vec<Enqueued>,
    pub(crate) acked: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Enqueued {
    pub(crate) id: u64,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled {
    pub(crate) id: u64,
    /// Kept as dead, or else gone.
    pub(crate) is_dead: bool,
}

/// A call that was answered.
#[derive(Debug)]
pub(crate) struct Done {
    /// What was answered, encoded.
    pub(crate) answer: Vec<u8>,
    pub(crate) deed: Deed,
}

/// What one client did, in order.
#[derive(Debug)]
pub(crate) struct Work {
    /// The one that it called from.
    pub(crate) port: u16,
    pub(crate) done: Vec<Done>,
}

/// Lets several clients make so many calls each. `life` tells loads on the same store apart.
pub(crate) async fn run(address: &str, life: usize, calls: usize) -> Vec<Work> {
    let mut clients = JoinSet::new();
    for number in 0..PRODUCERS + CONSUMERS {
        let mut client = Client::connect(address, format!("{life}/{number}")).await;
        clients.spawn(async move {
            while client.work.done.len() < calls {
                if number < PRODUCERS {
                    client.produce().await;
                } else {
                    client.consume().await;
                }
            }
            client.work
        });
    }
    clients.join_all().await
}

struct Client {
    name: String,
    kv: KvServiceClient<Channel>,
    queue: QueueServiceClient<Channel>,
    work: Work,
}

impl Client {
    async fn connect(address: &str, name: String) -> Self {
        let port = Arc::new(OnceLock::new());
        let (to, told) = (address.to_owned(), Arc::clone(&port));
        let connector = tower::service_fn(move |_| {
            let (to, told) = (to.clone(), Arc::clone(&told));
            async move {
                let stream = TcpStream::connect(to).await?;
                let is_first = told.set(stream.local_addr()?.port()).is_ok();
                is_first
                    .then(|| TokioIo::new(stream))
                    .ok_or_else(|| io::Error::other("the connection broke"))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is an address");
        let channel = endpoint.connect_with_connector(connector).await.expect("it connects");
        Self {
            name,
            kv: KvServiceClient::new(channel.clone()),
            queue: QueueServiceClient::new(channel),
            work: Work {
                port: *port.get().expect("it is connected"),
                done: Vec::new(),
            },
        }
    }

    fn note(&mut self, answer: &impl prost::Message, deed: Deed) {
        let answer = answer.encode_to_vec();
        self.work.done.push(Done { answer, deed });
    }

    /// A text that is nobody else's, in all its parts.
    fn text(&self, size: usize) -> String {
        let unique = format!("{}/{};", self.name, self.work.done.len());
        unique.repeat(size.div_ceil(unique.len()))
    }

    fn messages(&self, count: usize) -> Vec<v1::NewMessage> {
        let message = |index| v1::NewMessage {
            queue: QUEUE.to_owned(),
            content: Some(v1::new_message::Content::Text(format!("{index} of {}", self.text(100)))),
            ..Default::default()
        };
        (0..count).map(message).collect()
    }

    async fn produce(&mut self) {
        if rand::random_ratio(1, 5) {
            let messages = self.messages(rand::random_range(1..4));
            let request = v1::EnqueueRequest {
                messages: messages.clone(),
                request_id: String::new(),
            };
            let answer = self.queue.enqueue(request).await.expect("it is enqueued").into_inner();
            self.note(&answer, Deed::Enqueued(enqueued(&messages, &answer.results)));
            return;
        }
        let first = rand::random_range(0..KEYS);
        let mut mutations = Vec::new();
        for index in 0..rand::random_range(1..4) {
            let key = format!("k/{}", (first + index) % KEYS);
            // One of them is always written, so that the commit takes a revision.
            mutations.push(if index > 0 && rand::random_ratio(1, 4) {
                v1::Mutation::delete(NAMESPACE, &key)
            } else {
                let size = *SIZES.choose(&mut rand::rng()).expect("there are sizes");
                v1::Mutation::put_text(NAMESPACE, &key, self.text(size), [].into())
            });
        }
        let enqueues = self.messages(rand::random_range(0..3));
        self.commit(mutations, enqueues, None).await;
    }

    async fn commit(
        &mut self,
        mutations: Vec<v1::Mutation>,
        enqueues: Vec<v1::NewMessage>,
        acked: Option<(u64, v1::Settlement)>,
    ) {
        let (acked, settlement) = acked.unzip();
        let request = v1::CommitRequest {
            mutations,
            enqueues,
            settlements: settlement.into_iter().collect(),
            request_id: format!("{}/{}", self.name, self.work.done.len()),
            ..Default::default()
        };
        let answer = self.kv.commit(request.clone()).await.expect("it commits").into_inner();
        let Some(Outcome::Committed(committed)) = &answer.outcome else {
            panic!("there is nothing to conflict with: {answer:?}");
        };
        let deed = Commit {
            revision: committed.revision,
            enqueued: enqueued(&request.enqueues, &committed.enqueued),
            acked,
            request,
        };
        self.note(&answer, Deed::Commit(deed));
    }

    /// Of each four messages one is acked with its effect in one commit, one acked, one buried, and one kept.
    async fn consume(&mut self) {
        let request = v1::ReceiveRequest {
            queue: QUEUE.to_owned(),
            max_messages: 4,
            wait: Some(prost_types::Duration {
                seconds: 0,
                nanos: 20_000_000,
            }),
            lease: None,
        };
        let answer = self.queue.receive(request).await.expect("it receives").into_inner();
        self.note(&answer, Deed::Received);
        let mut deliveries = answer.deliveries.into_iter().map(|delivery| {
            let id = delivery.message.expect("there is a message").id;
            (id, delivery.receipt)
        });
        let settlement = |receipt, action| v1::Settlement {
            receipt,
            action: Some(action),
        };
        let ack = v1::settlement::Action::Ack(v1::settlement::Ack {});
        if let Some((id, receipt)) = deliveries.next() {
            let effect = v1::Mutation::put_text(NAMESPACE, &format!("effect/{id}"), self.text(30), [].into());
            self.commit(vec![effect], Vec::new(), Some((id, settlement(receipt, ack.clone()))))
                .await;
        }
        let mut settled = Vec::new();
        let mut settlements = Vec::new();
        if let Some((id, receipt)) = deliveries.next() {
            settled.push(Settled { id, is_dead: false });
            settlements.push(settlement(receipt, ack));
        }
        if let Some((id, receipt)) = deliveries.next() {
            let reason = "of no use".to_owned();
            settled.push(Settled { id, is_dead: true });
            settlements.push(settlement(
                receipt,
                v1::settlement::Action::Dead(v1::settlement::Dead { reason }),
            ));
        }
        if settlements.is_empty() {
            return;
        }
        let request = v1::SettleRequest { settlements };
        let answer = self.queue.settle(request).await.expect("it settles").into_inner();
        for result in &answer.results {
            assert_eq!(result.status(), v1::settlement_result::Status::Ok);
        }
        self.note(&answer, Deed::Settled(settled));
    }
}

fn enqueued(messages: &[v1::NewMessage], results: &[v1::EnqueueResult]) -> Vec<Enqueued> {
    assert_eq!(messages.len(), results.len());
    let texts = messages.iter().map(|message| match &message.content {
        Some(v1::new_message::Content::Text(text)) => text.clone(),
        _ => panic!("it is text"),
    });
    let both = texts.zip(results);
    both.map(|(text, result)| Enqueued { id: result.id, text }).collect()
}
