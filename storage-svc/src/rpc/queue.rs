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
        let results = committed.enqueued.into_iter().map(|id| v1::EnqueueResult { id });
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
}
