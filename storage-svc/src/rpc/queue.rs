//! QueueService.

use proto::v1;
use proto::v1::queue_service_server::QueueService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::admission::deadline;
use super::{convert, status};
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
        let results = committed.enqueued.into_iter().map(|id| v1::EnqueueResult {
            id,
            deduplicated: false,
        });
        Ok(Response::new(v1::EnqueueResponse {
            results: results.collect(),
        }))
    }

    async fn receive(&self, request: Request<v1::ReceiveRequest>) -> Result<Response<v1::ReceiveResponse>, Status> {
        let deadline = deadline(&request);
        let receive = convert::receive(request.into_inner()).map_err(status)?;
        let queue = receive.queue.clone();
        let received = self.store.receive(receive, deadline, &self.draining).await;
        let deliveries = received.map_err(status)?.into_iter();
        let deliveries = deliveries.map(|delivery| convert::delivery(delivery, &queue, self.store.seals()));
        Ok(Response::new(v1::ReceiveResponse {
            deliveries: deliveries.collect(),
        }))
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
        _: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_queue(
        &self,
        _: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_queues(&self, _: Request<v1::ListQueuesRequest>) -> Result<Response<v1::ListQueuesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_queue(
        &self,
        _: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_message(&self, _: Request<v1::GetMessageRequest>) -> Result<Response<v1::GetMessageResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_messages(
        &self,
        _: Request<v1::ListMessagesRequest>,
    ) -> Result<Response<v1::ListMessagesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn redrive(&self, _: Request<v1::RedriveRequest>) -> Result<Response<v1::RedriveResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn purge(&self, _: Request<v1::PurgeRequest>) -> Result<Response<v1::PurgeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ConsumeStream = tonic::codegen::BoxStream<v1::ConsumeResponse>;

    async fn consume(
        &self,
        _: Request<tonic::Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
