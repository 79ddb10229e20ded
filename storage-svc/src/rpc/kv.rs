//! KvService.

use proto::v1;
use proto::v1::kv_service_server::KvService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::admission::deadline;
use super::{convert, status, streamed, weighed};
use crate::store::Store;

/// Reads and writes of keys.
#[derive(Debug)]
pub(super) struct Kv {
    store: Store,
    draining: CancellationToken,
}

impl Kv {
    /// Streams end when `draining` is cancelled.
    pub(super) fn new(store: Store, draining: CancellationToken) -> Self {
        Self { store, draining }
    }
}

#[tonic::async_trait]
impl KvService for Kv {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let as_bytes = request.as_bytes;
        let (name, with) = convert::get(request).map_err(status)?;
        let snapshot = self.store.get(name, with, deadline).await.map_err(status)?;
        let answer = v1::GetResponse {
            entry: snapshot.found.map(|entry| convert::entry(entry, as_bytes)),
            store_revision: snapshot.store_revision,
        };
        weighed(answer, &self.store)
    }

    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetResponse>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let as_bytes = request.as_bytes;
        let (names, with) = convert::batch_get(request).map_err(status)?;
        let snapshot = self.store.batch_get(names, with, deadline).await.map_err(status)?;
        let items = snapshot.found.into_iter().map(|entry| v1::batch_get_response::Item {
            entry: entry.map(|entry| convert::entry(entry, as_bytes)),
        });
        let answer = v1::BatchGetResponse {
            items: items.collect(),
            store_revision: snapshot.store_revision,
        };
        weighed(answer, &self.store)
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<v1::ScanResponse>, Status> {
        let deadline = deadline(&request);
        let seals = self.store.seals();
        let call = convert::scan(request.into_inner(), seals).map_err(status)?;
        let snapshot = self.store.scan(call.scan.clone(), deadline).await.map_err(status)?;
        let page = convert::scan_page(snapshot.found, snapshot.store_revision, &call, seals);
        weighed(page, &self.store)
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let deadline = deadline(&request);
        let commit = convert::put(request.into_inner()).map_err(status)?;
        let outcome = self.store.commit(commit, deadline).await;
        let committed = outcome.and_then(convert::committed).map_err(status)?;
        Ok(Response::new(v1::PutResponse {
            revision: committed.revision,
            created: committed.created > 0,
        }))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let deadline = deadline(&request);
        let commit = convert::delete(request.into_inner()).map_err(status)?;
        let outcome = self.store.commit(commit, deadline).await;
        let committed = outcome.and_then(convert::committed).map_err(status)?;
        Ok(Response::new(v1::DeleteResponse {
            revision: committed.revision,
            deleted: committed.deleted > 0,
        }))
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Result<Response<v1::CommitResponse>, Status> {
        let deadline = deadline(&request);
        let commit = convert::commit(request.into_inner(), self.store.seals()).map_err(status)?;
        let outcome = self.store.commit(commit, deadline).await.map_err(status)?;
        // Only a conflict can be large, and then nothing has happened.
        weighed(convert::outcome(outcome), &self.store)
    }

    type ScanStreamStream = tonic::codegen::BoxStream<v1::ScanStreamResponse>;

    async fn scan_stream(
        &self,
        request: Request<v1::ScanStreamRequest>,
    ) -> Result<Response<Self::ScanStreamStream>, Status> {
        let seals = self.store.seals().clone();
        let call = convert::scan_stream(request.into_inner(), &seals).map_err(status)?;
        let pages = self.store.scan_stream(call.scan.clone(), &self.draining);
        let pages = pages.map_err(status)?;
        let convert = move |page| convert::scan_stream_page(page, &call, &seals);
        Ok(streamed::answer_flow(pages, convert))
    }

    type WatchStream = tonic::codegen::BoxStream<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let as_bytes = request.as_bytes;
        let watch = convert::watch(request).map_err(status)?;
        let info = self.store.info(deadline).await.map_err(status)?;
        let told = self.store.watch(watch, deadline, &self.draining).await;
        let told = told.map_err(status)?;
        let convert = move |told| convert::told(told, &info, as_bytes);
        Ok(streamed::answer_flow(told, convert))
    }
}
