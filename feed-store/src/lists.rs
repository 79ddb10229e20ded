//! Lists of documents by time of creation, a page at a time. Reads show applied documents only.

use feed::id::{DocumentId, DocumentKey, Kind};
use feed::keys::{self, Key};
use feed::page::{Position, Sort};
use proto::v1;
use uuid::Uuid;

use crate::load::malformed;
use crate::{FeedStore, FeedStoreError};

/// Which documents a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentList {
    /// All of a kind.
    All(Kind),
    /// The playlists that a channel refers to; none if there is no such channel.
    Members(DocumentId),
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Its rows, in order.
    pub rows: Vec<T>,
    /// Where the next page goes on, if there is one.
    pub next: Option<Position>,
}

/// An index by time: which keys, and what part of them a page may show.
pub(crate) struct Index {
    /// What its keys begin with; `<ms>/<id>` follows.
    pub(crate) prefix: Key,
    pub(crate) sort: Sort,
    /// The row before the first one.
    pub(crate) after: Option<Position>,
}

impl Index {
    /// The keys behind `after`, in the order of `sort`.
    fn selector(&self) -> v1::Selector {
        let prefix = &self.prefix.key;
        let after = self.after.map(|after| {
            let time = keys::time(after.created_ms).unwrap_or_default();
            format!("{prefix}{time}/{}", after.id)
        });
        let stem = prefix.strip_suffix('/').expect("prefixes of indexes end in a slash");
        // `0` is the character after `/`, and no key goes on behind an id: ` ` is past that one key only.
        let (start, end) = (prefix.clone(), format!("{stem}0"));
        let (start, end) = match (self.sort, after) {
            (_, None) => (start, end),
            (Sort::Ascending, Some(after)) => (format!("{after} "), end),
            (Sort::Descending, Some(after)) => (start, after),
        };
        v1::Selector {
            namespace: self.prefix.namespace.to_owned(),
            keys: Some(v1::selector::Keys::Range(v1::KeyRange { start, end })),
        }
    }

    /// One page of the scan, its rows at most `rows_max`.
    pub(crate) fn scan(&self, rows_max: usize, page_token: String) -> v1::ScanRequest {
        v1::ScanRequest {
            selector: Some(self.selector()),
            reverse: self.sort == Sort::Descending,
            page_size: i32::try_from(rows_max).unwrap_or(i32::MAX),
            page_token,
            ..Default::default()
        }
    }

    /// Where an entry of this index stands.
    pub(crate) fn position(&self, entry: &v1::Entry) -> Result<Position, FeedStoreError> {
        let tail = entry.key.strip_prefix(&self.prefix.key);
        let position = tail.and_then(keys::parse_time_and_id).and_then(|(created_ms, id)| {
            Some(Position {
                created_ms,
                id: Uuid::try_parse(id).ok()?,
            })
        });
        position.ok_or_else(|| {
            let key = Key {
                namespace: self.prefix.namespace,
                key: entry.key.clone(),
            };
            malformed(&key, feed::state::Malformed("index key"))
        })
    }
}

impl FeedStore {
    /// The exact text of an applied document.
    pub async fn document_text(&self, document: DocumentKey) -> Result<Option<String>, FeedStoreError> {
        self.text(&keys::document(document)).await
    }

    /// The text of one record of any kind.
    pub async fn text(&self, key: &Key) -> Result<Option<String>, FeedStoreError> {
        let entry = self.client.get(key.namespace, &key.key).await?;
        entry.map(|entry| into_text(key, entry)).transpose()
    }

    /// The texts of up to `limit` documents after a position. A page ends before the document that would make it larger
    /// than `bytes_max`, but not before its first.
    pub async fn document_page(
        &self,
        list: DocumentList,
        sort: Sort,
        after: Option<Position>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Page<String>, FeedStoreError> {
        let (prefix, target_namespace) = match list {
            DocumentList::All(kind) => (keys::created_index(kind), keys::namespace(kind)),
            DocumentList::Members(channel) => (keys::members(channel), keys::PLAYLISTS),
        };
        let index = Index { prefix, sort, after };
        let mut page = Page {
            rows: Vec::new(),
            next: None,
        };
        let mut bytes = 0;
        let mut end = None;
        let mut page_token = String::new();
        loop {
            // One more than is shown says whether there is more.
            let scanned = self
                .client
                .scan(v1::ScanRequest {
                    omit_values: true,
                    dereference: Some(v1::Dereference {
                        target_namespace: target_namespace.to_owned(),
                        skip_dangling: true,
                    }),
                    ..index.scan(limit + 1 - page.rows.len(), page_token)
                })
                .await?;
            for row in scanned.rows {
                let (Some(entry), Some(document)) = (row.entry, row.target) else {
                    continue;
                };
                let text = into_text(&index.prefix, document)?;
                let is_full = page.rows.len() == limit || bytes + text.len() > bytes_max;
                if is_full && end.is_some() {
                    page.next = end;
                    return Ok(page);
                }
                bytes += text.len();
                end = Some(index.position(&entry)?);
                page.rows.push(text);
            }
            page_token = scanned.next_page_token;
            if page_token.is_empty() {
                return Ok(page);
            }
        }
    }
}

pub(crate) fn into_text(key: &Key, entry: v1::Entry) -> Result<String, FeedStoreError> {
    match entry.content {
        Some(v1::entry::Content::Text(text)) => Ok(text),
        _ => Err(malformed(key, feed::state::Malformed("text"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(sort: Sort, after: Option<Position>) -> (String, String) {
        let prefix = keys::created_index(Kind::Playlist);
        let selector = Index { prefix, sort, after }.selector();
        match selector.keys {
            Some(v1::selector::Keys::Range(range)) => (range.start, range.end),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_range_begins_behind_the_position_in_either_direction() {
        let id: DocumentId = "385f79b6-a45f-4c1c-8080-e93a192adccc".parse().expect("an id");
        let after = Some(Position {
            created_ms: 12,
            id: id.uuid(),
        });
        let key = keys::created(Kind::Playlist, Some(12), id).expect("a listed time").key;
        let next = keys::created(Kind::Playlist, Some(13), id).expect("a listed time").key;

        let (start, end) = range(Sort::Ascending, None);
        assert!(start < key && key < end);
        let (start, end) = range(Sort::Ascending, after);
        assert!(key < start && start < next && next < end);
        let (start, end) = range(Sort::Descending, after);
        assert!(start < key && key == end);
    }
}
