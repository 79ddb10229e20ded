//! Deadlines, as the protocol sends them: of calls, of streams, and of work that has not begun.

use std::time::{Duration, Instant};

use proto::v1;
use proto::v1::kv_service_client::KvServiceClient;
use rusqlite::Connection;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::support::{Service, put, receive, seconds, within};

/// A call whose deadline the service alone keeps: tonic's client would give up by itself. What it ends with.
async fn call(address: &str, path: &str, timeout: &str, message: impl prost::Message) -> Status {
    let stream = TcpStream::connect(address).await.expect("it connects");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .expect("it is a request");
    let (answer, mut body) = client.send_request(request, false).expect("it is sent");
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).expect("it is short").to_be_bytes());
    framed.extend(message);
    body.send_data(framed.into(), true).expect("it is sent");
    let (head, mut body) = within(answer).await.expect("it is answered").into_parts();
    while let Some(data) = within(body.data()).await {
        let data = data.expect("it is good");
        body.flow_control().release_capacity(data.len()).expect("it was taken");
    }
    let trailers = within(body.trailers()).await.expect("it ends well");
    connection.abort();
    Status::from_header_map(&trailers.unwrap_or(head.headers)).expect("there is a status")
}

/// A stream whose deadline the service alone keeps once it has begun.
fn patient<T>(message: T, timeout: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("grpc-timeout", timeout.parse().expect("it fits a header"));
    request
}

/// A connection of its own whose client enforces nothing.
fn channel(service: &Service) -> tonic::transport::Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", service.address)).expect("it is an address");
    endpoint.connect_lazy()
}

#[track_caller]
fn is_deadline(status: &Status) {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let details = status.get_details_error_info().expect("it has details");
    assert_eq!(details.reason, "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn a_watch_ends_at_its_deadline_and_not_before() {
    let mut service = Service::start().await;
    let request = v1::WatchRequest {
        selectors: vec![v1::Selector {
            namespace: "n".to_owned(),
            keys: None,
        }],
        ..Default::default()
    };
    let began = Instant::now();
    let mut kv = KvServiceClient::new(channel(&service));
    let mut watch = kv
        .watch(patient(request, "700m"))
        .await
        .expect("it is watched")
        .into_inner();
    service.put("a", "1").await;
    let mut batches = 0;
    let status = loop {
        match within(watch.message()).await {
            Ok(Some(message)) => {
                batches += usize::from(matches!(message.body, Some(v1::watch_response::Body::Batch(_))));
            }
            Ok(None) => panic!("it ends as if all were well"),
            Err(status) => break status,
        }
    };
    is_deadline(&status);
    assert_eq!(batches, 1, "what happened before it is told");
    assert!(began.elapsed() >= Duration::from_millis(700));
    service.stop().await;
}

#[tokio::test]
async fn a_silent_stream_ends_at_its_deadline_too() {
    let service = Service::start().await;
    let mut health = HealthClient::new(channel(&service));
    let mut watch = health.watch(patient(HealthCheckRequest::default(), "200m")).await;
    let watch = watch.as_mut().expect("it is watched").get_mut();
    within(watch.message()).await.expect("it tells").expect("how it is");
    is_deadline(&within(watch.message()).await.expect_err("its time is up"));
    service.stop().await;
}

#[tokio::test]
async fn a_call_that_waits_is_answered_before_its_deadline_or_at_it() {
    let service = Service::start().await;
    let waits = v1::ReceiveRequest {
        wait: Some(seconds(30)),
        ..receive()
    };
    // An empty answer in time, if there is time for one.
    let path = "/dp1.storage.v1.QueueService/Receive";
    let status = call(&service.address, path, "500m", waits.clone()).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    is_deadline(&call(&service.address, path, "1n", waits).await);
    service.stop().await;
}

#[tokio::test]
async fn a_write_is_not_begun_after_its_deadline() {
    let mut service = Service::start().await;
    service.put("before", "1").await;
    // Somebody holds the file, so that the writer stands still.
    let holder = Connection::open(service.path()).expect("it opens");
    holder.execute_batch("begin immediate").expect("it is held");
    let mut kv = KvServiceClient::new(channel(&service));
    let held = tokio::spawn(async move { kv.put(put("held", "1")).await });
    let status = call(
        &service.address,
        "/dp1.storage.v1.KvService/Put",
        "100m",
        put("late", "1"),
    )
    .await;
    is_deadline(&status);
    holder.execute_batch("rollback").expect("it is let go");
    within(held).await.expect("it does not panic").expect("it had time");
    service.put("after", "1").await;
    assert_eq!(service.get("late").await, None, "it was never begun");
    service.stop().await;
}
