//! Figures, as a collector gets them.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::guarded::call;
use crate::support::{Service, within};

/// The port that tells them.
struct Port {
    address: String,
    shutdown: CancellationToken,
}

impl Port {
    async fn open(service: &Service) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shutdown = CancellationToken::new();
        let store = service.store().clone();
        let figures = move || {
            let store = store.clone();
            async move { store.figures().await }
        };
        let store = service.store().clone();
        let ready = move || {
            let store = store.clone();
            async move { store.ready().await.map_err(|why| why.to_string()) }
        };
        tokio::spawn(runtime::metrics::serve(listener, figures, ready, shutdown.clone()));
        Self { address, shutdown }
    }

    /// Head and body of an answer.
    async fn ask(&self, line: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).await.expect("it connects");
        let request = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it is sent");
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.expect("it is text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("there is a head");
        (head.to_owned(), body.to_owned())
    }

    /// A figure by name and labels; none if it is not told.
    async fn figure(&self, name: &str) -> Option<f64> {
        let (_, body) = self.ask("GET /metrics").await;
        let value = body
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(value.parse().expect("it is a number"))
    }

    async fn becomes(&self, name: &str, expected: f64) {
        within(async {
            while self.figure(name).await != Some(expected) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let mut service = Service::start().await;
    let port = Port::open(&service).await;
    for number in 0..3 {
        service.put(&number.to_string(), "x").await;
    }
    let refused = service.kv.put(proto::v1::PutRequest::default()).await;
    refused.expect_err("it has no name");
    let put = "method=\"dp1.storage.v1.KvService/Put\"";
    port.becomes(&format!("storage_calls_total{{{put},code=\"OK\"}}"), 3.0)
        .await;
    port.becomes(&format!("storage_calls_total{{{put},code=\"INVALID_ARGUMENT\"}}"), 1.0)
        .await;
    port.becomes(&format!("storage_call_seconds_count{{{put}}}"), 4.0).await;
    port.becomes(&format!("storage_calls_in_flight{{{put}}}"), 0.0).await;
    port.becomes("storage_group_commit_requests_sum", 3.0).await;
    // What nobody knows is one method, however many names are tried.
    for name in ["/a/B", "/dp1.storage.v1.KvService/Nothing"] {
        call(&service.channel, name, None).await.expect_err("it is not there");
    }
    port.becomes("storage_calls_total{method=\"unknown\",code=\"UNIMPLEMENTED\"}", 2.0)
        .await;
    service.stop().await;
    port.shutdown.cancel();
}

#[tokio::test]
async fn a_stream_is_in_flight_until_it_ends() {
    let service = Service::start().await;
    let port = Port::open(&service).await;
    let watch = "method=\"grpc.health.v1.Health/Watch\"";
    let mut health = HealthClient::new(service.channel.clone());
    let mut stream = health
        .watch(HealthCheckRequest::default())
        .await
        .expect("it is watched")
        .into_inner();
    within(stream.message()).await.expect("it tells").expect("how it is");
    port.becomes(&format!("storage_calls_in_flight{{{watch}}}"), 1.0).await;
    drop(stream);
    port.becomes(&format!("storage_calls_in_flight{{{watch}}}"), 0.0).await;
    port.becomes(&format!("storage_calls_total{{{watch},code=\"CANCELLED\"}}"), 1.0)
        .await;
    service.stop().await;
    port.shutdown.cancel();
}

#[tokio::test]
async fn the_file_and_the_queues_tell_how_they_are() {
    let mut service = Service::start().await;
    let port = Port::open(&service).await;
    for text in ["a", "b"] {
        service.enqueue(text).await;
    }
    service.clock.advance_ms(2_500);
    assert_eq!(
        port.figure("storage_queue_messages{queue=\"q\",state=\"ready\"}").await,
        Some(2.0)
    );
    assert_eq!(
        port.figure("storage_queue_messages{queue=\"q\",state=\"dead\"}").await,
        Some(0.0)
    );
    assert_eq!(
        port.figure("storage_queue_oldest_ready_seconds{queue=\"q\"}").await,
        Some(2.5)
    );
    assert_eq!(port.figure("storage_writes_waiting").await, Some(0.0));
    for name in ["storage_file_bytes", "storage_wal_bytes"] {
        assert!(port.figure(name).await.is_some_and(|bytes| bytes > 0.0), "{name}");
    }
    for name in ["storage_watches", "storage_consumers"] {
        assert_eq!(port.figure(name).await, Some(0.0), "{name}");
    }
    service.receive().await;
    assert_eq!(
        port.figure("storage_queue_messages{queue=\"q\",state=\"leased\"}")
            .await,
        Some(2.0)
    );
    assert_eq!(
        port.figure("storage_queue_oldest_ready_seconds{queue=\"q\"}").await,
        Some(0.0)
    );
    service.stop().await;
    // What cannot be read is left out; what was counted is told still.
    assert_eq!(port.figure("storage_wal_bytes").await, None);
    assert!(port.figure("storage_group_commit_requests_count").await.is_some());
    port.shutdown.cancel();
}

#[tokio::test]
async fn the_port_says_whether_the_store_can_be_read() {
    let service = Service::start().await;
    let port = Port::open(&service).await;
    let (head, body) = port.ask("GET /ready").await;
    assert!(head.starts_with("HTTP/1.1 200") && body == "ready\n", "{head} {body}");
    service.stop().await;
    let (head, body) = port.ask("GET /ready").await;
    assert!(
        head.starts_with("HTTP/1.1 503") && body.starts_with("not ready: "),
        "{head} {body}"
    );
    // It is alive all the same.
    let (head, body) = port.ask("GET /health").await;
    assert!(head.starts_with("HTTP/1.1 200") && body == "alive\n", "{head} {body}");
    port.shutdown.cancel();
}

#[tokio::test]
async fn the_port_answers_what_it_is_for_and_nothing_else() {
    let service = Service::start().await;
    let port = Port::open(&service).await;
    let (head, body) = port.ask("GET /metrics").await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
    assert_eq!(body.matches("# EOF").count(), 1);
    assert!(port.ask("GET /").await.0.starts_with("HTTP/1.1 404"));
    for path in ["/metrics", "/health", "/ready"] {
        assert!(port.ask(&format!("POST {path}")).await.0.starts_with("HTTP/1.1 405"));
    }
    // One answer a connection, whatever was asked for: a later one could be cut in its middle.
    let mut stream = TcpStream::connect(&port.address).await.expect("it connects");
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request).await.expect("it is sent");
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.expect("it is text");
    assert!(answer.contains("connection: close"), "{answer}");
    // Collectors that hang hold up nobody for ever, and not the end.
    let hanging = TcpStream::connect(&port.address).await.expect("it connects");
    port.shutdown.cancel();
    within(async {
        while TcpStream::connect(&port.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    drop(hanging);
    service.stop().await;
}
