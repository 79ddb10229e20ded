//! A service behind a guarded socket, and calls of every method of it.

use proto::v1;
use runtime::clock::Clock;
use storage_svc::{ListenArgs, Store, bind};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::support::{START_MS, store_args, within};

/// A running service.
pub(crate) struct Guarded {
    /// As `STORAGE_LISTEN` would say it.
    pub(crate) address: String,
    store: Store,
    shutdown: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
    pub(crate) folder: TempDir,
}

impl Guarded {
    /// On a free port.
    pub(crate) async fn start(args: ListenArgs) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder can be made"), "127.0.0.1:0", &args).await
    }

    pub(crate) async fn start_in(folder: TempDir, address: &str, args: &ListenArgs) -> Self {
        let store = Store::open(&store_args(folder.path()), Clock::manual(START_MS)).expect("the store opens");
        let listener = bind(address, args).await.expect("it can listen");
        let address = listener.address().to_owned();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(storage_svc::serve(listener, store.clone(), shutdown.clone()));
        Self {
            address,
            store,
            shutdown,
            serving,
            folder,
        }
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        let served = within(self.serving).await.expect("serving did not panic");
        served.expect("serving ended well");
        self.store.close().await;
        self.folder
    }
}

/// Calls a method by its path with one empty request; its first answer, whatever it is.
pub(crate) async fn call(channel: &Channel, path: &str, authorization: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(tokio_stream::once(()));
    if let Some(value) = authorization {
        let value = MetadataValue::try_from(value).expect("it fits a header");
        request.metadata_mut().insert("authorization", value);
    }
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = path.parse().expect("it is a path");
    let codec = ProstCodec::<(), ()>::default();
    let mut answers = within(grpc.streaming(request, path, codec)).await?.into_inner();
    within(answers.message()).await.map(|_| ())
}

/// Reads one key, by a client made for this.
pub(crate) fn get() -> v1::GetRequest {
    v1::GetRequest {
        namespace: "n".to_owned(),
        key: "k".to_owned(),
        ..Default::default()
    }
}
