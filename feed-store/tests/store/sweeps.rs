//! What is pending and has no message gets one, once, whoever else looks at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use feed::accept::META_OPERATION;
use feed::commit::Commit;
use feed::id::{DocumentId, DocumentKey, Kind};
use feed::keys::{self, Key};
use feed::operation::{OperationMessage, OperationRecord, OperationState};
use feed::state::{OperationId, Version};
use feed_store::{
    FeedStore, SWEEP_MESSAGES_MAX, SWEEP_RECORDS_MAX, SWEEP_VERSIONS_MAX, SweepPlace, Swept, WRITE_QUEUE,
};
use proto::limits::COMMIT_ENQUEUES_MAX;
use proto::v1;
use proto::v1::settlement::{Action, Dead, Nack};

use crate::support::{NOW_MS, TestStore, channel, id, operation, playlist};

/// Documents of one operation, where it has many.
const DOCUMENTS: usize = 200;
/// Deliveries of a message unless its queue was set otherwise.
const QUEUE_ATTEMPTS: u32 = 10;
/// After so long records are looked at.
const AGE_MS: i64 = 5 * 60 * 1_000;

async fn sweep(store: &FeedStore, place: &mut SweepPlace) -> Swept {
    let mut swept = Swept::default();
    let sweeping = store.sweep(place, &mut swept, NOW_MS);
    sweeping.await.expect("the store is there");
    swept
}

async fn sweep_records(store: &FeedStore, place: &mut SweepPlace, now_ms: i64) -> Swept {
    let mut swept = Swept::default();
    let sweeping = store.sweep_records(place, &mut swept, now_ms);
    sweeping.await.expect("the store is there");
    swept
}

fn swept(enqueued: usize) -> Swept {
    Swept {
        enqueued,
        ..Swept::default()
    }
}

fn failed(failed: usize) -> Swept {
    Swept {
        failed,
        ..Swept::default()
    }
}

fn superseded(superseded: usize) -> Swept {
    Swept {
        superseded,
        ..Swept::default()
    }
}

/// State and reason of an operation.
async fn record(store: &TestStore, operation: OperationId) -> (OperationState, Option<String>) {
    let record = store.aside.operation(operation).await.expect("the store is there");
    let record = record.expect("a record");
    (record.state, record.reason)
}

/// The messages of the write queue.
async fn messages(store: &TestStore) -> Vec<OperationMessage> {
    let page = store.aside.client().list_messages(v1::ListMessagesRequest {
        queue: WRITE_QUEUE.to_owned(),
        page_size: 1_000,
        ..Default::default()
    });
    let page = page.await.expect("the store is there").unwrap_or_default();
    let texts = page.messages.iter().filter_map(v1::Message::text);
    texts
        .map(|text| OperationMessage::parse(text).expect("our own"))
        .collect()
}

/// Adds messages with this text.
async fn enqueue(store: &TestStore, text: &str, count: usize) {
    let message = v1::NewMessage {
        queue: WRITE_QUEUE.to_owned(),
        content: Some(v1::new_message::Content::Text(text.to_owned())),
        ..Default::default()
    };
    let mut left = count;
    while left > 0 {
        let part = left.min(COMMIT_ENQUEUES_MAX);
        let commit = v1::CommitRequest {
            enqueues: vec![message.clone(); part],
            ..Default::default()
        };
        store.aside.client().commit(commit).await.expect("the store is there");
        left -= part;
    }
}

/// Leaves versions to an operation that has a message.
async fn add(store: &TestStore, versions: &[Version]) -> OperationMessage {
    let operation = operation();
    let message = message(operation, store.queue(operation, versions).await);
    enqueue(store, &message.to_text(), 1).await;
    message
}

/// Receives the next message and settles it.
async fn settle(store: &TestStore, action: Action) {
    let client = store.aside.client();
    let received = client.receive(v1::ReceiveRequest {
        queue: WRITE_QUEUE.to_owned(),
        ..Default::default()
    });
    let deliveries = received.await.expect("the store is there");
    let settlement = v1::Settlement {
        receipt: deliveries[0].receipt.clone(),
        action: Some(action),
    };
    client.settle(vec![settlement]).await.expect("the store is there");
}

fn dead_for(reason: &str) -> Action {
    Action::Dead(Dead {
        reason: reason.to_owned(),
    })
}

fn nack(seconds: i64, error: &str) -> Action {
    Action::Nack(Nack {
        delay: Some(prost_types::Duration { seconds, nanos: 0 }),
        error: error.to_owned(),
        ..Default::default()
    })
}

/// Records that the operation has failed.
async fn fail(store: &TestStore, message: &OperationMessage, reason: &str) {
    let mut commit = Commit::default();
    OperationRecord::ended(message, OperationState::Failed, Some(reason), NOW_MS).put(&mut commit);
    store.commit(commit).await;
}

fn message(operation: OperationId, documents: Vec<DocumentKey>) -> OperationMessage {
    OperationMessage {
        operation,
        accepted_at: "2025-06-03T17:01:00.000Z".to_owned(),
        documents,
    }
}

#[tokio::test]
async fn what_has_no_message_gets_one_and_is_accepted_again() {
    let store = TestStore::open();
    let lost = operation();
    let documents = store.queue(lost, &[channel(id(), 1, 0), playlist(id())]).await;
    fail(&store, &message(lost, documents.clone()), "it was").await;

    let mut place = SweepPlace::default();
    assert_eq!(sweep(&store.documents, &mut place).await, swept(1));
    assert_eq!(messages(&store).await, [message(lost, documents.clone())]);
    let record = store.aside.operation(lost).await.expect("the store is there");
    assert_eq!(record.expect("a record").state, OperationState::Accepted);

    assert_eq!(sweep(&store.documents, &mut place).await, swept(0));
    store.apply(lost, &documents).await;
    assert!(!store.documents.has_pending().await.expect("the store is there"));
    assert_eq!(sweep(&store.documents, &mut place).await, swept(0));
    assert_eq!(messages(&store).await.len(), 1);
}

#[tokio::test]
async fn many_sweeps_at_once_enqueue_each_operation_once() {
    let store = TestStore::open();
    let lost: BTreeSet<_> = (0..5).map(|_| operation()).collect();
    for operation in &lost {
        store.queue(*operation, &[playlist(id()), playlist(id())]).await;
    }
    let mut sweeps = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let documents = store.documents.clone();
        sweeps.spawn(async move { sweep(&documents, &mut SweepPlace::default()).await.enqueued });
    }
    assert_eq!(sweeps.join_all().await.into_iter().sum::<usize>(), lost.len());
    let enqueued: Vec<_> = messages(&store).await.iter().map(|message| message.operation).collect();
    assert_eq!(enqueued.len(), lost.len());
    assert_eq!(enqueued.into_iter().collect::<BTreeSet<_>>(), lost);
}

#[tokio::test]
async fn what_was_applied_or_replaced_while_messages_were_looked_through_is_let_be() {
    let store = TestStore::open();
    let (applied, replaced, newer) = (operation(), operation(), operation());
    let documents = store.queue(applied, &[playlist(id())]).await;
    let version = playlist(id());
    store.queue(replaced, std::slice::from_ref(&version)).await;
    let act = async |_| {
        store.apply(applied, &documents).await;
        store.queue(newer, std::slice::from_ref(&version)).await;
    };
    let mut place = SweepPlace::default();
    let (done, calls) = store
        .before_each("ListMessages", act, sweep(&store.documents, &mut place))
        .await;
    assert_eq!((done, calls), (swept(0), 1));
    assert_eq!(sweep(&store.documents, &mut place).await, swept(1));
    assert_eq!(messages(&store).await[0].operation, newer);
}

#[tokio::test]
async fn a_message_counts_in_whatever_state_it_is() {
    let store = TestStore::open();
    let client = store.aside.client();
    let add = async || add(&store, &[playlist(id())]).await;
    let dead = add().await;
    settle(&store, dead_for("it was")).await;
    add().await;
    settle(&store, nack(60, "")).await;
    add().await;
    let received = client.receive(v1::ReceiveRequest {
        queue: WRITE_QUEUE.to_owned(),
        ..Default::default()
    });
    assert_eq!(received.await.expect("the store is there").len(), 1);
    add().await;
    enqueue(&store, "no message of ours", 1).await;

    let stats = client.queue_stats(WRITE_QUEUE).await.expect("the store is there");
    let stats = stats.expect("the queue is used");
    assert_eq!((stats.dead, stats.delayed, stats.leased, stats.ready), (1, 1, 1, 2));
    assert_eq!(sweep(&store.documents, &mut SweepPlace::default()).await, failed(1));
    let reason = Some("it was".to_owned());
    assert_eq!(record(&store, dead.operation).await, (OperationState::Failed, reason));
}

#[tokio::test]
async fn one_sweep_looks_after_so_many_versions_and_the_next_goes_on() {
    let store = TestStore::open();
    let mut commit = Commit::default();
    let mut pend = |id: DocumentId, operation: OperationId| {
        let key = DocumentKey {
            kind: Kind::Playlist,
            id,
        };
        commit.put_with(keys::pending(key), "", vec![(META_OPERATION, operation.to_string())]);
    };
    let operations = SWEEP_VERSIONS_MAX / DOCUMENTS;
    for _ in 0..operations {
        let operation = operation();
        (0..DOCUMENTS).for_each(|_| pend(id(), operation));
    }
    let (last, behind) = (operation(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    pend(behind.parse().expect("an id"), last);
    store.commit(commit).await;

    let mut place = SweepPlace::default();
    assert_eq!(sweep(&store.documents, &mut place).await, swept(operations));
    assert_eq!(sweep(&store.documents, &mut place).await, swept(1));
    let enqueued = messages(&store).await;
    assert_eq!(enqueued.last().map(|message| message.operation), Some(last));
    assert_eq!(sweep(&store.documents, &mut place).await, swept(0));
    assert_eq!(enqueued.len(), operations + 1);
}

#[tokio::test]
async fn a_queue_that_is_too_long_is_let_be_until_it_is_shorter() {
    let store = TestStore::open();
    store.queue(operation(), &[playlist(id())]).await;
    enqueue(&store, "no message of ours", SWEEP_MESSAGES_MAX + 1).await;
    let mut place = SweepPlace::default();
    let gave_up = Swept {
        gave_up: true,
        ..Swept::default()
    };
    assert_eq!(sweep(&store.documents, &mut place).await, gave_up);
    let purged = store
        .aside
        .client()
        .purge(WRITE_QUEUE, vec![1], &[v1::MessageState::Ready]);
    assert_eq!(purged.await.expect("the store is there").deleted, 1);
    assert_eq!(sweep(&store.documents, &mut place).await, swept(1));
}

#[tokio::test]
async fn a_turn_is_one_consumers_until_it_is_over() {
    let store = TestStore::open();
    let take = async || {
        let taken = store.documents.take_sweep_turn(Duration::from_secs(30));
        taken.await.expect("the store is there")
    };
    assert!(take().await);
    assert!(!take().await);
}

/// As often as the queue delivers a message, nobody says what becomes of its operation.
#[tokio::test]
async fn what_the_queue_gave_up_is_failed_with_its_reason_until_it_is_redriven() {
    let store = TestStore::open();
    let replaced = playlist(id());
    let dead = add(&store, &[playlist(id()), replaced.clone()]).await;
    store.queue(operation(), std::slice::from_ref(&replaced)).await;
    for attempt in 1..=QUEUE_ATTEMPTS {
        settle(&store, nack(0, &format!("failure {attempt}"))).await;
    }
    assert_eq!(record(&store, dead.operation).await, (OperationState::Accepted, None));
    let mut place = SweepPlace::default();
    let mut found = sweep(&store.documents, &mut place).await;
    // The newer write has lost its message.
    assert_eq!(std::mem::take(&mut found.enqueued), 1);
    assert_eq!(found, failed(1));
    let reason = format!("attempts exhausted; last: failure {QUEUE_ATTEMPTS}");
    let expected = (OperationState::Failed, Some(reason));
    assert_eq!(record(&store, dead.operation).await, expected);
    assert_eq!(sweep(&store.documents, &mut place).await, swept(0));

    store.aside.accept_again(&dead).await.expect("the store is there");
    let redriven = store.aside.client().redrive(WRITE_QUEUE, Vec::new()).await;
    assert_eq!(redriven.expect("the store is there").moved, 1);
    assert_eq!(sweep(&store.documents, &mut place).await, swept(0));
    assert_eq!(record(&store, dead.operation).await, (OperationState::Accepted, None));
}

#[tokio::test]
async fn a_dead_message_fails_nothing_that_was_replaced_or_has_ended_meanwhile() {
    let store = TestStore::open();
    let version = playlist(id());
    let replaced = add(&store, std::slice::from_ref(&version)).await;
    settle(&store, dead_for("one")).await;
    let ended = add(&store, &[playlist(id())]).await;
    settle(&store, dead_for("other")).await;
    let act = async |call| {
        if call == 0 {
            add(&store, std::slice::from_ref(&version)).await;
            fail(&store, &ended, "it was").await;
        }
    };
    let mut place = SweepPlace::default();
    let sweeping = sweep(&store.documents, &mut place);
    let (done, commits) = store.before_each("Commit", act, sweeping).await;
    assert_eq!((done, commits), (swept(0), 2));
    assert_eq!(
        record(&store, replaced.operation).await,
        (OperationState::Accepted, None)
    );
    let failed = (OperationState::Failed, Some("it was".to_owned()));
    assert_eq!(record(&store, ended.operation).await, failed);
    assert_eq!(sweep(&store.documents, &mut place).await, swept(0));
}

#[tokio::test]
async fn what_owns_nothing_any_more_and_was_not_recorded_is_superseded() {
    let store = TestStore::open();
    let (one, other) = (playlist(id()), playlist(id()));
    let older = operation();
    let older = message(older, store.queue(older, &[one.clone(), other.clone()]).await);
    let mut whole = Commit::default();
    OperationRecord::new(&older, OperationState::Accepted).put(&mut whole);
    store.commit(whole).await;
    store.queue(operation(), std::slice::from_ref(&one)).await;
    let withdrawn = add(&store, &[playlist(id())]).await;
    store
        .aside
        .withdraw(&withdrawn, NOW_MS)
        .await
        .expect("nothing needs it");

    let mut place = SweepPlace::default();
    let late = NOW_MS + AGE_MS;
    assert_eq!(sweep_records(&store.documents, &mut place, late).await, swept(0));
    let newer = operation();
    store.queue(newer, std::slice::from_ref(&other)).await;
    assert_eq!(sweep_records(&store.documents, &mut place, late - 1).await, swept(0));
    assert_eq!(sweep_records(&store.documents, &mut place, late).await, superseded(1));
    assert_eq!(
        record(&store, older.operation).await,
        (OperationState::Superseded, None)
    );
    assert_eq!(record(&store, newer).await, (OperationState::Accepted, None));
    assert_eq!(record(&store, withdrawn.operation).await.0, OperationState::Failed);
    assert_eq!(sweep_records(&store.documents, &mut place, late).await, swept(0));
}

#[tokio::test]
async fn what_has_ended_while_a_sweep_looked_is_not_superseded() {
    let store = TestStore::open();
    let applied = add(&store, &[playlist(id())]).await;
    let act = async |call| {
        if call == 0 {
            let mut commit = Commit::default();
            commit.delete(keys::pending(applied.documents[0]));
            OperationRecord::ended(&applied, OperationState::Applied, None, NOW_MS).put(&mut commit);
            store.commit(commit).await;
        }
    };
    let mut place = SweepPlace::default();
    let sweeping = sweep_records(&store.documents, &mut place, NOW_MS + AGE_MS);
    let (done, reads) = store.before_each("BatchGet", act, sweeping).await;
    assert_eq!((done, reads), (swept(0), 1));
    assert_eq!(record(&store, applied.operation).await.0, OperationState::Applied);
}

#[tokio::test]
async fn one_sweep_looks_at_so_many_records_and_the_next_goes_on() {
    let store = TestStore::open();
    let mut commit = Commit::default();
    for _ in 0..=SWEEP_RECORDS_MAX {
        let message = message(operation(), vec![playlist(id()).key()]);
        OperationRecord::new(&message, OperationState::Accepted).put(&mut commit);
    }
    store.commit(commit).await;
    let mut place = SweepPlace::default();
    for found in [SWEEP_RECORDS_MAX, 1, 0, 0] {
        let done = sweep_records(&store.documents, &mut place, NOW_MS + AGE_MS).await;
        assert_eq!(done, superseded(found));
    }
}

#[tokio::test]
async fn what_is_malformed_is_named_and_the_rest_goes_on() {
    let store = TestStore::open();
    let lost = [operation(), operation()];
    store.queue(lost[0], &[playlist(id())]).await;
    let documents = store.queue(lost[1], &[playlist(id())]).await;
    let dead = [
        add(&store, &[playlist(id())]).await,
        add(&store, &[playlist(id())]).await,
    ];
    settle(&store, dead_for("it was")).await;
    settle(&store, dead_for("it was")).await;
    let owner = || vec![(META_OPERATION, operation().to_string())];
    let of_no_document = Key {
        namespace: keys::PENDING,
        key: "channel/x".to_owned(),
    };
    let of_nobody = keys::pending(playlist(id()).key());
    let mut commit = Commit::default();
    commit.put_with(of_no_document.clone(), "", owner());
    commit.put(of_nobody.clone(), "");
    let records = [lost[0], dead[0].operation].map(keys::operation);
    for record in &records {
        commit.put(record.clone(), "no record");
    }
    store.commit(commit).await;

    let expected = Swept {
        enqueued: 1,
        failed: 1,
        malformed: names([&of_no_document, &of_nobody].into_iter().chain(&records)),
        ..Swept::default()
    };
    assert_eq!(sweep(&store.documents, &mut SweepPlace::default()).await, expected);
    assert_eq!(record(&store, dead[1].operation).await.0, OperationState::Failed);

    // Every record but the malformed ones is of an operation that owns nothing then.
    let mut commit = Commit::default();
    let paths = keys::operation(operation());
    let other = message(paths.key.parse().expect("an id"), vec![playlist(id()).key()]);
    let text = OperationRecord::new(&other, OperationState::Accepted).to_text();
    commit.put(paths.clone(), text.replace("/playlists/", "/others/"));
    commit.delete(keys::pending(documents[0]));
    store.commit(commit).await;
    let expected = Swept {
        superseded: 1,
        malformed: names(records.iter().chain([&paths])),
        ..Swept::default()
    };
    let late = NOW_MS + AGE_MS;
    let done = sweep_records(&store.documents, &mut SweepPlace::default(), late).await;
    assert_eq!(done, expected);
}

/// Keys as errors name them.
fn names<'a>(keys: impl IntoIterator<Item = &'a Key>) -> BTreeSet<String> {
    let name = |key: &Key| format!("{}/{}", key.namespace, key.key);
    keys.into_iter().map(name).collect()
}

#[tokio::test]
async fn an_operation_that_is_found_again_keeps_all_its_documents() {
    let store = TestStore::open();
    let lost = operation();
    let documents = store.queue(lost, &[playlist(id()), channel(id(), 1, 0)]).await;
    let mut commit = Commit::default();
    OperationRecord::new(&message(lost, documents.clone()), OperationState::Accepted).put(&mut commit);
    store.commit(commit).await;
    // As when the rest of a large operation is behind what one sweep looks at.
    store.apply(lost, &documents[..1]).await;

    assert_eq!(sweep(&store.documents, &mut SweepPlace::default()).await, swept(1));
    assert_eq!(messages(&store).await, [message(lost, documents)]);
}
