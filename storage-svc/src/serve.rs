//! The listening end: the services with health and reflection on a socket, and a drain that always ends.

use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use proto::limits::CONSUME_DOUBT_MAX;
use proto::v1::admin_service_server::AdminServiceServer;
use proto::v1::kv_service_server::KvServiceServer;
use proto::v1::queue_service_server::QueueServiceServer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Layer as _;

use crate::listen::{Greeted, Incoming, Listener};
use crate::rpc::{self, Access, Admission, Door, PROBE_BYTES_MAX, Streams};
use crate::store::{PART_BYTES, Store};

/// How long calls under way may take to end once the service is told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(10);
const _: () = assert!(
    rpc::DRAIN_GRACE.as_secs() < DRAIN_MAX.as_secs(),
    "streams end before calls are cut"
);
/// How long connections without a call may take to close after that: for the last answers to be sent, and no longer,
/// because a peer may never answer or may be watching.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// An idle connection is probed this often, so that a dead peer is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// A probe not answered for this long closes the connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const _: () = assert!(
    KEEP_ALIVE_INTERVAL.as_secs() + KEEP_ALIVE_TIMEOUT.as_secs() < CONSUME_DOUBT_MAX.as_secs(),
    "a frozen consumer is cut off before it is given more"
);
/// A TLS handshake may take this long.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// What a peer may send ahead on one call, and on one connection, in bytes.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Most calls and streams at once on one connection; more wait at the client.
const STREAMS_MAX: u32 = 1_024;
/// Most connections; one more is closed at once.
const CONNECTIONS_MAX: usize = 1_024;
/// Pause after a connection could not be accepted, which mostly means that the process has no file handles left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The services of the contract, for a client in the same process.
#[must_use]
pub fn routes(store: &Store) -> Routes {
    let draining = CancellationToken::new();
    Door::new(Access::default(), store.metrics().clone(), draining.clone()).guard(rpc::routes(store, draining))
}

/// Serves until `shutdown`, then finishes what is under way, within bounds. Fails if the store ends first. Does not
/// close the store.
pub async fn serve(listener: impl Into<Listener>, store: Store, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = listener.into();
    let (health, health_service) = tonic_health::server::health_reporter();
    let health_service = health_service.max_decoding_message_size(PROBE_BYTES_MAX);
    report(&health, ServingStatus::Serving).await;
    let door = Door::new(listener.access.clone(), store.metrics().clone(), shutdown.clone());
    let routes = rpc::routes(&store, shutdown.clone())
        .add_service(health_service)
        .add_service(reflection().build_v1().context("reflection")?)
        .add_service(reflection().build_v1alpha().context("reflection v1alpha")?);

    let mut connections = Connections::new(door.layer(routes.prepare()));
    let ended = loop {
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            () = store.ended() => break Err(anyhow::anyhow!("the store ended")),
            Some(_) = connections.tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(incoming) => connections.add(incoming),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    };
    report(&health, ServingStatus::NotServing).await;
    drop(listener);
    connections.drain(&door).await;
    ended
}

/// Says of the whole and of each service how it is.
async fn report(health: &HealthReporter, status: ServingStatus) {
    let services = [
        "",
        KvServiceServer::<()>::NAME,
        QueueServiceServer::<()>::NAME,
        AdminServiceServer::<()>::NAME,
    ];
    for service in services {
        health.set_service_status(service, status).await;
    }
}

/// With the descriptors of health and of error details, so that grpcurl prints both as JSON.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// The open connections.
struct Connections {
    routes: Admission<Routes>,
    protocol: auto::Builder<Streams>,
    draining: GracefulShutdown,
    tasks: JoinSet<()>,
}

impl Connections {
    fn new(routes: Admission<Routes>) -> Self {
        let mut protocol = auto::Builder::new(Streams).http2_only();
        protocol
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(PART_BYTES)
            // A service that was held up finds many calls at once that their clients have given up meanwhile. With the
            // 20 that are usual it would end the connection, and all that is well on it. A call that is given up before it
            // is begun takes no more room than one that is under way, of which there may be as many.
            .max_pending_accept_reset_streams(STREAMS_MAX as usize)
            .max_concurrent_streams(STREAMS_MAX);
        Self {
            routes,
            protocol,
            draining: GracefulShutdown::new(),
            tasks: JoinSet::new(),
        }
    }

    fn add(&mut self, incoming: Incoming) {
        if self.tasks.len() >= CONNECTIONS_MAX {
            tracing::warn!(
                connections = CONNECTIONS_MAX,
                "too many connections: one is turned away"
            );
            return;
        }
        match incoming {
            Incoming::Unix(stream) => self.serve(async { Some(stream) }),
            Incoming::Tcp(stream, tls) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection stays slow");
                }
                match tls {
                    None => self.serve(async { Some(stream) }),
                    Some(tls) => self.serve(async move {
                        match tokio::time::timeout(HANDSHAKE_MAX, tls.0.accept(stream)).await {
                            Ok(Ok(stream)) => Some(stream),
                            Ok(Err(error)) => {
                                tracing::debug!(%error, "a handshake failed");
                                None
                            }
                            Err(_) => {
                                tracing::debug!("a handshake took too long");
                                None
                            }
                        }
                    }),
                }
            }
        }
    }

    /// Serves what `connect` brings. Nobody waits for it meanwhile.
    fn serve<S>(&mut self, connect: impl Future<Output = Option<S>> + Send + 'static)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = TowerToHyperService::new(self.routes.clone());
        let protocol = self.protocol.clone();
        let draining = self.draining.watcher();
        self.tasks.spawn(async move {
            let Some(stream) = connect.await else { return };
            let stream = TokioIo::new(Greeted::new(stream));
            let connection = protocol.serve_connection(stream, service).into_owned();
            if let Err(error) = draining.watch(connection).await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }

    /// Lets calls and streams under way end, and connections close; those that do not, or never spoke at all, are cut.
    async fn drain(mut self, door: &Door) {
        let calls_end = async {
            if tokio::time::timeout(DRAIN_MAX, door.emptied()).await.is_err() {
                tracing::warn!("calls were cut after the drain");
            }
            // They are told; what is cut below is not.
            door.cut();
            tokio::time::sleep(GOODBYE_MAX).await;
        };
        tokio::select! {
            () = self.draining.shutdown() => {}
            () = calls_end => tracing::debug!(connections = self.tasks.len(), "connections were cut after the drain"),
        }
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// What every client sends first, and settings that change nothing.
    const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    /// The peer's end of a connection that is served.
    fn connect() -> (Connections, DuplexStream) {
        let metrics = crate::metrics::Metrics::new(crate::metrics::group_sizes());
        let door = Door::new(Access::default(), metrics, CancellationToken::new());
        let (_, health) = tonic_health::server::health_reporter();
        let mut connections = Connections::new(door.layer(Routes::new(health).prepare()));
        let (peer, stream) = tokio::io::duplex(64 * 1024);
        connections.serve(async { Some(stream) });
        (connections, peer)
    }

    /// Whether a connection stands after its peer began so many calls and gave each of them up, all at once.
    async fn bears(given_up: u32) -> bool {
        // Method, scheme and path, as HPACK writes the usual ones.
        const CALL: &[u8] = &[0x83, 0x86, 0x84];
        const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0givingup";
        let mut sent = GREETING.to_vec();
        for number in 0..given_up {
            let stream = (2 * number + 1).to_be_bytes();
            sent.extend([&[0, 0, 3, 1, 4], &stream[..], CALL].concat());
            sent.extend([&[0, 0, 4, 3, 0], &stream[..], &8_u32.to_be_bytes()].concat());
        }
        sent.extend(PING);
        let (_connections, mut peer) = connect();
        peer.write_all(&sent).await.expect("it is taken");
        // Frame by frame, until the ping is answered or the connection is ended.
        loop {
            let mut head = [0; 9];
            if peer.read_exact(&mut head).await.is_err() {
                return false;
            }
            let bytes = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; bytes];
            peer.read_exact(&mut payload).await.expect("a frame is whole");
            match head[3] {
                6 if payload == b"givingup" => return true,
                7 => return false,
                _ => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_calls_can_be_given_up_at_once_as_can_be_under_way() {
        assert!(bears(STREAMS_MAX).await);
        assert!(!bears(STREAMS_MAX + 1).await, "there is an end");
    }

    /// How long a peer that sends this and no more keeps its connection.
    async fn kept(sent: &[u8]) -> Duration {
        let began = tokio::time::Instant::now();
        let (_connections, mut peer) = connect();
        peer.write_all(sent).await.expect("it is taken");
        let mut told = Vec::new();
        let closed = tokio::time::timeout(Duration::from_hours(1), peer.read_to_end(&mut told));
        closed.await.expect("it is closed").expect("it ends well");
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_keeps_no_connection() {
        let greeting_max = Duration::from_secs(11);
        assert!(kept(b"").await < greeting_max);
        assert!(kept(&GREETING[..23]).await < greeting_max);
        // One that has greeted is asked whether it is there.
        let kept = kept(GREETING).await;
        assert!(
            kept >= KEEP_ALIVE_INTERVAL && kept < KEEP_ALIVE_INTERVAL + 2 * KEEP_ALIVE_TIMEOUT,
            "{kept:?}"
        );
    }

    /// Whether a call with no request, of which the peer takes so many bytes, is open after an hour.
    async fn lasts(method: &str, window_bytes: u32) -> bool {
        let (_connections, peer) = connect();
        let mut client = h2::client::Builder::new();
        let handshake = client
            .initial_window_size(window_bytes)
            .handshake::<_, bytes::Bytes>(peer);
        let (mut client, connection) = handshake.await.expect("it speaks HTTP/2");
        let connection = tokio::spawn(connection);
        let request = http::Request::post(format!("http://localhost/grpc.health.v1.Health/{method}"))
            .header("content-type", "application/grpc")
            .body(())
            .expect("it is a request");
        let (answer, mut body) = client.send_request(request, false).expect("it is sent");
        body.send_data(bytes::Bytes::from_static(&[0; 5]), true)
            .expect("it is sent");
        let mut body = answer.await.expect("it is answered").into_body();
        let ended = tokio::time::timeout(Duration::from_hours(1), async {
            while body.data().await.is_some_and(|data| data.is_ok()) {}
        });
        let lasts = ended.await.is_err();
        connection.abort();
        lasts
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_is_dropped() {
        assert!(!lasts("Check", 0).await);
        assert!(!lasts("Watch", 0).await);
        // One with nothing more to say stays.
        assert!(lasts("Watch", 65_535).await);
    }
}
