//! The store: an async handle on one SQLite file. Owns who may touch the file and when; knows keys, values and messages,
//! and nothing of the wire.

mod batch;
mod changes;
mod check;
mod checkpoint;
mod clock;
mod collect;
mod commit;
mod consume;
mod copy;
mod effects;
mod errand;
mod flow;
mod history;
mod job;
mod kv;
mod lock;
mod operator;
mod pages;
mod pairs;
mod queue;
mod queues;
mod readers;
mod request;
mod room;
mod schema;
mod snapshots;
mod stop;
mod tally;
mod waiting;
mod watches;
mod way;
mod window;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proto::limits::RECEIVE_BYTES;
use runtime::clock::Clock;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::checkpoint::Checkpoints;
use self::clock::StoreClock;
use self::collect::Left;
use self::consume::Places;
pub(crate) use self::consume::{Asking, Consumer, Parcel, Place, Settling};
use self::effects::{Effects, Moment};
use self::errand::Errands;
pub use self::flow::Flow;
use self::history::{Growth, Span};
use self::job::{Job, Write};
pub(crate) use self::kv::SCAN_KEYS_MAX;
use self::lock::{LastClose, Lock};
use self::readers::Readers;
pub(crate) use self::room::{Reserved, Room};
use self::snapshots::Snapshots;
use self::stop::Stop;
use self::waiting::{Ask, Asked, Claim, Patience, Returns};
use self::watches::Watches;
pub(crate) use self::way::{PART_BYTES, Way};
use self::writer::{Shared, Writer};
use crate::config::StoreArgs;
use crate::error::{OpenError, StoreError};
use crate::metrics::Metrics;
use crate::model::{
    Commit, Deadline, Delivery, Entry, HistoryStats, KeyName, Lease, Outcome, Receive, Scan, ScanPage, Settled,
    Settlement, Snapshot, StoreInfo, Told, Watch, With,
};
use crate::receipt::Seals;

/// Most requests that wait for the writer; one more is refused.
pub(crate) const WRITES_WAITING_MAX: usize = 1_024;
/// Most that the commits among them may be together, in bytes.
pub(crate) const WRITES_WAITING_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A waiting `receive` ends this long before the call's deadline, so that its answer still arrives.
const RECEIVE_MARGIN: Duration = Duration::from_millis(100);

/// A handle on the store; clones share it.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    jobs: SyncSender<Job>,
    /// For commits that wait.
    room: Room,
    places: Places,
    answers: Room,
    deliveries: Room,
    consume_doubt_max: Duration,
    readers: Readers,
    watches: Watches,
    snapshots: Snapshots,
    errands: Errands,
    metrics: Metrics,
    shared: Shared,
    path: PathBuf,
    opened: Instant,
    seals: Seals,
    engine_version: String,
    schema_version: u32,
    store_id: String,
    incarnation: String,
    history_seconds: u32,
    history_bytes: u64,
    ended: CancellationToken,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Opens the database and makes it, with its folder, if it is not there. From then on no other process can.
    pub fn open(args: &StoreArgs, clock: Clock) -> Result<Self, OpenError> {
        let path = prepare_path(&args.sqlite_db_path)?;
        let lock = Lock::take(&path)?;
        let (connection, facts) = match schema::open(&path, args.storage_sync, lock.last_close()) {
            Ok(opened) => opened,
            Err(error) => {
                // Nothing was written, unless it is damaged, and then the next start is to find that too.
                if lock.last_close() == LastClose::Clean && !matches!(error, OpenError::Damaged { .. }) {
                    let _ = lock.release();
                }
                return Err(error);
            }
        };
        copy::remove_leftovers(&path);
        let readers = Readers::open(&path)?;
        let (checkpoints, checkpoint_thread) = Checkpoints::start(&path)?;
        let shared = Shared {
            clock: StoreClock::new(clock, facts.clock_ms),
            // The first batch finds out.
            next_due_ms: Arc::new(AtomicI64::new(i64::MIN)),
            returned: Arc::default(),
            revision: watch::Sender::new(facts.revision),
            tally: Arc::default(),
        };
        let span = Span {
            // A second at least: a watch that is up to date must find what has just been committed.
            kept_ms: i64::from(args.storage_history_seconds.max(1)) * 1_000,
            bytes_max: i64::try_from(args.storage_history_bytes).unwrap_or(i64::MAX),
        };
        let (jobs, waiting) = sync_channel(WRITES_WAITING_MAX);
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let writer = Writer::new(connection, span, waiting, shared.clone(), checkpoints, lock, guard);
        let writer_thread = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        Ok(Self(Arc::new(Inner {
            jobs,
            room: Room::new(WRITES_WAITING_BYTES_MAX),
            watches: Watches::new(readers.clone(), args.streams),
            snapshots: Snapshots::new(path.clone(), args.streams.snapshot_age_max),
            places: Places::new(),
            answers: Room::new(args.streams.answers_bytes_max),
            deliveries: Room::new(args.streams.deliveries_bytes_max),
            consume_doubt_max: args.streams.consume_doubt_max,
            readers,
            errands: Errands::new(&path),
            metrics: Metrics::new(shared.tally.group_sizes()),
            shared,
            path,
            opened: Instant::now(),
            seals: Seals::new(facts.store_id, facts.secret),
            engine_version: rusqlite::version().to_owned(),
            schema_version: facts.schema_version,
            store_id: Uuid::from_bytes(facts.store_id).to_string(),
            incarnation: Uuid::new_v4().to_string(),
            history_seconds: args.storage_history_seconds,
            history_bytes: args.storage_history_bytes,
            ended,
            threads: Mutex::new(vec![writer_thread, checkpoint_thread]),
        })))
    }

    /// Ends what is under way, empties the write-ahead log and closes the file. Every later call fails.
    pub async fn close(self) {
        self.0.snapshots.close().await;
        self.0.places.emptied().await;
        self.0.errands.close().await;
        self.0.readers.close().await;
        let inner = Arc::clone(&self.0);
        let closing = tokio::task::spawn_blocking(move || {
            // Fails if the writer has ended already.
            let _ = inner.jobs.send(Job::Close);
            let threads = std::mem::take(&mut *inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
            for thread in threads {
                // A panic was reported where it happened.
                let _ = thread.join();
            }
        });
        let _ = closing.await;
    }

    /// Waits until the store can write no more: it was closed, or its writer died. Whoever serves the store must stop
    /// then.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    /// Reads one key.
    pub async fn get(
        &self,
        name: KeyName,
        with: With,
        deadline: Deadline,
    ) -> Result<Snapshot<Option<Entry>>, StoreError> {
        let clock = self.0.shared.clock.clone();
        let read = move |connection: &_| kv::get(connection, clock.now_ms(), name, with);
        self.0.readers.read(deadline, read).await
    }

    /// Reads several keys; the answer ends early, after at least one, when it reaches its size.
    pub async fn batch_get(
        &self,
        names: Vec<KeyName>,
        with: With,
        deadline: Deadline,
    ) -> Result<Snapshot<Vec<Option<Entry>>>, StoreError> {
        let clock = self.0.shared.clock.clone();
        let read = move |connection: &_| kv::batch_get(connection, clock.now_ms(), names, with);
        self.0.readers.read(deadline, read).await
    }

    /// Reads one page.
    pub async fn scan(&self, scan: Scan, deadline: Deadline) -> Result<Snapshot<ScanPage>, StoreError> {
        let clock = self.0.shared.clock.clone();
        let read = move |connection: &_| kv::scan(connection, clock.now_ms(), &scan);
        self.0.readers.read(deadline, read).await
    }

    /// Reads all pages from one snapshot. The flow ends with an error if it is read too slowly for that, or when `give_up`
    /// is cancelled.
    pub fn scan_stream(&self, scan: Scan, give_up: &CancellationToken) -> Result<Flow<Snapshot<ScanPage>>, StoreError> {
        let clock = self.0.shared.clock.clone();
        self.0.snapshots.begin(scan, clock, self.stop(give_up))
    }

    /// Tells of changes from some revision on, without gaps or repeats, until it is dropped. The flow ends with an error
    /// if it is not read, if it falls behind what is kept of the history, or when `give_up` is cancelled.
    pub async fn watch(
        &self,
        watch: Watch,
        deadline: Deadline,
        give_up: &CancellationToken,
    ) -> Result<Flow<Told>, StoreError> {
        let revision = self.0.shared.revision.subscribe();
        let stop = self.stop(give_up);
        self.0.watches.begin(watch, revision, deadline, stop).await
    }

    /// Watches that there are now.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.0.watches.count()
    }

    /// What watches can go back over.
    pub async fn history(&self, deadline: Deadline) -> Result<HistoryStats, StoreError> {
        let facts = self.0.readers.read(deadline, history::facts).await?;
        Ok(facts.found.stats)
    }

    /// Forgets history that is not younger than `keep`, in steps between which others write; what was forgotten stays so
    /// if the caller goes away. Answers the lowest revision that a watch can begin after then.
    pub async fn compact_history(&self, keep: Duration) -> Result<u64, StoreError> {
        let now_ms = self.0.shared.clock.now_ms();
        loop {
            let step =
                move |connection: &_, _| history::trim(connection, now_ms, Span::younger_than(keep), Growth::default());
            let trimmed = self.write(None, step).await?;
            if trimmed.left == Left::Nothing {
                return Ok(trimmed.history_revision);
            }
        }
    }

    /// All or nothing. Once begun it is finished, whether or not the caller still waits.
    pub async fn commit(&self, commit: Commit, deadline: Deadline) -> Result<Outcome, StoreError> {
        let room = self.0.room.try_take(commit.bytes)?;
        let (answer, answered) = oneshot::channel();
        self.submit(Job::Commit {
            commit: Box::new(commit),
            deadline,
            answer,
            room,
        })?;
        answered.await.map_err(|_| StoreError::Closing)?
    }

    /// Settles leased messages, each for itself; results in order.
    pub async fn settle(&self, settlements: Vec<Settlement>, deadline: Deadline) -> Result<Vec<Settled>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.submit(Job::Write(Write::settle(settlements.into(), deadline, answer)))?;
        answered.await.map_err(|_| StoreError::Closing)?
    }

    /// Leases messages, waiting for the first one: no longer than asked for, than the deadline lets it, or than until
    /// `give_up` is cancelled. If the caller goes away nothing stays leased for it.
    pub async fn receive(
        &self,
        receive: Receive,
        deadline: Deadline,
        give_up: &CancellationToken,
    ) -> Result<Vec<Delivery>, StoreError> {
        let now = Instant::now();
        let latest = deadline.map(|deadline| deadline.checked_sub(RECEIVE_MARGIN).unwrap_or(now));
        let until = latest.map_or(now + receive.wait, |latest| latest.min(now + receive.wait));
        let waits = until > now && !give_up.is_cancelled();
        let (answer, mut answered) = oneshot::channel();
        self.submit(Job::Claim(Claim {
            queue: receive.queue,
            asked: Asked::Once(Ask {
                messages_max: receive.messages_max,
                bytes_max: RECEIVE_BYTES,
                room: None,
                lease_ms: receive.lease_ms,
            }),
            patience: if waits {
                Patience::UntilItGoesAway
            } else {
                Patience::None
            },
            deadline,
            returns: self.returns(),
            answer,
        }))?;
        if waits {
            tokio::select! {
                biased;
                claimed = &mut answered => return Ok(claimed.map_err(|_| StoreError::Closing)??.take()),
                () = tokio::time::sleep_until(until.into()) => {}
                () = give_up.cancelled() => {}
            }
            // Either it is there by now, or it is given back.
            answered.close();
            return match answered.try_recv() {
                Ok(claimed) => Ok(claimed?.take()),
                Err(_) => Ok(Vec::new()),
            };
        }
        Ok(answered.await.map_err(|_| StoreError::Closing)??.take())
    }

    /// Identity of the store and its engine.
    pub async fn info(&self, deadline: Deadline) -> Result<StoreInfo, StoreError> {
        let facts = self.0.readers.read(deadline, history::facts).await?.found;
        Ok(StoreInfo {
            engine_version: self.0.engine_version.clone(),
            schema_version: self.0.schema_version,
            store_id: self.0.store_id.clone(),
            incarnation: self.0.incarnation.clone(),
            store_revision: facts.revision,
            history_revision: facts.history_revision,
            history_seconds: self.0.history_seconds,
            history_bytes: self.0.history_bytes,
        })
    }

    /// What is counted of its calls.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Writes and reads this store's receipts and page tokens.
    #[must_use]
    pub fn seals(&self) -> &Seals {
        &self.0.seals
    }

    fn stop(&self, draining: &CancellationToken) -> Stop {
        Stop {
            draining: draining.clone(),
            ended: self.0.ended.clone(),
        }
    }

    /// Makes a change in the next batch. Once begun it is finished, whether or not the caller still waits.
    async fn write<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Connection, Moment) -> Result<(T, Effects), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.submit(Job::Write(Write::new(work, deadline, answer)))?;
        answered.await.map_err(|_| StoreError::Closing)?
    }

    /// The room for answers on their way to clients.
    pub(crate) fn answers(&self) -> &Room {
        &self.0.answers
    }

    /// How much of that is left, in bytes.
    #[must_use]
    pub fn answers_left_bytes(&self) -> usize {
        self.0.answers.left_bytes()
    }

    /// The room for deliveries of streams on their way to clients.
    pub(crate) fn deliveries(&self) -> &Room {
        &self.0.deliveries
    }

    /// How much of that is left, in bytes.
    #[must_use]
    pub fn deliveries_left_bytes(&self) -> usize {
        self.0.deliveries.left_bytes()
    }

    /// How much more pages of watches may take in memory now.
    #[must_use]
    pub fn watch_pages_left_bytes(&self) -> usize {
        self.0.watches.pages_left_bytes()
    }

    /// How long a stream is in doubt whose client is not heard of.
    fn consume_doubt_max(&self) -> Duration {
        self.0.consume_doubt_max
    }

    /// Takes back messages that their receiver is not told of: ready again at once, the attempt not counted.
    pub(crate) fn take_back(&self, leases: Vec<Lease>) {
        self.returns().add(leases, Vec::new());
    }

    fn returns(&self) -> Returns {
        Returns::new(Arc::clone(&self.0.shared.returned), self.0.jobs.clone())
    }

    fn submit(&self, job: Job) -> Result<(), StoreError> {
        let tally = &self.0.shared.tally;
        tally.submitted();
        self.0.jobs.try_send(job).map_err(|error| {
            tally.taken();
            match error {
                TrySendError::Full(_) => StoreError::Overloaded,
                TrySendError::Disconnected(_) => StoreError::Closing,
            }
        })
    }
}

/// The file's one true path, so that every way to it leads to the same lock.
fn prepare_path(path: &Path) -> Result<PathBuf, OpenError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
            path: folder.to_owned(),
            source,
        })?;
        if !path.exists() {
            sync_way_to(folder);
        }
    }
    Ok(path.canonicalize().unwrap_or_else(|_| path.to_owned()))
}

/// A folder that was just made is an entry of the one above it: until that is synced, a power cut takes the folder away,
/// and all that was answered since. The engine does the same for its files, and goes on like this where it cannot.
fn sync_way_to(folder: &Path) {
    let here = Path::new(".");
    for above in folder.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { here } else { above };
        if let Err(error) = File::open(above).and_then(|above| above.sync_all()) {
            tracing::debug!(%error, folder = %above.display(), "a folder could not be synced");
        }
    }
}
