//! The key layout: the only place where keys are spelled.
//!
//! | namespace | key | value |
//! |---|---|---|
//! | `playlists`, `channels` | `id/<uuid>` | the signed document; metadata `created` (ms), `origin` |
//! | | `slug/<slug>` | the id; written when a version is accepted, so that a queued create reserves it |
//! | | `created/<ms, 13 digits>/<uuid>` | `id/<uuid>`; none if `created` is missing or before 1970 |
//! | `playlists` | `deleted` | the id of the last playlist whose deletion was accepted |
//! | `channels` | `refs/<channel>` | the playlists of the applied version, one per URL, in order |
//! | | `of/<playlist>/<channel>` | the accepted version of the channel refers to the playlist |
//! | | `member/<channel>/<ms>/<playlist>` | `id/<playlist>`; the applied version of the channel refers to it |
//! | `playlist_items` | `id/<item>` | `<playlist>/<position>` |
//! | | `created/<ms>/<item>` | `<playlist>/<position>` |
//! | | `spine/<playlist>` | times, ids and positions of its items, in order; metadata `first`, `last` (ms) |
//! | `pending` | `<kind>/<uuid>` | the accepted version that is not applied yet; metadata says whose |
//! | | `refs/<channel>` | the playlists of that version, one per URL, in order |
//! | `operations` | `<uuid>` | what became of a queued write |
//! | `idempotency` | `<hash>` | the answer to a request that carried an `Idempotency-Key` |
//! | `sweep` | `turn` | somebody looks after `pending` rows that have no message; expires |
//!
//! Times are padded to 13 digits, so that keys of one prefix are in the order of time, ties in the order of ids.

use crate::id::{DocumentId, DocumentKey, ItemId, Kind, Slug};

/// Namespace of playlists.
pub const PLAYLISTS: &str = "playlists";
/// Namespace of channels and their links.
pub const CHANNELS: &str = "channels";
/// Namespace of the item indexes.
pub const PLAYLIST_ITEMS: &str = "playlist_items";
/// Namespace of accepted versions that are not applied yet.
pub const PENDING: &str = "pending";
/// Namespace of operation records.
pub const OPERATIONS: &str = "operations";
/// Namespace of remembered answers.
pub const IDEMPOTENCY: &str = "idempotency";
/// Namespace of what sweeps agree on.
pub const SWEEP: &str = "sweep";

/// Latest time that 13 digits hold: in the year 2286.
const TIME_MS_MAX: i64 = 9_999_999_999_999;

/// One key of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: &'static str,
    /// Key in it.
    pub key: String,
}

impl Key {
    fn new(namespace: &'static str, key: String) -> Self {
        Self { namespace, key }
    }
}

/// The namespace that documents of this kind live in.
#[must_use]
pub fn namespace(kind: Kind) -> &'static str {
    match kind {
        Kind::Playlist => PLAYLISTS,
        Kind::Channel => CHANNELS,
    }
}

/// The applied document.
#[must_use]
pub fn document(document: DocumentKey) -> Key {
    Key::new(namespace(document.kind), document_record(document.id))
}

/// The key of a document within its namespace, as index entries name it.
#[must_use]
pub fn document_record(id: DocumentId) -> String {
    format!("id/{id}")
}

/// Who has the slug.
#[must_use]
pub fn slug(kind: Kind, slug: &Slug) -> Key {
    Key::new(namespace(kind), format!("slug/{slug}"))
}

/// Entry of the index by time; none for a document that no list can place.
#[must_use]
pub fn created(kind: Kind, created_ms: Option<i64>, id: DocumentId) -> Option<Key> {
    Some(Key::new(
        namespace(kind),
        format!("{CREATED}{}/{id}", time(created_ms?)?),
    ))
}

const CREATED: &str = "created/";

/// Prefix of the index of documents by time; what follows it is [`parse_time_and_id`]'s.
#[must_use]
pub fn created_index(kind: Kind) -> Key {
    Key::new(namespace(kind), CREATED.to_owned())
}

/// Changed by every accepted deletion of a playlist.
#[must_use]
pub fn playlist_deleted() -> Key {
    Key::new(PLAYLISTS, "deleted".to_owned())
}

/// What the applied version of a channel refers to.
#[must_use]
pub fn refs(channel: DocumentId) -> Key {
    Key::new(CHANNELS, format!("refs/{channel}"))
}

/// Link of a channel's accepted version to a playlist.
#[must_use]
pub fn link(playlist: DocumentId, channel: DocumentId) -> Key {
    Key::new(CHANNELS, format!("of/{playlist}/{channel}"))
}

/// Prefix of all links to a playlist; what follows it is the channel's id.
#[must_use]
pub fn links(playlist: DocumentId) -> Key {
    Key::new(CHANNELS, format!("of/{playlist}/"))
}

/// Entry of a channel's index of playlists by time; none for a playlist that no list can place.
#[must_use]
pub fn member(channel: DocumentId, created_ms: Option<i64>, playlist: DocumentId) -> Option<Key> {
    Some(Key::new(
        CHANNELS,
        format!("{}{}/{playlist}", members(channel).key, time(created_ms?)?),
    ))
}

/// Prefix of a channel's index of playlists.
#[must_use]
pub fn members(channel: DocumentId) -> Key {
    Key::new(CHANNELS, format!("member/{channel}/"))
}

/// Where an item stands.
#[must_use]
pub fn item(item: ItemId) -> Key {
    Key::new(PLAYLIST_ITEMS, format!("id/{item}"))
}

/// Entry of the items' index by time; none for an item that no list can place.
#[must_use]
pub fn item_created(created_ms: Option<i64>, item: ItemId) -> Option<Key> {
    Some(Key::new(
        PLAYLIST_ITEMS,
        format!("{CREATED}{}/{item}", time(created_ms?)?),
    ))
}

/// Prefix of the items' index by time; what follows it is [`parse_time_and_id`]'s.
#[must_use]
pub fn items_created() -> Key {
    Key::new(PLAYLIST_ITEMS, CREATED.to_owned())
}

/// Times of one playlist's items.
#[must_use]
pub fn spine(playlist: DocumentId) -> Key {
    Key::new(PLAYLIST_ITEMS, format!("spine/{playlist}"))
}

/// The accepted version that is not applied yet.
#[must_use]
pub fn pending(document: DocumentKey) -> Key {
    Key::new(PENDING, format!("{}/{}", document.kind, document.id))
}

/// First key of all pending versions, and the first one behind them. Between them is nothing but keys that read as a
/// [`DocumentKey`].
#[must_use]
pub fn all_pending() -> [Key; 2] {
    ["channel/", "refs/"].map(|key| Key::new(PENDING, key.to_owned()))
}

/// What that version refers to.
#[must_use]
pub fn pending_refs(channel: DocumentId) -> Key {
    Key::new(PENDING, format!("refs/{channel}"))
}

/// Record of a queued write.
#[must_use]
pub fn operation(operation: uuid::Uuid) -> Key {
    Key::new(OPERATIONS, operation.to_string())
}

/// Whose turn it is to sweep.
#[must_use]
pub fn sweep_turn() -> Key {
    Key::new(SWEEP, "turn".to_owned())
}

/// Remembered answer; `hash` is of caller, method, path and key.
#[must_use]
pub fn idempotency(hash: &str) -> Key {
    Key::new(IDEMPOTENCY, hash.to_owned())
}

/// A time as keys spell it; none outside of 1970 to 2286.
#[must_use]
pub fn time(ms: i64) -> Option<String> {
    (0..=TIME_MS_MAX).contains(&ms).then(|| format!("{ms:013}"))
}

/// Splits the end of an index key by time, `<ms>/<id>`.
#[must_use]
pub fn parse_time_and_id(tail: &str) -> Option<(i64, &str)> {
    let (ms, id) = tail.split_once('/')?;
    Some((ms.parse().ok()?, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_prefix_are_in_the_order_of_time() {
        let id: DocumentId = "385f79b6-a45f-4c1c-8080-e93a192adccc".parse().expect("an id");
        let key = |ms| created(Kind::Playlist, Some(ms), id).expect("a listed time").key;
        assert!(key(0) < key(9));
        assert!(key(9) < key(1_748_970_060_000));
        assert_eq!(
            key(1_748_970_060_000),
            "created/1748970060000/385f79b6-a45f-4c1c-8080-e93a192adccc"
        );
    }

    #[test]
    fn times_that_do_not_sort_have_no_key() {
        let id: DocumentId = "385f79b6-a45f-4c1c-8080-e93a192adccc".parse().expect("an id");
        for ms in [None, Some(-1), Some(TIME_MS_MAX + 1)] {
            assert_eq!(created(Kind::Channel, ms, id), None);
        }
        assert!(created(Kind::Channel, Some(TIME_MS_MAX), id).is_some());
    }

    #[test]
    fn pending_versions_lie_between_their_bounds_and_nothing_else_does() {
        let id: DocumentId = "385f79b6-a45f-4c1c-8080-e93a192adccc".parse().expect("an id");
        let [start, end] = all_pending();
        for kind in [Kind::Playlist, Kind::Channel] {
            let document = DocumentKey { kind, id };
            let key = pending(document);
            assert!(start <= key && key < end, "{key:?}");
            assert_eq!(key.key.parse(), Ok(document));
        }
        assert!(pending_refs(id) >= end);
    }

    #[test]
    fn the_tail_of_an_index_key_reads_back() {
        assert_eq!(parse_time_and_id("0000000000012/abc"), Some((12, "abc")));
        assert_eq!(parse_time_and_id("abc"), None);
    }
}
