//! What clients expect of a feed: every write that was accepted, in that order and none on what another had replaced,
//! had its effect. Knows nothing of versions, keys and revisions.

use std::collections::BTreeMap;

use feed::id::{DocumentId, DocumentKey, Kind};
use serde_json::Value;

/// A document as its writers know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) title: String,
    pub(crate) summary: Option<String>,
    /// The playlists that a channel names, in order.
    pub(crate) playlists: Vec<DocumentId>,
}

/// What a write does to one document.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Create(Expected),
    Replace(Expected),
    Title(String),
    Summary(String),
    Playlists(Vec<DocumentId>),
    Delete,
}

/// The documents that are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model(pub(crate) BTreeMap<DocumentKey, Expected>);

impl Effect {
    /// The playlists that the write names.
    fn names(&self) -> &[DocumentId] {
        match self {
            Self::Create(expected) | Self::Replace(expected) => &expected.playlists,
            Self::Playlists(playlists) => playlists,
            Self::Title(_) | Self::Summary(_) | Self::Delete => &[],
        }
    }
}

impl Model {
    /// Whether the write is accepted.
    pub(crate) fn accepts(&self, document: DocumentKey, effect: &Effect) -> bool {
        let is_there = self.0.contains_key(&document);
        let names_what_is_there = effect.names().iter().all(|id| {
            self.0.contains_key(&DocumentKey {
                kind: Kind::Playlist,
                id: *id,
            })
        });
        is_there != matches!(effect, Effect::Create(_)) && names_what_is_there
    }

    /// The write was accepted.
    pub(crate) fn accept(&mut self, document: DocumentKey, effect: Effect) {
        let mut expected = self.0.remove(&document).unwrap_or_default();
        match effect {
            Effect::Create(new) | Effect::Replace(new) => expected = new,
            Effect::Title(title) => expected.title = title,
            Effect::Summary(summary) => expected.summary = Some(summary),
            Effect::Playlists(playlists) => expected.playlists = playlists,
            Effect::Delete => {
                for channel in self.0.values_mut() {
                    channel.playlists.retain(|playlist| *playlist != document.id);
                }
                return;
            }
        }
        self.0.insert(document, expected);
    }
}

impl Expected {
    /// What a document's text says.
    pub(crate) fn read(text: &str) -> Self {
        let document: Value = serde_json::from_str(text).expect("a document is JSON");
        let text = |name: &str| document[name].as_str().map(str::to_owned);
        let playlists = document["playlists"].as_array().into_iter().flatten().map(|url| {
            let id = url.as_str().and_then(|url| url.rsplit('/').next()).expect("a URL");
            id.parse().expect("it ends in an id")
        });
        Self {
            title: text("title").expect("a title"),
            summary: text("summary"),
            playlists: playlists.collect(),
        }
    }
}
