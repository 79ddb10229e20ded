//! Whether what clients were answered and what storage went through fit one accepted order. Knows no wire, no clock and
//! none of the feed's own code.
//!
//! The order need not be searched for: a version of a document is accepted by one commit, and commits are numbered. So
//! the commits are played in their order, each is taken for what it can only be (an acceptance that applies at once,
//! one that leaves versions pending, or the end of a queued write), and each version is traced to the one write that it
//! can be from, by the values that no other write sends. Then
//!
//! * every write that was answered 2xx was accepted once, in its form, and one whose answer was lost at most once;
//! * each accepted version is what its write makes of the version accepted before it: no field is lost;
//! * what was answered before something else was sent was accepted before it, and what was refused had a reason;
//! * nothing of a document is accepted after its deletion, and channels name no playlist that is deleted;
//! * a queued write ends once: with its versions applied, those that nothing newer was accepted of, all of them in the
//!   commit that says so; or superseded, if there are none. So versions move forward, and each is applied once;
//! * in the end nothing is pending, and reads see of each document the version accepted last.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Which document: `<kind>/<uuid>`.
pub(super) type Document = String;

/// What a commit changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Commit {
    pub(super) revision: u64,
    /// Documents as reads see them: their texts; none: gone.
    pub(super) documents: BTreeMap<Document, Option<String>>,
    /// Accepted versions that are not applied; none: not any more.
    pub(super) pending: BTreeMap<Document, Option<Pending>>,
    /// States of queued writes, by their ids.
    pub(super) operations: BTreeMap<String, String>,
}

/// A version that waits to be applied.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pending {
    pub(super) operation: String,
    /// None: a deletion.
    pub(super) text: Option<String>,
}

/// What writes can change in a document. Each write sends one value, everywhere, that no other write sends.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields {
    pub(super) texts: BTreeMap<&'static str, String>,
    /// Ids of a channel's playlists, in order.
    pub(super) playlists: Vec<String>,
}

/// What a write does to its document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    Create(Fields),
    Replace(Fields),
    /// Some of the texts, and the playlists if they are sent.
    Patch(BTreeMap<&'static str, String>, Option<Vec<String>>),
    Delete,
}

/// A write, and what came of it as its client knows. Times are on a scale that all clients share.
#[derive(Clone, Debug)]
pub(super) struct Write {
    /// The value that it sends.
    pub(super) value: String,
    /// None if it creates one.
    pub(super) document: Option<Document>,
    pub(super) effect: Effect,
    pub(super) is_queued: bool,
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) answer: Answer,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Accepted {
        document: Document,
        /// The version, unless it is a deletion.
        text: Option<String>,
        /// Of a queued write.
        operation: Option<String>,
    },
    /// There is no such document, or a playlist that it names is not there.
    Refused,
    /// It may have been accepted, or may yet be.
    Lost,
}

/// How much there was to check: a history in which nothing was lost and nothing replaced shows little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Accepted versions.
    pub(super) versions: usize,
    pub(super) answered: usize,
    pub(super) refused: usize,
    pub(super) lost: usize,
    /// Of the lost ones, those that were accepted.
    pub(super) accepted_unseen: usize,
    pub(super) applied: usize,
    pub(super) superseded: usize,
    /// Channels that lost a playlist to its deletion.
    pub(super) cascaded: usize,
}

/// The texts of a document that writes change.
pub(super) const TEXTS: [&str; 3] = ["title", "summary", "coverImage"];

impl Figures {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            versions: self.versions + other.versions,
            answered: self.answered + other.answered,
            refused: self.refused + other.refused,
            lost: self.lost + other.lost,
            accepted_unseen: self.accepted_unseen + other.accepted_unseen,
            applied: self.applied + other.applied,
            superseded: self.superseded + other.superseded,
            cascaded: self.cascaded + other.cascaded,
        }
    }
}

impl Fields {
    /// What a document's text says.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let document: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let texts = TEXTS.into_iter().filter_map(|name| {
            let value = document[name].as_str()?;
            Some((name, value.to_owned()))
        });
        let playlists = document["playlists"].as_array().into_iter().flatten();
        Ok(Self {
            texts: texts.collect(),
            playlists: playlists
                .map(|url| {
                    url.as_str()
                        .and_then(|url| url.rsplit('/').next())
                        .unwrap_or_default()
                        .to_owned()
                })
                .collect(),
        })
    }

    fn without(&self, playlist: &str) -> Self {
        let mut fields = self.clone();
        fields.playlists.retain(|other| other != playlist);
        fields
    }
}

/// A version in the accepted order.
struct Version<'a> {
    /// None: a deletion.
    text: Option<&'a str>,
    fields: Option<Fields>,
    revision: u64,
}

/// One document as the commits so far leave it.
#[derive(Default)]
struct History<'a> {
    versions: Vec<Version<'a>>,
    /// Which version reads see.
    applied: Option<usize>,
    /// Whose version waits. It is the last one.
    owner: Option<&'a str>,
}

impl History<'_> {
    fn accepted(&self) -> Option<&Fields> {
        self.versions.last()?.fields.as_ref()
    }

    fn is_deleted(&self) -> bool {
        self.versions.last().is_some_and(|version| version.text.is_none())
    }
}

/// A queued write.
struct Operation<'a> {
    documents: Vec<&'a str>,
    is_ended: bool,
}

/// What was accepted, in order, as far as it was played.
struct Order<'a> {
    writes: &'a [Write],
    by_value: BTreeMap<&'a str, usize>,
    by_operation: BTreeMap<&'a str, usize>,
    documents: BTreeMap<&'a str, History<'a>>,
    operations: BTreeMap<&'a str, Operation<'a>>,
    /// The revision that accepted a write.
    accepted: BTreeMap<usize, u64>,
    figures: Figures,
}

/// Whether the history can be; else what cannot. `last` is what reads see in the end.
pub(super) fn check(
    writes: &[Write],
    commits: &[Commit],
    last: &BTreeMap<Document, String>,
) -> Result<Figures, String> {
    let by_operation = writes
        .iter()
        .enumerate()
        .filter_map(|(index, write)| match &write.answer {
            Answer::Accepted { operation, .. } => Some((operation.as_deref()?, index)),
            _ => None,
        });
    let mut order = Order {
        writes,
        by_value: writes
            .iter()
            .enumerate()
            .map(|(index, write)| (write.value.as_str(), index))
            .collect(),
        by_operation: by_operation.collect(),
        documents: BTreeMap::new(),
        operations: BTreeMap::new(),
        accepted: BTreeMap::new(),
        figures: Figures::default(),
    };
    let mut revision = 0;
    for commit in commits {
        if commit.revision <= revision {
            return Err(format!("revision {} comes after {revision}", commit.revision));
        }
        revision = commit.revision;
        order
            .play(commit)
            .map_err(|fault| format!("revision {revision}: {fault}"))?;
    }
    order.expect_end(last)?;
    order.expect_answers()?;
    order.expect_time()?;
    Ok(order.figures)
}

impl<'a> Order<'a> {
    fn play(&mut self, commit: &'a Commit) -> Result<(), String> {
        let mut operations = commit.operations.iter();
        match (operations.next(), operations.next()) {
            (Some((operation, state)), None) if state == "accepted" => self.accept_queued(commit, operation),
            (Some((operation, state)), None) => self.end(commit, operation, state),
            (None, _) => self.accept_applied(commit),
            (Some(_), Some(_)) => Err(format!("two queued writes in one commit: {:?}", commit.operations)),
        }
    }

    /// Versions are accepted and left to a consumer.
    fn accept_queued(&mut self, commit: &'a Commit, operation: &'a str) -> Result<(), String> {
        if let Some((document, _)) = commit.documents.first_key_value() {
            return Err(format!("{document} is changed by the acceptance of {operation}"));
        }
        let mut versions = BTreeMap::new();
        for (document, pending) in &commit.pending {
            match pending {
                Some(pending) if pending.operation == operation => {
                    versions.insert(document.as_str(), pending.text.as_deref());
                }
                other => return Err(format!("{operation} is accepted, and {document} becomes {other:?}")),
            }
        }
        self.accept(&versions, Some(operation), commit.revision)?;
        for document in versions.keys() {
            self.history(document).owner = Some(operation);
        }
        let documents = versions.into_keys().collect();
        let queued = Operation {
            documents,
            is_ended: false,
        };
        match self.operations.insert(operation, queued) {
            None => Ok(()),
            Some(_) => Err(format!("{operation} is accepted again")),
        }
    }

    /// Versions are accepted and applied at once.
    fn accept_applied(&mut self, commit: &'a Commit) -> Result<(), String> {
        let mut versions = BTreeMap::new();
        for (document, pending) in &commit.pending {
            if pending.is_some() {
                return Err(format!("a version of {document} waits, and nobody was told so"));
            }
            // Deleted before reads ever saw it, unless there is more of it below.
            versions.insert(document.as_str(), None);
        }
        versions.extend(
            commit
                .documents
                .iter()
                .map(|(document, text)| (document.as_str(), text.as_deref())),
        );
        if versions.is_empty() {
            return Ok(());
        }
        for document in versions.keys() {
            let is_waiting = self.history(document).owner.is_some();
            if is_waiting != commit.pending.contains_key(*document) {
                return Err(format!("an older version of {document} waits on"));
            }
        }
        self.accept(&versions, None, commit.revision)?;
        for document in versions.keys() {
            let history = self.history(document);
            history.owner = None;
            history.applied = Some(history.versions.len() - 1);
        }
        Ok(())
    }

    /// A queued write ends.
    fn end(&mut self, commit: &'a Commit, operation: &'a str, state: &str) -> Result<(), String> {
        let queued = self.operations.get_mut(operation);
        let queued = queued.ok_or_else(|| format!("{operation} is {state}, and was never accepted"))?;
        if std::mem::replace(&mut queued.is_ended, true) {
            return Err(format!("{operation} ends again, {state}"));
        }
        let documents = queued.documents.clone();
        for (document, pending) in &commit.pending {
            let owner = self.history(document).owner;
            if pending.is_some() || owner != Some(operation) {
                return Err(format!(
                    "{operation} applies the version of {document} that is {owner:?}'s"
                ));
            }
        }
        let mut owned = 0;
        for document in &documents {
            let history = self.history(document);
            if history.owner != Some(operation) {
                continue;
            }
            owned += 1;
            if !commit.pending.contains_key(*document) {
                return Err(format!("{operation} ends, and its version of {document} waits on"));
            }
            let index = history.versions.len() - 1;
            let was_there = history
                .applied
                .is_some_and(|applied| history.versions[applied].text.is_some());
            let text = history.versions[index].text;
            let changed = commit.documents.get(*document).map(Option::as_deref);
            if changed != Some(text) && !(changed.is_none() && text.is_none() && !was_there) {
                return Err(format!("{document} becomes {changed:?}, and {text:?} was accepted"));
            }
            history.owner = None;
            history.applied = Some(index);
        }
        if let Some(document) = commit
            .documents
            .keys()
            .find(|document| !commit.pending.contains_key(*document))
        {
            return Err(format!("{operation} changes {document}, of which nothing waits"));
        }
        self.figures.applied += usize::from(owned > 0);
        self.figures.superseded += usize::from(owned == 0);
        let expected = if owned > 0 { "applied" } else { "superseded" };
        if state != expected {
            return Err(format!("{operation} is {state}, and should be {expected}"));
        }
        Ok(())
    }

    /// One write's versions come last in the order.
    fn accept(
        &mut self,
        versions: &BTreeMap<&'a str, Option<&'a str>>,
        operation: Option<&str>,
        revision: u64,
    ) -> Result<(), String> {
        let mut fields = BTreeMap::new();
        for (document, text) in versions {
            if self.history(document).is_deleted() {
                return Err(format!("{document} is accepted anew, and was deleted"));
            }
            fields.insert(*document, text.map(Fields::read).transpose()?);
        }
        let deleted = versions
            .iter()
            .find(|(document, text)| text.is_none() && is_playlist(document));
        let written = match deleted {
            Some((document, _)) => *document,
            None if versions.len() == 1 => *versions.keys().next().expect("there is one"),
            None => return Err(format!("no write has versions of {:?}", versions.keys())),
        };
        if deleted.is_some() {
            self.expect_cascade(written, &fields)?;
        }
        self.expect_links(&fields)?;
        self.trace(written, fields[written].as_ref(), operation, revision)?;
        self.figures.versions += versions.len();
        for (document, fields) in fields {
            let text = versions[document];
            self.history(document).versions.push(Version { text, fields, revision });
        }
        Ok(())
    }

    /// The deletion of a playlist takes it out of each channel that has it, and changes nothing else.
    fn expect_cascade(&mut self, playlist: &str, fields: &BTreeMap<&str, Option<Fields>>) -> Result<(), String> {
        let id = id_of(playlist);
        let naming = |history: &History<'_>| history.accepted().filter(|fields| names(fields, id)).cloned();
        let channels = self
            .documents
            .iter()
            .filter_map(|(document, history)| Some((*document, naming(history)?)));
        let expected: BTreeMap<_, _> = channels
            .map(|(document, before)| (document, Some(before.without(id))))
            .collect();
        let others = fields.iter().filter(|(document, _)| **document != playlist);
        let found: BTreeMap<_, _> = others.map(|(document, fields)| (*document, fields.clone())).collect();
        self.figures.cascaded += found.len();
        if found != expected {
            return Err(format!(
                "the deletion of {playlist} makes {found:?}, and should make {expected:?}"
            ));
        }
        Ok(())
    }

    /// Channels name what is there in the accepted state.
    fn expect_links(&self, fields: &BTreeMap<&str, Option<Fields>>) -> Result<(), String> {
        for (document, fields) in fields {
            for id in fields.iter().flat_map(|fields| &fields.playlists) {
                let playlist = self.documents.get(format!("playlist/{id}").as_str());
                if playlist.is_none_or(History::is_deleted) {
                    return Err(format!("{document} names the playlist {id}, which is not there"));
                }
            }
        }
        Ok(())
    }

    /// Finds the write that a version is from, and takes it.
    fn trace(
        &mut self,
        document: &'a str,
        fields: Option<&Fields>,
        operation: Option<&str>,
        revision: u64,
    ) -> Result<(), String> {
        let before = self.history(document).accepted().cloned();
        let index = match (operation.and_then(|operation| self.by_operation.get(operation)), fields) {
            (Some(index), _) => Some(*index),
            (None, Some(fields)) => self.writer_of(before.as_ref(), fields),
            (None, None) => self.deleter_of(document, operation),
        };
        let index = index.ok_or_else(|| format!("nobody wrote {document} as {fields:?}"))?;
        let write = &self.writes[index];
        let value = &write.value;
        if self.accepted.insert(index, revision).is_some() {
            return Err(format!("the write of {value:?} is accepted twice"));
        }
        if write.is_queued != operation.is_some() || write.document.as_deref().is_some_and(|own| own != document) {
            return Err(format!(
                "the write of {value:?} is accepted as {operation:?} of {document}"
            ));
        }
        let expected = write.effect.on(before.as_ref())?;
        if expected.as_ref() != fields {
            return Err(format!(
                "the write of {value:?} makes {fields:?} of {before:?}, and should make {expected:?}"
            ));
        }
        match &write.answer {
            Answer::Refused => Err(format!("the write of {value:?} was refused, and is accepted")),
            Answer::Accepted { operation: own, .. } if own.as_deref() != operation => Err(format!(
                "the write of {value:?} was answered as {own:?}, and is accepted as {operation:?}"
            )),
            Answer::Accepted { document: own, .. } if own != document => Err(format!(
                "the write of {value:?} was answered as of {own}, and is accepted as of {document}"
            )),
            Answer::Accepted { .. } => Ok(()),
            Answer::Lost => {
                self.figures.accepted_unseen += 1;
                Ok(())
            }
        }
    }

    /// The write whose value is new in a version.
    fn writer_of(&self, before: Option<&Fields>, fields: &Fields) -> Option<usize> {
        let old = |value: &String| before.is_some_and(|before| before.texts.values().any(|old| old == value));
        let new = fields.texts.values().find(|value| !old(value))?;
        self.by_value.get(new.as_str()).copied()
    }

    /// The write that deleted a document at once, or as an operation that nobody was told of: one that was answered so,
    /// if there is one, else one whose answer was lost.
    fn deleter_of(&self, document: &str, operation: Option<&str>) -> Option<usize> {
        let is_lost = |write: &Write| write.answer == Answer::Lost;
        let candidates = self.writes.iter().enumerate().filter(|(index, write)| {
            write.effect == Effect::Delete
                && write.document.as_deref() == Some(document)
                && write.is_queued == operation.is_some()
                && !self.accepted.contains_key(index)
                && match &write.answer {
                    Answer::Accepted { operation, .. } => operation.is_none(),
                    Answer::Lost => true,
                    Answer::Refused => false,
                }
        });
        // Of the lost ones the first that was sent: what it allows, the others allow.
        candidates
            .min_by_key(|(_, write)| (is_lost(write), write.began))
            .map(|(index, _)| index)
    }

    fn expect_end(&self, last: &BTreeMap<Document, String>) -> Result<(), String> {
        if let Some((operation, _)) = self.operations.iter().find(|(_, queued)| !queued.is_ended) {
            return Err(format!("{operation} never ends"));
        }
        for (document, history) in &self.documents {
            let accepted = history.versions.last().and_then(|version| version.text);
            if history.applied != history.versions.len().checked_sub(1) {
                return Err(format!("the last version of {document} is not applied"));
            }
            let seen = last.get(*document).map(String::as_str);
            if seen != accepted {
                return Err(format!("{document} reads {seen:?}, and {accepted:?} was accepted last"));
            }
        }
        match last
            .keys()
            .find(|document| !self.documents.contains_key(document.as_str()))
        {
            Some(document) => Err(format!("{document} is there, and was never accepted")),
            None => Ok(()),
        }
    }

    /// What was answered 2xx was accepted as it was answered.
    fn expect_answers(&mut self) -> Result<(), String> {
        for (index, write) in self.writes.iter().enumerate() {
            match &write.answer {
                Answer::Lost => self.figures.lost += 1,
                Answer::Refused => self.figures.refused += 1,
                Answer::Accepted { document, text, .. } => {
                    self.figures.answered += 1;
                    let value = &write.value;
                    let revision = self.accepted.get(&index);
                    let revision =
                        revision.ok_or_else(|| format!("the write of {value:?} was answered, and is lost"))?;
                    let versions = self.documents.get(document.as_str()).map(|history| &history.versions);
                    let version = versions
                        .into_iter()
                        .flatten()
                        .find(|version| version.revision == *revision);
                    if version.map(|version| version.text) != Some(text.as_deref()) {
                        return Err(format!("the write of {value:?} was answered with another version"));
                    }
                }
            }
        }
        Ok(())
    }

    /// The order is that of time, where time tells: what had ended before another began. A refusal looks at something
    /// that must have begun before it ended.
    fn expect_time(&self) -> Result<(), String> {
        let mut points: Vec<_> = self
            .accepted
            .iter()
            .map(|(index, revision)| (*revision, &self.writes[*index]))
            .collect();
        points.sort_by_key(|(revision, _)| *revision);
        // From the last to the first: no earlier one may have begun after a later one had ended.
        let mut first_end: Option<(u64, &Write)> = None;
        for (_, write) in points.into_iter().rev() {
            if let Some((ended, later)) = first_end.filter(|(ended, _)| *ended < write.began) {
                return Err(format!(
                    "the write of {:?} ended at {ended}, before that of {:?} began, and is accepted after it",
                    later.value, write.value
                ));
            }
            if write.answer != Answer::Lost && first_end.is_none_or(|(ended, _)| write.ended < ended) {
                first_end = Some((write.ended, write));
            }
        }
        let deletions = self.accepted.keys().map(|index| &self.writes[*index]);
        let deletions: BTreeMap<_, _> = deletions
            .filter(|write| write.effect == Effect::Delete)
            .filter_map(|write| Some((write.document.as_deref()?, write.began)))
            .collect();
        for write in self.writes.iter().filter(|write| write.answer == Answer::Refused) {
            let named = write.effect.names().iter().map(|id| format!("playlist/{id}"));
            let needed: BTreeSet<_> = named.chain(write.document.clone()).collect();
            let has_reason = |document: &String| {
                deletions
                    .get(document.as_str())
                    .is_some_and(|began| *began < write.ended)
            };
            if !needed.iter().any(has_reason) {
                return Err(format!(
                    "the write of {:?} was refused, and all that it needs was there",
                    write.value
                ));
            }
        }
        Ok(())
    }

    fn history(&mut self, document: &'a str) -> &mut History<'a> {
        self.documents.entry(document).or_default()
    }
}

impl Effect {
    /// What the document says afterwards; none: it is gone.
    fn on(&self, before: Option<&Fields>) -> Result<Option<Fields>, String> {
        match (self, before) {
            (Self::Create(fields), None) | (Self::Replace(fields), Some(_)) => Ok(Some(fields.clone())),
            (Self::Patch(texts, playlists), Some(before)) => {
                let mut fields = before.clone();
                fields.texts.extend(texts.clone());
                if let Some(playlists) = playlists {
                    fields.playlists.clone_from(playlists);
                }
                Ok(Some(fields))
            }
            (Self::Delete, Some(_)) => Ok(None),
            (effect, before) => Err(format!("{effect:?} is accepted of {before:?}")),
        }
    }

    fn names(&self) -> &[String] {
        match self {
            Self::Create(fields) | Self::Replace(fields) => &fields.playlists,
            Self::Patch(_, playlists) => playlists.as_deref().unwrap_or_default(),
            Self::Delete => &[],
        }
    }
}

fn is_playlist(document: &str) -> bool {
    document.starts_with("playlist/")
}

fn id_of(document: &str) -> &str {
    document.split_once('/').map_or(document, |(_, id)| id)
}

fn names(fields: &Fields, playlist: &str) -> bool {
    fields.playlists.iter().any(|id| id == playlist)
}
