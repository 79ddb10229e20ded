//! Messages looked at without leasing them, one or many.

use std::collections::BTreeSet;

use proto::limits::{LIST_BYTES, SWEPT_MESSAGES_MAX};
use rusqlite::Connection;

use super::message::{find, state};
use super::settings::{Queue, known};
use super::{dedup, failure};
use crate::error::StoreError;
use crate::model::{Message, MessageList, MessagePage, MessageRef, MessageState, Pairs, QueueName, With};
use crate::store::{kv, pairs};

const WHOLE: &str = "select queue_id, state, due_ms, attempt, enqueue_ms, last_error, dead_reason, dead_ms, \
     ordering_key, redrives, kind, attributes, dedup_id, iif(?, body, null) \
     from message cross join message_body on message_body.id = message.id where message.id = ?";
const LISTED: &str = "select id from message indexed by message_state \
     where queue_id = ? and state = ? and id > ? order by id limit ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 2] = [WHOLE, LISTED];

/// One message, whatever its state.
pub(in crate::store) fn get(
    connection: &Connection,
    now_ms: i64,
    name: &QueueName,
    which: &MessageRef,
) -> Result<Message, StoreError> {
    let queue = known(connection, name)?;
    let id = match which {
        MessageRef::Id(id) => Some(id.cast_signed()),
        MessageRef::DedupId(dedup_id) => dedup::recall(connection, now_ms, queue.id, dedup_id)?,
    };
    let message = match id {
        Some(id) => whole(connection, &queue, id, With::Content)?,
        None => None,
    };
    message.ok_or_else(|| StoreError::MessageNotFound {
        queue: queue.name,
        message: match which {
            MessageRef::Id(id) => id.to_string(),
            MessageRef::DedupId(dedup_id) => dedup_id.clone(),
        },
    })
}

/// A page of messages, by id; it ends after the one that reaches its size.
pub(in crate::store) fn list(connection: &Connection, list: &MessageList) -> Result<MessagePage, StoreError> {
    let queue = known(connection, &list.queue)?;
    let one = list.state.map(|state| [state]);
    let states = one.as_ref().map_or(&MessageState::ALL[..], |state| state);
    // One more than the page holds, to know whether there is more.
    let ids = in_states(
        connection,
        queue.id,
        states,
        list.after.cast_signed(),
        list.rows_max + 1,
    )?;
    let mut page = MessagePage {
        messages: Vec::new(),
        more: false,
    };
    let mut bytes = 0;
    for id in ids {
        if page.messages.len() >= list.rows_max || bytes >= LIST_BYTES {
            page.more = true;
            break;
        }
        let message = whole(connection, &queue, id, list.with)?;
        let message = message.ok_or(StoreError::Damaged("a message that is only in an index"))?;
        bytes += size(&message);
        page.messages.push(message);
    }
    Ok(page)
}

/// The queue's messages that are meant and in one of these states, by id: those that are named or, when none is, all;
/// no more than one call may touch. And whether there are more.
pub(super) fn select(
    connection: &Connection,
    queue_id: i64,
    ids: &[u64],
    states: &[MessageState],
) -> Result<(Vec<i64>, bool), StoreError> {
    if ids.is_empty() {
        let mut found = in_states(connection, queue_id, states, 0, SWEPT_MESSAGES_MAX + 1)?;
        let more = found.len() > SWEPT_MESSAGES_MAX;
        found.truncate(SWEPT_MESSAGES_MAX);
        return Ok((found, more));
    }
    let mut found = Vec::with_capacity(ids.len());
    for id in ids.iter().collect::<BTreeSet<_>>() {
        let message = find(connection, id.cast_signed())?;
        let meant = message.filter(|message| message.queue_id == queue_id && states.contains(&message.state));
        found.extend(meant.map(|message| message.id));
    }
    Ok((found, false))
}

/// The first ids behind `after` of messages in these states.
fn in_states(
    connection: &Connection,
    queue_id: i64,
    states: &[MessageState],
    after: i64,
    limit: usize,
) -> Result<Vec<i64>, StoreError> {
    let mut ids = Vec::new();
    for state in states {
        let mut statement = connection.prepare_cached(LISTED)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map((queue_id, *state as i64, after, limit), |row| row.get::<_, i64>(0))?;
        for id in rows {
            ids.push(id?);
        }
    }
    ids.sort_unstable();
    ids.truncate(limit);
    Ok(ids)
}

/// A message with all that is known of it, if it is in the queue.
fn whole(connection: &Connection, queue: &Queue, id: i64, with: With) -> Result<Option<Message>, StoreError> {
    let mut statement = connection.prepare_cached(WHOLE)?;
    let mut rows = statement.query((with == With::Content, id))?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    if row.get::<_, i64>(0)? != queue.id {
        return Ok(None);
    }
    let state = state(row.get(1)?)?;
    let due_ms: i64 = row.get(2)?;
    let is_timed = !matches!(state, MessageState::Ready | MessageState::Dead);
    let body = match row.get::<_, Option<Vec<u8>>>(13)? {
        Some(bytes) => Some(kv::content(row.get(10)?, bytes)?),
        None => None,
    };
    let text = |column| row.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
    Ok(Some(Message {
        id: id.cast_unsigned(),
        state,
        body,
        attributes: pairs::decode(row.get::<_, Option<Vec<u8>>>(11)?.as_deref())?,
        ordering_key: text(8)?,
        dedup_id: text(12)?,
        attempt: row.get(3)?,
        redrives: row.get(9)?,
        enqueue_ms: row.get(4)?,
        due_ms: is_timed.then_some(due_ms),
        last_error: text(5)?,
        dead_reason: text(6)?,
        dead_ms: row.get(7)?,
        failures: failure::of(connection, id)?,
    }))
}

/// What a message takes in a page, about.
fn size(message: &Message) -> usize {
    let body = message.body.as_ref().map_or(0, |body| body.as_bytes().len());
    let attributes = |pairs: &Pairs| {
        pairs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>()
    };
    let failures = message
        .failures
        .iter()
        .map(|failure| failure.error.len())
        .sum::<usize>();
    let texts = [
        &message.ordering_key,
        &message.dedup_id,
        &message.last_error,
        &message.dead_reason,
    ];
    let texts = texts.into_iter().map(String::len).sum::<usize>();
    body + attributes(&message.attributes) + failures + texts
}
