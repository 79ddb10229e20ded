//! Playlists made and rewritten: which members a new version has, in which order, and what the feed adds to items.
//!
//! What a client may send is decided in `validate`; whether the playlist exists, and under which id and slug, by the
//! caller.

use serde_json::Value;

use crate::document::{Document, Stamp, WriteError, ordered};
use crate::id::{DocumentId, ItemId, Kind, Slug};
use crate::json::Object;
use crate::time;
use crate::validate::{Invalid, PlaylistDraft, PlaylistPatch};

/// The order of members as existing clients know it from a feed. It differs after an update, and they compare texts.
const ORDER_CREATED: [&str; 11] = [
    "dpVersion",
    "id",
    "slug",
    "title",
    "curators",
    "summary",
    "coverImage",
    "created",
    "defaults",
    "items",
    "dynamicQueries",
];
const ORDER_REWRITTEN: [&str; 11] = [
    "dpVersion",
    "id",
    "slug",
    "title",
    "curators",
    "summary",
    "coverImage",
    "created",
    "defaults",
    "dynamicQueries",
    "items",
];

impl PlaylistDraft {
    /// A new playlist under this id and slug. Its items get ids of their own and are created one millisecond after
    /// another, so that they sort in the order they are listed.
    pub fn create(&self, id: DocumentId, slug: Slug, stamp: &mut Stamp<'_>) -> Result<Document, WriteError> {
        let mut members = self.members.clone();
        members.insert("id".to_owned(), id.to_string().into());
        members.insert("slug".to_owned(), String::from(slug).into());
        members.insert("created".to_owned(), time::to_text(stamp.now_ms).into());
        stamp_items(&mut members, stamp);
        Document::signed(Kind::Playlist, ordered(members, &ORDER_CREATED), stamp)
    }

    /// The playlist with all members but `id`, `slug` and `created` anew, those not sent removed.
    pub fn replace(&self, old: &Document, stamp: &mut Stamp<'_>) -> Result<Document, WriteError> {
        let previous = old.members()?;
        let mut members = self.members.clone();
        keep_identity(&previous, &mut members);
        stamp_items(&mut members, stamp);
        old.rewritten(&previous, ordered(members, &ORDER_REWRITTEN), stamp)
    }
}

impl PlaylistPatch {
    /// The playlist with the members that were sent changed. Items stay as they are unless sent; a patch that changes
    /// nothing gives the same text.
    pub fn apply(&self, old: &Document, stamp: &mut Stamp<'_>) -> Result<Document, WriteError> {
        let previous = old.members()?;
        let mut members = previous.clone();
        self.changes.apply(&mut members);
        if self.changes.removes("dynamicQueries") && is_empty(members.get("items")) {
            return Err(Invalid::without_works().into());
        }
        if self.changes.sets("items") {
            stamp_items(&mut members, stamp);
        }
        old.changed(&previous, ordered(members, &ORDER_REWRITTEN), stamp)
    }
}

/// What a rewritten document keeps of the old one, exactly as it was written.
pub(crate) fn keep_identity(old: &Object, members: &mut Object) {
    for name in ["id", "slug", "created"] {
        if let Some(value) = old.get(name) {
            members.insert(name.to_owned(), value.clone());
        }
    }
}

fn is_empty(items: Option<&Value>) -> bool {
    items.and_then(Value::as_array).is_none_or(Vec::is_empty)
}

/// Gives every item an id and a time of its own.
fn stamp_items(members: &mut Object, stamp: &mut Stamp<'_>) {
    let items = members.get_mut("items").and_then(Value::as_array_mut);
    let mut created_ms = stamp.now_ms;
    for item in items.into_iter().flatten().filter_map(Value::as_object_mut) {
        item.insert("id".to_owned(), ItemId::random(stamp.rng).to_string().into());
        item.insert("created".to_owned(), time::to_text(created_ms).into());
        created_ms = created_ms.saturating_add(1);
    }
}
