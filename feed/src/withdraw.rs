//! Taking a queued write back before it is applied: what its operation still owns falls back to what is applied, as if the
//! write, and what it was based on, had not been accepted.
//!
//! Nothing may come of it that no write could have made: a channel that refers to a playlist which is not there. Where
//! that would be so the write stays.

use std::collections::{BTreeMap, BTreeSet};

use crate::accept::relink;
use crate::apply::clear_pending;
use crate::commit::Commit;
use crate::id::{DocumentId, DocumentKey, Kind};
use crate::keys;
use crate::state::{Content, DocumentState, OperationId};

/// Why a failed operation's record says that an operator took it back.
pub const WITHDRAWN: &str = "withdrawn";

/// What taking an operation back is judged on.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// The documents that the operation has versions of.
    pub documents: BTreeMap<DocumentKey, DocumentState>,
    /// Of the playlists that [`references`] tells: those that exist in the accepted state.
    pub playlists: BTreeSet<DocumentId>,
    /// Revision of the key that every accepted deletion of a playlist changes, read no later than they were.
    pub playlist_deleted_revision: u64,
    /// Of each playlist that [`vanishing`] tells: one of the channels that refer to it in the accepted state, if any
    /// does, and the store's revision before that was read.
    pub links: BTreeMap<DocumentId, (Option<DocumentId>, u64)>,
}

/// Why an operation is not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stays {
    /// Without it the playlist would not be there.
    #[error("channel {channel} refers to playlist {playlist}, which would not be there")]
    Needed {
        /// The playlist.
        playlist: DocumentId,
        /// One of the channels.
        channel: DocumentId,
    },
    /// The applied version of a channel refers to a playlist that was deleted since.
    #[error("channel {channel} would refer to playlist {playlist} again, which was deleted")]
    Gone {
        /// The playlist.
        playlist: DocumentId,
        /// The channel.
        channel: DocumentId,
    },
}

/// Documents whose pending version is the operation's.
pub fn owned(
    operation: OperationId,
    documents: &BTreeMap<DocumentKey, DocumentState>,
) -> impl Iterator<Item = (DocumentKey, &DocumentState)> {
    let is_owned = move |state: &DocumentState| {
        let pending = state.pending.as_ref();
        pending.is_some_and(|pending| pending.operation == operation)
    };
    let owned = documents.iter().filter(move |(_, state)| is_owned(state));
    owned.map(|(key, state)| (*key, state))
}

/// The playlists that channels would refer to again.
#[must_use]
pub fn references(operation: OperationId, documents: &BTreeMap<DocumentKey, DocumentState>) -> BTreeSet<DocumentId> {
    owned(operation, documents)
        .filter_map(|(_, state)| state.applied.as_ref())
        .flat_map(|content| content.refs.ids())
        .collect()
}

/// The playlists that would not be there any more.
pub fn vanishing(
    operation: OperationId,
    documents: &BTreeMap<DocumentKey, DocumentState>,
) -> impl Iterator<Item = DocumentId> {
    owned(operation, documents)
        .filter(|(key, state)| key.kind == Kind::Playlist && state.applied.is_none())
        .map(|(key, _)| key.id)
}

/// The commit that takes the operation back, and how many documents that concerns.
pub fn withdraw(operation: OperationId, remains: &Remains) -> Result<(Commit, usize), Stays> {
    let mut commit = Commit::default();
    let mut count = 0;
    for (key, state) in owned(operation, &remains.documents) {
        count += 1;
        commit.expect_revision(keys::document(key), state.applied_revision);
        commit.expect_revision(keys::pending(key), state.pending_revision);
        clear_pending(key, &mut commit);
        let pending = state.pending.as_ref().map(|pending| &pending.version);
        if let (None, Some(version)) = (&state.applied, pending) {
            commit.delete(keys::slug(key.kind, version.slug()));
        }
        if key.kind == Kind::Channel {
            let applied = state.applied.as_ref();
            remains.check_references(operation, key.id, applied, &mut commit)?;
            relink(key.id, state.accepted(), applied, &mut commit);
        }
    }
    for playlist in vanishing(operation, &remains.documents) {
        let (channel, revision) = remains.links.get(&playlist).copied().unwrap_or_default();
        if let Some(channel) = channel {
            return Err(Stays::Needed { playlist, channel });
        }
        commit.expect_prefix_unchanged_since(keys::links(playlist), revision);
        // A channel that found the playlist a moment ago must look again, as for a deletion.
        commit.put(keys::playlist_deleted(), playlist.to_string());
    }
    Ok((commit, count))
}

impl Remains {
    /// Whether all that the applied version of a channel refers to is there, or comes back with the operation's deletion
    /// of it.
    fn check_references(
        &self,
        operation: OperationId,
        channel: DocumentId,
        applied: Option<&Content>,
        commit: &mut Commit,
    ) -> Result<(), Stays> {
        let references = applied.map(|content| content.refs.ids()).unwrap_or_default();
        if references.is_empty() {
            return Ok(());
        }
        let comes_back = |playlist: &DocumentId| {
            owned(operation, &self.documents)
                .any(|(key, state)| key.kind == Kind::Playlist && key.id == *playlist && state.applied.is_some())
        };
        let gone = references
            .iter()
            .find(|playlist| !self.playlists.contains(playlist) && !comes_back(playlist));
        if let Some(&playlist) = gone {
            return Err(Stays::Gone { playlist, channel });
        }
        let deleted = keys::playlist_deleted();
        if !commit.checks.iter().any(|check| check.key == deleted) {
            commit.expect_revision(deleted, self.playlist_deleted_revision);
        }
        Ok(())
    }
}
