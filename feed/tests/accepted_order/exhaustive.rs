//! Every history of a few writes, not some of them: each write applied at once or queued, and between any two of them any
//! of the messages delivered, in any order, to consumers of which one may read and be slow to commit, or never do.
//!
//! Histories that have come to the same state go on alike, so each state is looked at once, and histories are counted
//! by the ways that lead through states. A message that is delivered and dropped, or delivered once more after it was
//! settled, must leave the state as it is: that is asserted at each, and makes histories with any number of such
//! deliveries the same as one without.

use std::collections::{BTreeMap, HashMap};

use feed::apply::Tally;
use feed::id::{DocumentKey, Kind};
use sha2::{Digest as _, Sha256};

use crate::history::{Act, History, Intent, Plan, Verb};
use crate::settled;

/// How consumers work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Each commits before anything else happens.
    Quick,
    /// One of them may take its time between reading and committing.
    Slow,
}

/// What a search is about.
struct Search {
    /// Most writes of a history.
    length_max: usize,
    pace: Pace,
    /// The writes to choose from, each in either form; all are of one playlist and of one channel over it.
    writes: &'static [(Kind, Verb)],
    /// How many histories lead from a state to an end: the states seen so far, by what they hold.
    ends: HashMap<[u8; 32], u64>,
}

/// How much was looked at; asserted as it is, so that a search cannot shrink unseen.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    /// Histories that end with everything delivered.
    histories: u64,
    /// Different states that they go through.
    states: usize,
}

/// A feed, and what is known of it without a look at what is stored.
#[derive(Clone)]
struct State {
    history: History,
    writes: usize,
    /// Each document's accepted versions in order; none: a deletion.
    versions: BTreeMap<DocumentKey, Vec<Option<String>>>,
    /// How many of them had been accepted when the one that reads see was.
    applied: BTreeMap<DocumentKey, usize>,
    /// Which message's operation was accepted last of a document, if that was queued and is not applied.
    owners: BTreeMap<DocumentKey, usize>,
    /// Which of the messages sent are done with.
    settled: Vec<bool>,
    /// What a slow consumer is about to commit, and for which message.
    held: Option<(usize, Plan)>,
}

impl Search {
    fn run(length_max: usize, pace: Pace, writes: &'static [(Kind, Verb)]) -> Figures {
        let mut search = Self {
            length_max,
            pace,
            writes,
            ends: HashMap::new(),
        };
        let histories = search.ends_of(&State::new());
        Figures {
            histories,
            states: search.ends.len(),
        }
    }

    /// How many histories go on from here, this one included if it can end here.
    fn ends_of(&mut self, state: &State) -> u64 {
        let hash = state.hash();
        if let Some(known) = self.ends.get(&hash) {
            return *known;
        }
        state.check();
        let mut ends = u64::from(state.is_settled());
        for next in self.steps(state) {
            ends += self.ends_of(&next);
        }
        self.ends.insert(hash, ends);
        ends
    }

    fn steps(&self, state: &State) -> Vec<State> {
        let mut next = Vec::new();
        if state.writes < self.length_max {
            let forms = self.writes.iter().flat_map(|write| [(write, false), (write, true)]);
            next.extend(forms.filter_map(|((kind, verb), queued)| state.write(*kind, *verb, queued)));
        }
        for (index, settled) in state.settled.iter().enumerate() {
            if !settled {
                next.push(state.deliver(index));
                if self.pace == Pace::Slow {
                    next.extend(state.hold(index));
                }
            }
        }
        next.extend(state.end_hold());
        next
    }
}

impl State {
    fn new() -> Self {
        Self {
            history: History::new(0),
            writes: 0,
            versions: BTreeMap::new(),
            applied: BTreeMap::new(),
            owners: BTreeMap::new(),
            settled: Vec::new(),
            held: None,
        }
    }

    /// None if there is no such write to make, or it is refused.
    fn write(&self, kind: Kind, verb: Verb, queued: bool) -> Option<Self> {
        if verb == Verb::Create && self.history.was_created(kind, 0) {
            return None;
        }
        let mut next = self.clone();
        // The same in whatever order other things happened, so that states can be the same.
        next.history.begin_write(self.writes);
        let links = if verb == Verb::PatchOther { vec![0, 0] } else { vec![0] };
        let intent = next.history.intent(&Act::Write {
            kind,
            target: 0,
            verb,
            queued,
            links,
        })?;
        let plan = next.history.plan(&intent)?;
        let versions = plan.versions.clone();
        assert!(
            next.history.attempt(plan, &intent),
            "nothing has changed since it was read"
        );
        next.writes += 1;
        let message = next.settled.len();
        if queued {
            next.settled.push(false);
        }
        for version in versions {
            let key = version.key();
            let text = version.content().map(|content| content.document.text.clone());
            let accepted = next.versions.entry(key).or_default();
            accepted.push(text);
            if queued {
                next.owners.insert(key, message);
            } else {
                next.owners.remove(&key);
                next.applied.insert(key, accepted.len());
            }
        }
        Some(next)
    }

    /// A message is delivered, and its consumer commits at once.
    fn deliver(&self, index: usize) -> Self {
        let plan = self.history.plan_delivery(&self.history.messages[index]);
        let mut next = self.clone();
        assert!(next.commit(index, plan), "nothing has changed since it was read");
        next
    }

    /// A message is delivered, and its consumer takes its time. One at a time is slow.
    fn hold(&self, index: usize) -> Option<Self> {
        if self.held.is_some() {
            return None;
        }
        let mut next = self.clone();
        next.held = Some((index, self.history.plan_delivery(&self.history.messages[index])));
        Some(next)
    }

    /// The slow consumer commits. If it lost, what it does next is to be delivered the message again.
    fn end_hold(&self) -> Option<Self> {
        let mut next = self.clone();
        let (index, plan) = next.held.take()?;
        if self.settled[index] {
            next.expect_no_effect(index, plan);
        } else {
            next.commit(index, plan);
        }
        Some(next)
    }

    /// Whether it happened: not if what it was made of has changed.
    fn commit(&mut self, index: usize, plan: Plan) -> bool {
        let message = self.history.messages[index].clone();
        let tally = plan.tally;
        if !self.history.attempt(plan, &Intent::Deliver(message.clone())) {
            return false;
        }
        let owned = message
            .documents
            .iter()
            .filter(|key| self.owners.get(key) == Some(&index));
        let owned: Vec<_> = owned.copied().collect();
        let expected = Tally {
            applied: owned.len(),
            superseded: message.documents.len() - owned.len(),
        };
        assert_eq!(
            tally, expected,
            "it applies what nothing newer was accepted of, and no more"
        );
        for key in &owned {
            self.owners.remove(key);
            self.applied.insert(*key, self.versions[key].len());
        }
        self.settled[index] = true;
        true
    }

    /// Somebody else has settled the message: nothing may come of this, even if nobody asked for the lease.
    fn expect_no_effect(&self, index: usize, plan: Plan) {
        let is_empty = plan.commit.changes.is_empty();
        let message = self.history.messages[index].clone();
        let is_committed = self.history.clone().attempt(plan, &Intent::Deliver(message));
        assert!(is_empty || !is_committed, "a settled message changed something");
    }

    fn is_settled(&self) -> bool {
        self.held.is_none() && self.settled.iter().all(|settled| *settled)
    }

    /// What holds at every moment: reads see of each document the version that they should by now.
    fn check(&self) {
        for (key, versions) in &self.versions {
            let applied = self.applied.get(key).and_then(|count| versions[count - 1].as_deref());
            let stored = self.history.store.document(*key);
            let seen = stored.applied.as_ref().map(|content| content.document.text.as_str());
            assert_eq!(seen, applied, "reads see another version of {key}");
            let accepted = stored.accepted().map(|content| content.document.text.as_str());
            let last = versions.last().and_then(|version| version.as_deref());
            assert_eq!(accepted, last, "{key} was accepted otherwise");
        }
        for (index, _) in self.settled.iter().enumerate().filter(|(_, settled)| **settled) {
            let plan = self.history.plan_delivery(&self.history.messages[index]);
            assert_eq!(plan.commit.changes.len(), 0, "a settled message would change something");
        }
        if self.is_settled() {
            settled::check(&self.history.store, &self.history.model, &self.history.accepted);
        }
    }

    /// Tells states apart that can go on differently. Revisions are left out: what is held is all that looks at them, and
    /// says which of them still hold.
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (key, row) in &self.history.store.rows {
            let mut metadata: Vec<_> = row.metadata.iter().collect();
            metadata.sort_unstable();
            let metadata = metadata.into_iter().flat_map(|(name, value)| [name, value]);
            for text in [key.namespace, &key.key, &row.text]
                .into_iter()
                .chain(metadata.map(String::as_str))
            {
                hash.update(text);
                hash.update([0]);
            }
        }
        hash.update(format!("{} {:?} {:?}\n", self.writes, self.settled, self.history.model));
        if let Some((index, plan)) = &self.held {
            let holds: Vec<_> = plan
                .commit
                .checks
                .iter()
                .map(|check| self.history.store.holds(check))
                .collect();
            hash.update(format!("{index} {:?} {holds:?}", plan.commit.changes));
        }
        hash.finalize().into()
    }
}

const OF_A_PLAYLIST: &[(Kind, Verb)] = &[
    (Kind::Playlist, Verb::Create),
    (Kind::Playlist, Verb::PatchTitle),
    (Kind::Playlist, Verb::PatchOther),
    (Kind::Playlist, Verb::Replace),
    (Kind::Playlist, Verb::Delete),
];
const OF_BOTH: &[(Kind, Verb)] = &[
    (Kind::Playlist, Verb::Create),
    (Kind::Playlist, Verb::PatchTitle),
    (Kind::Playlist, Verb::Delete),
    (Kind::Channel, Verb::Create),
    (Kind::Channel, Verb::PatchTitle),
    (Kind::Channel, Verb::PatchOther),
    (Kind::Channel, Verb::Delete),
];

#[test]
fn every_history_of_five_writes_of_a_playlist_ends_as_it_was_accepted() {
    let figures = Search::run(5, Pace::Quick, OF_A_PLAYLIST);
    assert_eq!(
        figures,
        Figures {
            histories: 272_599,
            states: 17_692
        }
    );
}

#[test]
fn every_history_of_five_writes_of_a_playlist_and_its_channel_ends_as_it_was_accepted() {
    let figures = Search::run(5, Pace::Quick, OF_BOTH);
    assert_eq!(
        figures,
        Figures {
            histories: 221_458,
            states: 26_741
        }
    );
}

#[test]
fn every_history_of_four_writes_of_a_playlist_bears_a_consumer_that_is_slow() {
    let figures = Search::run(4, Pace::Slow, OF_A_PLAYLIST);
    assert_eq!(
        figures,
        Figures {
            histories: 10_619_885,
            states: 17_626
        }
    );
}

#[test]
fn every_history_of_four_writes_of_a_playlist_and_its_channel_bears_a_consumer_that_is_slow() {
    let figures = Search::run(4, Pace::Slow, OF_BOTH);
    assert_eq!(
        figures,
        Figures {
            histories: 5_127_466,
            states: 15_611
        }
    );
}
