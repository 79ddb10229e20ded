//! Adds messages.

use rusqlite::Connection;

use super::lately::Lately;
use super::settings::{Queue, resolve};
use super::{dedup, order};
use crate::error::StoreError;
use crate::model::{Content, Enqueued, NewMessage, Origin};
use crate::store::pairs;

const NEW_MESSAGE: &str = "insert into message (queue_id, state, due_ms, enqueue_ms, ordering_key) \
     values (?, ?, ?, ?, ?)";
const NEW_BODY: &str = "insert into message_body (id, kind, attributes, dedup_id, body) values (?, ?, ?, ?, ?)";

/// Adds messages, but those that were added already; their ids, in order.
pub(in crate::store) fn enqueue(
    connection: &Connection,
    now_ms: i64,
    origin: Origin,
    messages: &[NewMessage],
    lately: &mut Lately,
) -> Result<Vec<Enqueued>, StoreError> {
    let mut enqueued = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let field = || origin.message_field(index, "queue");
        let queue = resolve(connection, now_ms, &message.queue, field, lately)?;
        let known = match &message.dedup_id {
            Some(dedup_id) => dedup::recall(connection, now_ms, queue.id, dedup_id)?,
            None => None,
        };
        enqueued.push(match known {
            Some(id) => Enqueued {
                id: id.cast_unsigned(),
                deduplicated: true,
            },
            None => Enqueued {
                id: add(connection, now_ms, &queue, message, lately)?.cast_unsigned(),
                deduplicated: false,
            },
        });
    }
    Ok(enqueued)
}

fn add(
    connection: &Connection,
    now_ms: i64,
    queue: &Queue,
    message: &NewMessage,
    lately: &mut Lately,
) -> Result<i64, StoreError> {
    let depth = queue.depth().saturating_add_signed(lately.growth(queue.id));
    if depth >= queue.settings.depth_max {
        return Err(StoreError::QueueFull {
            queue: queue.name.clone(),
            depth_max: queue.settings.depth_max,
        });
    }
    let key = message.ordering_key.as_deref();
    let due_ms = now_ms.saturating_add(message.delay_ms);
    let state = order::on_arrival(connection, now_ms, queue.id, key, due_ms)?;
    connection
        .prepare_cached(NEW_MESSAGE)?
        .execute((queue.id, state as i64, due_ms, now_ms, key))?;
    let id = connection.last_insert_rowid();
    let is_text = matches!(message.body, Content::Text(_));
    let attributes = pairs::encode(&message.attributes);
    connection.prepare_cached(NEW_BODY)?.execute((
        id,
        is_text,
        attributes,
        &message.dedup_id,
        message.body.as_bytes(),
    ))?;
    if let Some(dedup_id) = &message.dedup_id
        && queue.settings.dedup_window_ms > 0
    {
        let expire_ms = now_ms.saturating_add(queue.settings.dedup_window_ms);
        dedup::remember(connection, queue.id, dedup_id, id, expire_ms)?;
    }
    lately.enters(queue.id, state);
    Ok(id)
}
