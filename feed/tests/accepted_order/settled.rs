//! What is stored once nothing is pending: the documents that were accepted last, and the records that find them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use feed::id::{DocumentKey, Kind};
use feed::keys::{self, Key};
use feed::state::{Content, Version};

use crate::model::{Expected, Model};
use crate::store::Store;

/// Fails unless each document is the version that was accepted last, says what the model says, and all records are those
/// that the documents ask for.
pub(crate) fn check(store: &Store, model: &Model, accepted: &BTreeMap<DocumentKey, Version>) {
    let applied: BTreeMap<_, _> = accepted
        .keys()
        .filter_map(|key| Some((*key, store.document(*key).applied?)))
        .collect();
    let seen = applied.iter().map(|(key, content)| {
        let seen = Expected::read(&content.document.text);
        (*key, seen)
    });
    assert_eq!(seen.collect::<BTreeMap<_, _>>(), model.0, "every effect holds");
    let mut expected = BTreeMap::new();
    for (key, content) in &applied {
        let last = accepted[key].content().expect("a deleted one is not there");
        assert_eq!(
            content.document.text, last.document.text,
            "{key} is not the version accepted last"
        );
        expect_document(content, &mut expected);
        match key.kind {
            Kind::Playlist => expect_items(content, &mut expected),
            Kind::Channel => expect_references(*key, model, &applied, &mut expected),
        }
    }
    let found: BTreeMap<Key, String> = store
        .rows
        .iter()
        .filter(|(key, _)| **key != keys::playlist_deleted() && key.namespace != keys::OPERATIONS)
        .map(|(key, row)| (key.clone(), row.text.clone()))
        .collect();
    assert_eq!(found, expected, "every record is of a document, and nothing is pending");
}

fn expect_document(content: &Content, expected: &mut BTreeMap<Key, String>) {
    let document = &content.document;
    let key = document.key();
    expected.insert(keys::document(key), document.text.clone());
    expected.insert(keys::slug(key.kind, &document.slug), key.id.to_string());
    expected.insert(
        keys::created(key.kind, document.created_ms, key.id).expect("a listed time"),
        keys::document_record(key.id),
    );
}

fn expect_items(content: &Content, expected: &mut BTreeMap<Key, String>) {
    let document = &content.document;
    let mut spine = Vec::new();
    for (position, item) in document.items.iter().enumerate() {
        let place = format!("{}/{position}", document.id);
        let created_ms = item.created_ms.expect("a time");
        expected.insert(keys::item(item.id), place.clone());
        expected.insert(
            keys::item_created(Some(created_ms), item.id).expect("a listed time"),
            place,
        );
        spine.push((created_ms, item.id.to_string(), position));
    }
    spine.sort_unstable();
    let lines = spine
        .into_iter()
        .map(|(created_ms, id, position)| format!("{created_ms} {id} {position}\n"));
    expected.insert(keys::spine(document.id), lines.collect());
}

/// What a channel's record, links and index of playlists must say, going by the model.
fn expect_references(
    channel: DocumentKey,
    model: &Model,
    applied: &BTreeMap<DocumentKey, Content>,
    expected: &mut BTreeMap<Key, String>,
) {
    let mut refs = String::new();
    for id in &model.0[&channel].playlists {
        let playlist = DocumentKey {
            kind: Kind::Playlist,
            id: *id,
        };
        let playlist = applied.get(&playlist).expect("a channel names no deleted playlist");
        let created_ms = playlist.document.created_ms;
        let time = created_ms.expect("a time");
        writeln!(refs, "{id} {time}").expect("a string takes what is written to it");
        expected.insert(keys::link(*id, channel.id), String::new());
        expected.insert(
            keys::member(channel.id, created_ms, *id).expect("a listed time"),
            keys::document_record(*id),
        );
    }
    expected.insert(keys::refs(channel.id), refs);
}
