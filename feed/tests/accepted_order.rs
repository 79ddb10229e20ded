//! Whatever is accepted takes effect once, in the order it was accepted, however its messages are delivered: random
//! histories of writes and deliveries over `accept` and `apply` themselves, against a store that keeps keys in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use feed::accept::{Refusal, Write, accept, commit_applied, commit_queued};
use feed::apply::apply_owned;
use feed::commit::{Change, Commit, Expect};
use feed::document::Stamp;
use feed::id::{DocumentId, DocumentKey, Kind};
use feed::keys::{self, Key};
use feed::operation::OperationMessage;
use feed::record::{Record, accepted_playlist, document_keys, document_state};
use feed::sign::Signer;
use feed::slug;
use feed::state::{DocumentState, Resolved, State, Version};
use feed::validate::{ChannelDraft, ChannelPatch, PlaylistDraft, PlaylistPatch};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PLAYLISTS: usize = 2;

/// Keys in memory, with the rules of a commit.
#[derive(Default)]
struct Store {
    rows: BTreeMap<Key, Record>,
    revision: u64,
}

impl Store {
    fn commit(&mut self, commit: &Commit) -> bool {
        let holds = commit.checks.iter().all(|check| match check.expect {
            Expect::Revision(revision) => self.rows.get(&check.key).map_or(0, |row| row.revision) == revision,
            Expect::PrefixUnchangedSince(revision) => !self.rows.iter().any(|(key, row)| {
                key.namespace == check.key.namespace && key.key.starts_with(&check.key.key) && row.revision > revision
            }),
        });
        if holds {
            self.revision += 1;
            for (key, change) in &commit.changes {
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
        }
        holds
    }

    fn document(&self, key: DocumentKey) -> DocumentState {
        let records = document_keys(key).map(|key| self.rows.get(&key).cloned());
        document_state(key, records).expect("what was written reads back")
    }

    fn state(&self, write: &Write) -> State {
        let key = write.key();
        let mut state = State {
            links_revision: self.revision,
            ..State::default()
        };
        state.documents.insert(key, self.document(key));
        if let Write::DeletePlaylist(id) = write {
            for channel in self.under(&keys::links(*id)) {
                let channel = DocumentKey {
                    kind: Kind::Channel,
                    id: channel.parse().expect("a channel's id"),
                };
                state.documents.insert(channel, self.document(channel));
            }
        }
        state.playlist_deleted_revision = self.rows.get(&keys::playlist_deleted()).map_or(0, |row| row.revision);
        state.resolved = write.playlist_urls().iter().map(|url| self.resolve(url)).collect();
        state
    }

    fn resolve(&self, url: &str) -> Resolved {
        let id: DocumentId = url
            .rsplit('/')
            .next()
            .and_then(|id| id.parse().ok())
            .expect("a playlist's URL");
        let [applied, pending, ..] = document_keys(DocumentKey {
            kind: Kind::Playlist,
            id,
        })
        .map(|key| self.rows.get(&key).cloned());
        let found = accepted_playlist(id, applied, pending).expect("what was written reads back");
        found.map_or(Resolved::Unknown, Resolved::Playlist)
    }

    /// What follows the prefix in the keys that begin with it.
    fn under(&self, prefix: &Key) -> Vec<String> {
        let keys = self.rows.keys().filter(|key| key.namespace == prefix.namespace);
        keys.filter_map(|key| key.key.strip_prefix(&prefix.key).map(str::to_owned))
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        kind: Kind,
        target: usize,
        verb: Verb,
        queued: bool,
        links: Vec<usize>,
    },
    /// Deliver one of the messages sent so far, which may have been delivered before.
    Deliver(usize),
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Create,
    Replace,
    Patch,
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let verb = prop_oneof![
        3 => Just(Verb::Create),
        2 => Just(Verb::Replace),
        2 => Just(Verb::Patch),
        1 => Just(Verb::Delete)
    ];
    let kind = prop_oneof![Just(Kind::Playlist), Just(Kind::Channel)];
    let write = (
        kind,
        0..2_usize,
        verb,
        any::<bool>(),
        prop::collection::vec(0..PLAYLISTS, 1..4),
    );
    prop_oneof![
        3 => write.prop_map(|(kind, target, verb, queued, links)| Step::Write { kind, target, verb, queued, links }),
        2 => (0..20_usize).prop_map(Step::Deliver),
    ]
}

/// The feed as its clients see it, and what was accepted last of each document.
struct History {
    store: Store,
    rng: StdRng,
    signer: Signer,
    now_ms: i64,
    messages: Vec<OperationMessage>,
    ids: HashMap<(Kind, usize), DocumentId>,
    accepted: BTreeMap<DocumentKey, Version>,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            store: Store::default(),
            rng: StdRng::seed_from_u64(seed),
            signer: Signer::from_hex(SEED).expect("a key"),
            now_ms: 1_748_970_060_000,
            messages: Vec::new(),
            ids: HashMap::new(),
            accepted: BTreeMap::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        self.now_ms += 7;
        match step {
            Step::Write {
                kind,
                target,
                verb,
                queued,
                links,
            } => {
                if let Some(write) = self.write(*kind, *target, *verb, links) {
                    self.accept(&write, *queued);
                }
            }
            Step::Deliver(index) if !self.messages.is_empty() => self.deliver(index % self.messages.len()),
            Step::Deliver(_) => {}
        }
    }

    fn write(&mut self, kind: Kind, target: usize, verb: Verb, links: &[usize]) -> Option<Write> {
        let title = format!("{kind} {target} at {}", self.now_ms);
        let urls: Vec<_> = links
            .iter()
            .filter_map(|index| self.ids.get(&(Kind::Playlist, *index)))
            .map(|id| format!("https://feed.example.com/api/v1/playlists/{id}"))
            .collect();
        let playlist = json!({"dpVersion": "1.1.0", "title": title,
            "items": [{"source": "https://example.com/a", "duration": 1, "license": "open"},
                      {"source": "https://example.com/b", "duration": 2, "license": "open"}]});
        let channel = json!({"title": title, "playlists": urls});
        let object = |value: Value| value.as_object().cloned().expect("an object");
        if let Verb::Create = verb {
            if kind == Kind::Channel && urls.is_empty() {
                return None;
            }
            let id = DocumentId::random(&mut self.rng);
            self.ids.insert((kind, target), id);
            let slug = slug::draw(&slug::base(&title, kind), &mut self.rng);
            return Some(match kind {
                Kind::Playlist => Write::CreatePlaylist {
                    id,
                    slug,
                    draft: PlaylistDraft::parse(playlist).expect("valid"),
                },
                Kind::Channel => Write::CreateChannel {
                    id,
                    slug,
                    draft: ChannelDraft::parse(channel).expect("valid"),
                },
            });
        }
        let id = *self.ids.get(&(kind, target))?;
        match (kind, verb) {
            (Kind::Playlist, Verb::Replace) => Some(Write::ReplacePlaylist(
                id,
                PlaylistDraft::parse(playlist).expect("valid"),
            )),
            (Kind::Playlist, Verb::Patch) => {
                let patch = PlaylistPatch::parse(object(json!({"summary": title}))).expect("valid");
                Some(Write::PatchPlaylist(id, patch))
            }
            (Kind::Playlist, Verb::Delete) => Some(Write::DeletePlaylist(id)),
            (Kind::Channel, Verb::Replace) if !urls.is_empty() => {
                Some(Write::ReplaceChannel(id, ChannelDraft::parse(channel).expect("valid")))
            }
            (Kind::Channel, Verb::Patch) => {
                let patch = if urls.is_empty() {
                    json!({"summary": title})
                } else {
                    json!({"playlists": urls})
                };
                Some(Write::PatchChannel(
                    id,
                    ChannelPatch::parse(object(patch)).expect("valid"),
                ))
            }
            (Kind::Channel, Verb::Delete) => Some(Write::DeleteChannel(id)),
            _ => None,
        }
    }

    fn accept(&mut self, write: &Write, queued: bool) {
        let state = self.store.state(write);
        let mut stamp = Stamp {
            now_ms: self.now_ms,
            signer: &self.signer,
            rng: &mut self.rng,
        };
        let versions = match accept(write, &state, &mut stamp) {
            Ok(versions) => versions,
            Err(Refusal::NotFound | Refusal::UnknownPlaylist(_)) => return,
            Err(other) => panic!("{other}"),
        };
        let commit = if queued {
            let operation = DocumentId::random(&mut self.rng).uuid();
            commit_queued(&versions, write, &state, operation, self.now_ms)
        } else {
            commit_applied(&versions, write, &state)
        };
        assert!(self.store.commit(&commit), "nothing else was going on");
        self.messages.extend(
            commit
                .message
                .map(|text| OperationMessage::parse(&text).expect("our own message")),
        );
        self.accepted
            .extend(versions.into_iter().map(|version| (version.key(), version)));
    }

    fn deliver(&mut self, index: usize) {
        let message = &self.messages[index];
        let documents = message
            .documents
            .iter()
            .map(|key| (*key, self.store.document(*key)))
            .collect();
        let (commit, _) = apply_owned(message.operation, &documents);
        assert!(self.store.commit(&commit), "nothing else was going on");
    }

    /// Once everything was delivered, what reads see is what was accepted last, and the indexes say so too.
    fn settle_and_check(&mut self) {
        for index in (0..self.messages.len()).rev() {
            self.deliver(index);
        }
        assert_eq!(
            self.store
                .rows
                .keys()
                .filter(|key| key.namespace == keys::PENDING)
                .count(),
            0
        );
        let mut expected: BTreeMap<Key, String> = BTreeMap::new();
        let mut links = BTreeSet::new();
        for (key, version) in &self.accepted {
            let applied = self.store.document(*key).applied;
            let Some(content) = version.content() else {
                assert!(applied.is_none(), "{key} was deleted and is there");
                continue;
            };
            let applied = applied.unwrap_or_else(|| panic!("{key} was accepted and is not there"));
            assert_eq!(
                applied.document.text, content.document.text,
                "{key} is not the version accepted last"
            );
            assert_eq!(applied.refs, content.refs);
            expected.insert(keys::slug(key.kind, &content.document.slug), key.id.to_string());
            for reference in content.refs.playlists() {
                links.insert(keys::link(reference.id, key.id));
                let member = keys::member(key.id, reference.created_ms, reference.id).expect("a listed time");
                expected.insert(member, keys::document_record(reference.id));
            }
            expected.insert(
                keys::created(key.kind, content.document.created_ms, key.id).expect("a listed time"),
                keys::document_record(key.id),
            );
            for (position, item) in content.document.items.iter().enumerate() {
                let place = format!("{}/{position}", key.id);
                expected.insert(keys::item(item.id), place.clone());
                expected.insert(
                    keys::item_created(item.created_ms, item.id).expect("a listed time"),
                    place,
                );
            }
        }
        let found: BTreeMap<Key, String> = self
            .store
            .rows
            .iter()
            .filter(|(key, _)| {
                ["slug/", "created/", "member/"]
                    .iter()
                    .any(|prefix| key.key.starts_with(prefix))
                    || (key.namespace == keys::PLAYLIST_ITEMS && key.key.starts_with("id/"))
            })
            .map(|(key, row)| (key.clone(), row.text.clone()))
            .collect();
        assert_eq!(found, expected, "the indexes are those of the documents");
        let found: BTreeSet<_> = self
            .store
            .rows
            .keys()
            .filter(|key| key.key.starts_with("of/"))
            .cloned()
            .collect();
        assert_eq!(found, links, "the links are those of the channels");
        for channel in self.accepted.values().filter_map(Version::content) {
            for reference in channel.refs.ids() {
                let playlist = DocumentKey {
                    kind: Kind::Playlist,
                    id: reference,
                };
                assert!(
                    self.store.document(playlist).applied.is_some(),
                    "a channel refers to a deleted playlist"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_was_accepted_last_is_what_is_there_in_the_end(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut history = History::new(seed);
        for step in &steps {
            history.run(step);
        }
        history.settle_and_check();
    }
}
