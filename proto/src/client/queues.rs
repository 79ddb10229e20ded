//! Calls for whoever looks after queues rather than working through them.

use tonic::Code;

use super::retry::{Repeat, within};
use super::{CALL_TIMEOUT, ClientError, StorageClient};
use crate::v1;

impl StorageClient {
    /// One page of all queues, with settings and figures.
    pub async fn list_queues(&self, message: v1::ListQueuesRequest) -> Result<v1::ListQueuesResponse, ClientError> {
        within(CALL_TIMEOUT, Repeat::Harmless, message, |request| {
            let mut queue = self.queue.clone();
            async move { queue.list_queues(request).await }
        })
        .await
    }

    /// One page of the messages of a queue; none if nobody has used it yet.
    pub async fn list_messages(
        &self,
        message: v1::ListMessagesRequest,
    ) -> Result<Option<v1::ListMessagesResponse>, ClientError> {
        let page = within(CALL_TIMEOUT, Repeat::Harmless, message, |request| {
            let mut queue = self.queue.clone();
            async move { queue.list_messages(request).await }
        });
        if_found(page.await)
    }

    /// One message of a queue, in whatever state; none if there is no such message, or no such queue.
    pub async fn get_message(&self, queue_name: &str, id: u64) -> Result<Option<v1::Message>, ClientError> {
        let message = v1::GetMessageRequest {
            queue: queue_name.to_owned(),
            which: Some(v1::get_message_request::Which::Id(id)),
        };
        let found = within(CALL_TIMEOUT, Repeat::Harmless, message, |request| {
            let mut queue = self.queue.clone();
            async move { queue.get_message(request).await }
        });
        Ok(if_found(found.await)?.and_then(|found| found.message))
    }

    /// Gives dead messages another life: these (at most [`SWEPT_MESSAGES_MAX`](crate::limits::SWEPT_MESSAGES_MAX)), or
    /// all for no ids. Repeated, it moves what has died again meanwhile too.
    pub async fn redrive(&self, queue_name: &str, ids: Vec<u64>) -> Result<v1::RedriveResponse, ClientError> {
        let message = v1::RedriveRequest {
            queue: queue_name.to_owned(),
            ids,
        };
        within(CALL_TIMEOUT, Repeat::IfRefused, message, |request| {
            let mut queue = self.queue.clone();
            async move { queue.redrive(request).await }
        })
        .await
    }

    /// Deletes messages that are in one of these states: these (at most
    /// [`SWEPT_MESSAGES_MAX`](crate::limits::SWEPT_MESSAGES_MAX)), or all for no ids.
    pub async fn purge(
        &self,
        queue_name: &str,
        ids: Vec<u64>,
        states: &[v1::MessageState],
    ) -> Result<v1::PurgeResponse, ClientError> {
        let message = v1::PurgeRequest {
            queue: queue_name.to_owned(),
            ids,
            states: states.iter().map(|state| i32::from(*state)).collect(),
        };
        within(CALL_TIMEOUT, Repeat::IfRefused, message, |request| {
            let mut queue = self.queue.clone();
            async move { queue.purge(request).await }
        })
        .await
    }
}

impl v1::Message {
    /// The body, if it was sent as text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Some(v1::message::Content::Text(text)) => Some(text),
            _ => None,
        }
    }
}

fn if_found<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(ClientError::Refused(status)) if status.code() == Code::NotFound => Ok(None),
        Err(other) => Err(other),
    }
}
