//! Consumers as processes: storage goes away under them, they are told to stop, and they say how they are.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::client::StorageClient;
use proto::v1;
use proto::v1::settlement::{Action, Nack};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{Answer, FeedClient, Form, Launch, Mode, Part, Process, TestFeed, eventually, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const SOON: Duration = Duration::from_secs(20);
/// A lease that nobody waits for.
const LONG_LEASE_MS: &str = "600000";

/// A consumer that tells its figures.
struct Consumer {
    process: Process,
    port: FeedClient,
    _folder: TempDir,
}

impl Consumer {
    async fn start(storage_url: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let launch = Launch::new("consumer", folder.path())
            .variable("STORAGE_URL", storage_url)
            .variable("METRICS_LISTEN", "127.0.0.1:0")
            .variable("LOG_LEVEL", "warn");
        let launch = variables
            .iter()
            .fold(launch, |launch, (name, value)| launch.variable(name, *value));
        let mut process = Process::start(&launch);
        let port = port_of(&mut process).await;
        process.ready("consumer ready for ", SOON).await.expect("it starts");
        Self {
            process,
            port,
            _folder: folder,
        }
    }

    /// Waits until it says that it is, or is not, ready, and begins so.
    async fn says(&self, status: u16, text: &str) {
        eventually(SOON, &format!("/ready says {status} {text:?}"), async || {
            let answer = self.port.get("/ready").await;
            if answer.status == status && answer.text.starts_with(text) {
                Ok(())
            } else {
                Err(format!("{} {}", answer.status, answer.text))
            }
        })
        .await;
    }

    async fn messages(&self, outcome: &str) -> usize {
        let name = format!("consumer_messages_total{{outcome=\"{outcome}\"}}");
        figure(&self.port.get("/metrics").await, &name)
    }
}

/// The port of figures of a process that is being started.
async fn port_of(process: &mut Process) -> FeedClient {
    let url = process.ready("metrics on ", SOON).await.expect("it starts");
    let origin = url.strip_suffix("/metrics").expect("it says where");
    FeedClient::new(origin, "")
}

fn figure(metrics: &Answer, name: &str) -> usize {
    let value = metrics
        .text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {name} in {}", metrics.text));
    value.parse().expect("it is a count")
}

/// Stands between a consumer and its storage service, and can keep back what the service says.
struct Between {
    address: SocketAddr,
    held: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Between {
    async fn start(storage_url: &str) -> Self {
        let storage = storage_url
            .strip_prefix("http://")
            .expect("an address is a URL")
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let held = watch::Sender::new(false);
        let holding = held.clone();
        let task = tokio::spawn(async move {
            while let Ok((consumer, _)) = listener.accept().await {
                let Ok(storage) = TcpStream::connect(&storage).await else {
                    continue;
                };
                let (from_consumer, to_consumer) = consumer.into_split();
                let (from_storage, to_storage) = storage.into_split();
                let never = watch::Sender::new(false).subscribe();
                let answers = pass(from_storage, to_consumer, holding.subscribe());
                let requests = pass(from_consumer, to_storage, never);
                tokio::spawn(async { tokio::join!(answers, requests) });
            }
        });
        Self { address, held, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn hold(&self) {
        self.held.send_replace(true);
    }

    fn let_go(&self) {
        self.held.send_replace(false);
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut held: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        // Fails when nobody can hold it any more.
        let _ = held.wait_for(|held| !held).await;
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

async fn without_consumer() -> TestFeed {
    TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await
}

async fn queue(client: &FeedClient, count: usize) -> Vec<Answer> {
    let mut queued = Vec::new();
    for number in 0..count {
        let body = playlist(&format!("Queued {number}"), 1);
        queued.push(client.post(PLAYLISTS, &body, Mode::Async).await.expect(202));
    }
    queued
}

/// Waits until so many messages are leased.
async fn leased(storage: &StorageClient, count: u64) {
    eventually(SOON, "the messages are leased", async || {
        let stats = storage
            .queue_stats(feed_store::WRITE_QUEUE)
            .await
            .expect("storage answers");
        match stats.unwrap_or_default() {
            stats if stats.leased == count => Ok(()),
            stats => Err(format!("{stats:?}")),
        }
    })
    .await;
}

/// What is ready now: its attempts. It is ready again when this returns.
async fn attempts(storage: &StorageClient) -> Vec<u32> {
    let received = storage.receive(v1::ReceiveRequest {
        queue: feed_store::WRITE_QUEUE.to_owned(),
        max_messages: 100,
        ..Default::default()
    });
    let mut attempts = Vec::new();
    for delivery in received.await.expect("storage answers") {
        attempts.push(delivery.message.expect("a delivery has a message").attempt);
        let settlement = v1::Settlement {
            receipt: delivery.receipt,
            action: Some(Action::Nack(Nack {
                delay: Some(prost_types::Duration::default()),
                error: String::new(),
                refund_attempt: true,
            })),
        };
        storage.settle(vec![settlement]).await.expect("storage answers");
    }
    attempts
}

#[tokio::test]
async fn a_consumer_whose_storage_was_killed_picks_up_by_itself() {
    const WRITES: usize = 60;
    let mut feed = without_consumer().await;
    let client = feed.client();
    let queued = queue(&client, WRITES).await;
    let consumer = Consumer::start(&feed.storage_url(), &[("CONSUMER_LEASE_MS", "1000")]).await;
    for round in 0..2 {
        consumer.says(200, "ready").await;
        eventually(SOON, "some are applied", async || {
            match consumer.messages("applied").await {
                enough if enough > 10 * round => Ok(()),
                few => Err(few.to_string()),
            }
        })
        .await;
        feed.kill(Part::Storage);
        consumer
            .says(
                503,
                "not ready: the stream of messages is broken: storage is unavailable",
            )
            .await;
        assert_eq!(consumer.port.get("/health").await.expect(200).text, "alive\n");
        // How long it is away; nothing is waited for.
        tokio::time::sleep(Duration::from_secs(2)).await;
        feed.launch(Part::Storage).await;
    }
    consumer.says(200, "ready").await;
    feed.drained().await;
    let storage = feed.storage();
    for accepted in &queued {
        assert_eq!(client.operation_end(accepted).await, "applied");
        let key = format!("id/{}", accepted.member("id"));
        let entry = storage.get("playlists", &key).await.expect("storage answers");
        assert_eq!(entry.expect("it is applied").version, 1, "once");
    }
    drop(consumer);
    feed.finish().await;
}

#[tokio::test]
async fn told_to_stop_it_hands_back_what_it_has_not_begun() {
    const WRITES: usize = 5;
    let mut feed = without_consumer().await;
    let (client, storage) = (feed.client(), feed.storage());
    let between = Between::start(&feed.storage_url()).await;
    let mut consumer = Consumer::start(&between.url(), &[("CONSUMER_LEASE_MS", LONG_LEASE_MS)]).await;
    consumer.says(200, "ready").await;
    // What storage delivers from now on is on its way when the consumer is told to stop.
    between.hold();
    queue(&client, WRITES).await;
    leased(&storage, WRITES as u64).await;
    consumer.process.terminate();
    consumer.says(503, "not ready: stopping").await;
    between.let_go();
    let ended = consumer.process.ended(SOON).await;
    assert!(ended.status.success(), "{ended:?}");
    // At once, and as if they had never been delivered.
    assert_eq!(attempts(&storage).await, [1; WRITES]);

    feed.launch(Part::Consumer(0)).await;
    feed.drained().await;
    feed.finish().await;
}

#[tokio::test]
async fn a_storage_that_is_told_to_stop_gets_back_what_was_not_begun() {
    const WRITES: usize = 5;
    let mut feed = without_consumer().await;
    let client = feed.client();
    let storage_url = feed.storage_url();
    let address = storage_url.strip_prefix("http://").expect("an address is a URL");
    let between = Between::start(&storage_url).await;
    let consumer = Consumer::start(&between.url(), &[("CONSUMER_LEASE_MS", LONG_LEASE_MS)]).await;
    consumer.says(200, "ready").await;
    between.hold();
    queue(&client, WRITES).await;
    leased(&feed.storage(), WRITES as u64).await;

    let began = Instant::now();
    let let_go = async {
        eventually(SOON, "storage lets nobody in", async || {
            match TcpStream::connect(address).await {
                Ok(_) => Err("it does".to_owned()),
                Err(_) => Ok(()),
            }
        })
        .await;
        between.let_go();
    };
    tokio::join!(feed.stop(Part::Storage), let_go);
    // Its grace for what is out is 8 s.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    consumer.says(503, "not ready: ").await;
    drop(consumer);

    feed.launch(Part::Storage).await;
    // Of those that were begun some may have been done.
    let done = client.list(PLAYLISTS).await.len();
    assert_eq!(attempts(&feed.storage()).await, vec![1; WRITES - done]);
    feed.launch(Part::Consumer(0)).await;
    feed.drained().await;
    assert_eq!(client.list(PLAYLISTS).await.len(), WRITES);
    feed.finish().await;
}

#[tokio::test]
async fn in_one_process_the_figures_of_all_are_on_one_port() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch::new("dp1-feed", folder.path())
        .variable("PORT", "0")
        .variable("API_SECRET", "secret")
        .variable("METRICS_LISTEN", "127.0.0.1:0");
    let mut process = Process::start(&launch);
    let port = port_of(&mut process).await;
    let url = process.ready("dp1-feed ready on ", SOON).await.expect("it starts");
    let client = FeedClient::new(&url, "secret");
    for accepted in queue(&client, 3).await {
        assert_eq!(client.operation_end(&accepted).await, "applied");
    }
    eventually(SOON, "the figures tell", async || {
        let metrics = port.get("/metrics").await.expect(200);
        match figure(&metrics, "consumer_messages_total{outcome=\"applied\"}") {
            3 => Ok(()),
            few => Err(few.to_string()),
        }
    })
    .await;
    let metrics = port.get("/metrics").await.expect(200);
    assert_eq!(figure(&metrics, "storage_consumers"), 1);
    assert_eq!(figure(&metrics, "consumer_stream_open"), 1);
    assert_eq!(figure(&metrics, "consumer_message_seconds_count"), 3);
    assert!(
        metrics.text.contains("\nconsumer_queue_oldest_ready_seconds 0.0\n"),
        "{}",
        metrics.text
    );
    assert_eq!(metrics.text.matches("# EOF").count(), 1);
    assert!(metrics.text.ends_with("# EOF\n"));
    assert_eq!(port.get("/ready").await.expect(200).text, "ready\n");
    assert_eq!(port.get("/health").await.expect(200).text, "alive\n");

    process.terminate();
    let ended = process.ended(SOON).await;
    assert!(ended.status.success(), "{ended:?}");
}
