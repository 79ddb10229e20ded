//! What is pending and has no message gets one, once, whoever else looks at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use feed::accept::META_OPERATION;
use feed::commit::Commit;
use feed::id::{DocumentId, DocumentKey, Kind};
use feed::keys;
use feed::operation::{OperationMessage, OperationRecord, OperationState};
use feed::state::OperationId;
use feed_store::{FeedStore, SWEEP_MESSAGES_MAX, SWEEP_VERSIONS_MAX, SweepPlace, Swept, WRITE_QUEUE};
use proto::limits::COMMIT_ENQUEUES_MAX;
use proto::v1;
use proto::v1::settlement::{Action, Dead, Nack};

use crate::support::{NOW_MS, TestStore, channel, id, operation, playlist};

/// Documents of one operation, where it has many.
const DOCUMENTS: usize = 200;

async fn sweep(store: &FeedStore, place: &mut SweepPlace) -> Swept {
    store.sweep(place, NOW_MS).await.expect("the store is there")
}

fn swept(enqueued: usize) -> Swept {
    Swept {
        enqueued,
        gave_up: false,
    }
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
    let mut documents = store.queue(lost, &[channel(id(), 1, 0), playlist(id())]).await;
    let mut failed = Commit::default();
    let record = message(lost, documents.clone());
    OperationRecord::ended(&record, OperationState::Failed, Some("it was"), NOW_MS).put(&mut failed);
    store.commit(failed).await;

    let mut place = SweepPlace::default();
    assert_eq!(sweep(&store.documents, &mut place).await, swept(1));
    documents.sort_unstable();
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
    let settle = async |action| {
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
    };
    let add = async || {
        let operation = operation();
        let documents = store.queue(operation, &[playlist(id())]).await;
        enqueue(&store, &message(operation, documents).to_text(), 1).await;
    };
    add().await;
    settle(Action::Dead(Dead {
        reason: "it was".to_owned(),
    }))
    .await;
    add().await;
    settle(Action::Nack(Nack {
        delay: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    }))
    .await;
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
    assert_eq!(sweep(&store.documents, &mut SweepPlace::default()).await, swept(0));
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
        enqueued: 0,
        gave_up: true,
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
