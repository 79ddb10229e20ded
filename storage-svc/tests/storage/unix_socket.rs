//! The service on a socket in the file system.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use proto::v1::kv_service_client::KvServiceClient;
use runtime::secret::Secret;
use storage_svc::{ListenArgs, bind};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::guarded::{Guarded, get};

#[tokio::test]
async fn a_socket_is_made_for_owner_and_group_and_removed_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("storage.sock");
    let address = format!("unix:{}", path.display());
    // A socket that nobody answers at is in the way of nobody.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("it is made"));
    assert!(path.exists());
    let service = Guarded::start_in(folder, &address, &ListenArgs::default()).await;
    assert_eq!(service.address, address);
    let found = std::fs::metadata(&path).expect("it is there");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    let endpoint = Endpoint::from_shared(address.clone()).expect("it is an address");
    let mut kv = KvServiceClient::new(endpoint.connect_lazy());
    kv.get(get()).await.expect("it answers");
    // One that somebody answers at is left alone.
    let refused = bind(&address, &ListenArgs::default()).await.expect_err("it is in use");
    assert!(refused.to_string().contains("in use"), "{refused}");
    kv.get(get()).await.expect("it answers still");
    let folder = service.stop().await;
    assert!(!path.exists(), "it is removed");
    drop(folder);
}

#[tokio::test]
async fn a_socket_asks_for_the_token_too() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let address = format!("unix:{}", folder.path().join("storage.sock").display());
    let args = ListenArgs {
        storage_token: Some(Secret::from("hush".to_owned())),
        ..ListenArgs::default()
    };
    let service = Guarded::start_in(folder, &address, &args).await;
    let endpoint = Endpoint::from_shared(address).expect("it is an address");
    let mut kv = KvServiceClient::new(endpoint.connect_lazy());
    let status = kv.get(get()).await.expect_err("there is no token");
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut request = Request::new(get());
    let token = "Bearer hush".parse().expect("it fits a header");
    request.metadata_mut().insert("authorization", token);
    kv.get(request).await.expect("the token is good");
    service.stop().await;
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("notes");
    std::fs::write(&path, "mine").expect("it is written");
    let refused = bind(&format!("unix:{}", path.display()), &ListenArgs::default()).await;
    assert!(refused.expect_err("it is no socket").to_string().contains("no socket"));
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "mine");
    let args = ListenArgs {
        storage_tls_cert: Some("cert.pem".into()),
        ..ListenArgs::default()
    };
    let refused = bind("unix:/nowhere/storage.sock", &args).await;
    assert!(
        refused
            .expect_err("there is no key")
            .to_string()
            .contains("STORAGE_TLS_KEY")
    );
    let refused = bind("unix:/nowhere/storage.sock", &ListenArgs::default()).await;
    assert!(format!("{:#}", refused.expect_err("there is no folder")).contains("/nowhere"));
}
