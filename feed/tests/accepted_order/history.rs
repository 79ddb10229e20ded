//! What is done to a feed, one act after another, some of them on what others have changed since it was read.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use feed::accept::{Refusal, Write, accept, commit_applied, commit_queued};
use feed::apply::{Tally, apply_owned};
use feed::commit::Commit;
use feed::document::Stamp;
use feed::id::{DocumentId, DocumentKey, Kind, Slug};
use feed::keys;
use feed::operation::OperationMessage;
use feed::sign::Signer;
use feed::slug;
use feed::state::Version;
use feed::validate::{ChannelDraft, ChannelPatch, PlaylistDraft, PlaylistPatch};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::model::{Effect, Expected, Model};
use crate::settled;
use crate::store::{Observed, Store};

const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const BEGAN_MS: i64 = 1_748_970_060_000;

#[derive(Clone, Debug)]
pub(crate) enum Act {
    Write {
        kind: Kind,
        target: usize,
        verb: Verb,
        queued: bool,
        /// The playlists that a channel is to name.
        links: Vec<usize>,
    },
    /// Deliver one of the messages sent so far, which may have been delivered before.
    Deliver(usize),
    /// Write the applied document once more as it is, as a hand that mends something does. Whoever read it has read what
    /// is not there any more.
    Rewrite(Kind, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Create,
    Replace,
    PatchTitle,
    /// The summary of a playlist, the playlists of a channel.
    PatchOther,
    Delete,
}

/// An act, and what it takes to do it again.
pub(crate) enum Intent {
    Write { write: Write, effect: Effect, queued: bool },
    Deliver(OperationMessage),
}

/// What an act comes to, if nothing of what it was made of has changed.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) commit: Commit,
    observed: Observed,
    /// What a write is accepted as.
    pub(crate) versions: Vec<Version>,
    /// What a delivery comes to.
    pub(crate) tally: Tally,
}

/// The feed, what its clients know of it, and what was accepted last of each document.
#[derive(Clone)]
pub(crate) struct History {
    pub(crate) store: Store,
    pub(crate) model: Model,
    rng: SmallRng,
    signer: Rc<Signer>,
    now_ms: i64,
    pub(crate) messages: Vec<OperationMessage>,
    ids: HashMap<(Kind, usize), DocumentId>,
    pub(crate) accepted: BTreeMap<DocumentKey, Version>,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            store: Store::default(),
            model: Model::default(),
            rng: SmallRng::seed_from_u64(seed),
            signer: Rc::new(Signer::from_hex(SEED).expect("a key")),
            now_ms: BEGAN_MS,
            messages: Vec::new(),
            ids: HashMap::new(),
            accepted: BTreeMap::new(),
        }
    }

    /// Plans an act, lets others happen, and commits: that succeeds exactly if what was read is as it was. Otherwise the
    /// act is planned anew on what is there now. How often something was planned anew.
    pub(crate) fn perform(&mut self, act: &Act, faster: &[Act]) -> usize {
        self.now_ms += 7;
        let Some(mut intent) = self.intent(act) else { return 0 };
        let Some(plan) = self.plan(&intent) else { return 0 };
        let mut again: usize = faster.iter().map(|act| self.perform(act, &[])).sum();
        let mut is_done = self.attempt(plan, &intent);
        while !is_done {
            again += 1;
            if let Intent::Write { write, .. } = &mut intent {
                self.draw_again_if_taken(write);
            }
            let Some(plan) = self.plan(&intent) else { return again };
            is_done = self.attempt(plan, &intent);
        }
        again
    }

    /// Makes what comes next depend on the number of the write and on nothing that happened before it.
    pub(crate) fn begin_write(&mut self, number: usize) {
        let number = u8::try_from(number).expect("a history is short");
        self.rng = SmallRng::seed_from_u64(u64::from(number));
        self.now_ms = BEGAN_MS + i64::from(number);
    }

    /// Whether there was such a document at some time.
    pub(crate) fn was_created(&self, kind: Kind, target: usize) -> bool {
        self.ids.contains_key(&(kind, target))
    }

    pub(crate) fn intent(&mut self, act: &Act) -> Option<Intent> {
        match act {
            Act::Write {
                kind,
                target,
                verb,
                queued,
                links,
            } => {
                let (write, effect) = self.write(*kind, *target, *verb, links)?;
                Some(Intent::Write {
                    write,
                    effect,
                    queued: *queued,
                })
            }
            Act::Rewrite(kind, target) => {
                if let Some(id) = self.ids.get(&(*kind, *target)) {
                    self.store
                        .rewrite(&keys::document(DocumentKey { kind: *kind, id: *id }));
                }
                None
            }
            Act::Deliver(_) if self.messages.is_empty() => None,
            Act::Deliver(index) => Some(Intent::Deliver(self.messages[index % self.messages.len()].clone())),
        }
    }

    fn write(&mut self, kind: Kind, target: usize, verb: Verb, links: &[usize]) -> Option<(Write, Effect)> {
        let title = format!("{kind} {target} at {}", self.now_ms);
        let names: Vec<_> = links
            .iter()
            .filter_map(|index| self.ids.get(&(Kind::Playlist, *index)).copied())
            .collect();
        let urls: Vec<_> = names
            .iter()
            .map(|id| format!("https://feed.example.com/api/v1/playlists/{id}"))
            .collect();
        let draft = || {
            PlaylistDraft::parse(json!({"dpVersion": "1.1.0", "title": title,
                "items": [{"source": "https://example.com/a", "duration": 1, "license": "open"},
                          {"source": "https://example.com/b", "duration": 2, "license": "open"}]}))
            .expect("valid")
        };
        let channel_draft = || ChannelDraft::parse(json!({"title": title, "playlists": urls})).expect("valid");
        let object = |value: Value| value.as_object().cloned().expect("an object");
        if kind == Kind::Channel && urls.is_empty() && !matches!(verb, Verb::PatchTitle | Verb::Delete) {
            return None;
        }
        let whole = Expected {
            title: title.clone(),
            summary: None,
            playlists: if kind == Kind::Channel {
                names.clone()
            } else {
                Vec::new()
            },
        };
        if let Verb::Create = verb {
            let id = DocumentId::random(&mut self.rng);
            self.ids.insert((kind, target), id);
            // All draw from the few numbers that begin a base, so that they meet.
            let slug = slug::numbered(kind.as_str(), *slug::NUMBERS.start());
            let mut write = match kind {
                Kind::Playlist => Write::CreatePlaylist {
                    id,
                    slug,
                    draft: draft(),
                },
                Kind::Channel => Write::CreateChannel {
                    id,
                    slug,
                    draft: channel_draft(),
                },
            };
            self.draw_again_if_taken(&mut write);
            return Some((write, Effect::Create(whole)));
        }
        let id = *self.ids.get(&(kind, target))?;
        Some(match (kind, verb) {
            (_, Verb::Create) => unreachable!("made above"),
            (Kind::Playlist, Verb::Replace) => (Write::ReplacePlaylist(id, draft()), Effect::Replace(whole)),
            (Kind::Channel, Verb::Replace) => (Write::ReplaceChannel(id, channel_draft()), Effect::Replace(whole)),
            (Kind::Playlist, Verb::PatchTitle) => {
                let patch = PlaylistPatch::parse(object(json!({ "title": title }))).expect("valid");
                (Write::PatchPlaylist(id, patch), Effect::Title(title))
            }
            (Kind::Playlist, Verb::PatchOther) => {
                let patch = PlaylistPatch::parse(object(json!({ "summary": title }))).expect("valid");
                (Write::PatchPlaylist(id, patch), Effect::Summary(title))
            }
            (Kind::Channel, Verb::PatchTitle) => {
                let patch = ChannelPatch::parse(object(json!({ "title": title }))).expect("valid");
                (Write::PatchChannel(id, patch), Effect::Title(title))
            }
            (Kind::Channel, Verb::PatchOther) => {
                let patch = ChannelPatch::parse(object(json!({ "playlists": urls }))).expect("valid");
                (Write::PatchChannel(id, patch), Effect::Playlists(names))
            }
            (Kind::Playlist, Verb::Delete) => (Write::DeletePlaylist(id), Effect::Delete),
            (Kind::Channel, Verb::Delete) => (Write::DeleteChannel(id), Effect::Delete),
        })
    }

    /// Gives a create the first number that is free now.
    fn draw_again_if_taken(&self, write: &mut Write) {
        let kind = write.key().kind;
        if let Write::CreatePlaylist { slug, .. } | Write::CreateChannel { slug, .. } = write {
            let is_free = |slug: &Slug| !self.store.rows.contains_key(&keys::slug(kind, slug));
            let mut drawn = slug::NUMBERS.map(|number| slug::numbered(kind.as_str(), number));
            *slug = drawn.find(is_free).expect("a history is short");
        }
    }

    /// None if it is refused, which only happens when it should be.
    pub(crate) fn plan(&mut self, intent: &Intent) -> Option<Plan> {
        match intent {
            Intent::Write { write, effect, queued } => self.plan_write(write, effect, *queued),
            Intent::Deliver(message) => Some(self.plan_delivery(message)),
        }
    }

    fn plan_write(&mut self, write: &Write, effect: &Effect, queued: bool) -> Option<Plan> {
        let state = self.store.state(write);
        let mut stamp = Stamp {
            now_ms: self.now_ms,
            signer: &self.signer,
            rng: &mut self.rng,
        };
        let accepted = accept(write, &state, &mut stamp);
        let may_be = self.model.accepts(write.key(), effect);
        let versions = match accepted {
            Ok(versions) => versions,
            Err(Refusal::NotFound | Refusal::UnknownPlaylist(_)) => {
                assert!(!may_be, "{effect:?} was refused");
                return None;
            }
            Err(other) => panic!("{other}"),
        };
        assert!(may_be, "{effect:?} was accepted");
        let commit = if queued {
            let operation = DocumentId::random(&mut self.rng).uuid();
            commit_queued(&versions, write, &state, operation, self.now_ms)
        } else {
            commit_applied(&versions, write, &state)
        };
        Some(Plan {
            commit,
            observed: Observed::by_write(&self.store, write, &state),
            versions,
            tally: Tally::default(),
        })
    }

    pub(crate) fn plan_delivery(&self, message: &OperationMessage) -> Plan {
        let documents = message.documents.iter().map(|key| (*key, self.store.document(*key)));
        let documents: BTreeMap<_, _> = documents.collect();
        let mut observed = Observed::default();
        for (key, state) in &documents {
            // What it does not own it leaves alone, whatever becomes of it.
            if state
                .pending
                .as_ref()
                .is_some_and(|pending| pending.operation == message.operation)
            {
                observed.document(&self.store, *key);
            }
        }
        let (commit, tally) = apply_owned(message.operation, &documents);
        Plan {
            commit,
            observed,
            versions: Vec::new(),
            tally,
        }
    }

    /// Whether it happened.
    pub(crate) fn attempt(&mut self, plan: Plan, intent: &Intent) -> bool {
        let still_holds = plan.observed.still_holds(&self.store);
        let is_committed = self.store.commit(&plan.commit);
        assert_eq!(
            is_committed, still_holds,
            "it is committed exactly if what it was planned on is still so: {:?}",
            plan.observed
        );
        if is_committed {
            let message = plan.commit.message.as_deref().map(OperationMessage::parse);
            self.messages.extend(message.map(|message| message.expect("our own")));
            self.accepted
                .extend(plan.versions.into_iter().map(|version| (version.key(), version)));
            if let Intent::Write { write, effect, .. } = intent {
                self.model.accept(write.key(), effect.clone());
            }
        }
        is_committed
    }

    /// Once everything was delivered, what reads see is what was accepted, and the indexes say so too.
    pub(crate) fn settle_and_check(&mut self) {
        for index in (0..self.messages.len()).rev() {
            self.perform(&Act::Deliver(index), &[]);
        }
        settled::check(&self.store, &self.model, &self.accepted);
    }
}
