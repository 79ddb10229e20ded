//! Wire messages to checked requests, and answers back to wire messages. Every refusal names the field and its rule.

mod admin;
mod commit;
mod consume;
mod queue;
mod queue_messages;
mod queue_settings;
mod read;
mod watch;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use proto::limits::{LIST_ROWS_DEFAULT, LIST_ROWS_MAX, METADATA_BYTES_MAX, REQUEST_ID_CHARS_MAX, VALUE_BYTES_MAX};
use proto::v1;

pub(super) use self::admin::{backup_part, check_report, compact_keep, store_stats};
pub(super) use self::commit::{commit, committed, delete, enqueue, enqueued, outcome, put};
pub(super) use self::consume::{Wish, deliveries, draining, heartbeat, open, opened, settled_on_stream, wish};
pub(super) use self::queue::{delivery, queue, receive, settle, settled, stats};
pub(super) use self::queue_messages::{get_message, list_messages, message, message_page, purge, redrive};
pub(super) use self::queue_settings::{create_queue, delete_queue, list_queues, queue_info, queue_page, update_queue};
pub(super) use self::read::{batch_get, entry, get, scan, scan_page};
pub(super) use self::watch::{scan_stream, scan_stream_page, told, watch};

use crate::error::StoreError;
use crate::model::{Content, Key, Namespace, Pairs, QueueName, With};

/// The last second of the year 9999, the last that the wire's times can name.
const TIME_SECONDS_MAX: i64 = 253_402_300_799;

fn namespace(name: String, field: impl Into<String>) -> Result<Namespace, StoreError> {
    Namespace::parse(name).map_err(|rule| StoreError::invalid(field, rule))
}

fn key(name: String, field: impl Into<String>) -> Result<Key, StoreError> {
    Key::parse(name).map_err(|rule| StoreError::invalid(field, rule))
}

fn queue_name(name: String, field: impl Into<String>) -> Result<QueueName, StoreError> {
    QueueName::parse(name).map_err(|rule| StoreError::invalid(field, rule))
}

fn request_id(id: String) -> Result<String, StoreError> {
    if id.chars().count() > REQUEST_ID_CHARS_MAX {
        let rule = format!("must be at most {REQUEST_ID_CHARS_MAX} characters");
        return Err(StoreError::invalid("request_id", rule));
    }
    Ok(id)
}

/// Checks an ordering key or a dedup id; none if it is empty.
fn label(text: String, bytes_max: usize, field: impl Into<String>) -> Result<Option<String>, StoreError> {
    if text.len() > bytes_max || text.contains('\0') {
        let rule = format!("must be at most {bytes_max} bytes without NUL");
        return Err(StoreError::invalid(field, rule));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// Checks the number of elements of a list.
fn count(length: usize, least: usize, most: usize, field: &str) -> Result<(), StoreError> {
    if (least..=most).contains(&length) {
        return Ok(());
    }
    Err(StoreError::invalid(
        field,
        format!("must be {least} to {most} elements"),
    ))
}

/// Checks the size of a page of a list.
fn page_size(size: i32) -> Result<usize, StoreError> {
    match usize::try_from(size) {
        Ok(0) => Ok(LIST_ROWS_DEFAULT),
        Ok(rows) if rows <= LIST_ROWS_MAX => Ok(rows),
        _ => Err(StoreError::invalid(
            "page_size",
            format!("must be 0 to {LIST_ROWS_MAX}"),
        )),
    }
}

/// Checks a value's size.
fn value(content: Content, field: impl FnOnce(&str) -> String) -> Result<Content, StoreError> {
    if content.as_bytes().len() > VALUE_BYTES_MAX {
        let name = match content {
            Content::Bytes(_) => "value",
            Content::Text(_) => "text",
        };
        return Err(StoreError::invalid(
            field(name),
            format!("must be at most {VALUE_BYTES_MAX} bytes"),
        ));
    }
    Ok(content)
}

/// Checks metadata or attributes; both have the same limit in common.
fn pairs(pairs: HashMap<String, String>, bytes_max: usize, field: impl Into<String>) -> Result<Pairs, StoreError> {
    if pairs_bytes(pairs.iter()) > bytes_max {
        return Err(StoreError::invalid(
            field,
            format!("must be at most {bytes_max} bytes, names and values added up"),
        ));
    }
    Ok(pairs.into_iter().collect())
}

fn metadata(metadata: HashMap<String, String>, field: impl Into<String>) -> Result<Pairs, StoreError> {
    pairs(metadata, METADATA_BYTES_MAX, field)
}

fn pairs_bytes<'pairs>(pairs: impl Iterator<Item = (&'pairs String, &'pairs String)>) -> usize {
    pairs.map(|(name, value)| name.len() + value.len()).sum()
}

/// A span of time in milliseconds, parts of one rounded up.
fn span_ms(span: prost_types::Duration, least: Duration, most: Duration, field: &str) -> Result<i64, StoreError> {
    let rule = || StoreError::invalid(field, format!("must be {} to {}", words(least), words(most)));
    // Asked first: the conversion negates what is less, and the least number has no negation.
    if span.seconds < 0 {
        return Err(rule());
    }
    let span = Duration::try_from(span).map_err(|_| rule())?;
    if !(least..=most).contains(&span) {
        return Err(rule());
    }
    i64::try_from(span.as_nanos().div_ceil(1_000_000)).map_err(|_| rule())
}

/// A span as a rule says it.
fn words(span: Duration) -> String {
    match (span.as_secs(), span.subsec_nanos()) {
        (0, nanos) if nanos < 1_000_000 => format!("{nanos} ns"),
        (0, _) => format!("{} ms", span.as_millis()),
        (seconds, _) => format!("{seconds} s"),
    }
}

/// A time in milliseconds since 1970, parts of one cut.
fn time_ms(time: prost_types::Timestamp, field: &str) -> Result<i64, StoreError> {
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match nanos {
        Some(nanos) if (0..=TIME_SECONDS_MAX).contains(&time.seconds) => {
            Ok(time.seconds * 1_000 + i64::from(nanos / 1_000_000))
        }
        _ => Err(StoreError::invalid(field, "must be a time from 1970 to 9999")),
    }
}

fn timestamp(time_ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time_ms.div_euclid(1_000),
        nanos: nanos(time_ms),
    }
}

fn duration(span_ms: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: span_ms.div_euclid(1_000),
        nanos: nanos(span_ms),
    }
}

fn nanos(time_ms: i64) -> i32 {
    i32::try_from(time_ms.rem_euclid(1_000) * 1_000_000).expect("a thousand milliseconds of nanoseconds fit")
}

/// An index on the wire.
fn index(index: usize) -> u32 {
    u32::try_from(index).expect("lists are bounded far below four billion")
}

fn with(omit_values: bool) -> With {
    if omit_values { With::NoContent } else { With::Content }
}

/// Content on its way out, as the reader wants it.
fn as_wanted(content: Content, as_bytes: bool) -> Content {
    match content {
        Content::Text(text) if as_bytes => Content::Bytes(Bytes::from(text)),
        other => other,
    }
}

fn entry_content(content: Content, as_bytes: bool) -> v1::entry::Content {
    match as_wanted(content, as_bytes) {
        Content::Bytes(bytes) => v1::entry::Content::Value(bytes),
        Content::Text(text) => v1::entry::Content::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: i64, nanos: i32, expected: Option<i64>) {
        let span = prost_types::Duration { seconds, nanos };
        let most = Duration::from_mins(1);
        assert_eq!(span_ms(span, Duration::ZERO, most, "span").ok(), expected);
    }

    #[test]
    fn a_span_out_of_bounds_is_refused_whatever_its_numbers() {
        check(60, 0, Some(60_000));
        check(0, 1, Some(1));
        check(60, 1, None);
        check(-1, 0, None);
        check(0, -1, None);
        check(i64::MIN, i32::MIN, None);
        check(i64::MIN, i32::MAX, None);
        check(i64::MAX, i32::MAX, None);
    }
}
