//! What storage holds about documents: the applied version, the accepted one, and the revisions that a commit checks.
//!
//! The accepted state of a document is its pending version if there is one, else the applied document. Existence,
//! slugs, references, cascades and preconditions are judged on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::document::Document;
use crate::id::{DocumentId, DocumentKey, Slug};

/// Names a queued write.
pub type OperationId = Uuid;

/// Whose a document is. Only the feed's own are ever rewritten by the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made and signed by this feed.
    Feed,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feed => f.write_str("feed"),
        }
    }
}

impl FromStr for Origin {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "feed" => Ok(Self::Feed),
            _ => Err(Malformed("origin")),
        }
    }
}

/// A stored record that is not what this version of the feed writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored {0} is malformed")]
pub struct Malformed(pub &'static str);

/// The playlist that one URL of a channel stands for. Its time of creation never changes, so it is kept here and
/// applying a channel reads no playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlaylistRef {
    /// Which playlist.
    pub id: DocumentId,
    /// Its time of creation, in ms; none if it has none.
    pub created_ms: Option<i64>,
}

/// What the URLs of a channel stand for, in their order; none for a URL that is not linked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refs(pub Vec<Option<PlaylistRef>>);

impl Refs {
    /// Each playlist once.
    #[must_use]
    pub fn playlists(&self) -> BTreeSet<PlaylistRef> {
        self.0.iter().flatten().copied().collect()
    }

    /// Each playlist's id once.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<DocumentId> {
        self.0.iter().flatten().map(|reference| reference.id).collect()
    }
}

impl fmt::Display for Refs {
    /// One line per URL: `<uuid> <ms>`, `<uuid>`, or `-`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for reference in &self.0 {
            match reference {
                Some(PlaylistRef {
                    id,
                    created_ms: Some(ms),
                }) => writeln!(f, "{id} {ms}")?,
                Some(PlaylistRef { id, created_ms: None }) => writeln!(f, "{id}")?,
                None => writeln!(f, "-")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Refs {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        const FAULT: Malformed = Malformed("list of references");
        text.lines()
            .map(|line| match line.split_once(' ') {
                _ if line == "-" => Ok(None),
                Some((id, ms)) => Ok(Some(PlaylistRef {
                    id: id.parse().map_err(|_| FAULT)?,
                    created_ms: Some(ms.parse().map_err(|_| FAULT)?),
                })),
                None => Ok(Some(PlaylistRef {
                    id: line.parse().map_err(|_| FAULT)?,
                    created_ms: None,
                })),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A version of a document's content.
#[derive(Clone, Debug)]
pub struct Content {
    /// The signed document.
    pub document: Document,
    /// What its URLs stand for; empty for a playlist.
    pub refs: Refs,
    /// Whose it is.
    pub origin: Origin,
}

/// A version of a document. A deletion is a version too.
#[derive(Clone, Debug)]
pub enum Version {
    /// The document is this from now on.
    Put(Content),
    /// The document is gone. What finds and releases its index entries stays known.
    Delete {
        /// Which document.
        key: DocumentKey,
        /// The slug it held.
        slug: Slug,
    },
}

impl Version {
    /// Which document this is a version of.
    #[must_use]
    pub fn key(&self) -> DocumentKey {
        match self {
            Self::Put(content) => content.document.key(),
            Self::Delete { key, .. } => *key,
        }
    }

    /// The slug that the document holds or held.
    #[must_use]
    pub fn slug(&self) -> &Slug {
        match self {
            Self::Put(content) => &content.document.slug,
            Self::Delete { slug, .. } => slug,
        }
    }

    /// The content, unless it is a deletion.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match self {
            Self::Put(content) => Some(content),
            Self::Delete { .. } => None,
        }
    }
}

/// An accepted version that waits to be applied.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The operation that owns it: only that one may apply it.
    pub operation: OperationId,
    /// The version.
    pub version: Version,
}

/// One document as storage holds it. Revisions are 0 where there is nothing.
#[derive(Clone, Debug, Default)]
pub struct DocumentState {
    /// What reads show.
    pub applied: Option<Content>,
    /// Revision of the applied document.
    pub applied_revision: u64,
    /// What was accepted after it.
    pub pending: Option<Pending>,
    /// Revision of the pending version.
    pub pending_revision: u64,
}

impl DocumentState {
    /// The accepted state: none if there is no such document, or its deletion was accepted.
    #[must_use]
    pub fn accepted(&self) -> Option<&Content> {
        match &self.pending {
            Some(pending) => pending.version.content(),
            None => self.applied.as_ref(),
        }
    }

    /// What its versions take, in bytes of their texts.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let pending = self.pending.as_ref().and_then(|pending| pending.version.content());
        let versions = self.applied.iter().chain(pending);
        versions.map(|content| content.document.text.len()).sum()
    }

    /// The slug that the document holds until its deletion is applied.
    #[must_use]
    pub fn slug(&self) -> Option<&Slug> {
        match (&self.pending, &self.applied) {
            (Some(pending), _) => Some(pending.version.slug()),
            (None, Some(applied)) => Some(&applied.document.slug),
            (None, None) => None,
        }
    }
}

/// What one write is judged on: the documents it touches, and what guards against changes around them.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The document written, and for the deletion of a playlist every channel linked to it.
    pub documents: BTreeMap<DocumentKey, DocumentState>,
    /// For a write that names playlists: what each URL stands for in the accepted state, in order.
    pub resolved: Vec<Resolved>,
    /// Revision of the key that every accepted deletion of a playlist changes; 0 if there was none.
    pub playlist_deleted_revision: u64,
    /// For the deletion of a playlist: the store's revision before its links were read.
    pub links_revision: u64,
}

impl State {
    /// One document's state; the empty one if nothing was found.
    #[must_use]
    pub fn document(&self, key: DocumentKey) -> DocumentState {
        self.documents.get(&key).cloned().unwrap_or_default()
    }
}

/// What a URL of a channel stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// A playlist of this feed.
    Playlist(PlaylistRef),
    /// The URL is this feed's own, and there is no such playlist.
    Unknown,
    /// The URL is somebody else's, or not one of a playlist.
    Foreign,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_read_back() {
        let id: DocumentId = "385f79b6-a45f-4c1c-8080-e93a192adccc".parse().expect("an id");
        let refs = Refs(vec![
            Some(PlaylistRef {
                id,
                created_ms: Some(1_748_970_060_000),
            }),
            None,
            Some(PlaylistRef { id, created_ms: None }),
            Some(PlaylistRef {
                id,
                created_ms: Some(-5),
            }),
        ]);
        assert_eq!(refs.to_string().parse(), Ok(refs.clone()));
        assert_eq!("".parse(), Ok(Refs::default()));
        assert_eq!("x".parse::<Refs>(), Err(Malformed("list of references")));
    }
}
