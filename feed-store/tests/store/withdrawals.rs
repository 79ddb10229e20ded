//! A write that is taken back while others go on: whoever is first decides, and no channel is left over a playlist that is
//! not there.

use std::collections::BTreeSet;

use feed::commit::Commit;
use feed::id::{DocumentId, DocumentKey, Kind};
use feed::keys;
use feed::operation::{OperationMessage, OperationState};
use feed::state::{OperationId, Version};
use feed::withdraw::{Stays, WITHDRAWN};
use feed_store::{Outcome, WithdrawError};

use crate::support::{NOW_MS, TestStore, channel_over, id, operation, playlist};

/// Leaves a version to an operation; its message.
async fn queue(store: &TestStore, version: Version) -> OperationMessage {
    let operation = operation();
    OperationMessage {
        operation,
        accepted_at: "2025-06-03T17:01:00.000Z".to_owned(),
        documents: store.queue(operation, &[version]).await,
    }
}

async fn state(store: &TestStore, operation: OperationId) -> (OperationState, Option<String>) {
    let record = store.aside.operation(operation).await.expect("the store is there");
    let record = record.expect("a record");
    (record.state, record.reason)
}

async fn exists(store: &TestStore, document: DocumentKey) -> bool {
    let text = store.aside.document_text(document).await;
    text.expect("the store is there").is_some()
}

fn key(kind: Kind, id: DocumentId) -> DocumentKey {
    DocumentKey { kind, id }
}

/// Withdraws, and does something before the first commit of that.
async fn overtaken(
    store: &TestStore,
    message: &OperationMessage,
    mut act: impl AsyncFnMut(),
) -> (Result<usize, WithdrawError>, usize) {
    let act = async |call| {
        if call == 0 {
            act().await;
        }
    };
    let withdraw = store.documents.withdraw(message, NOW_MS);
    store.before_each("Commit", act, withdraw).await
}

#[tokio::test]
async fn a_write_that_is_applied_first_is_not_withdrawn() {
    let store = TestStore::open();
    let message = queue(&store, playlist(id())).await;
    let (withdrawn, commits) = overtaken(&store, &message, async || {
        store.apply(message.operation, &message.documents).await;
    })
    .await;
    assert_eq!((withdrawn.expect("the store is there"), commits), (0, 2));
    assert!(exists(&store, message.documents[0]).await);
    assert_eq!(
        state(&store, message.operation).await,
        (OperationState::Superseded, None)
    );
}

#[tokio::test]
async fn a_newer_write_is_not_withdrawn_with_an_older_one() {
    let store = TestStore::open();
    let version = playlist(id());
    let (older, newer) = (queue(&store, version.clone()).await, operation());
    let (withdrawn, _) = overtaken(&store, &older, async || {
        store.queue(newer, std::slice::from_ref(&version)).await;
    })
    .await;
    assert_eq!(withdrawn.expect("the store is there"), 0);
    assert_eq!(state(&store, older.operation).await, (OperationState::Superseded, None));
    let owned = store.aside.owned(newer, &older.documents).await;
    assert_eq!(owned.expect("the store is there"), older.documents);
}

#[tokio::test]
async fn a_playlist_that_a_channel_was_linked_to_meanwhile_stays() {
    let store = TestStore::open();
    let (needed, channel) = (id(), id());
    let message = queue(&store, playlist(needed)).await;
    let (withdrawn, _) = overtaken(&store, &message, async || {
        let mut commit = Commit::default();
        commit.put(keys::link(needed, channel), "");
        store.commit(commit).await;
    })
    .await;
    let stays = Stays::Needed {
        playlist: needed,
        channel,
    };
    assert!(matches!(withdrawn, Err(WithdrawError::Stays(why)) if why == stays));
    assert_eq!(state(&store, message.operation).await, (OperationState::Accepted, None));
}

#[tokio::test]
async fn a_channel_that_found_the_playlist_before_must_look_again() {
    let store = TestStore::open();
    let message = queue(&store, playlist(id())).await;
    let ids = BTreeSet::from([message.documents[0].id]);
    let (found, revision) = store.aside.accepted_playlists(&ids).await.expect("the store is there");
    assert_eq!(found.len(), 1);
    let withdrawn = store.documents.withdraw(&message, NOW_MS).await;
    assert_eq!(withdrawn.expect("nothing needs it"), 1);
    let record = state(&store, message.operation).await;
    assert_eq!(record, (OperationState::Failed, Some(WITHDRAWN.to_owned())));
    let mut channel = Commit::default();
    channel.expect_revision(keys::playlist_deleted(), revision);
    let outcome = store
        .aside
        .commit(channel, Vec::new())
        .await
        .expect("the store is there");
    assert!(matches!(outcome, Outcome::Conflict { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_channel_does_not_fall_back_to_what_was_deleted_meanwhile() {
    let store = TestStore::open();
    let (going, staying, channel) = (id(), id(), id());
    store.put(&[playlist(going), playlist(staying)]).await;
    store.put(&[channel_over(channel, &[going], 0)]).await;
    let message = queue(&store, channel_over(channel, &[staying], 0)).await;
    let (withdrawn, _) = overtaken(&store, &message, async || {
        let mut commit = Commit::default();
        commit.delete(keys::document(key(Kind::Playlist, going)));
        commit.put(keys::playlist_deleted(), going.to_string());
        store.commit(commit).await;
    })
    .await;
    let stays = Stays::Gone {
        playlist: going,
        channel,
    };
    assert!(matches!(withdrawn, Err(WithdrawError::Stays(why)) if why == stays));
    assert_eq!(state(&store, message.operation).await, (OperationState::Accepted, None));
}

/// What a dead message's operation no longer owns is not tried again.
#[tokio::test]
async fn only_what_still_waits_is_accepted_again() {
    let store = TestStore::open();
    let version = playlist(id());
    let older = queue(&store, version.clone()).await;
    let newer = queue(&store, version).await;
    for message in [&older, &newer] {
        let mut failed = Commit::default();
        feed::operation::OperationRecord::ended(message, OperationState::Failed, Some("it was"), NOW_MS)
            .put(&mut failed);
        store.commit(failed).await;
        store.documents.accept_again(message).await.expect("the store is there");
    }
    let failed = (OperationState::Failed, Some("it was".to_owned()));
    assert_eq!(state(&store, older.operation).await, failed);
    assert_eq!(state(&store, newer.operation).await, (OperationState::Accepted, None));
}
