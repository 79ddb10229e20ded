//! Watches whose clients are slow, each in its own way: what they are told is whole, in order, and no less than the
//! service says when it cuts them off.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use proto::v1;
use proto::v1::watch_response::Body;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use runtime::clock::Clock;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::idler::Idler;
use crate::support::{START_MS, Service, eventually, within};
use crate::watching::{Watching, all};

const KIB: usize = 1_024;
const WATCH: &str = "/dp1.storage.v1.KvService/Watch";
const STALL: Duration = Duration::from_millis(150);
const REVISIONS: u64 = 60;
const READERS: u64 = 60;

/// What the revision wrote, recognizable wherever it is cut.
fn text(revision: u64, bytes: usize) -> String {
    let mut text = format!("{revision:010}").repeat(bytes / 10 + 1);
    text.truncate(bytes);
    text
}

/// The whole messages of what has arrived.
fn messages(arrived: &mut Vec<u8>) -> Vec<v1::WatchResponse> {
    let mut found = Vec::new();
    while let Some((prefix, rest)) = arrived.split_at_checked(5) {
        assert_eq!(prefix[0], 0, "a message begins where the last one ended");
        let length = u32::from_be_bytes(prefix[1..].try_into().expect("they are four"));
        let Some((message, rest)) = rest.split_at_checked(length as usize) else {
            break;
        };
        found.push(v1::WatchResponse::decode(message).expect("it is a message"));
        *arrived = rest.to_vec();
    }
    found
}

/// What a client saw.
#[derive(Debug, Default)]
struct Seen {
    /// The last revision of which everything arrived.
    complete: u64,
    /// Of a message that did not arrive as a whole.
    torn_bytes: usize,
    /// It was cut off.
    slow: Option<Status>,
}

impl Seen {
    /// Whether that was the last.
    fn see(&mut self, message: v1::WatchResponse) -> bool {
        match message.body.expect("a message says something") {
            Body::Head(_) => false,
            Body::Batch(batch) => {
                assert_eq!(batch.revision, self.complete + 1);
                for event in &batch.events {
                    let entry = event.entry.as_ref().expect("it was written");
                    let found = entry.text().expect("it is a text");
                    assert!(
                        found == text(batch.revision, found.len()),
                        "of revision {}",
                        batch.revision
                    );
                }
                if !batch.more {
                    self.complete = batch.revision;
                }
                false
            }
            Body::Progress(mark) => {
                assert!(mark.revision <= self.complete);
                mark.revision == REVISIONS
            }
        }
    }
}

/// Watches from the beginning, taking as much and as fast as chance has it.
async fn read(address: String, chance: u64) -> Seen {
    let mut random = SmallRng::seed_from_u64(chance);
    let stream = TcpStream::connect(address).await.expect("it connects");
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(random.random_range(1..200_000))
        .initial_connection_window_size(1 << 30)
        .handshake(stream)
        .await
        .expect("it speaks HTTP/2");
    let connection = tokio::spawn(async move { drop(connection.await) });
    let request = http::Request::post(format!("http://test{WATCH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("it is a request");
    let mut client = client.ready().await.expect("it may ask");
    let (answer, mut body) = client.send_request(request, false).expect("it is sent");
    let message = all(0).encode_to_vec();
    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).expect("it is short")];
    framed.extend(message);
    body.send_data(Bytes::from(framed), true).expect("it is sent");
    let mut answer = answer.await.expect("it is answered").into_body();
    let (mut seen, mut arrived, mut owed) = (Seen::default(), Vec::new(), 0_usize);
    let is_lazy = random.random_bool(0.7);
    loop {
        let pause = STALL.mul_f64(if is_lazy && random.random_bool(0.2) { 2.0 } else { 0.1 });
        let pause = pause.mul_f64(random.random_range(0.0..1.0));
        tokio::select! {
            data = answer.data() => match data {
                Some(data) => {
                    let data = data.expect("nobody resets it");
                    owed += data.len();
                    arrived.extend_from_slice(&data);
                    for message in messages(&mut arrived) {
                        if seen.see(message) {
                            connection.abort();
                            return seen;
                        }
                    }
                }
                None => break,
            },
            () = tokio::time::sleep(pause), if owed > 0 => {
                let taken = owed.min(random.random_range(1..150_000));
                owed -= taken;
                answer.flow_control().release_capacity(taken).expect("it arrived");
            }
        }
    }
    let trailers = answer
        .trailers()
        .await
        .expect("nobody resets it")
        .expect("it ends with a word");
    seen.slow = Status::from_header_map(&trailers);
    seen.torn_bytes = arrived.len();
    connection.abort();
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_cut_off_is_told_no_more_than_arrived() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut service = Service::start_with(folder, Clock::manual(START_MS), |args| {
        args.streams.watch_stall_max = STALL;
    })
    .await;
    let chance = rand::random::<u64>() >> 1;
    println!("seed {chance}");
    let mut random = SmallRng::seed_from_u64(chance);
    for revision in 1..=REVISIONS {
        if revision % 7 == 4 {
            // More than one message can hold.
            let parts = (0..5)
                .map(|part| v1::Mutation::put_text("n", &format!("part {part}"), text(revision, 450 * KIB), [].into()));
            let commit = v1::CommitRequest {
                mutations: parts.collect(),
                ..Default::default()
            };
            service.kv.commit(commit).await.expect("it is written");
        } else {
            let sizes = [10, 3_000, 20 * KIB, 90 * KIB, 250 * KIB, 900 * KIB];
            let bytes = sizes[random.random_range(0..sizes.len())] + random.random_range(0..500);
            service.put("k", &text(revision, bytes)).await;
        }
    }
    let mut readers = JoinSet::new();
    let (mut slow, mut torn) = (0, 0);
    for reader in 0..READERS {
        if readers.len() >= 12 {
            let seen = readers
                .join_next()
                .await
                .expect("some read")
                .expect("it does not panic");
            (slow, torn) = judge(&seen, slow, torn);
        }
        readers.spawn(read(service.address.clone(), chance + reader));
    }
    while let Some(seen) = readers.join_next().await {
        (slow, torn) = judge(&seen.expect("it does not panic"), slow, torn);
    }
    println!("of {READERS} readers {slow} were cut off, {torn} in a message");
    assert!(torn > 0, "none was cut off in a message");
    eventually("all have ended", async || service.store().watches() == 0).await;
    service.stop().await;
}

fn judge(seen: &Seen, slow: usize, torn: usize) -> (usize, usize) {
    let Some(status) = &seen.slow else {
        return (slow, torn);
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_details_error_info().expect("it says why");
    assert_eq!(details.reason, "SLOW_WATCHER");
    let last: u64 = details.metadata["last_revision"].parse().expect("it is a number");
    assert!(last <= seen.complete, "{last} is told, {} arrived", seen.complete);
    (slow + 1, torn + usize::from(seen.torn_bytes > 0))
}

#[tokio::test]
async fn a_watch_that_nobody_reads_is_cut_off_however_rarely_it_says_something() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut service = Service::start_with(folder, Clock::manual(START_MS), |args| {
        args.streams.watch_stall_max = STALL;
    })
    .await;
    let room = service.store().watch_pages_left_bytes();
    service.put("k", &"x".repeat(2_000 * KIB)).await;
    let watch = v1::WatchRequest {
        progress_interval: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ..all(0)
    };
    let idler = Idler::ask(&service.address, WATCH, &[watch.encode_to_vec()]).await;
    eventually("its page takes room", async || {
        service.store().watch_pages_left_bytes() < room
    })
    .await;
    eventually("it is cut off", async || service.store().watches() == 0).await;
    assert_eq!(service.store().watch_pages_left_bytes(), room);
    idler.leave();
    service.stop().await;
}

#[tokio::test]
async fn who_watches_small_values_does_not_wait_for_readers_of_large_ones() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut service = Service::start_with(folder, Clock::manual(START_MS), |args| {
        // One large page, and one small one.
        args.streams.watch_pages_bytes_max = 8_000 * KIB;
    })
    .await;
    service.put("k", &"x".repeat(5_000 * KIB)).await;
    let large = v1::WatchRequest {
        selectors: vec![crate::watching::prefix("n", "k")],
        ..all(0)
    };
    let idlers = Idler::ask(&service.address, WATCH, &vec![large.encode_to_vec(); 4]).await;
    eventually("they have taken the room for large pages", async || {
        service.store().watch_pages_left_bytes() < 3_000 * KIB
    })
    .await;
    let small = v1::WatchRequest {
        selectors: vec![crate::watching::prefix("n", "small")],
        ..all(None)
    };
    let mut watching = Watching::begin(&mut service.kv, small).await.expect("it begins");
    for _ in 0..20 {
        let revision = service.put("small", "x").await;
        assert_eq!(within(watching.batch()).await.revision, revision);
    }
    assert_eq!(service.store().watches(), 5, "the others are still there");
    idlers.leave();
    service.stop().await;
}
