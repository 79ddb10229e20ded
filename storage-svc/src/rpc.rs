//! The contract's services over a store: each call is converted, made, and its answer converted back. Knows the wire
//! and the store's handle, and nothing of the engine under it.

mod admin;
mod admission;
mod consume;
mod convert;
mod kv;
mod queue;
mod streamed;

use std::sync::Arc;

use proto::limits::{ANSWER_FREE_BYTES, ANSWERS_BYTES_MAX, GRPC_MESSAGE_BYTES_MAX};
use proto::v1::admin_service_server::AdminServiceServer;
use proto::v1::kv_service_server::KvServiceServer;
use proto::v1::queue_service_server::QueueServiceServer;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Response, Status};

use self::admin::Admin;
pub(crate) use self::admission::{Access, Admission, Door, PROBE_BYTES_MAX, Streams};
pub(crate) use self::consume::DRAIN_GRACE;
use self::kv::Kv;
use self::queue::Queue;
use crate::error::StoreError;
use crate::store::Store;

/// The three services. A call that waits for messages gives up when `draining` is cancelled, and streams end.
pub(crate) fn routes(store: &Store, draining: CancellationToken) -> Routes {
    let kv = KvServiceServer::new(Kv::new(store.clone(), draining.clone()))
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    let queue = QueueServiceServer::new(Queue::new(store.clone(), draining.clone()))
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    let admin = AdminServiceServer::new(Admin::new(store.clone(), draining));
    Routes::new(kv).add_service(queue).add_service(admin)
}

// So that any answer can be given.
const _: () = assert!(ANSWERS_BYTES_MAX > GRPC_MESSAGE_BYTES_MAX);

/// An answer, with the room that it takes in memory until it has been sent. Refused if there is none: nothing has
/// happened but a read.
fn weighed<T: prost::Message>(answer: T, store: &Store) -> Result<Response<T>, Status> {
    let bytes = answer.encoded_len();
    let mut response = Response::new(answer);
    if bytes >= ANSWER_FREE_BYTES {
        let room = store.answers().try_take(bytes).map_err(status)?;
        response.extensions_mut().insert(Arc::new(room));
    }
    Ok(response)
}

/// The status of a failure. What is the store's own fault is logged here, once, with its cause; clients learn none of
/// that.
fn status(error: StoreError) -> Status {
    if error.is_ours() {
        tracing::error!(error = &error as &dyn std::error::Error, "a call failed");
    }
    error.into()
}
