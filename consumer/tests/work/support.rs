//! A store whose calls can be stopped, refused and cut off on their way, writes that are queued in it, and a consumer.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use consumer::{Consumer, Settings};
use feed::accept::{Write, commit_queued};
use feed::document::Document;
use feed::id::{DocumentId, DocumentKey, Kind};
use feed::keys;
use feed::operation::{OperationRecord, OperationState};
use feed::state::{Content, OperationId, Origin, Refs, State, Version};
use feed_store::{FeedStore, Outcome, WRITE_QUEUE};
use futures_util::StreamExt as _;
use prost::Message as _;
use proto::client::StorageClient;
use proto::limits::GRPC_MESSAGE_BYTES_MAX;
use proto::v1;
use proto::v1::queue_service_client::QueueServiceClient;
use proto::v1::settlement::{Action, Nack};
use runtime::clock::Clock;
use storage_svc::{Store, StoreArgs, Sync};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;

/// Longest time until what is waited for is there.
const DEADLINE: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(5);
/// What precedes a message on the wire: whether it is compressed, and its length.
const GRPC_HEAD_BYTES: usize = 5;

/// What becomes of calls on their way to the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    /// Reads of what one of these says wait.
    pub(crate) held: Vec<DocumentId>,
    /// Calls of these methods wait for ever.
    pub(crate) stuck: Vec<&'static str>,
    /// Answers of these methods are kept back.
    pub(crate) late: Vec<&'static str>,
    /// Calls of these methods find the store away.
    pub(crate) refused: Vec<&'static str>,
    /// How often the streams of messages were cut off.
    pub(crate) cuts: u64,
}

/// A store over a temporary folder.
pub(crate) struct TestStore {
    store: Store,
    /// Past whatever becomes of the consumer's calls.
    pub(crate) aside: FeedStore,
    pub(crate) queue: QueueServiceClient<Routes>,
    fate: watch::Sender<Fate>,
    /// Calls that arrived, by method.
    calls: Arc<Mutex<Vec<String>>>,
    _folder: TempDir,
}

/// A write that is queued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) operation: OperationId,
    pub(crate) id: DocumentId,
}

/// A consumer that runs.
pub(crate) struct Running {
    pub(crate) consumer: Consumer,
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl TestStore {
    /// Whose write queue has this back-off, and gives a message ten attempts.
    pub(crate) async fn open(backoff: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let args = StoreArgs {
            storage_sync: Sync::Normal,
            ..StoreArgs::at(folder.path().join("store.db"))
        };
        let store = Store::open(&args, Clock::system()).expect("the store opens");
        let mut queue = QueueServiceClient::new(storage_svc::routes(&store));
        let backoff = prost_types::Duration::try_from(backoff).expect("it is short");
        let settings = v1::QueueSettings {
            backoff: Some(v1::BackoffPolicy {
                initial: Some(backoff),
                max: Some(backoff),
                jitter_percent: Some(0),
            }),
            ..Default::default()
        };
        let create = v1::CreateQueueRequest {
            name: WRITE_QUEUE.to_owned(),
            settings: Some(settings),
        };
        queue.create_queue(create).await.expect("the queue is made");
        Self {
            aside: FeedStore::new(StorageClient::in_process(storage_svc::routes(&store))),
            queue,
            store,
            fate: watch::Sender::new(Fate::default()),
            calls: Arc::default(),
            _folder: folder,
        }
    }

    /// Changes what becomes of calls from now on.
    pub(crate) fn fate(&self, change: impl FnOnce(&mut Fate)) {
        self.fate.send_modify(change);
    }

    /// Starts a consumer.
    pub(crate) fn consumer(&self, settings: Settings) -> Running {
        let consumer = self.idle_consumer(settings);
        let shutdown = CancellationToken::new();
        let (running, stopping) = (consumer.clone(), shutdown.clone());
        Running {
            consumer,
            shutdown,
            task: tokio::spawn(async move { running.run(stopping).await }),
        }
    }

    /// A consumer that is not started.
    pub(crate) fn idle_consumer(&self, settings: Settings) -> Consumer {
        let (fate, calls) = (self.fate.clone(), Arc::clone(&self.calls));
        let watch =
            from_fn(move |request: Request, next: Next| pass(fate.subscribe(), Arc::clone(&calls), request, next));
        let watched = storage_svc::routes(&self.store).into_axum_router().layer(watch);
        let client = StorageClient::in_process(Routes::from(watched));
        Consumer::new(FeedStore::new(client), settings, Clock::system())
    }

    /// Queues a playlist.
    pub(crate) async fn write(&self) -> Queued {
        self.write_again(DocumentId::random(&mut rand::rng())).await
    }

    /// Queues another version of a playlist.
    pub(crate) async fn write_again(&self, id: DocumentId) -> Queued {
        let operation = DocumentId::random(&mut rand::rng()).uuid();
        let text =
            format!(r#"{{"id":"{id}","slug":"s-{id}","created":"2025-06-03T17:01:00.000Z","items":[],"title":"A"}}"#);
        let version = Version::Put(Content {
            document: Document::parse(Kind::Playlist, text).expect("a document"),
            refs: Refs(Vec::new()),
            origin: Origin::Feed,
        });
        let state = State {
            documents: self.aside.documents(&[key(id)]).await.expect("the store is there"),
            ..State::default()
        };
        // Which write it was is of no account here, as long as it names no playlist and deletes none.
        let commit = commit_queued(
            &[version],
            &Write::DeleteChannel(id),
            &state,
            operation,
            Clock::system().now_ms(),
        );
        let outcome = self.aside.commit(commit, Vec::new()).await.expect("the store is there");
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
        Queued { operation, id }
    }

    /// Fails the next message so often, as consumers do that die over it.
    pub(crate) async fn fail(&self, failures: usize) {
        for attempt in 1..=failures {
            let delivery = self.receive().await.pop().expect("a message is ready");
            let settlement = v1::Settlement {
                receipt: delivery.receipt,
                action: Some(Action::Nack(Nack {
                    delay: Some(prost_types::Duration::default()),
                    error: format!("failure {attempt}"),
                    ..Default::default()
                })),
            };
            let settled = self.aside.client().settle(vec![settlement]).await;
            settled.expect("the store is there");
        }
    }

    /// Makes every attempt to apply the write fail.
    pub(crate) async fn poison(&self, queued: Queued) {
        let keys::Key { namespace, key } = keys::pending(key(queued.id));
        let client = self.aside.client();
        let pending = client.get(namespace, &key).await.expect("the store is there");
        let metadata = pending.expect("it waits").metadata;
        let commit = v1::CommitRequest {
            mutations: vec![v1::Mutation::put_text(
                namespace,
                &key,
                "no document".to_owned(),
                metadata,
            )],
            ..Default::default()
        };
        client.commit(commit).await.expect("the store is there");
    }

    /// Waits until the write is applied.
    pub(crate) async fn applied(&self, queued: Queued) {
        eventually("it is applied", async || {
            if self.is_applied(queued).await {
                Ok(())
            } else {
                Err("it is not".to_owned())
            }
        })
        .await;
    }

    /// Whether the write is applied.
    pub(crate) async fn is_applied(&self, queued: Queued) -> bool {
        let text = self.aside.document_text(key(queued.id)).await;
        text.expect("the store is there").is_some()
    }

    /// The record of an operation that has ended.
    pub(crate) async fn record(&self, queued: Queued) -> OperationRecord {
        eventually("the operation has ended", async || {
            let text = self.aside.text(&keys::operation(queued.operation)).await;
            let record = text
                .expect("the store is there")
                .map(|text| OperationRecord::parse(&text));
            match record {
                Some(Ok(record)) if record.finished_at.is_some() => Ok(record),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// How far an operation has come.
    pub(crate) async fn state(&self, queued: Queued) -> OperationState {
        let record = self.aside.operation(queued.operation).await;
        record.expect("the store is there").expect("a record").state
    }

    /// The messages that there are, by id, with what went wrong.
    pub(crate) async fn messages(&self) -> Vec<v1::Message> {
        let request = v1::ListMessagesRequest {
            queue: WRITE_QUEUE.to_owned(),
            ..Default::default()
        };
        let listed = self.queue.clone().list_messages(request).await;
        listed.expect("the store is there").into_inner().messages
    }

    /// Waits until so many messages are leased.
    pub(crate) async fn leased(&self, count: u64) {
        eventually(&format!("{count} are leased"), async || {
            let stats = self.aside.client().queue_stats(WRITE_QUEUE).await;
            match stats.expect("the store is there").unwrap_or_default() {
                stats if stats.leased == count => Ok(()),
                stats => Err(format!("{stats:?}")),
            }
        })
        .await;
    }

    /// Leases what is ready now.
    pub(crate) async fn receive(&self) -> Vec<v1::Delivery> {
        let request = v1::ReceiveRequest {
            queue: WRITE_QUEUE.to_owned(),
            max_messages: 100,
            ..Default::default()
        };
        self.aside.client().receive(request).await.expect("the store is there")
    }

    /// How often a method was called.
    pub(crate) fn calls(&self, method: &str) -> usize {
        let calls = self.calls.lock().expect("nobody panics with the lock");
        calls.iter().filter(|called| *called == method).count()
    }

    /// Waits until a method was called so often.
    pub(crate) async fn called(&self, method: &str, count: usize) {
        eventually(&format!("{method} is called"), async || match self.calls(method) {
            enough if enough >= count => Ok(()),
            few => Err(few.to_string()),
        })
        .await;
    }
}

impl Running {
    /// A figure by name and labels.
    pub(crate) async fn figure(&self, name: &str) -> String {
        let figures = self.consumer.figures().await;
        let value = figures
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {figures}")).to_owned()
    }

    /// A figure of time.
    pub(crate) async fn seconds(&self, name: &str) -> f64 {
        self.figure(name).await.parse().expect("it is a number")
    }

    /// How many messages ended so.
    pub(crate) async fn ended(&self, outcome: &str) -> u32 {
        let count = self.figure(&messages(outcome)).await;
        count.parse().expect("it is a count")
    }

    /// Waits until a figure is this.
    pub(crate) async fn becomes(&self, name: &str, expected: &str) {
        eventually(&format!("{name} is {expected}"), async || {
            let figure = self.figure(name).await;
            if figure == expected { Ok(()) } else { Err(figure) }
        })
        .await;
    }

    /// Waits until at least so many messages ended so.
    pub(crate) async fn end(&self, outcome: &str, count: u32) {
        eventually(&format!("{count} messages are {outcome}"), async || {
            match self.ended(outcome).await {
                enough if enough >= count => Ok(()),
                few => Err(few.to_string()),
            }
        })
        .await;
    }

    /// Waits until its stream is open.
    pub(crate) async fn is_ready(&self) {
        eventually("the consumer is ready", async || {
            self.consumer.ready().await.map_err(|why| why.to_string())
        })
        .await;
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.task)
            .await
            .expect("it stops in time")
            .expect("it does not panic");
    }
}

/// One message at a time unless said otherwise, and time enough for whatever a test does.
pub(crate) fn settings() -> Settings {
    Settings {
        concurrency: 1.try_into().expect("above zero"),
        lease: Duration::from_mins(1),
        message_time_max: Duration::from_mins(1),
    }
}

/// Looks until `look` answers `Ok`; fails with what was seen last.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(began.elapsed() < DEADLINE, "not in time: {what}; last seen: {seen}"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn messages(outcome: &str) -> String {
    format!("consumer_messages_total{{outcome=\"{outcome}\"}}")
}

fn key(id: DocumentId) -> DocumentKey {
    DocumentKey {
        kind: Kind::Playlist,
        id,
    }
}

async fn pass(
    mut fate: watch::Receiver<Fate>,
    calls: Arc<Mutex<Vec<String>>>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    calls.lock().expect("nobody panics with the lock").push(method.clone());
    if fate.borrow().refused.contains(&method.as_str()) {
        return Status::unavailable("it is away").into_http::<Body>().into_response();
    }
    let is_free = |fate: &Fate| !fate.stuck.contains(&method.as_str());
    fate.wait_for(is_free).await.expect("the test lasts longer");
    match method.as_str() {
        "BatchGet" => {
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, GRPC_MESSAGE_BYTES_MAX).await.expect("it is sent");
            let is_free = |fate: &Fate| !fate.held.iter().any(|id| reads(&body, *id));
            fate.wait_for(is_free).await.expect("the test lasts longer");
            next.run(Request::from_parts(parts, Body::from(body))).await
        }
        "Consume" => {
            let cuts = fate.borrow().cuts;
            let (parts, body) = next.run(request).await.into_parts();
            let cut = async move {
                // Fails at the end of the test, which cuts it off too.
                let _ = fate.wait_for(|fate| fate.cuts != cuts).await;
            };
            let body = body.into_data_stream().take_until(Box::pin(cut));
            Response::from_parts(parts, Body::from_stream(body))
        }
        _ => {
            let answer = next.run(request).await;
            let is_free = |fate: &Fate| !fate.late.contains(&method.as_str());
            fate.wait_for(is_free).await.expect("the test lasts longer");
            answer
        }
    }
}

/// Whether the values of keys that name the document are asked for.
fn reads(request: &Bytes, id: DocumentId) -> bool {
    let read = v1::BatchGetRequest::decode(&request[GRPC_HEAD_BYTES..]).expect("it is one");
    let id = id.to_string();
    !read.omit_values && read.keys.iter().any(|key| key.key.contains(&id))
}
