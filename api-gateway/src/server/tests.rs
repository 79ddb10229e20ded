use std::net::SocketAddr;

use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::outgoing::{self, Limits, Outgoing};

/// Longest time until anything that is waited for.
const DEADLINE: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(300);
/// More than the kernel keeps of what nobody reads, in bytes.
const LARGE_BYTES: usize = 64 * 1024 * 1024;

const PATIENT: Timeouts = Timeouts {
    head: NEVER,
    write: NEVER,
    write_draining: NEVER,
    drain: NEVER,
};

/// A server of `/small` and `/large`, and what it tells.
struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    /// Hears of each large answer that is no longer kept.
    released: mpsc::UnboundedReceiver<()>,
}

/// The text of a large answer.
struct Large(Vec<u8>, mpsc::UnboundedSender<()>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        // A test that has ended does not listen.
        let _ = self.1.send(());
    }
}

async fn start(timeouts: Timeouts, change: impl FnOnce(Router) -> Router) -> Server {
    let (tell, released) = mpsc::unbounded_channel();
    let large = move || {
        let large = Large(vec![b'x'; LARGE_BYTES], tell.clone());
        async move { Body::from(Bytes::from_owner(large)) }
    };
    let router = Router::new()
        .route("/small", get(async || "small"))
        .route("/large", get(large));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(run(listener, change(router), timeouts, shutdown.clone()));
    Server {
        address,
        shutdown,
        running,
        released,
    }
}

impl Server {
    /// Connects and sends this.
    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        stream.write_all(text.as_bytes()).await.expect("it is taken");
        stream
    }

    async fn http2(&self) -> SendRequest<Bytes> {
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        client
    }

    /// Asks for the large answer and reads no more than its first byte.
    async fn ask_and_stop(&self) -> TcpStream {
        let mut stream = self.send("GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(stream.read_u8().await.expect("an answer"), b'H');
        stream
    }

    async fn until_released(&mut self) {
        let released = timeout(DEADLINE, self.released.recv()).await;
        assert_eq!(released.expect("the answer is let go"), Some(()));
    }
}

async fn ask(client: &mut SendRequest<Bytes>, path: &str) -> Response<RecvStream> {
    let request = Request::get(format!("http://x{path}")).body(()).expect("a request");
    let (answer, _) = client.send_request(request, true).expect("a stream");
    let answer = timeout(DEADLINE, answer).await.expect("an answer in time");
    answer.expect("an answer")
}

/// Reads until the server ends the connection.
async fn until_end(mut stream: TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    // The end may be a reset: that is one, too.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut read))
        .await
        .expect("it is closed");
    read
}

#[tokio::test]
async fn connections_that_say_too_little_are_closed() {
    let server = start(Timeouts { head: SHORT, ..PATIENT }, |router| router).await;
    let mut open = Vec::new();
    for first in ["", "P", "PRI * HT", "G", "GET /small HTTP/1.1\r\nhost: x\r\n"] {
        open.push((first, server.send(first).await));
    }
    for (first, stream) in open {
        assert_eq!(until_end(stream).await, b"", "{first:?}");
    }
    let stream = server.send("GET /small HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        until_end(stream).await.ends_with(b"small"),
        "it is served before it idles"
    );
}

#[tokio::test]
async fn the_limit_of_the_first_bytes_ends_with_them() {
    let server = start(Timeouts { head: SHORT, ..PATIENT }, |router| router).await;
    let mut client = server.http2().await;
    assert_eq!(until_end(server.send("").await).await, b"");
    // It has been silent for longer than that one, but is known to speak HTTP/2: it is probed, not closed.
    assert_eq!(ask(&mut client, "/small").await.status(), 200);
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_left() {
    let mut server = start(
        Timeouts {
            write: SHORT,
            ..PATIENT
        },
        |router| router,
    )
    .await;
    let stream = server.ask_and_stop().await;
    server.until_released().await;
    assert!(until_end(stream).await.len() < LARGE_BYTES);
}

#[tokio::test]
async fn a_reader_that_stops_reading_does_not_hold_up_the_end() {
    let server = start(
        Timeouts {
            write_draining: SHORT,
            ..PATIENT
        },
        |router| router,
    )
    .await;
    let _stopped = server.ask_and_stop().await;
    server.shutdown.cancel();
    timeout(DEADLINE, server.running)
        .await
        .expect("it ends")
        .expect("it does not panic");
}

#[tokio::test]
async fn requests_in_flight_are_waited_for_no_longer_than_the_cap() {
    let server = start(
        Timeouts {
            drain: SHORT,
            ..PATIENT
        },
        |router| router,
    )
    .await;
    let _stopped = server.ask_and_stop().await;
    server.shutdown.cancel();
    timeout(DEADLINE, server.running)
        .await
        .expect("it ends")
        .expect("it does not panic");
}

#[tokio::test]
async fn an_unread_answer_over_http2_is_let_go_and_its_connection_kept() {
    let outgoing = Outgoing::new(Limits {
        part: SHORT,
        ..Limits::default()
    });
    let mut server = start(PATIENT, |router| {
        router.layer(from_fn_with_state(outgoing, outgoing::send))
    })
    .await;
    let mut client = server.http2().await;
    let mut unread = ask(&mut client, "/large").await.into_body();
    server.until_released().await;
    // The unread stream has used up the window of the whole connection: only an answer without a body gets through.
    assert_eq!(ask(&mut client, "/nowhere").await.status(), 404);
    let mut bytes = 0;
    let end = loop {
        match timeout(DEADLINE, unread.data()).await.expect("it goes on") {
            Some(Ok(part)) => {
                bytes += part.len();
                unread
                    .flow_control()
                    .release_capacity(part.len())
                    .expect("what was read");
            }
            end => break end,
        }
    };
    assert!(
        matches!(end, Some(Err(_))) && bytes < LARGE_BYTES,
        "{end:?} after {bytes}"
    );
    let small = ask(&mut client, "/small").await.into_body().data().await;
    assert_eq!(small.expect("a body").expect("its text"), "small");
}
