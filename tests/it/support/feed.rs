//! A whole feed of real processes over a temporary folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ed25519_dalek::{SigningKey, VerifyingKey};
use proto::client::{Connection, StorageClient};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::audit;
use super::client::FeedClient;
use super::process::{Launch, Process};
use super::wait::eventually;

/// RFC 8032, test 1.
const SEED: [u8; 32] = [
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49, 0xc5,
    0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];
const SECRET: &str = "a-secret-of-the-tests";
/// An origin that every gateway takes for its own, so that URLs of one mean the same to another.
const PUBLIC_URL: &str = "http://feed.test";
/// Short, so that a consumer's successor need not wait long for what it held.
const LEASE_MS: &str = "1000";

/// Longest time from start to the ready line.
const START_MAX: Duration = Duration::from_secs(20);
/// Longest time from SIGTERM to the end, with nothing left to do.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Longest time until the write queue is empty once nothing is added.
const DRAINED_MAX: Duration = Duration::from_mins(1);

/// More feeds than ever run beside each other.
const BESIDE_MAX: u32 = 1_024;
/// A permit for each feed that runs in this binary; one that is measured takes them all. First come, first served: a test
/// that started a second feed before the end of its first could wait for itself.
static BESIDE: Semaphore = Semaphore::const_new(BESIDE_MAX as usize);

/// How the parts are spread over processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `dp1-feed`.
    OneProcess,
    /// `storage-svc`, and so many of the others.
    Processes { gateways: usize, consumers: usize },
}

impl Form {
    /// One of each.
    pub(crate) const THREE_PROCESSES: Self = Self::Processes {
        gateways: 1,
        consumers: 1,
    };
}

/// One process of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// `dp1-feed`.
    Whole,
    /// `storage-svc`.
    Storage,
    /// `api-gateway`, the how manieth.
    Gateway(usize),
    /// `consumer`, the how manieth.
    Consumer(usize),
}

/// A feed that runs. Ended by [`TestFeed::finish`], which checks what it leaves; merely dropped when a test fails.
#[derive(Debug)]
pub(crate) struct TestFeed {
    running: BTreeMap<Part, Process>,
    storage_address: String,
    /// Where parts were told that the storage service is, if not there.
    storage_urls: BTreeMap<Part, String>,
    gateway_addresses: BTreeMap<Part, String>,
    variables: Vec<(String, String)>,
    folder: TempDir,
    /// Given back when all else is gone.
    _beside: SemaphorePermit<'static>,
}

impl TestFeed {
    /// Starts a feed; every process of it is ready.
    pub(crate) async fn start(form: Form) -> Self {
        Self::start_with(form, &[]).await
    }

    /// Starts a feed once no other runs in this binary, and keeps others waiting until its end: for what is measured.
    pub(crate) async fn start_alone(form: Form) -> Self {
        Self::start_among(BESIDE_MAX, form, &[]).await
    }

    /// Starts a feed, each process with these variables besides (or instead of) those it has from here.
    pub(crate) async fn start_with(form: Form, variables: &[(&str, &str)]) -> Self {
        Self::start_among(1, form, variables).await
    }

    async fn start_among(permits: u32, form: Form, variables: &[(&str, &str)]) -> Self {
        let beside = BESIDE.acquire_many(permits).await.expect("it is never closed");
        let mut feed = Self {
            running: BTreeMap::new(),
            storage_address: "127.0.0.1:0".to_owned(),
            storage_urls: BTreeMap::new(),
            gateway_addresses: BTreeMap::new(),
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            _beside: beside,
        };
        match form {
            Form::OneProcess => feed.launch(Part::Whole).await,
            Form::Processes { gateways, consumers } => {
                feed.launch(Part::Storage).await;
                for number in 0..gateways {
                    feed.launch(Part::Gateway(number)).await;
                }
                for number in 0..consumers {
                    feed.launch(Part::Consumer(number)).await;
                }
            }
        }
        feed
    }

    /// `http://host:port` of the first gateway; the same after a restart.
    pub(crate) fn url(&self) -> String {
        self.gateway_url(0)
    }

    /// `http://host:port` of a gateway.
    pub(crate) fn gateway_url(&self, number: usize) -> String {
        let address = self.gateway_addresses.get(&Part::Gateway(number));
        let address = address.or_else(|| self.gateway_addresses.get(&Part::Whole));
        format!("http://{}", address.expect("a gateway of that number"))
    }

    /// A client of the first gateway.
    pub(crate) fn client(&self) -> FeedClient {
        self.gateway_client(0)
    }

    /// A client of a gateway.
    pub(crate) fn gateway_client(&self, number: usize) -> FeedClient {
        FeedClient::new(&self.gateway_url(number), self.secret())
    }

    /// `http://host:port` of the storage service; the same after a restart.
    pub(crate) fn storage_url(&self) -> String {
        format!("http://{}", self.storage_address)
    }

    /// A typed client of the storage service.
    pub(crate) fn storage(&self) -> StorageClient {
        StorageClient::connect_lazy(&Connection::to(self.storage_url())).expect("an address is a URL")
    }

    /// The secret of writes.
    pub(crate) fn secret(&self) -> &str {
        self.given("API_SECRET").unwrap_or(SECRET)
    }

    /// What the feed's signatures verify with.
    pub(crate) fn public_key(&self) -> VerifyingKey {
        let seed = self.given("ED25519_PRIVATE_KEY").map_or(SEED, |key| {
            // PKCS#8 ends with the seed.
            let bytes = hex::decode(key).expect("a key is hex");
            *bytes.last_chunk().expect("a key holds a seed")
        });
        SigningKey::from_bytes(&seed).verifying_key()
    }

    /// A URL of the feed that means the same to each of its gateways.
    pub(crate) fn public_url(&self, path: &str) -> String {
        format!("{}{path}", self.given("PUBLIC_URL").unwrap_or(PUBLIC_URL))
    }

    /// Where the database is.
    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("data").join("dp1-feed.db")
    }

    /// Starts a part that is not running: a new one, or one that was killed, again where it was.
    pub(crate) async fn launch(&mut self, part: Part) {
        assert!(!self.running.contains_key(&part), "{part:?} is running");
        let launch = self.launch_of(part);
        let prefix = format!("{} ready ", launch.binary);
        let start = Instant::now();
        let (process, ready) = loop {
            let mut process = Process::start(&launch);
            match process.ready(&prefix, START_MAX).await {
                Ok(ready) => break (process, ready),
                // A connection of the killed one, or anybody's since, may hold the port for a moment.
                Err(ended) => assert!(
                    start.elapsed() < START_MAX && ended.stderr.iter().any(|line| line.contains("in use")),
                    "{part:?} does not start: {ended:?}"
                ),
            }
        };
        let storage_ready = process
            .stdout()
            .iter()
            .find_map(|line| line.strip_prefix("storage-svc ready on ")?.parse().ok());
        if let Some(address) = storage_ready {
            self.storage_address = address;
        }
        if let Some(address) = ready.strip_prefix("on http://") {
            self.gateway_addresses.insert(part, address.to_owned());
        }
        self.running.insert(part, process);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, part: Part) {
        let stderr = self.running.remove(&part).expect("the part runs").kill();
        expect_no_panic(part, &stderr);
    }

    /// SIGSTOP: the part holds on to what it has and does nothing, until it is thawed or killed.
    pub(crate) fn freeze(&self, part: Part) {
        self.running.get(&part).expect("the part runs").freeze();
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self, part: Part) {
        self.running.get(&part).expect("the part runs").thaw();
    }

    /// From its next launch on the part reaches the storage service at this URL and not directly.
    pub(crate) fn lead(&mut self, part: Part, storage_url: String) {
        self.storage_urls.insert(part, storage_url);
    }

    /// SIGTERM; the part must end well, and in time.
    pub(crate) async fn stop(&mut self, part: Part) {
        let mut process = self.running.remove(&part).expect("the part runs");
        process.terminate();
        let ended = process.ended(STOP_MAX).await;
        assert!(ended.status.success(), "{part:?} does not end well: {ended:?}");
        expect_no_panic(part, &ended.stderr);
    }

    /// Waits until no write is queued; a dead one fails at once.
    pub(crate) async fn drained(&self) {
        let storage = self.storage();
        eventually(DRAINED_MAX, "the write queue is empty", async || {
            let stats = match storage.queue_stats(feed_store::WRITE_QUEUE).await {
                Ok(stats) => stats.unwrap_or_default(),
                Err(error) => return Err(format!("{error:?}")),
            };
            assert_eq!(stats.dead, 0, "a write is dead: {stats:?}");
            match (stats.ready, stats.delayed, stats.leased) {
                (0, 0, 0) => Ok(()),
                _ => Err(format!("{stats:?}")),
            }
        })
        .await;
    }

    /// Waits for the end of all work, audits what is stored, and stops every process; each must end well, and in time.
    pub(crate) async fn finish(mut self) {
        self.drained().await;
        audit::check(&self.storage(), &self.public_key()).await;
        // Consumers first, storage last: the order of parts, backwards.
        while let Some((&part, _)) = self.running.last_key_value() {
            self.stop(part).await;
        }
    }

    /// A variable that the test gave.
    fn given(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }

    fn launch_of(&self, part: Part) -> Launch {
        let port_of = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
        let http_port = self
            .gateway_addresses
            .get(&part)
            .map_or("0".to_owned(), |address| port_of(address));
        let binary = match part {
            Part::Whole => "dp1-feed",
            Part::Storage => "storage-svc",
            Part::Gateway(_) => "api-gateway",
            Part::Consumer(_) => "consumer",
        };
        let mut launch = Launch::new(binary, self.folder.path()).variable("LOG_LEVEL", "warn");
        if matches!(part, Part::Whole | Part::Storage) {
            launch = launch
                .variable("SQLITE_DB_PATH", self.database().to_string_lossy())
                .variable("STORAGE_LISTEN", &self.storage_address);
        }
        if matches!(part, Part::Whole | Part::Gateway(_)) {
            launch = launch
                .variable("PORT", http_port)
                .variable("API_SECRET", SECRET)
                .variable("ED25519_PRIVATE_KEY", hex::encode(SEED))
                .variable("PUBLIC_URL", PUBLIC_URL);
        }
        if matches!(part, Part::Whole | Part::Consumer(_)) {
            launch = launch.variable("CONSUMER_LEASE_MS", LEASE_MS);
        }
        if matches!(part, Part::Gateway(_) | Part::Consumer(_)) {
            let led = self.storage_urls.get(&part).cloned();
            launch = launch.variable("STORAGE_URL", led.unwrap_or_else(|| self.storage_url()));
        }
        for (name, value) in &self.variables {
            launch = launch.variable(name, value);
        }
        launch
    }
}

fn expect_no_panic(part: Part, stderr: &[String]) {
    let panicked = stderr.iter().find(|line| line.contains("panicked at"));
    assert_eq!(panicked, None, "{part:?} panicked");
}
