//! Keys in memory, with the rules of a commit.

use std::collections::{BTreeMap, HashMap};

use feed::accept::Write;
use feed::commit::{Change, Check, Commit, Expect};
use feed::id::{DocumentId, DocumentKey, Kind};
use feed::keys::{self, Key};
use feed::record::{Record, accepted_playlist, document_keys, document_state};
use feed::state::{DocumentState, Resolved, State};

#[derive(Clone, Default)]
pub(crate) struct Store {
    pub(crate) rows: BTreeMap<Key, Record>,
    revision: u64,
}

/// What a plan was made of: revisions of keys, 0 for one that was not there, and of all keys of a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    keys: BTreeMap<Key, u64>,
    prefixes: BTreeMap<Key, BTreeMap<Key, u64>>,
}

impl Observed {
    /// The written document; of a create that its slug is free, of a write that names playlists the last deletion of
    /// one, of a deletion the channels that refer to the playlist and what they are.
    pub(crate) fn by_write(store: &Store, write: &Write, state: &State) -> Self {
        let mut observed = Self::default();
        for document in state.documents.keys() {
            observed.document(store, *document);
        }
        if let Write::CreatePlaylist { slug, .. } | Write::CreateChannel { slug, .. } = write {
            // Drawn as free, whatever is there.
            observed.keys.insert(keys::slug(write.key().kind, slug), 0);
        }
        if !write.playlist_urls().is_empty() {
            observed.key(store, keys::playlist_deleted());
        }
        if let Write::DeletePlaylist(id) = write {
            let prefix = keys::links(*id);
            observed.prefixes.insert(prefix.clone(), store.under(&prefix));
        }
        observed
    }

    /// A document that is to be applied.
    pub(crate) fn document(&mut self, store: &Store, document: DocumentKey) {
        self.key(store, keys::document(document));
        self.key(store, keys::pending(document));
    }

    fn key(&mut self, store: &Store, key: Key) {
        let revision = store.revision_of(&key);
        self.keys.insert(key, revision);
    }

    pub(crate) fn still_holds(&self, store: &Store) -> bool {
        self.keys
            .iter()
            .all(|(key, revision)| store.revision_of(key) == *revision)
            && self.prefixes.iter().all(|(prefix, rows)| store.under(prefix) == *rows)
    }
}

impl Store {
    /// All of it, if every check holds; else nothing.
    pub(crate) fn commit(&mut self, commit: &Commit) -> bool {
        let holds = commit.checks.iter().all(|check| self.holds(check));
        if holds {
            self.revision += 1;
            for (key, change) in &commit.changes {
                self.change(key, change);
            }
        }
        holds
    }

    pub(crate) fn holds(&self, check: &Check) -> bool {
        match check.expect {
            Expect::Revision(revision) => self.revision_of(&check.key) == revision,
            Expect::PrefixUnchangedSince(revision) => self.under(&check.key).values().all(|row| *row <= revision),
        }
    }

    fn change(&mut self, key: &Key, change: &Change) {
        match change {
            Change::Put { text, metadata, .. } => {
                let metadata: HashMap<_, _> = metadata
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect();
                let record = Record {
                    text: text.clone(),
                    metadata,
                    revision: self.revision,
                };
                self.rows.insert(key.clone(), record);
            }
            Change::Delete => {
                self.rows.remove(key);
            }
        }
    }

    /// Gives what a key holds, if anything, a new revision.
    pub(crate) fn rewrite(&mut self, key: &Key) {
        self.revision += 1;
        if let Some(row) = self.rows.get_mut(key) {
            row.revision = self.revision;
        }
    }

    pub(crate) fn document(&self, key: DocumentKey) -> DocumentState {
        let records = document_keys(key).map(|key| self.rows.get(&key).cloned());
        document_state(key, records).expect("what was written reads back")
    }

    /// What a write is judged on.
    pub(crate) fn state(&self, write: &Write) -> State {
        let key = write.key();
        let mut state = State {
            links_revision: self.revision,
            playlist_deleted_revision: self.revision_of(&keys::playlist_deleted()),
            ..State::default()
        };
        state.documents.insert(key, self.document(key));
        if let Write::DeletePlaylist(id) = write {
            let prefix = keys::links(*id);
            for link in self.under(&prefix).keys() {
                let channel = link.key.strip_prefix(&prefix.key).expect("it is under the prefix");
                let channel = DocumentKey {
                    kind: Kind::Channel,
                    id: channel.parse().expect("a channel's id"),
                };
                state.documents.insert(channel, self.document(channel));
            }
        }
        state.resolved = write.playlist_urls().iter().map(|url| self.resolve(url)).collect();
        state
    }

    fn resolve(&self, url: &str) -> Resolved {
        let id: DocumentId = url
            .rsplit('/')
            .next()
            .and_then(|id| id.parse().ok())
            .expect("a playlist's URL");
        let playlist = DocumentKey {
            kind: Kind::Playlist,
            id,
        };
        let row = |key| self.rows.get(&key).cloned();
        let found = accepted_playlist(id, row(keys::document(playlist)), row(keys::pending(playlist)));
        let found = found.expect("what was written reads back");
        found.map_or(Resolved::Unknown, Resolved::Playlist)
    }

    fn revision_of(&self, key: &Key) -> u64 {
        self.rows.get(key).map_or(0, |row| row.revision)
    }

    /// The keys that begin with the prefix, and their revisions.
    fn under(&self, prefix: &Key) -> BTreeMap<Key, u64> {
        let rows = self
            .rows
            .iter()
            .filter(|(key, _)| key.namespace == prefix.namespace && key.key.starts_with(&prefix.key));
        rows.map(|(key, row)| (key.clone(), row.revision)).collect()
    }
}
