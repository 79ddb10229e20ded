//! A service without sockets: the same calls, in this process, and many random cases over one file.

use proptest::prelude::ProptestConfig;
use proto::limits::GRPC_MESSAGE_BYTES_MAX;
use proto::v1;
use proto::v1::admin_service_client::AdminServiceClient;
use proto::v1::kv_service_client::KvServiceClient;
use proto::v1::queue_service_client::QueueServiceClient;
use runtime::clock::Clock;
use storage_svc::Store;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::service::Routes;

use crate::support::{START_MS, eventually, store_args};

/// A store and clients of its calls.
pub(crate) struct InProcess {
    pub(crate) clock: Clock,
    pub(crate) routes: Routes,
    pub(crate) kv: KvServiceClient<Routes>,
    pub(crate) queue: QueueServiceClient<Routes>,
    pub(crate) admin: AdminServiceClient<Routes>,
    pub(crate) store: Store,
    folder: TempDir,
}

impl InProcess {
    /// Over an empty folder.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        Self::start_in(folder, Clock::manual(START_MS))
    }

    fn start_in(folder: TempDir, clock: Clock) -> Self {
        let store = Store::open(&store_args(folder.path()), clock.clone()).expect("the store opens");
        let routes = storage_svc::routes(&store);
        Self {
            clock,
            kv: KvServiceClient::new(routes.clone()).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX),
            queue: QueueServiceClient::new(routes.clone()).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX),
            admin: AdminServiceClient::new(routes.clone()),
            routes,
            store,
            folder,
        }
    }

    /// Closes the file and opens it again.
    pub(crate) async fn restart(self) -> Self {
        let Self {
            clock, store, folder, ..
        } = self;
        store.close().await;
        Self::start_in(folder, clock)
    }

    /// Closes the file.
    pub(crate) async fn stop(self) {
        self.store.close().await;
    }

    /// Asserts that the file is sound, tables and what they promise each other.
    pub(crate) async fn check(&mut self) {
        let mut begun = None;
        eventually("a check begins", async || {
            // One that somebody left may still be on its way out.
            begun = self.admin.integrity_check(v1::IntegrityCheckRequest {}).await.ok();
            begun.is_some()
        })
        .await;
        let mut told = begun.expect("it has begun").into_inner();
        let mut problems = Vec::new();
        let mut finished = None;
        while let Some(part) = told.message().await.expect("the check goes on") {
            match part.body.expect("it tells something") {
                v1::integrity_check_response::Body::Progress(_) => {}
                v1::integrity_check_response::Body::Problem(problem) => problems.push(problem),
                v1::integrity_check_response::Body::Finished(end) => finished = Some(end),
            }
        }
        assert!(finished.is_some_and(|end| end.ok), "{problems:?}");
    }
}

/// So many cases, or as many as `PROPTEST_CASES` says. What fails is shrunk for a while.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let standard = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").map(|_| standard.cases);
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        max_shrink_iters: 500,
        failure_persistence: None,
        ..standard
    }
}

/// One thread for everything but what the store runs on its own.
pub(crate) fn runtime(name: &str) -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let builder = builder.enable_all().thread_name(name);
    builder.build().expect("a runtime starts")
}
