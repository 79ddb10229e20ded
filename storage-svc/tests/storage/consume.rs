//! QueueService.Consume: the window as it is counted on the wire, what becomes of a stream's messages however it ends,
//! and who is served when.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::limits::{CONSUMERS_MAX, WINDOW_BYTES_MAX, WINDOW_MESSAGES_MAX};
use proto::v1;
use proto::v1::consume_request::{Body as Ask, Drain, Open};
use proto::v1::consume_response::Body as Told;
use proto::v1::queue_service_client::QueueServiceClient;
use proto::v1::settlement::Action;
use proto::v1::settlement_result::Status as Settled;
use runtime::clock::Clock;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::{START_MS, Service, message, receive, refused, seconds, settlement, within};

fn ack() -> Action {
    Action::Ack(v1::settlement::Ack {})
}

fn nack() -> Action {
    Action::Nack(v1::settlement::Nack {
        delay: Some(seconds(0)),
        ..Default::default()
    })
}

fn window(messages: u32) -> Open {
    Open {
        queue: "q".to_owned(),
        max_outstanding_messages: messages,
        ..Default::default()
    }
}

/// The client's end of a stream.
struct Stream {
    requests: mpsc::Sender<v1::ConsumeRequest>,
    responses: Streaming<v1::ConsumeResponse>,
}

impl Stream {
    /// Begins one, and says nothing yet.
    async fn begin<T>(queue: &mut QueueServiceClient<T>) -> Result<Self, Status>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<tonic::codegen::StdError>,
        T::ResponseBody: tonic::transport::Body<Data = Bytes> + Send + 'static,
        <T::ResponseBody as tonic::transport::Body>::Error: Into<tonic::codegen::StdError> + Send,
    {
        let (requests, heard) = mpsc::channel(1_000);
        let responses = queue.consume(ReceiverStream::new(heard)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// Opens one at a service.
    async fn open(service: &mut Service, open: Open) -> Self {
        let mut stream = Self::begin(&mut service.queue).await.expect("there is a place");
        stream.ask(Ask::Open(open)).await;
        let told = stream.next().await.expect("the stream lives");
        assert!(matches!(told, Some(Told::Opened(_))), "{told:?}");
        stream
    }

    async fn ask(&self, body: Ask) {
        let request = v1::ConsumeRequest { body: Some(body) };
        self.requests.send(request).await.expect("the stream lives");
    }

    async fn next(&mut self) -> Result<Option<Told>, Status> {
        let response = within(self.responses.message()).await?;
        Ok(response.map(|response| response.body.expect("a response says something")))
    }

    /// The next messages.
    async fn deliveries(&mut self) -> Vec<v1::Delivery> {
        match self.next().await {
            Ok(Some(Told::Deliveries(deliveries))) => deliveries.deliveries,
            other => panic!("deliveries: {other:?}"),
        }
    }

    /// So many messages, however they are cut.
    async fn take(&mut self, count: usize) -> Vec<v1::Delivery> {
        let mut taken = Vec::new();
        while taken.len() < count {
            taken.extend(self.deliveries().await);
        }
        assert_eq!(taken.len(), count);
        taken
    }

    async fn settle(&self, receipts: &[&Bytes], action: Action) {
        let settlements = receipts.iter().map(|receipt| settlement(receipt, action.clone()));
        self.ask(Ask::Settle(v1::SettleRequest {
            settlements: settlements.collect(),
        }))
        .await;
    }

    async fn settled(&mut self) -> Vec<Settled> {
        match self.next().await {
            Ok(Some(Told::Settled(settled))) => settled.results.iter().map(v1::SettlementResult::status).collect(),
            other => panic!("results: {other:?}"),
        }
    }

    /// The end of the stream.
    async fn end(&mut self) -> Result<(), Status> {
        match self.next().await {
            Ok(None) => Ok(()),
            Ok(other) => panic!("the end: {other:?}"),
            Err(status) => Err(status),
        }
    }
}

fn ids(deliveries: &[v1::Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| content(delivery).id).collect()
}

fn content(delivery: &v1::Delivery) -> &v1::Message {
    delivery.message.as_ref().expect("a delivery has a message")
}

async fn fill(service: &mut Service, count: usize) {
    for _ in 0..count {
        service.enqueue("work").await;
    }
}

/// Waits until the figures are as they should be.
async fn figures(service: &mut Service, expected: [u64; 4]) {
    let mut last = [0; 4];
    let reached = tokio::time::timeout(Duration::from_secs(15), async {
        while last != expected {
            let stats = service.stats().await;
            last = [stats.ready, stats.delayed, stats.leased, stats.dead];
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let reached = reached.await;
    assert!(
        reached.is_ok(),
        "ready, delayed, leased, dead: {last:?} instead of {expected:?}"
    );
}

#[tokio::test]
async fn the_window_is_never_exceeded_and_is_refilled_whoever_settles() {
    let mut service = Service::start().await;
    fill(&mut service, 40).await;
    let mut stream = Stream::open(&mut service, window(5)).await;
    let mut out = stream.take(5).await;
    figures(&mut service, [35, 0, 5, 0]).await;

    // By the stream.
    stream.settle(&[&out[0].receipt, &out[1].receipt], ack()).await;
    assert_eq!(stream.settled().await, [Settled::Ok, Settled::Ok]);
    out.drain(..2);
    out.extend(stream.take(2).await);
    figures(&mut service, [33, 0, 5, 0]).await;

    // By Settle.
    assert_eq!(service.settle(&out[0].receipt, ack()).await, Settled::Ok);
    out.remove(0);
    out.extend(stream.take(1).await);
    figures(&mut service, [32, 0, 5, 0]).await;

    // By Commit.
    let commit = v1::CommitRequest {
        settlements: vec![settlement(&out[0].receipt, ack())],
        ..Default::default()
    };
    service.kv.commit(commit).await.expect("it commits");
    out.remove(0);
    out.extend(stream.take(1).await);
    figures(&mut service, [31, 0, 5, 0]).await;

    // What is extended stays out.
    let extend = Action::Extend(v1::settlement::Extend {
        lease: Some(seconds(3_600)),
    });
    stream.settle(&[&out[0].receipt], extend).await;
    assert_eq!(stream.settled().await, [Settled::Ok]);
    figures(&mut service, [31, 0, 5, 0]).await;

    // By the lease's end: those four wait for their back-off, and four others come once the client is heard of.
    service.clock.advance_ms(30_000);
    figures(&mut service, [31, 4, 1, 0]).await;
    stream.settle(&[&out[1].receipt], ack()).await;
    assert_eq!(stream.settled().await, [Settled::Stale]);
    let again = stream.take(4).await;
    assert!(ids(&again).iter().all(|id| !ids(&out).contains(id)));
    figures(&mut service, [27, 4, 5, 0]).await;

    // By a burial and by a nack.
    stream
        .settle(&[&again[0].receipt], Action::Dead(v1::settlement::Dead::default()))
        .await;
    assert_eq!(stream.settled().await, [Settled::Ok]);
    stream.take(1).await;
    stream.settle(&[&again[1].receipt], nack()).await;
    assert_eq!(stream.settled().await, [Settled::Ok]);
    let nacked = stream.take(1).await;
    assert_eq!(
        content(&nacked[0]).attempt,
        2,
        "the oldest that is ready is the one that was put back"
    );
    figures(&mut service, [26, 4, 5, 1]).await;
    drop(stream);
    service.stop().await;
}

/// A service whose streams are in doubt for so long.
async fn doubting(doubt_max: Duration) -> Service {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let clock = Clock::manual(START_MS);
    Service::start_with(folder, clock, |args| args.streams.consume_doubt_max = doubt_max).await
}

/// How a client is heard of.
#[derive(Clone, Copy, Debug)]
enum Heard {
    OwnOnStream,
    AnothersOnStream,
    Settle,
    Extend,
    Commit,
}

#[tokio::test]
async fn a_stream_that_let_a_lease_run_out_is_given_nothing_until_its_client_is_heard_of() {
    let ways = [
        Heard::OwnOnStream,
        Heard::AnothersOnStream,
        Heard::Settle,
        Heard::Extend,
        Heard::Commit,
    ];
    for heard in ways {
        let mut service = doubting(Duration::from_hours(1)).await;
        fill(&mut service, 2).await;
        let mut stream = Stream::open(&mut service, window(4)).await;
        let out = stream.take(2).await;
        let extend = Action::Extend(v1::settlement::Extend {
            lease: Some(seconds(3_600)),
        });
        assert_eq!(service.settle(&out[1].receipt, extend.clone()).await, Settled::Ok);
        service.clock.advance_ms(30_000);
        figures(&mut service, [0, 1, 1, 0]).await;

        // It stands first in the line, and others have what comes at once; one that nobody takes stays ready.
        let mut other = Stream::open(&mut service, window(2)).await;
        fill(&mut service, 2).await;
        let others = other.take(2).await;
        fill(&mut service, 1).await;
        service.clock.advance_ms(1_200);
        figures(&mut service, [2, 0, 3, 0]).await;

        match heard {
            // What it held is lost, and not its to settle; that it tries is enough.
            Heard::OwnOnStream => {
                stream.settle(&[&out[0].receipt], ack()).await;
                assert_eq!(stream.settled().await, [Settled::Stale]);
            }
            Heard::AnothersOnStream => {
                let extend = Action::Extend(v1::settlement::Extend {
                    lease: Some(seconds(30)),
                });
                stream.settle(&[&others[0].receipt], extend).await;
                assert_eq!(stream.settled().await, [Settled::Ok]);
            }
            Heard::Settle => assert_eq!(service.settle(&out[0].receipt, ack()).await, Settled::Stale),
            Heard::Extend => assert_eq!(service.settle(&out[1].receipt, extend).await, Settled::Ok),
            Heard::Commit => {
                let commit = v1::CommitRequest {
                    settlements: vec![settlement(&out[0].receipt, ack())],
                    ..Default::default()
                };
                let answer = service.kv.commit(commit).await.expect("it is judged").into_inner();
                let refused = matches!(answer.outcome, Some(v1::commit_response::Outcome::Conflict(_)));
                assert!(refused, "{answer:?}");
            }
        }
        let again = stream.take(2).await;
        let attempts: Vec<_> = again.iter().map(|delivery| content(delivery).attempt).collect();
        assert_eq!((ids(&again), attempts), (vec![1, 5], vec![2, 1]), "{heard:?}");
        figures(&mut service, [0, 0, 5, 0]).await;
        drop((stream, other));
        service.stop().await;
    }
}

#[tokio::test]
async fn a_client_whose_settlement_finds_out_that_its_lease_has_run_out_is_heard_of() {
    let mut service = doubting(Duration::from_hours(1)).await;
    for on_stream in [true, false] {
        fill(&mut service, 2).await;
        let mut stream = Stream::open(&mut service, window(1)).await;
        let out = stream.take(1).await;
        // The writer stands still until it is asked for something, or for a second.
        service.clock.advance_ms(30_000);
        if on_stream {
            stream.settle(&[&out[0].receipt], ack()).await;
            assert_eq!(stream.settled().await, [Settled::Stale]);
        } else {
            assert_eq!(service.settle(&out[0].receipt, ack()).await, Settled::Stale);
        }
        assert_ne!(ids(&stream.take(1).await), ids(&out));
        drop(stream);
    }
    service.stop().await;
}

#[tokio::test]
async fn what_others_settle_says_nothing_of_a_stream_in_doubt() {
    let mut service = doubting(Duration::from_hours(1)).await;
    fill(&mut service, 1).await;
    let mut stream = Stream::open(&mut service, window(1)).await;
    let out = stream.take(1).await;
    service.clock.advance_ms(30_000);
    figures(&mut service, [0, 1, 0, 0]).await;
    // The same message, under another lease.
    service.clock.advance_ms(1_200);
    let elsewhere = service.receive().await;
    assert_eq!((ids(&elsewhere), content(&elsewhere[0]).attempt), (ids(&out), 2));
    fill(&mut service, 1).await;
    assert_eq!(service.settle(&elsewhere[0].receipt, ack()).await, Settled::Ok);
    // Many times longer than a stream that has room is without what is ready.
    for _ in 0..50 {
        figures(&mut service, [1, 0, 0, 0]).await;
    }
    // Its first message is gone by now, and still its own to name.
    assert_eq!(service.settle(&out[0].receipt, ack()).await, Settled::Gone);
    assert_eq!(content(&stream.take(1).await[0]).attempt, 1);
    drop(stream);
    service.stop().await;
}

#[tokio::test]
async fn a_message_that_is_ready_as_its_lease_runs_out_does_not_go_back_to_the_silent() {
    let mut service = doubting(Duration::from_hours(1)).await;
    let create = v1::CreateQueueRequest {
        name: "q".to_owned(),
        settings: Some(v1::QueueSettings {
            backoff: Some(v1::BackoffPolicy {
                initial: Some(seconds(0)),
                max: Some(seconds(0)),
                ..Default::default()
            }),
            ..Default::default()
        }),
    };
    service.queue.create_queue(create).await.expect("it is made");
    fill(&mut service, 1).await;
    // With room for another it stands in the line when the lease runs out.
    let mut stream = Stream::open(&mut service, window(2)).await;
    let out = stream.take(1).await;
    service.clock.advance_ms(30_000);
    figures(&mut service, [1, 0, 0, 0]).await;
    let elsewhere = service.receive().await;
    assert_eq!((ids(&elsewhere), content(&elsewhere[0]).attempt), (ids(&out), 2));
    drop(stream);
    service.stop().await;
}

#[tokio::test]
async fn a_stream_whose_client_is_not_heard_of_is_not_left_alone_for_ever() {
    let doubt_max = Duration::from_millis(500);
    let mut service = doubting(doubt_max).await;
    fill(&mut service, 2).await;
    let mut stream = Stream::open(&mut service, window(1)).await;
    assert_eq!(ids(&stream.take(1).await), [1]);
    // The first is still in its back-off when the second is given, and ready again long before the second is lost.
    for id in [2, 1] {
        let began = Instant::now();
        service.clock.advance_ms(30_000);
        assert_eq!(ids(&stream.take(1).await), [id]);
        assert!(began.elapsed() >= doubt_max, "{:?}", began.elapsed());
    }
    drop(stream);
    service.stop().await;
}

#[tokio::test]
async fn a_stream_is_not_in_doubt_for_what_its_client_was_never_told_of() {
    let mut service = doubting(Duration::from_hours(1)).await;
    fill(&mut service, 1).await;
    // In memory, because nothing is sent there before the client takes it.
    let mut queue = QueueServiceClient::new(storage_svc::routes(service.store()));
    let mut stream = Stream::begin(&mut queue).await.expect("there is a place");
    stream.ask(Ask::Open(window(1))).await;
    assert!(matches!(stream.next().await, Ok(Some(Told::Opened(_)))));
    figures(&mut service, [0, 0, 1, 0]).await;
    service.clock.advance_ms(30_000);
    figures(&mut service, [0, 1, 0, 0]).await;
    service.clock.advance_ms(1_200);
    figures(&mut service, [1, 0, 0, 0]).await;
    assert_eq!(content(&stream.take(1).await[0]).attempt, 2);
    drop(stream);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_holds_under_load_counted_on_the_wire() {
    let mut service = Service::start().await;
    let mut stream = Stream::open(&mut service, window(7)).await;
    let mut queue = service.queue.clone();
    let sender = tokio::spawn(async move {
        for _ in 0..10 {
            let request = v1::EnqueueRequest {
                messages: vec![message("work"); 50],
                request_id: String::new(),
            };
            queue.enqueue(request).await.expect("it is enqueued");
        }
    });
    // What this client has and has settled in no way: that much is out for certain.
    let mut out: Vec<Bytes> = Vec::new();
    let (mut by_call, mut by_stream, mut unanswered) = (0, 0, 0);
    while by_call + by_stream < 500 {
        match stream.next().await.expect("the stream lives") {
            Some(Told::Deliveries(deliveries)) => {
                out.extend(deliveries.deliveries.into_iter().map(|delivery| delivery.receipt));
                assert!(out.len() <= 7, "{} are out", out.len());
            }
            Some(Told::Settled(settled)) => {
                assert_eq!(settled.results.len(), 1);
                assert_eq!(settled.results[0].status(), Settled::Ok);
                by_stream += 1;
                unanswered -= 1;
            }
            other => panic!("deliveries or results: {other:?}"),
        }
        while unanswered < 3
            && let Some(receipt) = out.pop()
        {
            if (by_call + by_stream) % 4 == 0 {
                assert_eq!(service.settle(&receipt, ack()).await, Settled::Ok);
                by_call += 1;
            } else {
                stream.settle(&[&receipt], ack()).await;
                unanswered += 1;
            }
        }
    }
    assert!(by_call > 0 && by_stream > 0);
    sender.await.expect("it did not panic");
    figures(&mut service, [0, 0, 0, 0]).await;
    service.stop().await;
}

#[tokio::test]
async fn the_window_counts_bytes_and_one_message_always_fits() {
    let mut service = Service::start().await;
    for bytes in [400, 400, 201, 200, 5_000, 1] {
        service.enqueue(&"x".repeat(bytes)).await;
    }
    let open = Open {
        max_outstanding_bytes: 1_000,
        ..window(10)
    };
    let mut stream = Stream::open(&mut service, open).await;
    // The third does not fit, and nothing overtakes it.
    let first = stream.take(2).await;
    figures(&mut service, [4, 0, 2, 0]).await;
    // Another receiver has what does not fit here.
    let mut other = service.queue.clone();
    let request = v1::ReceiveRequest {
        max_messages: 1,
        wait: Some(seconds(10)),
        ..receive()
    };
    let elsewhere = within(other.receive(request)).await.expect("it receives").into_inner();
    assert_eq!(elsewhere.deliveries.len(), 1);
    figures(&mut service, [3, 0, 3, 0]).await;
    // It is not told that another fits now, but asks again once something has left.
    stream.settle(&[&first[0].receipt], ack()).await;
    assert_eq!(stream.settled().await, [Settled::Ok]);
    let second = stream.take(1).await;
    assert_eq!(content(&second[0]).id, 4);
    figures(&mut service, [2, 0, 3, 0]).await;
    // Larger than the whole window: it comes alone, when there is nothing else.
    stream.settle(&[&first[1].receipt], ack()).await;
    assert_eq!(stream.settled().await, [Settled::Ok]);
    figures(&mut service, [2, 0, 2, 0]).await;
    stream.settle(&[&second[0].receipt], ack()).await;
    assert_eq!(stream.settled().await, [Settled::Ok]);
    let large = stream.take(1).await;
    figures(&mut service, [1, 0, 2, 0]).await;
    stream.settle(&[&large[0].receipt], ack()).await;
    assert_eq!(stream.settled().await, [Settled::Ok]);
    assert_eq!(stream.take(1).await.len(), 1);
    drop(stream);
    service.stop().await;
}

#[tokio::test]
async fn what_was_sent_goes_back_at_once_when_the_stream_breaks() {
    let mut service = Service::start().await;
    fill(&mut service, 3).await;
    let mut stream = Stream::open(&mut service, window(3)).await;
    let before = stream.take(3).await;
    drop(stream);
    // The lease of 30 s is not waited for: the clock stands still.
    figures(&mut service, [0, 3, 0, 0]).await;
    assert_eq!(service.settle(&before[0].receipt, ack()).await, Settled::Stale);
    service.clock.advance_ms(1_200);
    let mut stream = Stream::open(&mut service, window(3)).await;
    for delivery in stream.take(3).await {
        let message = content(&delivery);
        assert_eq!((message.attempt, message.last_error.as_str()), (2, "the stream ended"));
    }
    drop(stream);
    service.stop().await;
}

#[tokio::test]
async fn what_was_not_sent_goes_back_uncounted() {
    let mut service = Service::start().await;
    fill(&mut service, 2).await;
    // In memory, because nothing is sent there before the client takes it.
    let mut queue = QueueServiceClient::new(storage_svc::routes(service.store()));
    let mut stream = Stream::begin(&mut queue).await.expect("there is a place");
    stream.ask(Ask::Open(window(1))).await;
    assert!(matches!(stream.next().await, Ok(Some(Told::Opened(_)))));
    figures(&mut service, [1, 0, 1, 0]).await;
    drop(stream);
    figures(&mut service, [2, 0, 0, 0]).await;

    // A client that takes one and leaves the next.
    let mut stream = Stream::begin(&mut queue).await.expect("there is a place");
    stream.ask(Ask::Open(window(2))).await;
    assert!(matches!(stream.next().await, Ok(Some(Told::Opened(_)))));
    figures(&mut service, [0, 0, 2, 0]).await;
    let taken = stream.take(2).await;
    assert!(
        taken.iter().all(|delivery| content(delivery).attempt == 1),
        "the attempt before did not count"
    );
    drop(stream);
    figures(&mut service, [0, 2, 0, 0]).await;
    service.stop().await;
}

#[tokio::test]
async fn attempts_that_end_with_the_stream_count_to_the_last() {
    let mut service = Service::start().await;
    fill(&mut service, 1).await;
    for attempt in 1..=10 {
        let mut stream = Stream::open(&mut service, window(1)).await;
        assert_eq!(content(&stream.take(1).await[0]).attempt, attempt);
        drop(stream);
        let is_last = attempt == 10;
        figures(&mut service, [0, u64::from(!is_last), 0, u64::from(is_last)]).await;
        service.clock.advance_ms(720_000);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_drained_stream_ends_when_the_last_message_is_settled() {
    let mut service = Service::start().await;
    fill(&mut service, 5).await;
    let mut stream = Stream::open(&mut service, window(2)).await;
    let out = stream.take(2).await;
    stream.ask(Ask::Drain(Drain {})).await;
    stream.settle(&[&out[0].receipt], ack()).await;
    assert_eq!(stream.settled().await, [Settled::Ok]);
    figures(&mut service, [3, 0, 1, 0]).await;
    // By whomever.
    assert_eq!(service.settle(&out[1].receipt, ack()).await, Settled::Ok);
    stream.end().await.expect("it ends well");
    figures(&mut service, [3, 0, 0, 0]).await;
    // With nothing out it ends at once.
    let mut stream = Stream::open(
        &mut service,
        Open {
            queue: "empty".to_owned(),
            ..Default::default()
        },
    )
    .await;
    stream.ask(Ask::Drain(Drain {})).await;
    stream.end().await.expect("it ends well");
    service.stop().await;
}

#[tokio::test]
async fn a_client_that_has_said_its_last_is_drained() {
    let mut service = Service::start().await;
    fill(&mut service, 5).await;
    let mut stream = Stream::open(&mut service, window(2)).await;
    let out = stream.take(2).await;
    stream.settle(&[&out[0].receipt], ack()).await;
    let Stream { requests, responses } = stream;
    drop(requests);
    let (requests, _heard) = mpsc::channel(1);
    let mut stream = Stream { requests, responses };
    assert_eq!(service.settle(&out[1].receipt, ack()).await, Settled::Ok);
    // Before the last word was heard the window may have been filled again.
    loop {
        match stream.next().await.expect("it ends well") {
            Some(Told::Settled(settled)) => assert_eq!(settled.results[0].status(), Settled::Ok),
            Some(Told::Deliveries(deliveries)) => {
                for delivery in deliveries.deliveries {
                    assert_eq!(service.settle(&delivery.receipt, ack()).await, Settled::Ok);
                }
            }
            None => break,
            other => panic!("results or deliveries: {other:?}"),
        }
    }
    assert_eq!(service.stats().await.leased, 0);
    service.stop().await;
}

#[tokio::test]
async fn a_service_that_stops_takes_settlements_and_gives_the_rest_back() {
    let mut service = Service::start().await;
    fill(&mut service, 6).await;
    let mut settles = Stream::open(&mut service, window(2)).await;
    let out = settles.take(2).await;
    let mut idle = Stream::open(
        &mut service,
        Open {
            queue: "empty".to_owned(),
            ..Default::default()
        },
    )
    .await;
    let mut mute = Stream::open(&mut service, window(2)).await;
    assert_eq!(mute.take(2).await.len(), 2);
    let silent = Stream::begin(&mut service.queue).await.expect("there is a place");
    let began = Instant::now();
    service.begin_stop();
    for stream in [&mut settles, &mut idle, &mut mute] {
        let told = stream.next().await.expect("the stream lives");
        let Some(Told::Draining(draining)) = told else {
            panic!("draining: {told:?}")
        };
        assert!(draining.grace.is_some_and(|grace| grace.seconds > 0));
    }
    assert_eq!(
        idle.end().await.expect_err("the service goes").code(),
        Code::Unavailable
    );
    settles.settle(&[&out[0].receipt, &out[1].receipt], ack()).await;
    assert_eq!(settles.settled().await, [Settled::Ok, Settled::Ok]);
    assert_eq!(
        settles.end().await.expect_err("the service goes").code(),
        Code::Unavailable
    );
    drop(silent);
    // This one never settles.
    let service = service.restart().await;
    assert!(began.elapsed() < Duration::from_secs(15), "the drain has an end");
    drop(mute);
    let mut service = service;
    figures(&mut service, [2, 2, 0, 0]).await;
    service.stop().await;
}

#[tokio::test]
async fn streams_are_served_in_turn() {
    let mut service = Service::start().await;
    let mut first = Stream::open(&mut service, window(1)).await;
    let mut second = Stream::open(&mut service, window(1)).await;
    let mut turns = Vec::new();
    for _ in 0..20 {
        service.enqueue("work").await;
        let (stream, name) = tokio::select! {
            delivered = first.responses.message() => {
                (take_and_ack(&mut first, delivered).await, 1)
            }
            delivered = second.responses.message() => {
                (take_and_ack(&mut second, delivered).await, 2)
            }
        };
        stream.expect("it is acked");
        turns.push(name);
    }
    for pair in turns.windows(2).skip(1) {
        assert_ne!(pair[0], pair[1], "each in its turn: {turns:?}");
    }

    // Nobody has all while the others stand by.
    let mut counts = HashMap::new();
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(
            Stream::open(
                &mut service,
                Open {
                    queue: "r".to_owned(),
                    ..window(10)
                },
            )
            .await,
        );
    }
    let request = v1::EnqueueRequest {
        messages: vec![
            v1::NewMessage {
                queue: "r".to_owned(),
                ..message("work")
            };
            40
        ],
        request_id: String::new(),
    };
    service.queue.enqueue(request).await.expect("it is enqueued");
    for (name, stream) in streams.iter_mut().enumerate() {
        counts.insert(name, stream.take(10).await.len());
    }
    assert!(counts.values().all(|count| *count == 10), "{counts:?}");
    drop(streams);
    service.stop().await;
}

async fn take_and_ack(
    stream: &mut Stream,
    delivered: Result<Option<v1::ConsumeResponse>, Status>,
) -> Result<(), Status> {
    let delivered = delivered?.and_then(|response| response.body);
    let Some(Told::Deliveries(deliveries)) = delivered else {
        panic!("deliveries: {delivered:?}")
    };
    stream.settle(&[&deliveries.deliveries[0].receipt], ack()).await;
    assert_eq!(stream.settled().await, [Settled::Ok]);
    Ok(())
}

#[tokio::test]
async fn settlements_are_answered_in_order_and_judged_as_by_settle() {
    let mut service = Service::start().await;
    fill(&mut service, 4).await;
    let elsewhere = service.receive().await;
    assert_eq!(elsewhere.len(), 4);
    fill(&mut service, 2).await;
    let mut stream = Stream::open(&mut service, window(2)).await;
    let own = stream.take(2).await;
    let receipts: Vec<&Bytes> = [&own[0], &elsewhere[0], &own[0]]
        .map(|delivery| &delivery.receipt)
        .into();
    stream.settle(&receipts, ack()).await;
    stream.settle(&[&own[0].receipt], ack()).await;
    stream.settle(&[&own[1].receipt], nack()).await;
    stream.settle(&[&own[1].receipt], ack()).await;
    assert_eq!(
        stream.settled().await,
        [Settled::Ok, Settled::Ok, Settled::Gone],
        "a receipt of another is as good"
    );
    assert_eq!(stream.settled().await, [Settled::Gone]);
    let mut rest = Vec::new();
    while rest.len() < 2 {
        match stream.next().await.expect("the stream lives") {
            Some(Told::Settled(settled)) => rest.push(settled.results[0].status()),
            Some(Told::Deliveries(_)) => {}
            other => panic!("results: {other:?}"),
        }
    }
    assert_eq!(rest, [Settled::Ok, Settled::Stale]);
    service.stop().await;
}

#[tokio::test]
async fn a_request_that_breaks_a_rule_ends_the_stream_and_what_is_out_goes_back() {
    let mut service = Service::start().await;
    fill(&mut service, 1).await;
    let forged = |receipt: &Bytes| {
        let mut forged = receipt.to_vec();
        forged[8] ^= 1;
        Bytes::from(forged)
    };
    for round in 0..4 {
        let mut stream = Stream::open(&mut service, window(1)).await;
        let out = stream.take(1).await.remove(0);
        match round {
            0 => stream.settle(&[&forged(&out.receipt)], ack()).await,
            1 => stream.settle(&[&out.receipt; 101], ack()).await,
            2 => stream.settle(&[], ack()).await,
            _ => stream.ask(Ask::Open(window(1))).await,
        }
        let field = [
            "settle.settlements[0].receipt",
            "settle.settlements",
            "settle.settlements",
            "open",
        ][round];
        refused(stream.end().await, field);
        figures(&mut service, [0, 1, 0, 0]).await;
        service.clock.advance_ms(720_000);
    }
    // At the limit it holds.
    let mut stream = Stream::open(&mut service, window(1)).await;
    let out = stream.take(1).await.remove(0);
    stream.settle(&[&out.receipt; 100], ack()).await;
    let results = stream.settled().await;
    assert_eq!(
        (results.len(), results[0], results[99]),
        (100, Settled::Ok, Settled::Gone)
    );
    let request = v1::ConsumeRequest { body: None };
    stream.requests.send(request).await.expect("the stream lives");
    refused(stream.end().await, "body");
    service.stop().await;
}

#[tokio::test]
async fn the_first_request_opens_within_the_limits() {
    let mut service = Service::start().await;
    let millis = |millis: i32| prost_types::Duration {
        seconds: 0,
        nanos: millis * 1_000_000,
    };
    let bad = [
        ("open", Ask::Drain(Drain {})),
        ("open", Ask::Settle(v1::SettleRequest::default())),
        ("open.queue", Ask::Open(Open::default())),
        ("open.max_outstanding_messages", Ask::Open(window(1_001))),
        (
            "open.max_outstanding_bytes",
            Ask::Open(Open {
                max_outstanding_bytes: WINDOW_BYTES_MAX + 1,
                ..window(1)
            }),
        ),
        (
            "open.lease",
            Ask::Open(Open {
                lease: Some(millis(99)),
                ..window(1)
            }),
        ),
        (
            "open.lease",
            Ask::Open(Open {
                lease: Some(seconds(43_201)),
                ..window(1)
            }),
        ),
    ];
    for (field, first) in bad {
        let mut stream = Stream::begin(&mut service.queue).await.expect("there is a place");
        stream.ask(first).await;
        refused(stream.end().await, field);
    }
    let mut stream = Stream::begin(&mut service.queue).await.expect("there is a place");
    stream.requests = mpsc::channel(1).0;
    refused(stream.end().await, "open");

    let at_the_limits = Open {
        max_outstanding_bytes: WINDOW_BYTES_MAX,
        lease: Some(millis(100)),
        ..window(u32::try_from(WINDOW_MESSAGES_MAX).expect("it is small"))
    };
    let mut leases = Vec::new();
    for open in [at_the_limits, window(0)] {
        let mut stream = Stream::begin(&mut service.queue).await.expect("there is a place");
        stream.ask(Ask::Open(open)).await;
        let told = stream.next().await.expect("the stream lives");
        let Some(Told::Opened(opened)) = told else {
            panic!("opened: {told:?}")
        };
        leases.push(opened.lease);
        fill(&mut service, 1_001).await;
        let most = if leases.len() == 1 { 1_000 } else { 1 };
        stream.take(most).await;
        let stats = service.stats().await;
        assert_eq!(stats.leased, most as u64);
    }
    assert_eq!(leases, [Some(millis(100)), Some(seconds(30))]);
    service.stop().await;
}

#[tokio::test]
async fn there_are_only_so_many_streams() {
    let mut service = Service::start().await;
    let mut streams = Vec::new();
    for _ in 0..CONSUMERS_MAX {
        streams.push(Stream::open(&mut service, window(1)).await);
    }
    assert_eq!(service.store().consumers(), CONSUMERS_MAX);
    let refused = Stream::begin(&mut service.queue)
        .await
        .err()
        .expect("there is no place");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().is_some());
    streams.pop();
    within(async {
        while service.store().consumers() == CONSUMERS_MAX {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    streams.push(Stream::open(&mut service, window(1)).await);
    drop(streams);
    within(async {
        while service.store().consumers() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn silence_is_broken_and_a_client_that_takes_nothing_is_cut_off() {
    let mut service = Service::start().await;
    fill(&mut service, 2).await;
    let mut quiet = Stream::open(
        &mut service,
        Open {
            queue: "empty".to_owned(),
            ..Default::default()
        },
    )
    .await;
    // In memory, because a socket takes much before it is full.
    let mut queue = QueueServiceClient::new(storage_svc::routes(service.store()));
    let mut stalled = Stream::begin(&mut queue).await.expect("there is a place");
    stalled.ask(Ask::Open(window(2))).await;
    assert!(matches!(stalled.next().await, Ok(Some(Told::Opened(_)))));
    figures(&mut service, [0, 0, 2, 0]).await;
    let mut late = Stream::begin(&mut service.queue).await.expect("there is a place");
    assert!(matches!(quiet.next().await, Ok(Some(Told::Heartbeat(_)))));
    figures(&mut service, [2, 0, 0, 0]).await;
    assert_eq!(
        stalled.end().await.expect_err("it was cut off").code(),
        Code::ResourceExhausted
    );
    assert_eq!(
        late.end().await.expect_err("it never opened").code(),
        Code::DeadlineExceeded
    );
    service.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_queue_whether_it_waits_or_is_full() {
    let mut service = Service::start().await;
    fill(&mut service, 1).await;
    let mut full = Stream::open(&mut service, window(1)).await;
    full.take(1).await;
    let mut waits = Stream::open(&mut service, window(1)).await;
    let delete = v1::DeleteQueueRequest {
        name: "q".to_owned(),
        force: true,
    };
    service.queue.delete_queue(delete).await.expect("it is deleted");
    for stream in [&mut full, &mut waits] {
        assert_eq!(
            stream.end().await.expect_err("the queue is gone").code(),
            Code::NotFound
        );
    }
    let request = v1::GetQueueStatsRequest { queue: "q".to_owned() };
    let stats = service.queue.get_queue_stats(request).await;
    assert_eq!(stats.expect_err("nobody made it again").code(), Code::NotFound);
    service.stop().await;
}
