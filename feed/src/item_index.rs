//! The records by which items are found: where one item stands, and the times of one playlist's items.
//!
//! A list of a channel's items merges the spines of the playlists whose span it stands in, so that no row is written
//! per item and channel, and reads only the documents that it prints.

use std::fmt::Write as _;

use crate::document::Document;
use crate::id::{DocumentId, ItemId};
use crate::state::Malformed;

/// Where an item stands: in which playlist, at which position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The playlist.
    pub playlist: DocumentId,
    /// Index in its `items`.
    pub position: usize,
}

impl Place {
    /// As stored: `<playlist>/<position>`.
    #[must_use]
    pub fn to_record(self) -> String {
        format!("{}/{}", self.playlist, self.position)
    }

    /// Reads a stored record.
    pub fn parse(record: &str) -> Result<Self, Malformed> {
        const FAULT: Malformed = Malformed("place of an item");
        let (playlist, position) = record.split_once('/').ok_or(FAULT)?;
        Ok(Self {
            playlist: playlist.parse().map_err(|_| FAULT)?,
            position: position.parse().map_err(|_| FAULT)?,
        })
    }
}

/// One item in a spine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vertebra {
    /// Time of creation in ms.
    pub created_ms: i64,
    /// The item.
    pub id: ItemId,
    /// Index in the playlist's `items`.
    pub position: usize,
}

/// The items of one playlist that lists can place, in the order of lists: by time, then id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spine(pub Vec<Vertebra>);

impl Spine {
    /// The spine of a playlist.
    #[must_use]
    pub fn of(document: &Document) -> Self {
        let mut items: Vec<_> = document
            .items
            .iter()
            .enumerate()
            .filter_map(|(position, item)| {
                let created_ms = item.created_ms.filter(|ms| crate::keys::time(*ms).is_some())?;
                Some(Vertebra {
                    created_ms,
                    id: item.id,
                    position,
                })
            })
            .collect();
        items.sort_unstable();
        Self(items)
    }

    /// First and last time, in ms; none if nothing can be listed.
    #[must_use]
    pub fn span(&self) -> Option<(i64, i64)> {
        Some((self.0.first()?.created_ms, self.0.last()?.created_ms))
    }

    /// As stored: one line per item, `<ms> <id> <position>`.
    #[must_use]
    pub fn to_record(&self) -> String {
        let mut record = String::with_capacity(self.0.len() * 56);
        for Vertebra {
            created_ms,
            id,
            position,
        } in &self.0
        {
            writeln!(record, "{created_ms} {id} {position}").expect("a string takes what is written to it");
        }
        record
    }

    /// Reads a stored record.
    pub fn parse(record: &str) -> Result<Self, Malformed> {
        const FAULT: Malformed = Malformed("spine");
        record
            .lines()
            .map(|line| {
                let mut words = line.split(' ');
                let mut word = || words.next().ok_or(FAULT);
                Ok(Vertebra {
                    created_ms: word()?.parse().map_err(|_| FAULT)?,
                    id: word()?.parse().map_err(|_| FAULT)?,
                    position: word()?.parse().map_err(|_| FAULT)?,
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}
