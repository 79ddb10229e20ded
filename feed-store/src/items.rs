//! Items: one by its id, and lists of them by time of creation. The playlist documents are the truth; the records read
//! here only say where in them an item stands.

use std::collections::HashMap;

use feed::document::item_texts;
use feed::id::{DocumentId, DocumentKey, ItemId, Kind};
use feed::item_index::{Place, Spine};
use feed::keys::{self, Key};
use feed::page::{Position, Sort};
use feed::state::{Malformed, Refs};
use proto::client::Content as Values;
use proto::v1;

use crate::lists::{Index, Page, into_text};
use crate::load::{malformed, parse};
use crate::{FeedStore, FeedStoreError};

/// A page that met a document which changed under it is read anew this often; then what is gone is left out.
const PAGE_ATTEMPTS_MAX: usize = 8;
/// Moves of one item between playlists that a read follows.
const ITEM_ATTEMPTS_MAX: usize = 4;
/// Spines of a channel's playlists that are read at once.
const SPINES_AT_ONCE: usize = 16;

/// Which items a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemList {
    /// All.
    All,
    /// Those of the playlists that a channel refers to; none if there is no such channel.
    Channel(DocumentId),
}

/// A row of a list of items.
type Row = (Position, Place);

/// What printing some rows came to.
struct Printed {
    texts: Vec<String>,
    /// How many rows were looked at.
    rows: usize,
    /// Whether all of them were found where they should stand.
    is_current: bool,
}

impl FeedStore {
    /// The exact text of an item, as its playlist has it.
    pub async fn item_text(&self, item: ItemId) -> Result<Option<String>, FeedStoreError> {
        let item_key = keys::item(item);
        let Some(record) = self.text(&item_key).await? else {
            return Ok(None);
        };
        let mut place = parse_place(&item_key, &record)?;
        for _ in 0..ITEM_ATTEMPTS_MAX {
            // The place is read again beside the document: in one snapshot the two agree. It is far smaller than a
            // document, which is smaller than an answer: one holds both.
            let document_key = document_key(place.playlist);
            let group = vec![item_key.clone(), document_key.clone()];
            let mut entries = self.groups(&[group], Values::Included).await?.into_iter().flatten();
            let mut next = || entries.next().flatten();
            let (Some(record), document) = (next(), next()) else {
                return Ok(None);
            };
            let now = parse_place(&item_key, &into_text(&item_key, record)?)?;
            if now.playlist != place.playlist {
                place = now;
                continue;
            }
            let text = document
                .map(|document| into_text(&document_key, document))
                .transpose()?;
            let found = text
                .as_deref()
                .and_then(|text| feed::document::item_text(text, now.position));
            return match found {
                Some((id, text)) if id == item => Ok(Some(text.to_owned())),
                _ => Err(malformed(&item_key, Malformed("place of an item"))),
            };
        }
        Err(malformed(&item_key, Malformed("place of an item")))
    }

    /// The texts of up to `limit` items after a position. A page ends before the item that would make it larger than
    /// `bytes_max`, but not before its first.
    pub async fn item_page(
        &self,
        list: ItemList,
        sort: Sort,
        after: Option<Position>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Page<String>, FeedStoreError> {
        let mut attempt = 1;
        loop {
            // One more than is shown says whether there is more.
            let rows = match list {
                ItemList::All => self.item_rows(sort, after, limit + 1).await?,
                ItemList::Channel(channel) => self.channel_item_rows(channel, sort, after, limit + 1).await?,
            };
            let shown = &rows[..rows.len().min(limit)];
            let printed = self.print_items(shown, bytes_max).await?;
            if printed.is_current || attempt == PAGE_ATTEMPTS_MAX {
                let end = printed.rows.checked_sub(1).map(|index| rows[index].0);
                return Ok(Page {
                    next: end.filter(|_| printed.rows < rows.len()),
                    rows: printed.texts,
                });
            }
            attempt += 1;
        }
    }

    async fn item_rows(&self, sort: Sort, after: Option<Position>, limit: usize) -> Result<Vec<Row>, FeedStoreError> {
        let prefix = keys::items_created();
        let index = Index { prefix, sort, after };
        let mut rows = Vec::new();
        let mut page_token = String::new();
        loop {
            let scanned = self.client.scan(index.scan(limit - rows.len(), page_token)).await?;
            for entry in scanned.rows.into_iter().filter_map(|row| row.entry) {
                let position = index.position(&entry)?;
                rows.push((position, parse_place(&index.prefix, &into_text(&index.prefix, entry)?)?));
            }
            page_token = scanned.next_page_token;
            if page_token.is_empty() || rows.len() >= limit {
                return Ok(rows);
            }
        }
    }

    /// Merges the spines of a channel's playlists, reading only those that reach into the page.
    ///
    /// References, spans and spines may be of different moments, which does no harm: a row of a spine is printed only if
    /// the document still has the item there, else the page is read anew; and what came since an earlier one of them was
    /// read need not be in the page, which began before.
    async fn channel_item_rows(
        &self,
        channel: DocumentId,
        sort: Sort,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Row>, FeedStoreError> {
        let refs_key = keys::refs(channel);
        let Some(refs) = self.text(&refs_key).await? else {
            return Ok(Vec::new());
        };
        let refs: Refs = parse(&refs_key, &refs)?;
        let mut spans = self.spans(&refs).await?;
        let is_behind = |position: &Position| match sort {
            Sort::Ascending => after.is_none_or(|after| *position > after),
            Sort::Descending => after.is_none_or(|after| *position < after),
        };
        match sort {
            Sort::Ascending => {
                spans.retain(|span| after.is_none_or(|after| span.last_ms >= after.created_ms));
                spans.sort_by_key(|span| span.first_ms);
            }
            Sort::Descending => {
                spans.retain(|span| after.is_none_or(|after| span.first_ms <= after.created_ms));
                spans.sort_by_key(|span| std::cmp::Reverse(span.last_ms));
            }
        }
        let mut rows: Vec<Row> = Vec::new();
        for part in spans.chunks(SPINES_AT_ONCE) {
            // What is left begins no earlier than this part does.
            let is_complete = rows.len() == limit
                && rows.last().is_some_and(|(last, _)| match sort {
                    Sort::Ascending => part[0].first_ms > last.created_ms,
                    Sort::Descending => part[0].last_ms < last.created_ms,
                });
            if is_complete {
                break;
            }
            let wanted: Vec<_> = part.iter().map(|span| keys::spine(span.playlist)).collect();
            let entries = self.entries(&wanted, Values::Included).await?;
            for ((span, key), entry) in part.iter().zip(&wanted).zip(entries) {
                let Some(entry) = entry else { continue };
                let spine = Spine::parse(&into_text(key, entry)?).map_err(|fault| malformed(key, fault))?;
                let row = |vertebra: feed::item_index::Vertebra| {
                    let position = Position {
                        created_ms: vertebra.created_ms,
                        id: vertebra.id.uuid(),
                    };
                    let place = Place {
                        playlist: span.playlist,
                        position: vertebra.position,
                    };
                    (position, place)
                };
                rows.extend(spine.0.into_iter().map(row).filter(|(position, _)| is_behind(position)));
            }
            rows.sort_unstable_by_key(|(position, _)| *position);
            if sort == Sort::Descending {
                rows.reverse();
            }
            rows.truncate(limit);
        }
        Ok(rows)
    }

    /// When the items of each playlist begin and end.
    async fn spans(&self, refs: &Refs) -> Result<Vec<Span>, FeedStoreError> {
        let playlists: Vec<_> = refs.ids().into_iter().collect();
        let wanted: Vec<_> = playlists.iter().map(|id| keys::spine(*id)).collect();
        let entries = self.entries(&wanted, Values::Omitted).await?;
        let found = playlists.into_iter().zip(&wanted).zip(entries);
        found
            .filter_map(|((playlist, key), entry)| Some(Span::read(playlist, key, &entry?)))
            .collect()
    }

    /// Prints rows in order, each document read once as long as little waits for its turn.
    async fn print_items(&self, rows: &[Row], bytes_max: usize) -> Result<Printed, FeedStoreError> {
        let mut printed = Printed {
            texts: Vec::new(),
            rows: 0,
            is_current: true,
        };
        let mut bytes = 0;
        let mut waiting: HashMap<usize, Option<String>> = HashMap::new();
        let mut waiting_bytes = 0;
        for (index, (_, place)) in rows.iter().enumerate() {
            if !waiting.contains_key(&index) {
                let same: Vec<usize> = (index..rows.len())
                    .filter(|other| rows[*other].1.playlist == place.playlist)
                    .collect();
                let positions: Vec<_> = same.iter().map(|index| rows[*index].1.position).collect();
                let document = self.text(&document_key(place.playlist)).await?;
                let items = document.as_deref().and_then(|text| item_texts(text, &positions));
                for (order, other) in same.into_iter().enumerate() {
                    let item = items.as_ref().and_then(|items| items[order]);
                    let text = item
                        .filter(|(id, _)| id.uuid() == rows[other].0.id)
                        .map(|(_, text)| text);
                    let length = text.map_or(0, str::len);
                    if other == index || waiting_bytes + length <= bytes_max {
                        waiting_bytes += length;
                        waiting.insert(other, text.map(str::to_owned));
                    }
                }
            }
            let text = waiting.remove(&index).flatten();
            waiting_bytes -= text.as_ref().map_or(0, String::len);
            match text {
                Some(text) if !printed.texts.is_empty() && bytes + text.len() > bytes_max => return Ok(printed),
                Some(text) => {
                    bytes += text.len();
                    printed.texts.push(text);
                }
                None => printed.is_current = false,
            }
            printed.rows += 1;
        }
        Ok(printed)
    }
}

/// The times of one playlist's items.
struct Span {
    playlist: DocumentId,
    first_ms: i64,
    last_ms: i64,
}

impl Span {
    fn read(playlist: DocumentId, key: &Key, entry: &v1::Entry) -> Result<Self, FeedStoreError> {
        let time = |name: &'static str| {
            let time = entry.metadata.get(name).and_then(|text| text.parse().ok());
            time.ok_or_else(|| malformed(key, Malformed(name)))
        };
        Ok(Self {
            playlist,
            first_ms: time(feed::apply::META_FIRST)?,
            last_ms: time(feed::apply::META_LAST)?,
        })
    }
}

fn document_key(id: DocumentId) -> Key {
    keys::document(DocumentKey {
        kind: Kind::Playlist,
        id,
    })
}

fn parse_place(key: &Key, record: &str) -> Result<Place, FeedStoreError> {
    Place::parse(record).map_err(|fault| malformed(key, fault))
}
