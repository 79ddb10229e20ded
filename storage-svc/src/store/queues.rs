//! The store's calls on whole queues, and on messages that nobody holds.
//!
//! Each of them sees the state of its own moment: what the clock has moved until then is moved first.

use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

use super::effects::Moment;
use super::job::Job;
use super::{Shared, Store, queue};
use crate::error::StoreError;
use crate::model::{
    Deadline, Message, MessageList, MessagePage, MessageRef, Moved, Purge, QueueChange, QueueInfo, QueueList,
    QueueName, QueuePage, QueueSettings, QueueStats, Redrive,
};

impl Store {
    /// Makes a queue; nothing happens if it is there with the same settings.
    pub async fn create_queue(
        &self,
        name: QueueName,
        settings: QueueSettings,
        deadline: Deadline,
    ) -> Result<QueueInfo, StoreError> {
        let create = move |connection: &_, moment: Moment| queue::create(connection, moment, &name, &settings);
        self.write(deadline, create).await
    }

    /// Changes settings of a queue.
    pub async fn update_queue(
        &self,
        name: QueueName,
        change: QueueChange,
        deadline: Deadline,
    ) -> Result<QueueInfo, StoreError> {
        let update = move |connection: &_, moment: Moment| queue::update(connection, moment, &name, &change);
        self.write(deadline, update).await
    }

    /// A page of queues.
    pub async fn list_queues(&self, list: QueueList, deadline: Deadline) -> Result<QueuePage, StoreError> {
        self.catch_up(deadline).await?;
        let clock = self.0.shared.clock.clone();
        let read = move |connection: &_| queue::list_queues(connection, clock.now_ms(), &list);
        Ok(self.0.readers.read(deadline, read).await?.found)
    }

    /// Deletes a queue, with its messages if that is forced; whether there was one. Callers that wait at it are told.
    pub async fn delete_queue(&self, name: QueueName, force: bool, deadline: Deadline) -> Result<bool, StoreError> {
        let delete = move |connection: &_, _: Moment| queue::delete_queue(connection, &name, force);
        self.write(deadline, delete).await
    }

    /// Exact figures of a queue.
    pub async fn queue_stats(&self, queue: QueueName, deadline: Deadline) -> Result<QueueStats, StoreError> {
        self.catch_up(deadline).await?;
        let clock = self.0.shared.clock.clone();
        let read = move |connection: &_| queue::stats(connection, clock.now_ms(), &queue);
        Ok(self.0.readers.read(deadline, read).await?.found)
    }

    /// One message, in whatever state.
    pub async fn message(
        &self,
        queue: QueueName,
        which: MessageRef,
        deadline: Deadline,
    ) -> Result<Message, StoreError> {
        self.catch_up(deadline).await?;
        let clock = self.0.shared.clock.clone();
        let read = move |connection: &_| queue::get_message(connection, clock.now_ms(), &queue, &which);
        Ok(self.0.readers.read(deadline, read).await?.found)
    }

    /// A page of messages.
    pub async fn list_messages(&self, list: MessageList, deadline: Deadline) -> Result<MessagePage, StoreError> {
        self.catch_up(deadline).await?;
        let read = move |connection: &_| queue::list_messages(connection, &list);
        Ok(self.0.readers.read(deadline, read).await?.found)
    }

    /// Gives dead messages another life.
    pub async fn redrive(&self, redrive: Redrive, deadline: Deadline) -> Result<Moved, StoreError> {
        self.catch_up(deadline).await?;
        let write = move |connection: &_, moment: Moment| queue::redrive(connection, moment, &redrive);
        self.write(deadline, write).await
    }

    /// Deletes messages for good.
    pub async fn purge(&self, purge: Purge, deadline: Deadline) -> Result<Moved, StoreError> {
        self.catch_up(deadline).await?;
        let write = move |connection: &_, moment: Moment| queue::purge(connection, moment, &purge);
        self.write(deadline, write).await
    }

    /// Waits until everything whose time has come by now is moved.
    async fn catch_up(&self, deadline: Deadline) -> Result<(), StoreError> {
        let Shared { clock, next_due_ms, .. } = &self.0.shared;
        while next_due_ms.load(Ordering::SeqCst) <= clock.now_ms() {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(StoreError::DeadlineExceeded);
            }
            let (answer, answered) = oneshot::channel();
            self.submit(Job::Sweep(answer))?;
            answered.await.map_err(|_| StoreError::Closing)??;
        }
        Ok(())
    }
}
