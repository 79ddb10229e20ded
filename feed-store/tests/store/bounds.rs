//! What is read and written at once is bounded; each bound at its limit and one past it.

use std::collections::BTreeSet;

use feed::apply::Tally;
use feed::commit::{Change, Commit};
use feed::document::DOCUMENT_BYTES_MAX;
use feed::id::Kind;
use feed::keys::{self, Key};
use feed::slug::{self, NUMBERS};
use feed::state::Version;
use feed_store::{FeedStoreError, Outcome, STATE_BYTES_MAX, check_size};
use proto::client::ClientError;
use proto::limits::{
    COMMIT_BYTES_MAX, COMMIT_CHECKS_MAX, COMMIT_MUTATIONS_MAX, MESSAGE_BODY_BYTES_MAX, VALUE_BYTES_MAX,
};
use proto::v1;

use crate::support::{TestStore, channel, id, operation};

const LARGE: usize = 7 * 1024 * 1024;

/// A commit of so many of what is bounded.
type MadeOf<'a> = &'a dyn Fn(usize) -> Commit;

/// Keys that the store does not know.
fn key(number: usize) -> Key {
    Key {
        namespace: keys::OPERATIONS,
        key: format!("{number:05}"),
    }
}

/// Whether the store itself takes the commit, asked without a look at its size.
async fn is_taken(store: &TestStore, commit: &Commit) -> bool {
    let mutation = |(key, change): (&Key, &Change)| match change {
        Change::Delete => v1::Mutation::delete(key.namespace, &key.key),
        Change::Put { text, metadata, .. } => {
            let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
            v1::Mutation::put_text(key.namespace, &key.key, text.clone(), metadata.collect())
        }
    };
    let request = v1::CommitRequest {
        checks: commit
            .checks
            .iter()
            .map(|check| v1::Check {
                namespace: check.key.namespace.to_owned(),
                key: check.key.key.clone(),
                expect: Some(v1::check::Expect::Revision(0)),
            })
            .collect(),
        mutations: commit.changes.iter().map(mutation).collect(),
        enqueues: commit
            .message
            .iter()
            .map(|text| v1::NewMessage {
                queue: feed_store::WRITE_QUEUE.to_owned(),
                content: Some(v1::new_message::Content::Text(text.clone())),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    match store.aside.client().commit(request).await {
        Ok(_) => true,
        Err(ClientError::Refused(_)) => false,
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_commit_is_too_large_when_the_store_says_so() {
    let store = TestStore::open();
    let message = "m".repeat(12 * 1024);
    // All that counts: keys, values, metadata, a deleted key, the message.
    let sized = |bytes: usize| {
        let mut commit = Commit::default();
        commit.put_with(key(0), "x".repeat(VALUE_BYTES_MAX), vec![("name", "value".to_owned())]);
        commit.delete(key(2));
        commit.message = Some(message.clone());
        let counted = 3 * "00000".len() + VALUE_BYTES_MAX + "namevalue".len() + message.len();
        commit.put(key(1), "x".repeat(bytes - counted));
        commit
    };
    let valued = |bytes: usize| {
        let mut commit = Commit::default();
        commit.put(key(0), "x".repeat(bytes));
        commit
    };
    let changing = |count: usize| {
        let mut commit = Commit::default();
        (0..count).for_each(|number| commit.delete(key(number)));
        commit
    };
    let checking = |count: usize| {
        let mut commit = valued(1);
        (0..count).for_each(|number| commit.expect_revision(key(number + 10), 0));
        commit
    };
    let sending = |bytes: usize| Commit {
        message: Some("m".repeat(bytes)),
        ..Commit::default()
    };
    let of_size: [(_, _, MadeOf<'_>); 5] = [
        ("bytes in all", COMMIT_BYTES_MAX, &sized),
        ("a value", VALUE_BYTES_MAX, &valued),
        ("changes", COMMIT_MUTATIONS_MAX, &changing),
        ("checks", COMMIT_CHECKS_MAX, &checking),
        ("a message", MESSAGE_BODY_BYTES_MAX, &sending),
    ];
    for (what, most, commit) in of_size {
        let fits = commit(most);
        assert!(check_size(&fits).is_ok(), "{what}");
        assert!(is_taken(&store, &fits).await, "{what}");
        let outcome = store.documents.commit(fits, Vec::new()).await.expect(what);
        assert!(matches!(outcome, Outcome::Committed { .. }), "{what}");

        let too_large = commit(most + 1);
        assert!(!is_taken(&store, &too_large).await, "{what}");
        assert!(
            matches!(check_size(&too_large), Err(FeedStoreError::TooLarge)),
            "{what}"
        );
        let refused = store.documents.commit(too_large, Vec::new()).await;
        assert!(matches!(refused, Err(FeedStoreError::TooLarge)), "{what}");
    }
}

#[tokio::test]
async fn so_many_bytes_of_documents_are_loaded_and_no_more() {
    let store = TestStore::open();
    let count = STATE_BYTES_MAX / DOCUMENT_BYTES_MAX;
    let mut channels: Vec<_> = (0..count).map(|_| channel(id(), 1, DOCUMENT_BYTES_MAX)).collect();
    // Pending texts count as well.
    store.put(&channels[1..]).await;
    store.queue(operation(), &channels[..1]).await;
    let mut wanted: Vec<_> = channels.iter().map(Version::key).collect();
    let loaded = store.documents.documents(&wanted).await.expect("as much as may be");
    assert_eq!(loaded.len(), count);
    drop(loaded);

    channels.truncate(0);
    let one_more = channel(id(), 1, 1024);
    wanted.push(one_more.key());
    store.put(&[one_more]).await;
    let refused = store.documents.documents(&wanted).await;
    assert!(matches!(refused, Err(FeedStoreError::TooLarge)));
}

#[tokio::test]
async fn an_operation_changes_what_it_still_owns_and_loads_nothing_else() {
    let store = TestStore::open();
    let ids: Vec<_> = (0..8).map(|_| id()).collect();
    let channels = |playlists, bytes| {
        let channel = |id: &_| channel(*id, playlists, bytes);
        ids.iter().map(channel).collect::<Vec<_>>()
    };
    // Their applied texts are more than a commit takes, which does not matter.
    store.put(&channels(1, LARGE)).await;
    let (first, second) = (operation(), operation());
    let documents = store.queue(first, &channels(2, LARGE / 2)).await;
    // Three are accepted anew; one of them is applied already.
    store.queue(second, &channels(3, 1024)[..3]).await;
    store.apply(second, &documents[..1]).await;

    let work = store.documents.owned_changes(first, &documents);
    let (owned, batches) = store.counted(work).await;
    let (commit, tally) = owned.expect("it fits");
    assert_eq!(
        tally,
        Tally {
            applied: 5,
            superseded: 3
        }
    );
    assert_eq!(
        batches,
        1 + 5,
        "whose they are, and two texts of a document in an answer"
    );
    let changed: BTreeSet<_> = documents
        .iter()
        .filter(|document| commit.changes.contains_key(&keys::document(**document)))
        .collect();
    assert_eq!(changed, documents[3..].iter().collect());
    store.commit(commit).await;

    let states = store.documents.documents(&documents).await.expect("they are read");
    let playlists: Vec<_> = documents
        .iter()
        .map(|document| {
            let applied = states[document].applied.as_ref();
            applied.expect("it is there").document.playlists.len()
        })
        .collect();
    assert_eq!(playlists, [3, 1, 1, 2, 2, 2, 2, 2]);
    assert!(states[&documents[1]].pending.is_some(), "the newer version still waits");

    // Late and twice: nothing is its own any more.
    let (commit, tally) = store.documents.owned_changes(first, &documents).await.expect("it fits");
    assert_eq!(commit, Commit::default());
    assert_eq!(tally.superseded, 8);
    let (commit, tally) = store
        .documents
        .owned_changes(first, &documents[..1])
        .await
        .expect("it fits");
    assert_eq!((commit, tally.superseded), (Commit::default(), 1));
}

#[tokio::test]
async fn a_version_that_is_replaced_while_others_are_loaded_is_left_alone() {
    let store = TestStore::open();
    let channels: Vec<_> = (0..4).map(|_| channel(id(), 1, LARGE)).collect();
    let (first, second) = (operation(), operation());
    let documents = store.queue(first, &channels).await;
    let replace = async |batch| {
        if batch == 2 {
            store.queue(second, &[channel(documents[3].id, 2, 1024)]).await;
        }
    };
    let work = store.documents.owned_changes(first, &documents);
    let (owned, _) = store.before_each_batch(replace, work).await;
    let (commit, tally) = owned.expect("it fits");
    assert_eq!((tally.applied, tally.superseded), (3, 1));
    assert!(!commit.changes.contains_key(&keys::document(documents[3])));
}

#[tokio::test]
async fn an_operation_that_no_commit_could_apply_is_too_large() {
    let store = TestStore::open();
    // Four of these fit into the 32 MiB of a commit, five do not.
    let channels: Vec<_> = (0..8).map(|_| channel(id(), 1, LARGE)).collect();
    let operation = operation();
    let documents = store.queue(operation, &channels).await;
    let work = store.documents.owned_changes(operation, &documents);
    let (refused, batches) = store.counted(work).await;
    assert!(matches!(refused, Err(FeedStoreError::TooLarge)));
    assert_eq!(batches, 1 + 2, "the last two are not loaded");
    store.apply(operation, &documents[..4]).await;
}

#[tokio::test]
async fn the_taken_numbers_of_a_base_are_found_among_any_number_of_slugs() {
    let store = TestStore::open();
    let mut commit = Commit::default();
    let mut put = |kind, slug: &str| commit.put(keys::slug(kind, &slug.parse().expect("a slug")), "");
    let others = [
        "a-b-1234",
        "a-b-4321",
        "a-12345",
        "a-0999",
        "ab-1234",
        "a-wxyz-1000",
        "a",
    ];
    for slug in others {
        put(Kind::Playlist, slug);
    }
    put(Kind::Channel, "a-5000");
    for number in 0..5_000 {
        put(Kind::Playlist, &format!("a-more-{}", 1000 + number));
    }
    let expected = BTreeSet::from([*NUMBERS.start(), 1234, *NUMBERS.end()]);
    for number in &expected {
        put(Kind::Playlist, &format!("a-{number}"));
    }
    store.commit(commit).await;
    let (taken, batches) = store.counted(store.documents.taken_numbers(Kind::Playlist, "a")).await;
    assert_eq!(taken.expect("they are read"), expected);
    assert_eq!(batches, 5);

    let mut commit = Commit::default();
    for number in NUMBERS {
        commit.put(keys::slug(Kind::Playlist, &slug::numbered("full", number)), "");
    }
    store.commit(commit).await;
    let taken = store.documents.taken_numbers(Kind::Playlist, "full").await;
    assert!(taken.expect("they are read").into_iter().eq(NUMBERS));
}
