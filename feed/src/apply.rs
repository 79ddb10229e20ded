//! The second stage of a write: what applying a version changes in what reads see: document, indexes, links.
//!
//! Looks only at the version and the document that is applied now, so it comes out the same in the gateway that applies
//! at once and in whichever consumer applies later.

use std::collections::{BTreeMap, BTreeSet};

use crate::commit::Commit;
use crate::document::Document;
use crate::id::{DocumentId, DocumentKey, ItemId, Kind};
use crate::item_index::{Place, Spine};
use crate::keys;
use crate::state::{Content, DocumentState, OperationId, Version};

/// Metadata of a document: its time of creation in ms.
pub const META_CREATED: &str = "created";
/// Metadata of a document: whose it is.
pub const META_ORIGIN: &str = "origin";
/// Metadata of a spine: time of the first item in ms.
pub const META_FIRST: &str = "first";
/// Metadata of a spine: time of the last item in ms.
pub const META_LAST: &str = "last";

/// What applying some versions came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Documents whose version was applied.
    pub applied: usize,
    /// Documents whose version had been replaced by a newer accepted one.
    pub superseded: usize,
}

/// Applies what an operation still owns of the documents it named. A document whose pending version is another
/// operation's, or that has none, was accepted anew since: it is left alone, and nothing of this operation can reach it
/// any more.
#[must_use]
pub fn apply_owned(operation: OperationId, documents: &BTreeMap<DocumentKey, DocumentState>) -> (Commit, Tally) {
    let mut commit = Commit::default();
    let mut tally = Tally::default();
    for (key, state) in documents {
        match &state.pending {
            Some(pending) if pending.operation == operation => {
                commit.expect_revision(keys::document(*key), state.applied_revision);
                commit.expect_revision(keys::pending(*key), state.pending_revision);
                apply(&pending.version, state.applied.as_ref(), &mut commit);
                clear_pending(*key, &mut commit);
                tally.applied += 1;
            }
            _ => tally.superseded += 1,
        }
    }
    (commit, tally)
}

/// Adds what applying `version` over `applied` changes.
pub fn apply(version: &Version, applied: Option<&Content>, commit: &mut Commit) {
    match version {
        Version::Put(content) => put(content, applied, commit),
        Version::Delete { key, slug } => {
            commit.delete(keys::slug(key.kind, slug));
            if let Some(applied) = applied {
                delete(*key, applied, commit);
            }
        }
    }
}

/// Removes the pending version of a document.
pub fn clear_pending(key: DocumentKey, commit: &mut Commit) {
    commit.delete(keys::pending(key));
    if key.kind == Kind::Channel {
        commit.delete(keys::pending_refs(key.id));
    }
}

/// The metadata that a document's entry carries.
#[must_use]
pub fn document_metadata(content: &Content) -> Vec<(&'static str, String)> {
    let mut metadata = vec![(META_ORIGIN, content.origin.to_string())];
    metadata.extend(content.document.created_ms.map(|ms| (META_CREATED, ms.to_string())));
    metadata
}

fn put(content: &Content, applied: Option<&Content>, commit: &mut Commit) {
    let document = &content.document;
    let key = document.key();
    commit.put_with(keys::document(key), document.text.as_str(), document_metadata(content));

    let index = |document: &Document| keys::created(key.kind, document.created_ms, key.id);
    let listed_before = applied.and_then(|applied| index(&applied.document));
    let listed_now = index(document);
    if listed_before != listed_now {
        commit.delete_any(listed_before);
        commit.put_any(listed_now, &keys::document_record(key.id));
    }

    match key.kind {
        Kind::Playlist => index_items(key.id, Some(document), applied.map(|old| &old.document), commit),
        Kind::Channel => {
            commit.put(keys::refs(key.id), content.refs.to_string());
            index_members(key.id, Some(content), applied, commit);
        }
    }
}

fn delete(key: DocumentKey, applied: &Content, commit: &mut Commit) {
    commit.delete(keys::document(key));
    commit.delete_any(keys::created(key.kind, applied.document.created_ms, key.id));
    match key.kind {
        Kind::Playlist => index_items(key.id, None, Some(&applied.document), commit),
        Kind::Channel => {
            commit.delete(keys::refs(key.id));
            index_members(key.id, None, Some(applied), commit);
        }
    }
}

fn index_items(playlist: DocumentId, new: Option<&Document>, old: Option<&Document>, commit: &mut Commit) {
    let places = |document: Option<&Document>| -> BTreeMap<ItemId, (usize, Option<i64>)> {
        let items = document.map_or(&[][..], |document| &document.items);
        items
            .iter()
            .enumerate()
            .map(|(position, item)| (item.id, (position, item.created_ms)))
            .collect()
    };
    let (before, now) = (places(old), places(new));
    for (id, place) in &before {
        if now.get(id) != Some(place) {
            commit.delete(keys::item(*id));
            commit.delete_any(keys::item_created(place.1, *id));
        }
    }
    for (id, place) in &now {
        if before.get(id) != Some(place) {
            let record = Place {
                playlist,
                position: place.0,
            }
            .to_record();
            commit.put_any(keys::item_created(place.1, *id), &record);
            commit.put(keys::item(*id), record);
        }
    }
    if before == now {
        return;
    }
    match new.map(Spine::of).and_then(|spine| Some((spine.span()?, spine))) {
        Some(((first, last), spine)) => {
            let metadata = vec![(META_FIRST, first.to_string()), (META_LAST, last.to_string())];
            commit.put_with(keys::spine(playlist), spine.to_record(), metadata);
        }
        None => commit.delete(keys::spine(playlist)),
    }
}

fn index_members(channel: DocumentId, new: Option<&Content>, old: Option<&Content>, commit: &mut Commit) {
    let members = |content: Option<&Content>| content.map(|content| content.refs.playlists()).unwrap_or_default();
    let (before, now): (BTreeSet<_>, BTreeSet<_>) = (members(old), members(new));
    for gone in before.difference(&now) {
        commit.delete_any(keys::member(channel, gone.created_ms, gone.id));
    }
    for added in now.difference(&before) {
        commit.put_any(
            keys::member(channel, added.created_ms, added.id),
            &keys::document_record(added.id),
        );
    }
}
