//! Signed documents as they are stored: the exact text, and what indexes need to know of it.
//!
//! The text is never modelled again: whatever a document carries that this feed does not know stays where it is. How a
//! document comes to be is `playlist`'s and `channel`'s business, where it is kept not known here.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::canonical::UNSIGNED_MEMBERS;
use crate::id::{DocumentId, DocumentKey, ItemId, Kind, SLUG_LENGTH_MAX, Slug};
use crate::json::{self, JsonError, Object};
use crate::sign::{self, Signer};
use crate::time;
use crate::validate::Invalid;

/// The largest document a write may result in, in bytes of its signed text.
pub const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Text that is not a document this feed can keep.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not JSON.
    #[error("document is not JSON")]
    Json(#[from] JsonError),
    /// It is JSON, but not an object.
    #[error("document is not an object")]
    NotAnObject,
    /// A member that indexes need is missing or not what it has to be.
    #[error("document has no usable {0}")]
    Member(String),
}

/// Why a write gives no document.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The signed text would be larger than [`DOCUMENT_BYTES_MAX`].
    #[error("document would have {bytes} bytes, more than {DOCUMENT_BYTES_MAX}")]
    TooLarge {
        /// How large it would be.
        bytes: usize,
    },
    /// The write is well-formed, but what it makes of the stored document breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The stored document cannot be read.
    #[error("stored document is malformed")]
    Stored(#[from] DocumentError),
}

/// What a new version of a document takes from its surroundings.
pub struct Stamp<'a> {
    /// The time of the write, in ms since 1970.
    pub now_ms: i64,
    /// The feed's key.
    pub signer: &'a Signer,
    /// Where ids come from. Ids are not secrets, but must not repeat.
    pub rng: &'a mut dyn rand::Rng,
}

/// An item of a playlist, as indexes know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemEntry {
    /// Its id.
    pub id: ItemId,
    /// When it was created, in ms since 1970; none if the item does not say so in a way that can be read.
    pub created_ms: Option<i64>,
}

/// A signed document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The exact text.
    pub text: String,
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: DocumentId,
    /// Its slug, at most [`SLUG_LENGTH_MAX`] long.
    pub slug: Slug,
    /// When it was created, in ms since 1970 and negative before; none if it does not say so in a way that can be read.
    pub created_ms: Option<i64>,
    /// A playlist's items, in order. Empty for a channel.
    pub items: Vec<ItemEntry>,
    /// A channel's playlist URLs, in order. Empty for a playlist.
    pub playlists: Vec<String>,
}

impl Document {
    /// Reads a document. Only what indexes need is looked at; signatures are not checked.
    pub fn parse(kind: Kind, text: impl Into<String>) -> Result<Self, DocumentError> {
        let text = text.into();
        let object = parse_object(&text)?;
        Self::read(kind, &object, text)
    }

    /// Kind and id.
    #[must_use]
    pub const fn key(&self) -> DocumentKey {
        DocumentKey {
            kind: self.kind,
            id: self.id,
        }
    }

    /// Its members, in order.
    pub(crate) fn members(&self) -> Result<Object, DocumentError> {
        parse_object(&self.text)
    }

    /// A new document of these members, signed.
    pub(crate) fn signed(kind: Kind, mut members: Object, stamp: &Stamp<'_>) -> Result<Self, WriteError> {
        sign::sign(&mut members, None, stamp.now_ms, stamp.signer);
        Self::printed(kind, members)
    }

    /// This document with other members, signed anew. The feed's entry in `signatures` stays if the digest is the same;
    /// `previous` is what this document's members are now.
    pub(crate) fn rewritten(
        &self,
        previous: &Object,
        mut members: Object,
        stamp: &Stamp<'_>,
    ) -> Result<Self, WriteError> {
        sign::sign(&mut members, Some(previous), stamp.now_ms, stamp.signer);
        Self::printed(self.kind, members)
    }

    /// As [`Document::rewritten`], but members that differ in order only are no change: the text stays.
    pub(crate) fn changed(
        &self,
        previous: &Object,
        mut members: Object,
        stamp: &Stamp<'_>,
    ) -> Result<Self, WriteError> {
        sign::sign(&mut members, Some(previous), stamp.now_ms, stamp.signer);
        let signed_alike = UNSIGNED_MEMBERS
            .iter()
            .all(|name| members.get(*name) == previous.get(*name));
        if signed_alike {
            Ok(self.clone())
        } else {
            Self::printed(self.kind, members)
        }
    }

    fn printed(kind: Kind, members: Object) -> Result<Self, WriteError> {
        let value = Value::Object(members);
        let text = json::to_text(&value);
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(WriteError::TooLarge { bytes: text.len() });
        }
        let Value::Object(members) = value else {
            unreachable!("made an object above")
        };
        Ok(Self::read(kind, &members, text)?)
    }

    fn read(kind: Kind, object: &Object, text: String) -> Result<Self, DocumentError> {
        let missing = |name: &str| DocumentError::Member(name.to_owned());
        let string = |name| object.get(name).and_then(Value::as_str).ok_or_else(|| missing(name));
        let slug = string("slug")?;
        if slug.len() > SLUG_LENGTH_MAX {
            return Err(missing("slug"));
        }
        let (items, playlists) = match kind {
            Kind::Playlist => (read_items(object)?, Vec::new()),
            Kind::Channel => (Vec::new(), read_playlists(object)?),
        };
        Ok(Self {
            kind,
            id: string("id")?.parse().map_err(|_| missing("id"))?,
            slug: slug.parse().map_err(|_| missing("slug"))?,
            created_ms: created_ms(object),
            items,
            playlists,
            text,
        })
    }
}

/// The id and the exact text of the item at `position`, from 0, of a playlist's text.
#[must_use]
pub fn item_text(document_text: &str, position: usize) -> Option<(ItemId, &str)> {
    item_texts(document_text, &[position])?.pop().flatten()
}

/// The ids and the exact texts of the items at `positions`, each from 0, of a playlist's text: none for a position that
/// has no readable item, none at all for a text that is no playlist's. Reads the text once.
#[must_use]
pub fn item_texts<'a>(document_text: &'a str, positions: &[usize]) -> Option<Vec<Option<(ItemId, &'a str)>>> {
    #[derive(Deserialize)]
    struct Items<'a> {
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Item {
        id: String,
    }

    let document: Items<'_> = serde_json::from_str(json::without_byte_order_mark(document_text)).ok()?;
    let item = |position: &usize| {
        let text = document.items.get(*position)?.get();
        let item: Item = serde_json::from_str(text).ok()?;
        Some((item.id.parse().ok()?, text))
    };
    Some(positions.iter().map(item).collect())
}

fn parse_object(text: &str) -> Result<Object, DocumentError> {
    match json::parse(text.as_bytes())? {
        Value::Object(object) => Ok(object),
        _ => Err(DocumentError::NotAnObject),
    }
}

fn created_ms(object: &Object) -> Option<i64> {
    object.get("created").and_then(Value::as_str).and_then(time::parse)
}

fn elements<'a>(object: &'a Object, name: &str) -> Result<&'a [Value], DocumentError> {
    match object.get(name) {
        None => Ok(&[]),
        Some(Value::Array(elements)) => Ok(elements),
        Some(_) => Err(DocumentError::Member(name.to_owned())),
    }
}

fn read_items(object: &Object) -> Result<Vec<ItemEntry>, DocumentError> {
    let entry = |(position, item): (usize, &Value)| {
        let id = item.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| DocumentError::Member(format!("items.{position}.id")))?;
        Ok(ItemEntry {
            id,
            created_ms: item.as_object().and_then(created_ms),
        })
    };
    elements(object, "items")?.iter().enumerate().map(entry).collect()
}

fn read_playlists(object: &Object) -> Result<Vec<String>, DocumentError> {
    let url = |(position, url): (usize, &Value)| match url {
        Value::String(url) => Ok(url.clone()),
        _ => Err(DocumentError::Member(format!("playlists.{position}"))),
    };
    elements(object, "playlists")?.iter().enumerate().map(url).collect()
}

/// The members in `order`, then those it does not name, in the order they had.
pub(crate) fn ordered(mut members: Object, order: &[&str]) -> Object {
    let mut ordered = Object::new();
    for name in order {
        if let Some((name, value)) = members.shift_remove_entry(*name) {
            ordered.insert(name, value);
        }
    }
    ordered.extend(members);
    ordered
}
