//! QueueService.

use proto::v1;
use proto::v1::queue_service_server::QueueService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::admission::deadline;
use super::{consume, convert, status, streamed, weighed};
use crate::model::Lease;
use crate::store::Store;

/// Messages in and out.
#[derive(Debug)]
pub(super) struct Queue {
    store: Store,
    draining: CancellationToken,
}

impl Queue {
    /// Calls that wait for messages give up when `draining` is cancelled.
    pub(super) fn new(store: Store, draining: CancellationToken) -> Self {
        Self { store, draining }
    }
}

#[tonic::async_trait]
impl QueueService for Queue {
    async fn enqueue(&self, request: Request<v1::EnqueueRequest>) -> Result<Response<v1::EnqueueResponse>, Status> {
        let deadline = deadline(&request);
        let commit = convert::enqueue(request.into_inner()).map_err(status)?;
        let outcome = self.store.commit(commit, deadline).await;
        let committed = outcome.and_then(convert::committed).map_err(status)?;
        Ok(Response::new(v1::EnqueueResponse {
            results: committed.enqueued.into_iter().map(convert::enqueued).collect(),
        }))
    }

    async fn receive(&self, request: Request<v1::ReceiveRequest>) -> Result<Response<v1::ReceiveResponse>, Status> {
        let deadline = deadline(&request);
        let receive = convert::receive(request.into_inner()).map_err(status)?;
        let queue = receive.queue.clone();
        let received = self.store.receive(receive, deadline, &self.draining).await;
        let received = received.map_err(status)?;
        let leases: Vec<Lease> = received.iter().map(|delivery| delivery.lease).collect();
        let deliveries = received.into_iter();
        let deliveries = deliveries.map(|delivery| convert::delivery(delivery, &queue, self.store.seals()));
        let answer = v1::ReceiveResponse {
            deliveries: deliveries.collect(),
        };
        weighed(answer, &self.store).inspect_err(|_| self.store.take_back(leases))
    }

    async fn settle(&self, request: Request<v1::SettleRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        let deadline = deadline(&request);
        let settlements = convert::settle(request.into_inner(), self.store.seals()).map_err(status)?;
        let results = self.store.settle(settlements, deadline).await.map_err(status)?;
        Ok(Response::new(v1::SettleResponse {
            results: results.into_iter().map(convert::settled).collect(),
        }))
    }

    async fn get_queue_stats(
        &self,
        request: Request<v1::GetQueueStatsRequest>,
    ) -> Result<Response<v1::GetQueueStatsResponse>, Status> {
        let deadline = deadline(&request);
        let queue = convert::queue(request.into_inner()).map_err(status)?;
        let stats = self.store.queue_stats(queue, deadline).await.map_err(status)?;
        Ok(Response::new(v1::GetQueueStatsResponse {
            stats: Some(convert::stats(stats)),
        }))
    }

    async fn create_queue(
        &self,
        request: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        let deadline = deadline(&request);
        let (name, settings) = convert::create_queue(request.into_inner()).map_err(status)?;
        let queue = self
            .store
            .create_queue(name, settings, deadline)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::CreateQueueResponse {
            queue: Some(convert::queue_info(&queue)),
        }))
    }

    async fn update_queue(
        &self,
        request: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        let deadline = deadline(&request);
        let (name, change) = convert::update_queue(request.into_inner()).map_err(status)?;
        let queue = self.store.update_queue(name, change, deadline).await.map_err(status)?;
        Ok(Response::new(v1::UpdateQueueResponse {
            queue: Some(convert::queue_info(&queue)),
        }))
    }

    async fn list_queues(
        &self,
        request: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let deadline = deadline(&request);
        let list = convert::list_queues(&request.into_inner(), self.store.seals()).map_err(status)?;
        let page = self.store.list_queues(list, deadline).await.map_err(status)?;
        weighed(convert::queue_page(&page, self.store.seals()), &self.store)
    }

    async fn delete_queue(
        &self,
        request: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        let deadline = deadline(&request);
        let (name, force) = convert::delete_queue(request.into_inner()).map_err(status)?;
        let deleted = self.store.delete_queue(name, force, deadline).await.map_err(status)?;
        Ok(Response::new(v1::DeleteQueueResponse { deleted }))
    }

    async fn get_message(
        &self,
        request: Request<v1::GetMessageRequest>,
    ) -> Result<Response<v1::GetMessageResponse>, Status> {
        let deadline = deadline(&request);
        let (queue, which) = convert::get_message(request.into_inner()).map_err(status)?;
        let message = self
            .store
            .message(queue.clone(), which, deadline)
            .await
            .map_err(status)?;
        let answer = v1::GetMessageResponse {
            message: Some(convert::message(message, &queue)),
        };
        weighed(answer, &self.store)
    }

    async fn list_messages(
        &self,
        request: Request<v1::ListMessagesRequest>,
    ) -> Result<Response<v1::ListMessagesResponse>, Status> {
        let deadline = deadline(&request);
        let list = convert::list_messages(request.into_inner(), self.store.seals()).map_err(status)?;
        let page = self.store.list_messages(list.clone(), deadline).await.map_err(status)?;
        weighed(convert::message_page(page, &list, self.store.seals()), &self.store)
    }

    async fn redrive(&self, request: Request<v1::RedriveRequest>) -> Result<Response<v1::RedriveResponse>, Status> {
        let deadline = deadline(&request);
        let redrive = convert::redrive(request.into_inner()).map_err(status)?;
        let moved = self.store.redrive(redrive, deadline).await.map_err(status)?;
        Ok(Response::new(v1::RedriveResponse {
            moved: moved.messages,
            more: moved.more,
        }))
    }

    async fn purge(&self, request: Request<v1::PurgeRequest>) -> Result<Response<v1::PurgeResponse>, Status> {
        let deadline = deadline(&request);
        let purge = convert::purge(request.into_inner()).map_err(status)?;
        let moved = self.store.purge(purge, deadline).await.map_err(status)?;
        Ok(Response::new(v1::PurgeResponse {
            deleted: moved.messages,
            more: moved.more,
        }))
    }

    type ConsumeStream = tonic::codegen::BoxStream<v1::ConsumeResponse>;

    async fn consume(
        &self,
        request: Request<tonic::Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let place = self.store.consumer_place().map_err(status)?;
        let stream = consume::consume(self.store.clone(), request.into_inner(), self.draining.clone(), place);
        Ok(streamed::answer(stream))
    }
}
