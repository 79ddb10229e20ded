//! Channels made and rewritten: which members a new version has, and in which order.
//!
//! What a client may send is decided in `validate`; what the URLs of a channel stand for is the caller's to know.

use serde_json::Value;

use crate::document::{Document, DocumentError, Stamp, WriteError, ordered};
use crate::id::{DocumentId, Kind, Slug};
use crate::playlist::keep_identity;
use crate::time;
use crate::validate::{ChannelDraft, ChannelPatch};

/// The order of members as existing clients know it from a feed. It differs after an update, and they compare texts.
const ORDER_CREATED: [&str; 10] = [
    "id",
    "slug",
    "title",
    "curator",
    "curators",
    "publisher",
    "summary",
    "playlists",
    "created",
    "coverImage",
];
const ORDER_REWRITTEN: [&str; 10] = [
    "id",
    "slug",
    "title",
    "curator",
    "curators",
    "summary",
    "publisher",
    "playlists",
    "created",
    "coverImage",
];

impl ChannelDraft {
    /// A new channel under this id and slug.
    pub fn create(&self, id: DocumentId, slug: Slug, stamp: &mut Stamp<'_>) -> Result<Document, WriteError> {
        let mut members = self.members.clone();
        members.insert("id".to_owned(), id.to_string().into());
        members.insert("slug".to_owned(), String::from(slug).into());
        members.insert("created".to_owned(), time::to_text(stamp.now_ms).into());
        Document::signed(Kind::Channel, ordered(members, &ORDER_CREATED), stamp)
    }

    /// The channel with all members but `id`, `slug` and `created` anew, those not sent removed.
    pub fn replace(&self, old: &Document, stamp: &mut Stamp<'_>) -> Result<Document, WriteError> {
        let previous = old.members()?;
        let mut members = self.members.clone();
        keep_identity(&previous, &mut members);
        old.rewritten(&previous, ordered(members, &ORDER_REWRITTEN), stamp)
    }
}

impl ChannelPatch {
    /// The channel with the members that were sent changed. A patch that changes nothing gives the same text.
    pub fn apply(&self, old: &Document, stamp: &mut Stamp<'_>) -> Result<Document, WriteError> {
        let previous = old.members()?;
        let mut members = previous.clone();
        self.changes.apply(&mut members);
        old.changed(&previous, ordered(members, &ORDER_REWRITTEN), stamp)
    }
}

impl Document {
    /// A channel without the URLs at the positions that go, which may be all of them, signed anew. Everything else stays
    /// as and where it is.
    pub fn without_playlists(&self, goes: &dyn Fn(usize) -> bool, stamp: &mut Stamp<'_>) -> Result<Self, WriteError> {
        let previous = self.members()?;
        let mut members = previous.clone();
        let playlists = members.get_mut("playlists").and_then(Value::as_array_mut);
        let playlists = playlists.ok_or_else(|| DocumentError::Member("playlists".to_owned()))?;
        let mut position = 0;
        playlists.retain(|_| {
            position += 1;
            !goes(position - 1)
        });
        self.changed(&previous, members, stamp)
    }
}
