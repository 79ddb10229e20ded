//! GetMessage, ListMessages, Redrive and Purge.

use std::collections::BTreeSet;

use proto::limits::{DEDUP_ID_BYTES_MAX, SWEPT_MESSAGES_MAX};
use proto::v1;
use proto::v1::get_message_request::Which;

use super::{count, label, page_size, queue_name, timestamp, with};
use crate::error::StoreError;
use crate::model::{
    Content, Failure, Message, MessageList, MessagePage, MessageRef, MessageState, Purge, QueueName, Redrive,
};
use crate::receipt::Seals;

pub(in crate::rpc) fn get_message(request: v1::GetMessageRequest) -> Result<(QueueName, MessageRef), StoreError> {
    let which = match request.which {
        Some(Which::Id(id)) => Some(MessageRef::Id(id)),
        Some(Which::DedupId(dedup_id)) => label(dedup_id, DEDUP_ID_BYTES_MAX, "dedup_id")?.map(MessageRef::DedupId),
        None => None,
    };
    let which = which.ok_or_else(|| StoreError::invalid("which", "must be set: id or dedup_id"))?;
    Ok((queue_name(request.queue, "queue")?, which))
}

pub(in crate::rpc) fn list_messages(
    request: v1::ListMessagesRequest,
    seals: &Seals,
) -> Result<MessageList, StoreError> {
    let mut list = MessageList {
        queue: queue_name(request.queue, "queue")?,
        state: match request.state {
            0 => None,
            number => Some(state(number).ok_or_else(|| StoreError::invalid("state", "must be a message's state"))?),
        },
        rows_max: page_size(request.page_size)?,
        after: 0,
        with: with(request.omit_bodies),
    };
    if !request.page_token.is_empty() {
        let rule = "must be that of the page before, of this store and this list";
        list.after = seals
            .message_start(&list, &request.page_token)
            .ok_or_else(|| StoreError::invalid("page_token", rule))?;
    }
    Ok(list)
}

pub(in crate::rpc) fn message_page(page: MessagePage, query: &MessageList, seals: &Seals) -> v1::ListMessagesResponse {
    let last = page.messages.last().filter(|_| page.more);
    v1::ListMessagesResponse {
        next_page_token: last.map(|last| seals.message_token(query, last.id)).unwrap_or_default(),
        messages: page
            .messages
            .into_iter()
            .map(|listed| message(listed, &query.queue))
            .collect(),
    }
}

pub(in crate::rpc) fn redrive(request: v1::RedriveRequest) -> Result<Redrive, StoreError> {
    count(request.ids.len(), 0, SWEPT_MESSAGES_MAX, "ids")?;
    Ok(Redrive {
        queue: queue_name(request.queue, "queue")?,
        ids: request.ids,
    })
}

pub(in crate::rpc) fn purge(request: v1::PurgeRequest) -> Result<Purge, StoreError> {
    count(request.ids.len(), 0, SWEPT_MESSAGES_MAX, "ids")?;
    let mut states = BTreeSet::new();
    for (index, number) in request.states.iter().enumerate() {
        let field = || format!("states[{index}]");
        states.insert(state(*number).ok_or_else(|| StoreError::invalid(field(), "must be a message's state"))?);
    }
    if states.is_empty() {
        return Err(StoreError::invalid("states", "must name at least one state"));
    }
    Ok(Purge {
        queue: queue_name(request.queue, "queue")?,
        ids: request.ids,
        states,
    })
}

/// The state of this number on the wire; none if it is no state that a message can be in.
fn state(number: i32) -> Option<MessageState> {
    match v1::MessageState::try_from(number).ok()? {
        v1::MessageState::Unspecified => None,
        v1::MessageState::Delayed => Some(MessageState::Delayed),
        v1::MessageState::Ready => Some(MessageState::Ready),
        v1::MessageState::Leased => Some(MessageState::Leased),
        v1::MessageState::Dead => Some(MessageState::Dead),
        v1::MessageState::Blocked => Some(MessageState::Blocked),
    }
}

fn wire_state(state: MessageState) -> v1::MessageState {
    match state {
        MessageState::Delayed => v1::MessageState::Delayed,
        MessageState::Ready => v1::MessageState::Ready,
        MessageState::Leased => v1::MessageState::Leased,
        MessageState::Dead => v1::MessageState::Dead,
        MessageState::Blocked => v1::MessageState::Blocked,
    }
}

pub(in crate::rpc) fn message(message: Message, queue: &QueueName) -> v1::Message {
    v1::Message {
        id: message.id,
        queue: queue.as_str().to_owned(),
        content: message.body.map(|body| match body {
            Content::Bytes(bytes) => v1::message::Content::Body(bytes),
            Content::Text(text) => v1::message::Content::Text(text),
        }),
        attributes: message.attributes.into_iter().collect(),
        ordering_key: message.ordering_key,
        dedup_id: message.dedup_id,
        attempt: message.attempt,
        redrives: message.redrives,
        enqueue_time: Some(timestamp(message.enqueue_ms)),
        due_time: message.due_ms.map(timestamp),
        state: wire_state(message.state).into(),
        last_error: message.last_error,
        dead_reason: message.dead_reason,
        dead_time: message.dead_ms.map(timestamp),
        failures: message.failures.into_iter().map(failure).collect(),
    }
}

fn failure(failure: Failure) -> v1::message::Failure {
    v1::message::Failure {
        attempt: failure.attempt,
        time: Some(timestamp(failure.time_ms)),
        error: failure.error,
    }
}
