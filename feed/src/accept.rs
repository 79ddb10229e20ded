//! The first stage of a write: from an operation and the accepted state to the new versions, those of its cascade
//! included, signed; and what accepting them changes: slugs reserved, links, and either the versions applied at once or
//! left pending for a consumer.

use std::collections::BTreeSet;

use crate::apply::{META_CREATED, META_ORIGIN, apply, apply_owned, clear_pending};
use crate::commit::Commit;
use crate::document::{Document, Stamp};
use crate::id::{DocumentId, DocumentKey, Kind, Slug};
use crate::keys;
use crate::operation::{OperationMessage, OperationRecord, OperationState};
use crate::state::{Content, DocumentState, OperationId, Origin, Pending, Refs, Resolved, State, Version};
use crate::time;
use crate::validate::{ChannelDraft, ChannelPatch, PlaylistDraft, PlaylistPatch};

/// Most channels that the deletion of one playlist rewrites.
pub const CASCADE_CHANNELS_MAX: usize = 256;

/// Metadata of a pending version: the operation that owns it.
pub const META_OPERATION: &str = "operation";
/// Metadata of a pending version: the slug of the document.
pub const META_SLUG: &str = "slug";
/// Metadata of a pending version: [`CHANGE_PUT`] or [`CHANGE_DELETE`].
pub const META_CHANGE: &str = "change";
/// The pending version is the entry's text.
pub const CHANGE_PUT: &str = "put";
/// The pending version is a deletion.
pub const CHANGE_DELETE: &str = "delete";

/// A write as a client asks for it.
#[derive(Clone, Debug)]
pub enum Write {
    /// A new playlist under an id and a slug that were drawn for it.
    CreatePlaylist {
        /// Fresh.
        id: DocumentId,
        /// Free when it was drawn; the commit checks it.
        slug: Slug,
        /// What it says.
        draft: PlaylistDraft,
    },
    /// PUT: all of its members anew.
    ReplacePlaylist(DocumentId, PlaylistDraft),
    /// PATCH: some of its members.
    PatchPlaylist(DocumentId, PlaylistPatch),
    /// DELETE, with its URLs taken out of every channel that has them.
    DeletePlaylist(DocumentId),
    /// A new channel.
    CreateChannel {
        /// Fresh.
        id: DocumentId,
        /// Free when it was drawn; the commit checks it.
        slug: Slug,
        /// What it says.
        draft: ChannelDraft,
    },
    /// PUT: all of its members anew.
    ReplaceChannel(DocumentId, ChannelDraft),
    /// PATCH: some of its members.
    PatchChannel(DocumentId, ChannelPatch),
    /// DELETE; its playlists stay.
    DeleteChannel(DocumentId),
}

impl Write {
    /// The document that is written.
    #[must_use]
    pub fn key(&self) -> DocumentKey {
        match self {
            Self::CreatePlaylist { id, .. }
            | Self::ReplacePlaylist(id, _)
            | Self::PatchPlaylist(id, _)
            | Self::DeletePlaylist(id) => DocumentKey {
                kind: Kind::Playlist,
                id: *id,
            },
            Self::CreateChannel { id, .. }
            | Self::ReplaceChannel(id, _)
            | Self::PatchChannel(id, _)
            | Self::DeleteChannel(id) => DocumentKey {
                kind: Kind::Channel,
                id: *id,
            },
        }
    }

    /// The URLs that this write brings in, to be resolved before it is judged.
    #[must_use]
    pub fn playlist_urls(&self) -> &[String] {
        match self {
            Self::CreateChannel { draft, .. } | Self::ReplaceChannel(_, draft) => draft.playlists(),
            Self::PatchChannel(_, patch) => patch.playlists().unwrap_or_default(),
            _ => &[],
        }
    }
}

/// Why a write is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such document.
    #[error("there is no such document")]
    NotFound,
    /// A URL names a playlist that this feed does not have.
    #[error("playlist not found: {0}")]
    UnknownPlaylist(String),
    /// A URL is not one of a playlist of this feed.
    #[error("not a playlist of this feed: {0}")]
    ForeignPlaylist(String),
    /// More channels than [`CASCADE_CHANNELS_MAX`] refer to the playlist.
    #[error("more than {CASCADE_CHANNELS_MAX} channels refer to this playlist")]
    TooManyChannels,
    /// The document that results is too large, or breaks a rule.
    #[error(transparent)]
    Document(#[from] crate::document::WriteError),
}

/// Judges a write on the accepted state and makes the new versions: the written document's first, then those of the
/// channels that its deletion rewrites.
pub fn accept(write: &Write, state: &State, stamp: &mut Stamp<'_>) -> Result<Vec<Version>, Refusal> {
    let key = write.key();
    let existing = || {
        let state = state.documents.get(&key);
        state.and_then(DocumentState::accepted).ok_or(Refusal::NotFound)
    };
    let put = |document, refs| {
        Ok(vec![Version::Put(Content {
            document,
            refs,
            origin: Origin::Feed,
        })])
    };
    match write {
        Write::CreatePlaylist { id, slug, draft } => put(draft.create(*id, slug.clone(), stamp)?, Refs::default()),
        Write::ReplacePlaylist(_, draft) => put(draft.replace(&existing()?.document, stamp)?, Refs::default()),
        Write::PatchPlaylist(_, patch) => put(patch.apply(&existing()?.document, stamp)?, Refs::default()),
        Write::CreateChannel { id, slug, draft } => {
            let refs = resolve(draft.playlists(), state)?;
            put(draft.create(*id, slug.clone(), stamp)?, refs)
        }
        Write::ReplaceChannel(_, draft) => {
            let old = existing()?;
            let refs = resolve(draft.playlists(), state)?;
            put(draft.replace(&old.document, stamp)?, refs)
        }
        Write::PatchChannel(_, patch) => {
            let old = existing()?;
            let refs = patch
                .playlists()
                .map_or_else(|| Ok(old.refs.clone()), |urls| resolve(urls, state))?;
            put(patch.apply(&old.document, stamp)?, refs)
        }
        Write::DeleteChannel(_) => {
            let slug = existing()?.document.slug.clone();
            Ok(vec![Version::Delete { key, slug }])
        }
        Write::DeletePlaylist(id) => {
            let slug = existing()?.document.slug.clone();
            let mut versions = vec![Version::Delete { key, slug }];
            let channels = state.documents.iter().filter(|(other, _)| other.kind == Kind::Channel);
            for content in channels.filter_map(|(_, channel)| channel.accepted()) {
                versions.extend(without_playlist(content, *id, stamp)?.map(Version::Put));
            }
            if versions.len() > 1 + CASCADE_CHANNELS_MAX {
                return Err(Refusal::TooManyChannels);
            }
            Ok(versions)
        }
    }
}

/// The commit that accepts the versions and applies them at once.
#[must_use]
pub fn commit_applied(versions: &[Version], write: &Write, state: &State) -> Commit {
    let mut commit = acceptance(versions, write, state);
    for version in versions {
        let before = state.document(version.key());
        apply(version, before.applied.as_ref(), &mut commit);
        if before.pending.is_some() {
            clear_pending(version.key(), &mut commit);
        }
    }
    commit
}

/// The commit that accepts the versions and leaves them to a consumer: pending rows, a record of the operation, and a
/// message that only names it.
#[must_use]
pub fn commit_queued(
    versions: &[Version],
    write: &Write,
    state: &State,
    operation: OperationId,
    now_ms: i64,
) -> Commit {
    let mut commit = acceptance(versions, write, state);
    for version in versions {
        let key = version.key();
        let mut metadata = vec![
            (META_OPERATION, operation.to_string()),
            (META_SLUG, version.slug().to_string()),
        ];
        match version {
            Version::Put(content) => {
                metadata.push((META_CHANGE, CHANGE_PUT.to_owned()));
                metadata.push((META_ORIGIN, content.origin.to_string()));
                metadata.extend(content.document.created_ms.map(|ms| (META_CREATED, ms.to_string())));
                commit.put_with(keys::pending(key), content.document.text.as_str(), metadata);
                if key.kind == Kind::Channel {
                    commit.put(keys::pending_refs(key.id), content.refs.to_string());
                }
            }
            Version::Delete { .. } => {
                metadata.push((META_CHANGE, CHANGE_DELETE.to_owned()));
                commit.put_with(keys::pending(key), "", metadata);
                if key.kind == Kind::Channel {
                    commit.delete(keys::pending_refs(key.id));
                }
            }
        }
    }
    let message = message(versions, operation, now_ms);
    OperationRecord::new(&message, OperationState::Accepted).put(&mut commit);
    commit.message = Some(message.to_text());
    commit
}

/// The commit by which a consumer will apply the versions that [`commit_queued`] accepts, but for the revisions that it
/// expects. It can be larger than the accepting one, and whoever accepts the versions must know that it is possible:
/// until then only newer accepted versions, each judged in its turn, can change what it is made of.
#[must_use]
pub fn commit_to_apply(versions: &[Version], state: &State, operation: OperationId, now_ms: i64) -> Commit {
    let accepted = versions.iter().map(|version| {
        let pending = Some(Pending {
            operation,
            version: version.clone(),
        });
        let before = state.document(version.key());
        (version.key(), DocumentState { pending, ..before })
    });
    let (mut commit, _) = apply_owned(operation, &accepted.collect());
    let message = message(versions, operation, now_ms);
    OperationRecord::ended(&message, OperationState::Applied, None, now_ms).put(&mut commit);
    commit
}

fn message(versions: &[Version], operation: OperationId, now_ms: i64) -> OperationMessage {
    OperationMessage {
        operation,
        accepted_at: time::to_text(now_ms),
        documents: versions.iter().map(Version::key).collect(),
    }
}

/// What both forms share: that nothing read has changed since, slugs, links, and the mark of a deletion.
fn acceptance(versions: &[Version], write: &Write, state: &State) -> Commit {
    let mut commit = Commit::default();
    for version in versions {
        let key = version.key();
        let before = state.document(key);
        commit.expect_revision(keys::document(key), before.applied_revision);
        commit.expect_revision(keys::pending(key), before.pending_revision);
        if before.slug().is_none() {
            let slug = keys::slug(key.kind, version.slug());
            commit.expect_revision(slug.clone(), 0);
            commit.put(slug, key.id.to_string());
        }
        if key.kind == Kind::Channel {
            relink(key.id, before.accepted(), version.content(), &mut commit);
        }
    }
    if !write.playlist_urls().is_empty() {
        // A playlist found a moment ago may be going: its deletion did not see this channel's links.
        commit.expect_revision(keys::playlist_deleted(), state.playlist_deleted_revision);
    }
    if let Write::DeletePlaylist(id) = write {
        commit.expect_prefix_unchanged_since(keys::links(*id), state.links_revision);
        commit.put(keys::playlist_deleted(), id.to_string());
    }
    commit
}

/// Keeps `of/<playlist>/<channel>` what the accepted version refers to.
pub(crate) fn relink(channel: DocumentId, old: Option<&Content>, new: Option<&Content>, commit: &mut Commit) {
    let ids = |content: Option<&Content>| content.map(|content| content.refs.ids()).unwrap_or_default();
    let (before, now): (BTreeSet<_>, BTreeSet<_>) = (ids(old), ids(new));
    for playlist in before.difference(&now) {
        commit.delete(keys::link(*playlist, channel));
    }
    for playlist in now.difference(&before) {
        commit.put(keys::link(*playlist, channel), "");
    }
}

fn resolve(urls: &[String], state: &State) -> Result<Refs, Refusal> {
    assert_eq!(urls.len(), state.resolved.len(), "every URL of the write was resolved");
    urls.iter()
        .zip(&state.resolved)
        .map(|(url, resolved)| match resolved {
            Resolved::Playlist(reference) => Ok(Some(*reference)),
            Resolved::Unknown => Err(Refusal::UnknownPlaylist(url.clone())),
            Resolved::Foreign => Err(Refusal::ForeignPlaylist(url.clone())),
        })
        .collect::<Result<_, _>>()
        .map(Refs)
}

/// The channel without the URLs that stand for `playlist`, signed anew; none if it has no such URL.
fn without_playlist(
    channel: &Content,
    playlist: DocumentId,
    stamp: &mut Stamp<'_>,
) -> Result<Option<Content>, Refusal> {
    let goes = |position: usize| {
        channel
            .refs
            .0
            .get(position)
            .is_some_and(|r| r.is_some_and(|r| r.id == playlist))
    };
    if !(0..channel.refs.0.len()).any(goes) {
        return Ok(None);
    }
    let document: Document = channel.document.without_playlists(&goes, stamp)?;
    let kept = channel
        .refs
        .0
        .iter()
        .enumerate()
        .filter(|(position, _)| !goes(*position));
    let refs = Refs(kept.map(|(_, reference)| *reference).collect());
    Ok(Some(Content {
        document,
        refs,
        origin: channel.origin,
    }))
}
