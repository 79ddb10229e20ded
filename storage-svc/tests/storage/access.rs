//! Tokens: what each opens, on every method there is.

use prost::Message as _;
use prost_types::FileDescriptorSet;
use runtime::secret::Secret;
use storage_svc::ListenArgs;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::guarded::{Guarded, call};

const ADMIN: [&str; 8] = [
    "/dp1.storage.v1.AdminService/GetStoreStats",
    "/dp1.storage.v1.AdminService/Backup",
    "/dp1.storage.v1.AdminService/Checkpoint",
    "/dp1.storage.v1.AdminService/IntegrityCheck",
    "/dp1.storage.v1.AdminService/Compact",
    "/dp1.storage.v1.QueueService/DeleteQueue",
    "/dp1.storage.v1.QueueService/Redrive",
    "/dp1.storage.v1.QueueService/Purge",
];

/// Every method that the service says it has, but health's.
fn guarded_methods() -> Vec<String> {
    let sets = [
        proto::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = Vec::new();
    for set in sets {
        for file in FileDescriptorSet::decode(set).expect("it decodes").file {
            for service in &file.service {
                let names = service.method.iter().map(prost_types::MethodDescriptorProto::name);
                methods.extend(names.map(|name| format!("/{}.{}/{name}", file.package(), service.name())));
            }
        }
    }
    assert!(methods.len() > 25, "{methods:?}");
    methods
}

fn tokens(token: &str, admin_token: Option<&str>) -> ListenArgs {
    ListenArgs {
        storage_token: Some(Secret::from(token.to_owned())),
        storage_admin_token: admin_token.map(|text| Secret::from(text.to_owned())),
        ..ListenArgs::default()
    }
}

fn channel(service: &Guarded) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", service.address)).expect("it is an address");
    endpoint.connect_lazy()
}

/// All that a caller is told.
fn told(status: &Status) -> (Code, String, Vec<u8>, String) {
    let metadata = format!(
        "{:?}",
        status.metadata().clone().into_headers().keys().collect::<Vec<_>>()
    );
    (
        status.code(),
        status.message().to_owned(),
        status.details().to_vec(),
        metadata,
    )
}

#[tokio::test]
async fn a_wrong_token_learns_nothing_whatever_it_calls() {
    let service = Guarded::start(tokens("hush", Some("admin"))).await;
    let channel = channel(&service);
    let mut methods = guarded_methods();
    methods.push("/dp1.storage.v1.KvService/Nothing".to_owned());
    methods.push("/nobody.Service/Nothing".to_owned());
    let mut answers = Vec::new();
    for method in &methods {
        for sent in [
            None,
            Some("Bearer wrong"),
            Some("hush"),
            Some("Basic hush"),
            Some("Bearer hush2"),
        ] {
            let status = call(&channel, method, sent).await.expect_err(method);
            assert_eq!(status.code(), Code::Unauthenticated, "{method} {sent:?}: {status:?}");
            assert!(status.get_details_error_info().is_some(), "{method}");
            answers.push(told(&status));
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "they all hear the same: {answers:?}");
    // Health is for everybody.
    for method in ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"] {
        call(&channel, method, None).await.expect("health is open");
    }
    service.stop().await;
}

#[tokio::test]
async fn each_token_opens_what_it_is_for_on_every_method() {
    let service = Guarded::start(tokens("hush", Some("admin"))).await;
    let channel = channel(&service);
    for method in guarded_methods() {
        let by_token = call(&channel, &method, Some("Bearer hush")).await;
        let is_let_in = by_token.is_ok()
            || by_token
                .as_ref()
                .is_err_and(|status| ![Code::Unauthenticated, Code::PermissionDenied].contains(&status.code()));
        assert_eq!(is_let_in, !ADMIN.contains(&method.as_str()), "{method}: {by_token:?}");
        if let Err(status) = &by_token
            && !is_let_in
        {
            assert_eq!(status.code(), Code::PermissionDenied);
            let details = status.get_details_error_info().expect("it says why");
            assert_eq!(details.reason, "ADMIN_TOKEN_NEEDED");
        }
        if let Err(status) = call(&channel, &method, Some("Bearer admin")).await {
            let refused = [Code::Unauthenticated, Code::PermissionDenied];
            assert!(!refused.contains(&status.code()), "{method}: {status:?}");
            assert!(
                !status.details().is_empty(),
                "{method}: every refusal has details: {status:?}"
            );
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn two_tokens_are_good_at_once_so_that_one_can_be_changed() {
    let service = Guarded::start(tokens("old,new", None)).await;
    let channel = channel(&service);
    let info = "/dp1.storage.v1.AdminService/GetServerInfo";
    let checkpoint = ADMIN[2];
    for token in ["Bearer old", "bearer new"] {
        call(&channel, info, Some(token)).await.expect("it is good");
        // There is no admin token, so the token opens that too.
        if let Err(status) = call(&channel, checkpoint, Some(token)).await {
            assert_ne!(status.code(), Code::PermissionDenied, "{status:?}");
        }
    }
    for token in ["Bearer old,new", "Bearer ", "Bearer new,"] {
        let status = call(&channel, info, Some(token)).await.expect_err("it is wrong");
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    service.stop().await;
}

#[tokio::test]
async fn secrets_are_neither_printed_nor_shown() {
    use clap::{CommandFactory as _, Parser as _};

    let args = storage_svc::Args::parse_from([
        "storage-svc",
        "--storage-token",
        "hush",
        "--storage-admin-token",
        "hush",
    ]);
    assert!(!format!("{args:?}").contains("hush"));
    for argument in storage_svc::Args::command().get_arguments() {
        if argument.get_id().as_str().ends_with("token") {
            assert!(argument.is_hide_env_values_set(), "{argument:?}");
        }
    }
    for wrong in ["a,b,c", "a,"] {
        let refused = storage_svc::bind("127.0.0.1:0", &tokens(wrong, None)).await;
        let refused = refused.expect_err("it is no token");
        assert!(format!("{refused:#}").starts_with("STORAGE_TOKEN"), "{refused:#}");
    }
}
