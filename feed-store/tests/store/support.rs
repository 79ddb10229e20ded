//! A store in memory of calls, and documents to put into it.

use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use feed::accept::{Write, commit_queued};
use feed::apply::apply;
use feed::commit::Commit;
use feed::document::Document;
use feed::id::{DocumentId, DocumentKey, Kind};
use feed::operation::OperationMessage;
use feed::state::{Content, DocumentState, OperationId, Origin, PlaylistRef, Refs, State, Version};
use feed_store::{FeedStore, Outcome};
use proto::client::StorageClient;
use runtime::clock::Clock;
use storage_svc::{Store, StoreArgs, Sync};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tonic::service::Routes;

/// When everything was created.
pub(crate) const NOW_MS: i64 = 1_748_970_060_000;

/// Who does something before a call of this name is passed on, and says when it is done.
type Before = Arc<Mutex<Option<(&'static str, mpsc::Sender<oneshot::Sender<()>>)>>>;

/// A store over a temporary folder.
pub(crate) struct TestStore {
    /// What is tested: each of its calls can be waited for.
    pub(crate) documents: FeedStore,
    /// The same store, for what happens besides.
    pub(crate) aside: FeedStore,
    before: Before,
    _folder: TempDir,
}

impl TestStore {
    pub(crate) fn open() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let args = StoreArgs {
            storage_sync: Sync::Normal,
            ..StoreArgs::at(folder.path().join("store.db"))
        };
        let store = Store::open(&args, Clock::manual(NOW_MS)).expect("the store opens");
        let before = Before::default();
        let waits = Arc::clone(&before);
        let watch = from_fn(move |request: Request, next: Next| pass(Arc::clone(&waits), request, next));
        let watched = storage_svc::routes(&store).into_axum_router().layer(watch);
        Self {
            documents: FeedStore::new(StorageClient::in_process(Routes::from(watched))),
            aside: FeedStore::new(StorageClient::in_process(storage_svc::routes(&store))),
            before,
            _folder: folder,
        }
    }

    /// Does `work`, and before each of its `BatchGet` calls lets `act` happen, which is told how many there were; answers
    /// how many there were in all.
    pub(crate) async fn before_each_batch<T>(
        &self,
        act: impl AsyncFnMut(usize),
        work: impl Future<Output = T>,
    ) -> (T, usize) {
        self.before_each("BatchGet", act, work).await
    }

    /// The same for calls of another name.
    pub(crate) async fn before_each<T>(
        &self,
        call: &'static str,
        mut act: impl AsyncFnMut(usize),
        work: impl Future<Output = T>,
    ) -> (T, usize) {
        let (before, mut calls) = mpsc::channel::<oneshot::Sender<()>>(1);
        *self.before.lock().expect("nobody panics with the lock") = Some((call, before));
        let mut count = 0;
        let acting = async {
            while let Some(done) = calls.recv().await {
                act(count).await;
                count += 1;
                done.send(()).expect("the call waits");
            }
            unreachable!("the sender is kept until the work is done")
        };
        let worked = tokio::select! {
            worked = work => worked,
            never = acting => never,
        };
        *self.before.lock().expect("nobody panics with the lock") = None;
        (worked, count)
    }

    /// Does `work`, and counts its `BatchGet` calls.
    pub(crate) async fn counted<T>(&self, work: impl Future<Output = T>) -> (T, usize) {
        self.before_each_batch(async |_| {}, work).await
    }

    /// Commits what must not conflict.
    pub(crate) async fn commit(&self, commit: Commit) {
        let outcome = self.aside.commit(commit, Vec::new()).await.expect("the store is there");
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    }

    /// Makes these versions the applied ones.
    pub(crate) async fn put(&self, versions: &[Version]) {
        for version in versions {
            let before = self.state(version.key()).await;
            let mut commit = Commit::default();
            apply(version, before.applied.as_ref(), &mut commit);
            self.commit(commit).await;
        }
    }

    /// Leaves these versions to an operation, one at a time, so that they may be more than one commit takes.
    pub(crate) async fn queue(&self, operation: OperationId, versions: &[Version]) -> Vec<DocumentKey> {
        for version in versions {
            let key = version.key();
            let mut state = State::default();
            state.documents.insert(key, self.state(key).await);
            // Which write it was is of no account here, as long as it names no playlist and deletes none.
            let write = Write::DeleteChannel(key.id);
            let mut commit = commit_queued(std::slice::from_ref(version), &write, &state, operation, NOW_MS);
            let message = commit.message.take().expect("a queued write has a message");
            assert_eq!(OperationMessage::parse(&message).expect("our own").operation, operation);
            self.commit(commit).await;
        }
        versions.iter().map(Version::key).collect()
    }

    /// Applies what an operation owns of these documents.
    pub(crate) async fn apply(&self, operation: OperationId, documents: &[DocumentKey]) {
        let (commit, _) = self
            .aside
            .owned_changes(operation, documents)
            .await
            .expect("the store is there");
        self.commit(commit).await;
    }

    async fn state(&self, key: DocumentKey) -> DocumentState {
        let mut states = self.aside.documents(&[key]).await.expect("the store is there");
        states.remove(&key).expect("asked for")
    }
}

async fn pass(before: Before, request: Request, next: Next) -> Response {
    let listener = before.lock().expect("nobody panics with the lock").clone();
    if let Some((_, listener)) = listener.filter(|(call, _)| request.uri().path().rsplit('/').next() == Some(*call)) {
        let (done, is_done) = oneshot::channel();
        listener.send(done).await.expect("somebody listens");
        is_done.await.expect("it is answered");
    }
    next.run(request).await
}

pub(crate) fn id() -> DocumentId {
    DocumentId::random(&mut rand::rng())
}

pub(crate) fn operation() -> OperationId {
    id().uuid()
}

/// A channel over so many playlists, its text of exactly so many bytes; fewer than it needs are not possible.
pub(crate) fn channel(id: DocumentId, playlists: usize, bytes: usize) -> Version {
    let playlists: Vec<_> = (0..playlists).map(|_| self::id()).collect();
    channel_over(id, &playlists, bytes)
}

/// The same over these playlists.
pub(crate) fn channel_over(id: DocumentId, playlists: &[DocumentId], bytes: usize) -> Version {
    let urls = vec![r#""https://feed.test/playlists/x""#; playlists.len()].join(",");
    let refs = playlists.iter().map(|playlist| {
        Some(PlaylistRef {
            id: *playlist,
            created_ms: Some(NOW_MS),
        })
    });
    version(
        Kind::Channel,
        id,
        &format!(r#""playlists":[{urls}]"#),
        refs.collect(),
        bytes,
    )
}

/// A playlist without items, as small as one can be.
pub(crate) fn playlist(id: DocumentId) -> Version {
    version(Kind::Playlist, id, r#""items":[]"#, Vec::new(), 0)
}

fn version(kind: Kind, id: DocumentId, members: &str, refs: Vec<Option<PlaylistRef>>, bytes: usize) -> Version {
    let text = |padding: usize| {
        let padding = "x".repeat(padding);
        format!(
            r#"{{"id":"{id}","slug":"s-{id}","created":"2025-06-03T17:01:00.000Z",{members},"padding":"{padding}"}}"#
        )
    };
    let text = text(bytes.saturating_sub(text(0).len()));
    assert!(bytes == 0 || text.len() == bytes, "a text of {} bytes", text.len());
    Version::Put(Content {
        document: Document::parse(kind, text).expect("a document"),
        refs: Refs(refs),
        origin: Origin::Feed,
    })
}
