//! What is in the way of a thousand quick writes, and does not delay them: messages whose application fails every time,
//! and a consumer that is frozen with leases in its hands.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use feed::operation::OperationMessage;
use futures_util::StreamExt as _;
use proto::client::StorageClient;
use proto::v1;
use proto::v1::MessageState;
use proto::v1::queue_service_client::QueueServiceClient;
use serde_json::Value;

use super::check::Answer;
use super::clients::Clients;
use super::{judge, judge_without, stream};
use crate::support::{Form, Part, TestFeed, eventually, rows};

const QUICK_WRITES: usize = 1_000;
/// Writes in flight: fewer than a consumer applies meanwhile, so that none waits for another.
const IN_FLIGHT: usize = 2;
/// More than a consumer works on at once.
const POISONOUS: usize = 12;
/// What a consumer works on at once.
const CONCURRENCY: usize = 8;
/// As the processes of tests have it.
const LEASE: Duration = Duration::from_secs(1);
/// A message that is leased so long is in the hands of one that does not work.
const WORKED_ON_MAX: Duration = Duration::from_millis(300);
/// From one look at what is leased to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const STATE_MAX: Duration = Duration::from_secs(30);
/// How much longer quick writes may take than with nothing in the way: so many times as long, and for what else a busy
/// machine does, by percentile, so many milliseconds on top.
const FACTOR_MAX: u32 = 3;
const SLACK_MS: [(usize, u64); 3] = [(50, 100), (90, 250), (99, 500)];
/// For so many leases more the consumer stays frozen when the thousand writes are queued.
const FROZEN_LEASES: u32 = 4;
/// So many are queued at a time meanwhile.
const WRITES_MEANWHILE: usize = 20;
/// In this time a consumer that wakes is given messages again: far less than a client that is not heard of.
const WORKS_AGAIN_MAX: Duration = Duration::from_secs(15);
/// How much later than its lease allows a message may come to another consumer: the first back-off, and room.
const TAKEN_OVER_MAX: Duration = Duration::from_millis(2_500);

/// From acceptance to application, sorted.
struct Delays(Vec<Duration>);

impl Delays {
    /// Of these operations, all of which must have ended.
    async fn of(storage: &StorageClient, operations: &BTreeSet<String>) -> Self {
        let records = rows(storage, "operations").await;
        let mut delays: Vec<_> = operations.iter().map(|id| delay(&records[id])).collect();
        delays.sort_unstable();
        Self(delays)
    }

    fn percentile(&self, percent: usize) -> Duration {
        self.0[(self.0.len() - 1) * percent / 100]
    }

    fn print(&self, name: &str) {
        let [half, most, nearly_all, all] = [50, 90, 99, 100].map(|percent| self.percentile(percent).as_millis());
        println!(
            "{name}: p50 {half} ms, p90 {most} ms, p99 {nearly_all} ms, max {all} ms of {}",
            self.0.len()
        );
    }

    #[track_caller]
    fn expect_like(&self, undisturbed: &Self) {
        for (percent, slack_ms) in SLACK_MS {
            let slack = Duration::from_millis(slack_ms);
            let (delay, usual) = (self.percentile(percent), undisturbed.percentile(percent));
            assert!(
                delay <= usual * FACTOR_MAX + slack,
                "p{percent}: {delay:?}, and {usual:?} undisturbed"
            );
        }
    }
}

fn delay(record: &str) -> Duration {
    let record: Value = serde_json::from_str(record).expect("a record is JSON");
    let ms = |name: &str| {
        let time = record[name].as_str().and_then(feed::time::parse);
        time.unwrap_or_else(|| panic!("{name} of {record}"))
    };
    Duration::from_millis(u64::try_from(ms("finishedAt") - ms("acceptedAt")).unwrap_or_default())
}

/// Queues writes; the operations that they are.
async fn queue(clients: &Clients, count: usize) -> BTreeSet<String> {
    let queued = futures_util::stream::iter(0..count).map(|_| clients.queue());
    let operation = async |answer| match answer {
        Answer::Accepted { operation, .. } => operation,
        Answer::Refused | Answer::Lost => None,
    };
    queued.buffer_unordered(IN_FLIGHT).filter_map(operation).collect().await
}

/// Queued messages that are in this state: which operations, and the message of each.
async fn messages(feed: &TestFeed, state: MessageState) -> BTreeMap<String, v1::Message> {
    let mut queue = QueueServiceClient::connect(feed.storage_url())
        .await
        .expect("storage is there");
    let listed = queue.list_messages(v1::ListMessagesRequest {
        queue: feed_store::WRITE_QUEUE.to_owned(),
        state: state.into(),
        page_size: 1_000,
        ..Default::default()
    });
    let messages = listed.await.expect("storage answers").into_inner().messages.into_iter();
    messages
        .filter_map(|message| Some((operation_of(&message)?, message)))
        .collect()
}

fn operation_of(message: &v1::Message) -> Option<String> {
    match message.content.as_ref()? {
        v1::message::Content::Text(text) => Some(OperationMessage::parse(text).ok()?.operation.to_string()),
        v1::message::Content::Body(_) => None,
    }
}

#[tokio::test]
async fn messages_that_fail_every_time_delay_nobody() {
    let mut feed = TestFeed::start_alone(Form::THREE_PROCESSES).await;
    let storage = feed.storage();
    let clients = Clients::new(vec![feed.client()]);
    let usual = queue(&clients, QUICK_WRITES).await;
    feed.drained().await;
    let usual = Delays::of(&storage, &usual).await;
    usual.print("undisturbed");

    feed.stop(Part::Consumer(0)).await;
    let poisonous = queue(&clients, POISONOUS).await;
    let spoiled = spoil(&storage).await;
    assert_eq!(spoiled.len(), POISONOUS);
    feed.launch(Part::Consumer(0)).await;
    failed_once(&feed, &poisonous).await;

    let quick = queue(&clients, QUICK_WRITES).await;
    eventually(STATE_MAX, "the quick writes are applied", async || {
        let waiting = [MessageState::Ready, MessageState::Leased];
        for state in waiting {
            let others = messages(&feed, state).await;
            if others.keys().any(|operation| !poisonous.contains(operation)) {
                return Err(format!("{} are {state:?}", others.len()));
            }
        }
        Ok(())
    })
    .await;
    let quick = Delays::of(&storage, &quick).await;
    quick.print("beside messages that fail");
    quick.expect_like(&usual);
    assert_eq!(
        failed_once(&feed, &poisonous).await.len(),
        POISONOUS,
        "all of them fail on"
    );

    // What they need is there again, and they are applied as if nothing had been.
    let mut revisions: BTreeSet<_> = spoiled.iter().map(|(revision, _)| *revision).collect();
    for (_, mend) in spoiled {
        revisions.insert(commit(&storage, mend).await);
    }
    let figures = judge_without(&feed, clients, &revisions).await;
    assert_eq!(figures.applied, 2 * QUICK_WRITES + POISONOUS, "{figures:?}");
    feed.finish().await;
}

/// Makes every version that waits one that cannot be read: no consumer can apply it. For each the revision that did so,
/// and what mends it.
async fn spoil(storage: &StorageClient) -> Vec<(u64, v1::Mutation)> {
    let mut spoiled = Vec::new();
    for key in rows(storage, "pending").await.into_keys() {
        let entry = storage
            .get("pending", &key)
            .await
            .expect("storage answers")
            .expect("it waits");
        let text = entry.text().expect("a text").to_owned();
        let put = |text: &str| v1::Mutation::put_text("pending", &key, text.to_owned(), entry.metadata.clone());
        spoiled.push((commit(storage, put(&text[1..])).await, put(&text)));
    }
    spoiled
}

async fn commit(storage: &StorageClient, mutation: v1::Mutation) -> u64 {
    let request = v1::CommitRequest {
        mutations: vec![mutation],
        ..Default::default()
    };
    match storage.commit(request).await.expect("storage answers") {
        v1::commit_response::Outcome::Committed(committed) => committed.revision,
        v1::commit_response::Outcome::Conflict(conflict) => panic!("nothing was checked: {conflict:?}"),
    }
}

/// Waits until each of these operations' messages failed and waits for another attempt; these messages.
async fn failed_once(feed: &TestFeed, operations: &BTreeSet<String>) -> BTreeMap<String, v1::Message> {
    eventually(STATE_MAX, "each message failed", async || {
        let mut delayed = messages(feed, MessageState::Delayed).await;
        delayed.retain(|operation, message| operations.contains(operation) && !message.last_error.is_empty());
        match delayed.len() {
            all if all == operations.len() => Ok(delayed),
            some => Err(format!("{some} did")),
        }
    })
    .await
}

#[tokio::test]
async fn a_frozen_consumer_delays_what_it_holds_by_one_lease_and_changes_nothing_when_it_wakes() {
    const FROZEN: Part = Part::Consumer(0);
    const OTHER: Part = Part::Consumer(1);
    let form = Form::Processes {
        gateways: 1,
        consumers: 0,
    };
    let mut feed = TestFeed::start_alone(form).await;
    let storage = feed.storage();
    let clients = Clients::new(vec![feed.client()]);
    feed.launch(OTHER).await;
    let usual = queue(&clients, QUICK_WRITES).await;
    feed.drained().await;
    let usual = Delays::of(&storage, &usual).await;
    usual.print("undisturbed");

    feed.launch(FROZEN).await;
    let lost = RefCell::default();
    let all = freeze_beside(&feed, FROZEN, &lost, async {
        let mut all = queue(&clients, QUICK_WRITES).await;
        // What it holds comes to others, and so does all that is written while it stays frozen.
        let frozen_on = Instant::now();
        while frozen_on.elapsed() < LEASE * FROZEN_LEASES || lost.borrow().is_empty() {
            assert!(
                frozen_on.elapsed() < STATE_MAX,
                "it was frozen with leases in its hands"
            );
            all.extend(queue(&clients, WRITES_MEANWHILE).await);
        }
        feed.drained().await;
        all
    })
    .await;
    feed.stop(OTHER).await;
    feed.thaw(FROZEN);
    let thawed = Instant::now();
    // It works again, and ends only when it has done what it had begun.
    clients.queue().await;
    feed.drained().await;
    let idle = thawed.elapsed();
    assert!(idle < WORKS_AGAIN_MAX, "it was heard of: {idle:?}");
    feed.stop(FROZEN).await;

    let lost = lost.into_inner();
    assert!(
        lost.len() <= CONCURRENCY,
        "it was given more than it works on: {lost:?}"
    );
    assert!(
        lost.iter().all(|(_, attempt)| *attempt == 1),
        "it was given some again: {lost:?}"
    );
    let held = lost.into_iter().map(|(operation, _)| operation).collect();
    let quick = all.difference(&held).cloned().collect();
    let (quick, slow) = (Delays::of(&storage, &quick).await, Delays::of(&storage, &held).await);
    quick.print("beside a frozen consumer");
    slow.print("in its hands");
    quick.expect_like(&usual);
    assert!(
        slow.percentile(100) < LEASE + TAKEN_OVER_MAX,
        "others take over when a lease is over"
    );

    let writes = QUICK_WRITES + all.len() + 1;
    // A consumer's turn to sweep is no change of these.
    let changes = stream::commits(&storage).await.len();
    assert_eq!(
        changes,
        2 * writes,
        "each write was accepted and applied, and nothing else changed"
    );
    let figures = judge(&feed, clients).await;
    assert_eq!(figures.applied, writes, "{figures:?}");
    feed.finish().await;
}

/// Freezes a consumer when it holds leases, and lets `work` go on beside it; `lost` is which operations' leases ran out in
/// its hands, and at which attempt.
async fn freeze_beside<T>(
    feed: &TestFeed,
    part: Part,
    lost: &RefCell<BTreeSet<(String, u32)>>,
    work: impl Future<Output = T>,
) -> T {
    // Of each message that is leased, since when it was seen so: the same delivery of it.
    let mut leased: BTreeMap<(String, u32), Instant> = BTreeMap::new();
    let mut frozen_since = None;
    let mut holds = false;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let now = messages(feed, MessageState::Unspecified).await;
        let is_lost = |message: &v1::Message| {
            message.state() == MessageState::Delayed && message.last_error == "the lease ran out"
        };
        let delivery = |(operation, message): (&String, &v1::Message)| (operation.clone(), message.attempt);
        // Each of them waits for its back-off, which is longer than a look.
        lost.borrow_mut()
            .extend(now.iter().filter(|(_, message)| is_lost(message)).map(delivery));
        let now = now
            .iter()
            .filter(|(_, message)| message.state() == MessageState::Leased);
        let now: BTreeSet<_> = now.map(delivery).collect();
        leased.retain(|delivery, _| now.contains(delivery));
        for delivery in now {
            let since = *leased.entry(delivery).or_insert_with(Instant::now);
            holds |= since.elapsed() > WORKED_ON_MAX;
        }
        match frozen_since {
            None => {
                feed.freeze(part);
                frozen_since = Some(Instant::now());
            }
            // It had nothing in its hands, and had not asked for anything.
            Some(since) if !holds && since.elapsed() > LEASE / 2 => {
                feed.thaw(part);
                frozen_since = None;
            }
            Some(_) => {}
        }
    }
}
