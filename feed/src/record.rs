//! Stored records read back: how entries of the key-value store become the state that a write is judged on.

use std::collections::HashMap;
use std::str::FromStr;

use crate::accept::{CHANGE_DELETE, CHANGE_PUT, META_CHANGE, META_OPERATION, META_SLUG};
use crate::apply::{META_CREATED, META_ORIGIN};
use crate::document::Document;
use crate::id::{DocumentId, DocumentKey, Kind};
use crate::keys::{self, Key};
use crate::state::{Content, DocumentState, Malformed, Pending, PlaylistRef, Refs, Version};

/// An entry as storage holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The value; empty if it was left out.
    pub text: String,
    /// The metadata.
    pub metadata: HashMap<String, String>,
    /// The revision that wrote it.
    pub revision: u64,
}

impl Record {
    fn meta(&self, name: &'static str) -> Result<&str, Malformed> {
        self.metadata.get(name).map(String::as_str).ok_or(Malformed(name))
    }
}

/// The keys that hold the state of a document, in the order that [`document_state`] takes their records: what is small
/// first, so that what ends an answer for its size can only be a text.
#[must_use]
pub fn document_keys(document: DocumentKey) -> [Key; 4] {
    // A playlist has no references; asking for a channel of its id finds none.
    [
        keys::refs(document.id),
        keys::pending_refs(document.id),
        keys::document(document),
        keys::pending(document),
    ]
}

/// The state of a document, from the records of [`document_keys`].
pub fn document_state(document: DocumentKey, records: [Option<Record>; 4]) -> Result<DocumentState, Malformed> {
    let [refs, pending_refs, applied, pending] = records;
    let revision = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.revision);
    Ok(DocumentState {
        applied_revision: revision(&applied),
        pending_revision: revision(&pending),
        applied: applied.map(|record| content(document.kind, record, refs)).transpose()?,
        pending: pending
            .map(|record| read_pending(document, record, pending_refs))
            .transpose()?,
    })
}

/// A playlist as channels refer to it, if it exists in the accepted state; from its applied and its pending record, of
/// which only the metadata is looked at.
pub fn accepted_playlist(
    id: DocumentId,
    applied: Option<Record>,
    pending: Option<Record>,
) -> Result<Option<PlaylistRef>, Malformed> {
    let accepted = match pending {
        Some(record) if record.meta(META_CHANGE)? == CHANGE_DELETE => None,
        Some(record) => Some(record),
        None => applied,
    };
    let Some(record) = accepted else { return Ok(None) };
    let created_ms = record
        .metadata
        .get(META_CREATED)
        .map(|text| parse(text, META_CREATED))
        .transpose()?;
    Ok(Some(PlaylistRef { id, created_ms }))
}

fn content(kind: Kind, record: Record, refs: Option<Record>) -> Result<Content, Malformed> {
    let origin = parse(record.meta(META_ORIGIN)?, META_ORIGIN)?;
    let document = Document::parse(kind, record.text).map_err(|_| Malformed("document"))?;
    let refs: Refs = refs.map(|refs| refs.text.parse()).transpose()?.unwrap_or_default();
    if refs.0.len() != document.playlists.len() {
        return Err(Malformed("list of references"));
    }
    Ok(Content { document, refs, origin })
}

fn read_pending(document: DocumentKey, record: Record, refs: Option<Record>) -> Result<Pending, Malformed> {
    let operation = parse(record.meta(META_OPERATION)?, META_OPERATION)?;
    let version = match record.meta(META_CHANGE)? {
        CHANGE_PUT => Version::Put(content(document.kind, record, refs)?),
        CHANGE_DELETE => Version::Delete {
            key: document,
            slug: parse(record.meta(META_SLUG)?, META_SLUG)?,
        },
        _ => return Err(Malformed(META_CHANGE)),
    };
    Ok(Pending { operation, version })
}

fn parse<T: FromStr>(text: &str, what: &'static str) -> Result<T, Malformed> {
    text.parse().map_err(|_| Malformed(what))
}
