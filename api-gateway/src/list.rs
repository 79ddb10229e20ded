//! List requests and pages: what a query asks for, and pages put together from stored texts. Nothing is parsed to be
//! printed.

use axum::response::Response;
use feed::id::{DocumentId, Kind, Reference};
use feed::keys;
use feed::page::{Cursor, CursorError, Position, Sort, parse_limit};
use feed_store::{FeedStoreError, Page};
use url::form_urlencoded;

use crate::Gateway;
use crate::error::{ApiError, Task};

/// A page ends before the document that would make it larger than this, but not before its first.
pub(crate) const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The query of a list, its names decoded; of a repeated one the first counts.
#[derive(Debug)]
pub(crate) struct ListQuery {
    pub(crate) limit: usize,
    pub(crate) sort: Sort,
    cursor: Option<String>,
    channel: Option<Reference>,
}

/// The channel that a list is kept to.
#[derive(Debug)]
pub(crate) enum Filter {
    None,
    Channel(DocumentId),
    /// A slug that no channel has.
    Nobody(String),
}

impl ListQuery {
    /// Reads a query; `channel` and `playlist-group` only where the list `is_filtered`.
    pub(crate) fn parse(query: Option<&str>, is_filtered: bool) -> Result<Self, ApiError> {
        let value = |wanted: &str| {
            let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
            let mut values = pairs
                .filter(|(name, _)| name == wanted)
                .map(|(_, value)| value.into_owned());
            values.next().filter(|value| !value.is_empty())
        };
        let limit = parse_limit(value("limit").as_deref())
            .map_err(|_| ApiError::bad_request("invalid_limit", "Limit must be between 1 and 100"))?;
        let channel = if is_filtered {
            value("channel").or_else(|| value("playlist-group"))
        } else {
            None
        };
        let channel = channel
            .map(|channel| channel.parse())
            .transpose()
            .map_err(|_| ApiError::bad_request("invalid_channel_id", "Channel ID must be a valid UUID or slug"))?;
        Ok(Self {
            limit,
            sort: Sort::parse(value("sort").as_deref()),
            cursor: value("cursor"),
            channel,
        })
    }

    /// The channel that is meant.
    pub(crate) async fn filter(&self, gateway: &Gateway) -> Result<Filter, FeedStoreError> {
        let Some(reference) = &self.channel else {
            return Ok(Filter::None);
        };
        let id = gateway.identify(Kind::Channel, reference).await?;
        Ok(id.map_or_else(|| Filter::Nobody(reference.to_string()), Filter::Channel))
    }

    /// Where the page begins.
    pub(crate) fn after(&self, list: &str, filter: &Filter) -> Result<Option<Position>, ApiError> {
        let Some(text) = &self.cursor else { return Ok(None) };
        let filter_text = filter.to_text();
        let position = self.cursor_of(list, filter_text.as_deref()).decode(text);
        match (position, filter) {
            (Ok(position), _) if keys::time(position.created_ms).is_some() => Ok(Some(position)),
            // The channel went away between two pages: its list ends here.
            (Err(CursorError::OtherList), Filter::Nobody(_)) => Ok(None),
            _ => Err(ApiError::bad_request(
                "invalid_cursor",
                "Cursor does not continue this list with this sort and filter",
            )),
        }
    }

    /// Prints a page.
    pub(crate) fn page(&self, list: &str, filter: &Filter, page: &Page<String>) -> Response {
        let filter_text = filter.to_text();
        let cursor = page
            .next
            .map(|next| self.cursor_of(list, filter_text.as_deref()).encode(&next));
        crate::body::representation(print(&page.rows, cursor.as_deref()))
    }

    /// The page of a list that nothing is in.
    pub(crate) fn empty_page() -> Response {
        crate::body::representation(print(&[], None))
    }

    fn cursor_of<'a>(&self, list: &'a str, filter: Option<&'a str>) -> Cursor<'a> {
        Cursor {
            list,
            sort: self.sort,
            filter,
        }
    }
}

impl Filter {
    fn to_text(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Channel(id) => Some(id.to_string()),
            Self::Nobody(slug) => Some(slug.clone()),
        }
    }
}

/// What a list that failed was of.
pub(crate) fn failed(what: &'static str) -> impl Fn(FeedStoreError) -> ApiError {
    move |error| ApiError::Store(Task::List(what), error)
}

fn print(texts: &[String], cursor: Option<&str>) -> String {
    let length = texts.iter().map(|text| text.len() + 1).sum::<usize>();
    let mut printed = String::with_capacity(length + 128);
    printed.push_str(r#"{"items":["#);
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            printed.push(',');
        }
        printed.push_str(text);
    }
    printed.push(']');
    match cursor {
        // Base64url needs no escapes.
        Some(cursor) => {
            printed.push_str(r#","cursor":""#);
            printed.push_str(cursor);
            printed.push_str(r#"","hasMore":true}"#);
        }
        None => printed.push_str(r#","hasMore":false}"#),
    }
    printed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_repeated_name_counts_and_an_empty_value_does_not() {
        let query = ListQuery::parse(
            Some("limit=2&limit=x&sort=DESC&channel=&playlist-group=a%2Db&cursor="),
            true,
        );
        let query = query.expect("a query");
        assert_eq!((query.limit, query.sort), (2, Sort::Descending));
        assert_eq!(query.channel.map(|channel| channel.to_string()).as_deref(), Some("a-b"));
        assert_eq!(query.cursor, None);
        assert!(ListQuery::parse(Some("channel=%25"), true).is_err());
        assert!(ListQuery::parse(Some("channel=%25"), false).is_ok());
    }

    #[test]
    fn pages_are_put_together_from_texts() {
        assert_eq!(print(&[], None), r#"{"items":[],"hasMore":false}"#);
        let texts = ["1".to_owned(), "2".to_owned()];
        assert_eq!(
            print(&texts, Some("c")),
            r#"{"items":[1,2],"cursor":"c","hasMore":true}"#
        );
    }
}
