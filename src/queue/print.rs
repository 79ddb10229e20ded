//! Queues and messages as tables for people and as JSON for programs.

use std::fmt::{Display, Write as _};
use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{Cell, CellAlignment, Table, presets};
use feed::id::DocumentKey;
use feed::operation::{OperationMessage, OperationRecord, resource_path};
use feed::time;
use proto::v1::{self, MessageState};
use serde_json::{Map, Value, json};

use super::{Purged, operation};

/// Longest text of others in a cell, in characters.
const CELL_CHARS_MAX: usize = 60;

/// What a message of the write queue stands for.
pub(super) struct Write<'a> {
    pub(super) message: &'a OperationMessage,
    /// None: it has expired.
    pub(super) record: Option<&'a OperationRecord>,
    /// The documents whose accepted version is still this operation's.
    pub(super) owned: &'a [DocumentKey],
}

pub(super) fn queues(queues: &[v1::Queue], as_json: bool) -> anyhow::Result<()> {
    let stats = |queue: &v1::Queue| queue.stats.unwrap_or_default();
    let is_paused = |queue: &v1::Queue| queue.settings.as_ref().is_some_and(v1::QueueSettings::paused);
    if as_json {
        let queues: Vec<_> = queues
            .iter()
            .map(|queue| {
                let figures = stats(queue);
                let age = figures.oldest_ready_age.as_ref().map(seconds);
                json!({
                    "name": queue.name,
                    "paused": is_paused(queue),
                    "ready": figures.ready,
                    "delayed": figures.delayed,
                    "leased": figures.leased,
                    "blocked": figures.blocked,
                    "dead": figures.dead,
                    "oldestReadySeconds": age,
                })
            })
            .collect();
        return json_out(&json!({ "queues": queues }));
    }
    if queues.is_empty() {
        return out("no queues\n");
    }
    let mut table = table(&["QUEUE", "READY", "DELAYED", "LEASED", "BLOCKED", "DEAD", "OLDEST READY"]);
    for queue in queues {
        let figures = stats(queue);
        let paused = if is_paused(queue) { " (paused)" } else { "" };
        let mut row = vec![Cell::new(format!("{}{paused}", queue.name))];
        let counts = [
            figures.ready,
            figures.delayed,
            figures.leased,
            figures.blocked,
            figures.dead,
        ];
        row.extend(counts.iter().map(|count| number(count)));
        let age = figures.oldest_ready_age.as_ref().map(seconds);
        row.push(number(&age.map_or_else(|| "-".to_owned(), age_text)));
        table.add_row(row);
    }
    out(&rendered(table))
}

pub(super) fn messages(queue: &str, page: &v1::ListMessagesResponse, now_ms: i64, as_json: bool) -> anyhow::Result<()> {
    let next = Some(&page.next_page_token).filter(|token| !token.is_empty());
    if as_json {
        let messages: Vec<_> = page
            .messages
            .iter()
            .map(|message| {
                let mut members = message_members(message);
                if let Some(operation) = operation(message) {
                    members.insert("operation".to_owned(), json!(operation.operation));
                    members.insert("documents".to_owned(), json!(paths(&operation)));
                }
                Value::Object(members)
            })
            .collect();
        return json_out(&json!({ "queue": queue, "messages": messages, "nextPage": next }));
    }
    if page.messages.is_empty() {
        return out("no messages\n");
    }
    let mut table = table(&["ID", "STATE", "ATTEMPT", "AGE", "DOCUMENT", "LAST ERROR"]);
    for message in &page.messages {
        let enqueued_ms = message.enqueue_time.as_ref().map_or(now_ms, milliseconds);
        #[expect(clippy::cast_precision_loss, reason = "an age for people")]
        let age = (now_ms - enqueued_ms).max(0) as f64 / 1000.0;
        let documents = operation(message)
            .map(|operation| paths(&operation))
            .unwrap_or_default();
        let document = match documents.as_slice() {
            [] => "-".to_owned(),
            [one] => one.clone(),
            [first, others @ ..] => format!("{first} and {} more", others.len()),
        };
        table.add_row([
            number(&message.id),
            Cell::new(state(message.state())),
            number(&message.attempt),
            number(&age_text(age)),
            Cell::new(document),
            Cell::new(shortened(&message.last_error)),
        ]);
    }
    let mut text = rendered(table);
    if let Some(token) = next {
        writeln!(text, "there are more: --page {token}").context("a string takes what is written to it")?;
    }
    out(&text)
}

pub(super) fn message(message: &v1::Message, write: Option<&Write<'_>>, as_json: bool) -> anyhow::Result<()> {
    let mut members = message_members(message);
    let failures: Vec<_> = message
        .failures
        .iter()
        .map(|failure| {
            json!({
                "attempt": failure.attempt,
                "time": failure.time.as_ref().map(time_text),
                "error": failure.error,
            })
        })
        .collect();
    members.insert("failures".to_owned(), failures.into());
    match &message.content {
        Some(v1::message::Content::Text(text)) => members.insert("text".to_owned(), json!(text)),
        Some(v1::message::Content::Body(body)) => members.insert("body".to_owned(), json!(STANDARD.encode(body))),
        None => None,
    };
    let record = write.and_then(|write| write.record);
    let documents = write.map(|write| {
        let is_owned = |key: &DocumentKey| write.owned.contains(key);
        let documents = write.message.documents.iter();
        documents
            .map(|key| json!({ "path": resource_path(*key), "pending": is_owned(key) }))
            .collect::<Vec<_>>()
    });
    if as_json {
        let record: Option<Value> = record.map(serde_json::to_value).transpose()?;
        return json_out(&json!({ "message": members, "operation": record, "documents": documents }));
    }

    let mut table = table(&[]);
    for (name, value) in &members {
        if name != "failures" {
            table.add_row([name.clone(), plain(value)]);
        }
    }
    let mut text = rendered(table);
    if !message.failures.is_empty() {
        let mut table = self::table(&["ATTEMPT", "ENDED", "ERROR"]);
        for failure in &message.failures {
            table.add_row([
                number(&failure.attempt),
                Cell::new(failure.time.as_ref().map(time_text).unwrap_or_default()),
                Cell::new(clean(&failure.error)),
            ]);
        }
        write!(text, "\n{}", rendered(table))?;
    }
    if let Some(write) = write {
        let mut table = self::table(&["DOCUMENT", "STANDS"]);
        for key in &write.message.documents {
            let stands = if write.owned.contains(key) {
                "waits for this message"
            } else {
                "no longer waits for it"
            };
            table.add_row([resource_path(*key), stands.to_owned()]);
        }
        let operation = match write.record {
            Some(record) => {
                let state = serde_json::to_value(record.state)?;
                let reason = record.reason.as_deref().map(|reason| format!(": {}", clean(reason)));
                format!("{}{}", plain(&state), reason.unwrap_or_default())
            }
            None => "no record any more".to_owned(),
        };
        let table = rendered(table);
        write!(text, "\noperation {}: {operation}\n\n{table}", write.message.operation)?;
    }
    out(&text)
}

pub(super) fn redriven(queue: &str, messages: u64, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return json_out(&json!({ "queue": queue, "redriven": messages }));
    }
    out(&format!("messages redriven: {messages}\n"))
}

pub(super) fn purged(queue: &str, purged: &Purged, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let kept = purged.kept.iter();
        let kept: Vec<_> = kept
            .map(|(id, why)| json!({ "id": id, "reason": format!("{why:#}") }))
            .collect();
        return json_out(&json!({
            "queue": queue,
            "purged": purged.messages,
            "withdrawn": purged.withdrawn,
            "kept": kept,
        }));
    }
    let mut text = format!(
        "messages purged: {}, writes withdrawn: {}\n",
        purged.messages, purged.withdrawn
    );
    for (id, why) in &purged.kept {
        writeln!(text, "{id} kept: {why:#}")?;
    }
    out(&text)
}

/// As it is written on the command line.
pub(super) fn state(state: MessageState) -> &'static str {
    match state {
        MessageState::Unspecified => "unknown",
        MessageState::Delayed => "delayed",
        MessageState::Ready => "ready",
        MessageState::Leased => "leased",
        MessageState::Dead => "dead",
        MessageState::Blocked => "blocked",
    }
}

/// What every form of a message tells; what is not set is left out.
fn message_members(message: &v1::Message) -> Map<String, Value> {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let moment = |time: &Option<prost_types::Timestamp>| time.as_ref().map(time_text);
    let members = [
        ("id", Some(json!(message.id))),
        ("queue", Some(json!(message.queue))),
        ("state", Some(json!(state(message.state())))),
        ("attempt", Some(json!(message.attempt))),
        ("redrives", Some(json!(message.redrives))),
        ("enqueueTime", moment(&message.enqueue_time).map(Value::from)),
        ("dueTime", moment(&message.due_time).map(Value::from)),
        ("deadTime", moment(&message.dead_time).map(Value::from)),
        ("deadReason", text(&message.dead_reason).map(Value::from)),
        ("lastError", text(&message.last_error).map(Value::from)),
        ("orderingKey", text(&message.ordering_key).map(Value::from)),
        ("dedupId", text(&message.dedup_id).map(Value::from)),
        (
            "attributes",
            Some(json!(message.attributes)).filter(|_| !message.attributes.is_empty()),
        ),
    ];
    let set = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    set.collect()
}

fn paths(operation: &OperationMessage) -> Vec<String> {
    operation.documents.iter().map(|key| resource_path(*key)).collect()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

/// Lines without spaces at either end.
fn rendered(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    format!("{}\n", table.trim_fmt())
}

fn number(number: &dyn Display) -> Cell {
    Cell::new(number).set_alignment(CellAlignment::Right)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), clean)
}

/// Text of others without what a terminal would act on.
fn clean(text: &str) -> String {
    let visible = |character: char| if character.is_control() { ' ' } else { character };
    text.chars().map(visible).collect()
}

fn shortened(text: &str) -> String {
    let text = clean(text);
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn milliseconds(time: &prost_types::Timestamp) -> i64 {
    time.seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(time.nanos / 1_000_000))
}

fn time_text(time: &prost_types::Timestamp) -> String {
    time::to_text(milliseconds(time))
}

#[expect(clippy::cast_precision_loss, reason = "an age for people")]
fn seconds(duration: &prost_types::Duration) -> f64 {
    duration.seconds as f64 + f64::from(duration.nanos) / 1e9
}

/// An age in its two largest units.
fn age_text(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

fn json_out(value: &Value) -> anyhow::Result<()> {
    out(&format!("{value}\n"))
}

/// Whoever reads may have had enough before the end.
fn out(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output cannot be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        for (seconds, expected) in [
            (0.0, "0.0 s"),
            (59.94, "59.9 s"),
            (60.0, "1 min 0 s"),
            (3_599.9, "59 min 59 s"),
            (3_600.0, "1 h 0 min"),
            (86_399.0, "23 h 59 min"),
            (90_000.0, "1 d 1 h"),
        ] {
            assert_eq!(age_text(seconds), expected);
        }
    }

    #[test]
    fn text_of_others_is_short_and_without_control_characters() {
        assert_eq!(shortened("a\u{1b}[31m\nb"), "a [31m b");
        let long = "ü".repeat(CELL_CHARS_MAX);
        assert_eq!(shortened(&long), long);
        assert_eq!(shortened(&format!("{long}x")), format!("{long}…"));
    }
}
