//! Room in memory for what clients do not take: so much at once and no more, and whole again afterwards.

use std::time::Duration;

use prost::Message as _;
use proto::v1;
use runtime::clock::Clock;
use storage_svc::StoreArgs;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::idler::Idler;
use crate::support::{START_MS, Service, eventually, message, receive, within};
use crate::watching::{Watching, all};

const KIB: usize = 1_024;

const WATCH: &str = "/dp1.storage.v1.KvService/Watch";

/// A value of about this size, and the key that names it, fit into so many units of a KiB: one more for what is around it.
const VALUE_KIB: usize = 300;

async fn start(set: impl Fn(&mut StoreArgs)) -> Service {
    let folder = tempfile::tempdir().expect("a folder can be made");
    Service::start_with(folder, Clock::manual(START_MS), set).await
}

#[track_caller]
fn is_shed(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
}

#[tokio::test]
async fn answers_that_nobody_takes_have_so_much_room_and_no_more() {
    let room = 2 * (VALUE_KIB + 1) * KIB;
    let mut service = start(|args| args.streams.answers_bytes_max = room).await;
    service.put("large", &"x".repeat(VALUE_KIB * KIB)).await;
    service.put("small", "x").await;
    let large = v1::GetRequest {
        namespace: "n".to_owned(),
        key: "large".to_owned(),
        ..Default::default()
    };
    let asked = vec![large.encode_to_vec(); 2];
    let idler = Idler::ask(&service.address, "/dp1.storage.v1.KvService/Get", &asked).await;
    eventually("both answers wait", async || service.store().answers_left_bytes() == 0).await;

    is_shed(&service.kv.get(large.clone()).await.expect_err("there is no room"));
    assert!(service.get("small").await.is_some(), "what is small takes none");
    // Messages that could not be handed over are there for the next, their attempt not counted.
    let mut queued = message("m");
    queued.content = Some(v1::new_message::Content::Text("x".repeat(100 * KIB)));
    let enqueue = v1::EnqueueRequest {
        messages: vec![queued],
        ..Default::default()
    };
    service.queue.enqueue(enqueue).await.expect("it is enqueued");
    is_shed(&service.queue.receive(receive()).await.expect_err("there is no room"));

    idler.leave();
    eventually("the room is whole again", async || {
        service.store().answers_left_bytes() == room
    })
    .await;
    service.kv.get(large).await.expect("there is room");
    let received = within(service.queue.receive(receive())).await.expect("there is room");
    let delivery = &received.into_inner().deliveries[0];
    assert_eq!(delivery.message.as_ref().expect("there is one").attempt, 1);
    eventually("what was taken takes no room", async || {
        service.store().answers_left_bytes() == room
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn a_watch_that_nobody_reads_keeps_the_room_of_one_page_and_leaves_others_theirs() {
    let mut service = start(|args| {
        // One page and a bit.
        args.streams.watch_pages_bytes_max = 1_600 * KIB;
        args.streams.watch_stall_max = Duration::from_millis(300);
    })
    .await;
    for _ in 0..6 {
        service.put("k", &"x".repeat(500 * KIB)).await;
    }
    let idler = Idler::ask(&service.address, WATCH, &[all(0).encode_to_vec()]).await;
    eventually("it watches", async || service.store().watches() == 1).await;

    let mut watching = Watching::begin(&mut service.kv, all(0)).await.expect("it begins");
    let batches = within(watching.until_mark()).await.0;
    let revisions: Vec<_> = batches.iter().map(|batch| batch.revision).collect();
    assert_eq!(revisions, [1, 2, 3, 4, 5, 6]);
    drop(watching);
    eventually("the one that reads nothing is given up", async || {
        service.store().watches() == 0
    })
    .await;
    idler.leave();
    service.stop().await;
}

#[tokio::test]
async fn many_watches_that_nobody_reads_give_their_room_back_while_their_clients_are_there() {
    let room = 40 * KIB * KIB;
    let mut service = start(|args| {
        args.streams.watch_pages_bytes_max = room;
        args.streams.watch_stall_max = Duration::from_millis(500);
    })
    .await;
    // Two pages can be read beside each other, and with two that lie there unread there is no room for a third.
    service.put("k", &"x".repeat(12 * KIB * KIB)).await;
    let idlers = Idler::ask(&service.address, WATCH, &vec![all(0).encode_to_vec(); 6]).await;
    eventually("they watch", async || service.store().watches() == 6).await;
    eventually("they have taken the room", async || {
        service.store().watch_pages_left_bytes() < 18 * KIB * KIB
    })
    .await;
    let reads = service.kv.clone();
    let reader = tokio::spawn(async move {
        let mut kv = reads;
        let mut shed = 0;
        // Whoever had to wait too long is told so, and comes back.
        loop {
            let mut watching = Watching::begin(&mut kv, all(0)).await.expect("it begins");
            match watching.next().await {
                Ok(v1::watch_response::Body::Batch(batch)) => break (batch.events.len(), shed),
                Ok(other) => panic!("a batch: {other:?}"),
                Err(status) => is_shed(&status),
            }
            shed += 1;
        }
    });
    let (events, shed) = within(reader).await.expect("it does not panic");
    assert_eq!(events, 1, "after {shed} refusals");
    eventually("those that read nothing are given up", async || {
        service.store().watches() == 0
    })
    .await;
    eventually("the room is whole again", async || {
        service.store().watch_pages_left_bytes() == room
    })
    .await;
    idlers.leave();
    service.stop().await;
}

#[tokio::test]
async fn deliveries_that_nobody_takes_have_so_much_room_and_no_more() {
    let room = 2 * 200 * KIB;
    let mut service = start(|args| args.streams.deliveries_bytes_max = room).await;
    let queued = || {
        let content = Some(v1::new_message::Content::Text("x".repeat(200 * KIB)));
        v1::NewMessage {
            content,
            ..message("m")
        }
    };
    let enqueue = v1::EnqueueRequest {
        messages: vec![queued(), queued(), queued()],
        ..Default::default()
    };
    service.queue.enqueue(enqueue).await.expect("they are enqueued");
    let open = v1::ConsumeRequest {
        body: Some(v1::consume_request::Body::Open(v1::consume_request::Open {
            queue: "q".to_owned(),
            ..Default::default()
        })),
    };
    let consume = "/dp1.storage.v1.QueueService/Consume";
    // On connections of their own, so that each has begun to take its message.
    let first = Idler::open(&service.address, consume, &[open.encode_to_vec()]).await;
    let second = Idler::open(&service.address, consume, &[open.encode_to_vec()]).await;
    eventually("both hold a message", async || {
        service.store().deliveries_left_bytes() == 0
    })
    .await;

    let stream = |open: v1::ConsumeRequest| tokio_stream::iter([open]).chain(tokio_stream::pending());
    let mut third = service
        .queue
        .consume(stream(open.clone()))
        .await
        .expect("it is kept")
        .into_inner();
    let shed = loop {
        match within(third.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends with a word"),
            Err(status) => break status,
        }
    };
    is_shed(&shed);
    first.leave();
    second.leave();
    eventually("the room is whole again", async || {
        service.store().deliveries_left_bytes() == room
    })
    .await;
    // The one that could not be handed over was not counted as an attempt; the others were, if they were on their way.
    service.clock.advance_ms(60_000);
    let mut attempts = Vec::new();
    while attempts.len() < 3 {
        for delivery in within(service.receive()).await {
            attempts.push(delivery.message.expect("there is one").attempt);
        }
    }
    attempts.sort_unstable();
    assert_eq!(attempts[0], 1, "{attempts:?}");
    assert!(attempts[2] <= 2, "{attempts:?}");
    service.stop().await;
}
