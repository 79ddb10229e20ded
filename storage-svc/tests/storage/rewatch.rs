//! The client's watch over a service that is stopped and started again where it was.

use proto::client::watch::{Reset, Update, Watch};
use proto::client::{Connection, StorageClient};
use proto::v1;
use storage_svc::ListenArgs;

use crate::guarded::Guarded;
use crate::support::within;

async fn next(watch: &mut Watch) -> Update {
    within(watch.next()).await.expect("it is no error")
}

/// The revision of the next change; marks in between are passed over.
async fn change(watch: &mut Watch) -> u64 {
    loop {
        match next(watch).await {
            Update::Changed(batch) => break batch.revision,
            Update::CaughtUp { .. } => {}
            other => panic!("a change: {other:?}"),
        }
    }
}

async fn commit(client: &StorageClient, key: &str) {
    let request = v1::CommitRequest {
        mutations: vec![v1::Mutation::put_text("n", key, "x".to_owned(), [].into())],
        request_id: key.to_owned(),
        ..Default::default()
    };
    client.commit(request).await.expect("it is committed");
}

#[tokio::test]
async fn a_watch_comes_back_and_says_that_the_service_was_started_again() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let sockets = tempfile::tempdir().expect("a folder can be made");
    let address = format!("unix:{}", sockets.path().join("storage.sock").display());
    let service = Guarded::start_in(folder, &address, &ListenArgs::default()).await;
    let client = StorageClient::connect_lazy(&Connection::to(address.as_str())).expect("it is an address");
    commit(&client, "before").await;
    let mut watch = client.watch(v1::WatchRequest {
        selectors: vec![v1::Selector {
            namespace: "n".to_owned(),
            keys: None,
        }],
        ..Default::default()
    });
    let began = Update::Began {
        after_revision: 1,
        store_revision: 1,
    };
    assert_eq!(next(&mut watch).await, began);
    commit(&client, "first").await;
    assert_eq!(change(&mut watch).await, 2);
    let folder = service.stop().await;
    loop {
        match next(&mut watch).await {
            Update::CaughtUp { .. } => {}
            Update::Interrupted => break,
            other => panic!("an interruption: {other:?}"),
        }
    }
    let service = Guarded::start_in(folder, &address, &ListenArgs::default()).await;
    assert_eq!(next(&mut watch).await, Update::Reset(Reset::OtherIncarnation));
    let began = Update::Began {
        after_revision: 2,
        store_revision: 2,
    };
    assert_eq!(next(&mut watch).await, began);
    commit(&client, "second").await;
    assert_eq!(change(&mut watch).await, 3);
    drop(watch);
    service.stop().await;
}
