//! What belongs together is read as of one moment, whatever is committed between two answers of the store.

use std::collections::BTreeSet;

use feed::commit::Commit;
use feed::document::DOCUMENT_BYTES_MAX;
use feed::id::{DocumentId, DocumentKey, Kind};
use feed::keys;
use feed::state::{DocumentState, Version};

use crate::support::{NOW_MS, TestStore, channel, id, operation, playlist};

/// Most playlists that a channel names.
const PLAYLISTS_MAX: usize = 1_024;
const LARGE: usize = 7 * 1024 * 1024;

/// As many playlists as a channel may name, the last of them accepted and not applied.
async fn playlists(store: &TestStore) -> (BTreeSet<DocumentId>, uuid::Uuid, DocumentKey) {
    let ids: BTreeSet<_> = (0..PLAYLISTS_MAX).map(|_| id()).collect();
    let (last, others) = (*ids.last().expect("many"), ids.len() - 1);
    let mut commit = Commit::default();
    for id in ids.iter().take(others) {
        feed::apply::apply(&playlist(*id), None, &mut commit);
    }
    store.commit(commit).await;
    let operation = operation();
    let documents = store.queue(operation, &[playlist(last)]).await;
    (ids, operation, documents[0])
}

#[tokio::test]
async fn a_create_that_is_applied_while_playlists_are_looked_up_is_seen() {
    let store = TestStore::open();
    let (ids, operation, last) = playlists(&store).await;
    let apply = async |batch| {
        if batch == 1 {
            store.apply(operation, &[last]).await;
        }
    };
    let (found, batches) = store
        .before_each_batch(apply, store.documents.accepted_playlists(&ids))
        .await;
    let (found, _) = found.expect("they are read");
    assert_eq!(batches, 2, "they are too many for one answer");
    assert!(found.keys().eq(&ids));
    assert!(found.values().all(|playlist| playlist.created_ms == Some(NOW_MS)));
}

#[tokio::test]
async fn a_deletion_while_playlists_are_looked_up_is_later_than_the_revision_that_is_checked() {
    let store = TestStore::open();
    let (ids, _, last) = playlists(&store).await;
    let delete = async |batch| {
        if batch == 1 {
            let mut commit = Commit::default();
            commit.delete(keys::pending(last));
            commit.put(keys::playlist_deleted(), last.id.to_string());
            store.commit(commit).await;
        }
    };
    let looked_up = store.documents.accepted_playlists(&ids);
    let (found, _) = store.before_each_batch(delete, looked_up).await;
    let (found, revision) = found.expect("they are read");
    assert!(!found.contains_key(&last.id));
    assert_eq!(revision, 0, "read before it was deleted");
    let (_, revision) = store.aside.accepted_playlists(&ids).await.expect("they are read");
    assert_ne!(revision, 0);
}

/// Text and references of one version say the same count.
#[track_caller]
fn expect_whole(state: &DocumentState, playlists: Option<usize>) {
    let counts = state
        .applied
        .as_ref()
        .map(|content| (content.document.playlists.len(), content.refs.0.len()));
    assert_eq!(counts, playlists.map(|count| (count, count)));
}

#[tokio::test]
async fn a_document_that_changes_between_two_answers_is_of_one_version() {
    let store = TestStore::open();
    let ids: BTreeSet<_> = (0..6).map(|_| id()).collect();
    let channels: Vec<_> = ids.iter().map(|id| channel(*id, 2, LARGE)).collect();
    store.put(&channels).await;
    let wanted: Vec<_> = channels.iter().map(Version::key).collect();

    // Two of them are in an answer, which ends in the third: that one is changed, others are deleted.
    let change = async |batch| {
        if batch == 1 {
            store.put(&[channel(wanted[2].id, 5, LARGE)]).await;
            let delete = Version::Delete {
                key: wanted[3],
                slug: channels[3].slug().clone(),
            };
            store.put(&[delete]).await;
        }
    };
    let (states, batches) = store
        .before_each_batch(change, store.documents.documents(&wanted))
        .await;
    let states = states.expect("each is whole");
    assert_eq!(batches, 3);
    let expected = [Some(2), Some(2), Some(5), None, Some(2), Some(2)];
    for (key, playlists) in wanted.iter().zip(expected) {
        expect_whole(&states[key], playlists);
    }
}

#[tokio::test]
async fn one_answer_holds_a_document_of_any_size() {
    let store = TestStore::open();
    let key = DocumentKey {
        kind: Kind::Channel,
        id: id(),
    };
    let largest = |playlists| channel(key.id, playlists, DOCUMENT_BYTES_MAX);
    store.put(&[largest(PLAYLISTS_MAX)]).await;
    store.queue(operation(), &[largest(PLAYLISTS_MAX - 1)]).await;
    let (states, batches) = store.counted(store.documents.documents(&[key])).await;
    let states = states.expect("it is read");
    assert_eq!(batches, 1);
    expect_whole(&states[&key], Some(PLAYLISTS_MAX));
    let pending = states[&key].pending.as_ref().expect("it is queued");
    let pending = pending.version.content().expect("no deletion");
    assert_eq!(pending.refs.0.len(), PLAYLISTS_MAX - 1);
}

#[tokio::test]
async fn what_no_answer_holds_is_malformed_and_not_asked_for_again() {
    let store = TestStore::open();
    let version = channel(id(), 1, 9 * 1024 * 1024);
    let text = version.content().expect("no deletion").document.text.clone();
    store.put(std::slice::from_ref(&version)).await;
    let mut commit = Commit::default();
    commit.put(keys::refs(version.key().id), text.as_str());
    store.commit(commit).await;
    let (states, batches) = store.counted(store.documents.documents(&[version.key()])).await;
    let error = states.expect_err("no document is like that");
    assert!(
        matches!(&error, feed_store::FeedStoreError::Malformed { .. }),
        "{error:?}"
    );
    assert_eq!(batches, 1);
}
