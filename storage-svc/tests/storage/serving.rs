//! Around the services: identity, health, reflection, shedding and the drain.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::v1;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::support::{Service, receive, seconds, within};

/// What calls under way are given; idle connections must not use it up.
const DRAIN_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_service_says_what_it_is() {
    let mut service = Service::start().await;
    service.put("a", "1").await;
    let first = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    let first = first.expect("it answers").into_inner();
    assert_eq!(
        (first.backend.as_str(), first.schema_version, first.store_revision),
        ("sqlite", 5, 1)
    );
    assert_eq!(first.limits["key_bytes"], 512);
    assert_eq!(first.limits["receive_wait_seconds"], 30);
    assert!(first.capabilities.contains(&"commit_settle".to_owned()));
    let mut service = service.restart().await;
    let second = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    let second = second.expect("it answers").into_inner();
    assert_eq!(first.store_id, second.store_id);
    assert_ne!(first.incarnation, second.incarnation);
    service.stop().await;
}

#[tokio::test]
async fn health_is_told_for_each_service_and_changes_first_in_the_drain() {
    let service = Service::start().await;
    let mut health = HealthClient::new(service.channel.clone());
    let ask = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let names = [
        "",
        "dp1.storage.v1.KvService",
        "dp1.storage.v1.QueueService",
        "dp1.storage.v1.AdminService",
    ];
    for name in names {
        let status = health
            .check(ask(name))
            .await
            .expect("it is known")
            .into_inner()
            .status();
        assert_eq!(status, ServingStatus::Serving, "{name:?}");
    }
    let unknown = health.check(ask("nobody")).await.expect_err("nobody knows it");
    assert_eq!(unknown.code(), Code::NotFound);
    let mut watch = health.watch(ask("")).await.expect("it is watched").into_inner();
    let mut next = async || {
        within(watch.message())
            .await
            .map(|answer| answer.map(|answer| answer.status()))
    };
    assert_eq!(next().await.expect("the stream lives"), Some(ServingStatus::Serving));
    service.begin_stop();
    assert_eq!(next().await.expect("the stream lives"), Some(ServingStatus::NotServing));
    // The stream goes on for ever, and does not hold up the drain.
    let began = Instant::now();
    service.stop().await;
    assert!(began.elapsed() < DRAIN_MAX, "the drain did not wait for its bound");
}

#[tokio::test]
async fn reflection_knows_everything_in_both_versions() {
    let service = Service::start().await;
    let expected: BTreeSet<String> = [
        "dp1.storage.v1.AdminService",
        "dp1.storage.v1.KvService",
        "dp1.storage.v1.QueueService",
        "grpc.health.v1.Health",
    ]
    .map(str::to_owned)
    .into();

    macro_rules! check {
        ($version:ident, $client:ident) => {{
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            use tonic_reflection::pb::$version::{ServerReflectionRequest, $client::ServerReflectionClient};
            let ask = |message| ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message),
            };
            let requests = vec![
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("google.rpc.RetryInfo".to_owned())),
            ];
            let mut client = ServerReflectionClient::new(service.channel.clone());
            let answers = client.server_reflection_info(tokio_stream::iter(requests)).await;
            let mut answers = answers.expect("it answers").into_inner();
            let listed = answers
                .message()
                .await
                .expect("it answers")
                .expect("there is an answer");
            let Some(MessageResponse::ListServicesResponse(listed)) = listed.message_response else {
                panic!("a list: {listed:?}")
            };
            let names: BTreeSet<String> = listed.service.into_iter().map(|service| service.name).collect();
            assert!(names.is_superset(&expected), "{names:?}");
            let file = answers
                .message()
                .await
                .expect("it answers")
                .expect("there is an answer");
            let Some(MessageResponse::FileDescriptorResponse(file)) = file.message_response else {
                panic!("a file: {file:?}")
            };
            let file = prost_types::FileDescriptorProto::decode(&*file.file_descriptor_proto[0]);
            assert_eq!(file.expect("it decodes").package(), "google.rpc");
        }};
    }
    check!(v1, server_reflection_client);
    check!(v1alpha, server_reflection_client);
    service.stop().await;
}

#[tokio::test]
async fn too_many_calls_are_shed_with_a_hint() {
    let mut service = Service::start().await;
    let limits = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    let most = limits.expect("it answers").into_inner().limits["calls_in_flight"];
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..most {
        let mut queue = service.queue.clone();
        waiting.spawn(async move {
            let request = v1::ReceiveRequest {
                wait: Some(seconds(30)),
                ..receive()
            };
            // The call below that looks whether all places are taken may itself have had the last one.
            loop {
                match queue.receive(request.clone()).await {
                    Err(status) if status.code() == Code::ResourceExhausted => tokio::task::yield_now().await,
                    answer => break answer,
                }
            }
        });
    }
    // One connection carries no more calls than there are places, so the one too many comes by another.
    let mut other = proto::v1::kv_service_client::KvServiceClient::connect(format!("http://{}", service.address))
        .await
        .expect("it connects");
    let request = v1::GetRequest {
        namespace: "n".to_owned(),
        key: "k".to_owned(),
        ..Default::default()
    };
    let status = within(async {
        loop {
            match other.get(request.clone()).await {
                Err(status) => break status,
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some());
    service.begin_stop();
    for answer in within(waiting.join_all()).await {
        assert!(
            answer
                .expect("the drain answers who waits")
                .into_inner()
                .deliveries
                .is_empty()
        );
    }
    drop(other);
    service.stop().await;
}

#[tokio::test]
async fn too_many_streams_are_shed_and_leave_calls_their_room() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

    let mut service = Service::start().await;
    let limits = service.admin.get_server_info(v1::GetServerInfoRequest {}).await;
    let most = limits.expect("it answers").into_inner().limits["streams_in_flight"];
    let connect = async || {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", service.address));
        let channel = endpoint.expect("it is an address").connect().await;
        ServerReflectionClient::new(channel.expect("it connects"))
    };
    // None of these ever ends by itself.
    let open = async |client: &mut ServerReflectionClient<_>| {
        let (asking, requests) = tokio::sync::mpsc::channel::<ServerReflectionRequest>(1);
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let answers = within(client.server_reflection_info(requests)).await;
        answers.map(|answers| (asking, answers))
    };
    let (mut half, mut other_half, mut late) = (connect().await, connect().await, connect().await);
    let mut streams = Vec::new();
    for number in 0..most {
        let client = if number % 2 == 0 { &mut half } else { &mut other_half };
        streams.push(open(client).await.expect("there is room"));
    }
    let status = open(&mut late).await.expect_err("there is no room");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some());
    service.put("a", "1").await;
    streams.pop();
    within(async {
        while open(&mut late).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let began = Instant::now();
    service.stop().await;
    assert!(began.elapsed() < DRAIN_MAX, "what never ends is told to");
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_drain() {
    let service = Service::start().await;
    let mut mute = TcpStream::connect(&service.address).await.expect("it connects");
    let address = service.address.clone();
    let began = Instant::now();
    service.stop().await;
    assert!(began.elapsed() < DRAIN_MAX, "the drain did not wait for its bound");
    within(async {
        let mut rest = Vec::new();
        // The peer is told, one way or the other.
        let _ = mute.read_to_end(&mut rest).await;
    })
    .await;
    TcpStream::connect(address).await.expect_err("the port is closed");
}

#[tokio::test]
async fn an_address_that_others_reach_must_be_meant() {
    use storage_svc::{ListenArgs, bind};

    let refused = bind("0.0.0.0:0", &ListenArgs::default()).await;
    let refused = refused.expect_err("it is open to all").to_string();
    assert!(refused.contains("STORAGE_INSECURE"), "{refused}");
    let with_admin_token = ListenArgs {
        storage_admin_token: Some("admin".to_owned().into()),
        ..ListenArgs::default()
    };
    let refused = bind("0.0.0.0:0", &with_admin_token).await;
    refused.expect_err("the data is open to all still");
    let with_token = ListenArgs {
        storage_token: Some("hush".to_owned().into()),
        ..ListenArgs::default()
    };
    bind("0.0.0.0:0", &with_token).await.expect("it is guarded");
    let meant = ListenArgs {
        storage_insecure: true,
        ..ListenArgs::default()
    };
    bind("0.0.0.0:0", &meant).await.expect("it is meant");
    bind("nonsense", &meant).await.expect_err("it is no address");
}
