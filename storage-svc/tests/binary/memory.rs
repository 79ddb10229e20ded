//! What clients that do not take their answers cost in memory, as the system counts it.

use std::time::Duration;

use prost::Message as _;
use proto::limits::{GRPC_MESSAGE_BYTES_MAX, VALUE_BYTES_MAX, WATCH_PAGES_BYTES_MAX, WATCH_STALL_MAX};
use proto::v1;
use proto::v1::admin_service_client::AdminServiceClient;
use proto::v1::kv_service_client::KvServiceClient;

use crate::idler::Idler;
use tokio::process::Command;

use crate::process::{Service, within};
use crate::store_in;

const MIB: usize = 1_024 * 1_024;

/// For what is no page: the engine's caches, and what is read and made into pages now.
const BESIDE_BYTES: usize = 192 * MIB;
/// Has the allocator of glibc give large blocks back, which it would keep for later: here is counted what the service
/// holds.
const GIVE_BACK: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// The most that a process has had in memory, in bytes.
fn peak_bytes(service: &Service) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .expect("it is told");
    kib.trim().parse::<usize>().expect("it is a number") * 1_024
}

async fn with_a_large_value() -> (tempfile::TempDir, Service) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_storage-svc"));
    command.env(GIVE_BACK.0, GIVE_BACK.1);
    let service = Service::start_by(command, &store_in(&folder)).await;
    let request = v1::PutRequest {
        namespace: "n".to_owned(),
        key: "k".to_owned(),
        content: Some(v1::put_request::Content::Value(vec![1; VALUE_BYTES_MAX].into())),
        ..Default::default()
    };
    let mut kv = KvServiceClient::new(service.channel()).max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    within(kv.put(request)).await.expect("it is written");
    (folder, service)
}

#[tokio::test]
async fn watches_that_nobody_reads_share_their_room_and_are_cut_off() {
    const WATCHES: usize = 48;
    /// So many pages at least find room at once.
    const HELD: usize = 10;
    let (_folder, service) = with_a_large_value().await;
    let watch = v1::WatchRequest {
        selectors: vec![v1::Selector {
            namespace: "n".to_owned(),
            keys: None,
        }],
        after_revision: Some(0),
        ..Default::default()
    };
    let path = "/dp1.storage.v1.KvService/Watch";
    let idlers = Idler::ask(&service.address, path, &vec![watch.encode_to_vec(); WATCHES]).await;
    let mut admin = AdminServiceClient::new(service.channel());
    let mut watches = async || {
        let stats = admin.get_store_stats(v1::GetStoreStatsRequest {}).await;
        usize::try_from(stats.expect("it answers").into_inner().watches).expect("they are few")
    };
    within(async { while watches().await < WATCHES {} }).await;
    let others_turn = async {
        while watches().await > WATCHES - HELD {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(4 * WATCH_STALL_MAX, others_turn)
        .await
        .expect("those that hold the room are cut off");
    let peak = peak_bytes(&service);
    assert!(
        peak > WATCH_PAGES_BYTES_MAX / 2,
        "{} MiB: they did not fill their room",
        peak / MIB
    );
    assert!(peak < WATCH_PAGES_BYTES_MAX + BESIDE_BYTES, "{} MiB", peak / MIB);
    idlers.leave();
    assert_eq!(service.terminate().await.code(), Some(0));
}
