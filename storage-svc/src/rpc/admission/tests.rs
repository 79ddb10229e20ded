//! The door over a service that does what the test says, on a clock that stands still.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Channel, Full, channel::Sender};
use tokio::sync::mpsc;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::{Layer as _, Service as _, service_fn};

use super::places::{FREE_BYTES, Places};
use super::*;

const GET: &str = "/dp1.storage.v1.KvService/Get";
const COMMIT: &str = "/dp1.storage.v1.KvService/Commit";
const CONSUME: &str = "/dp1.storage.v1.QueueService/Consume";
const WATCH: &str = "/dp1.storage.v1.KvService/Watch";
const HEALTH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// What a called service is handed: the request's body, and what to answer with.
type Call = (Body, tokio::sync::oneshot::Sender<Response<Body>>);

struct Bench {
    door: Door,
    calls: mpsc::Receiver<Call>,
    hand: mpsc::Sender<Call>,
}

impl Bench {
    fn new(calls: usize, streams: usize, arriving_bytes: usize) -> Self {
        let (hand, calls_made) = mpsc::channel(64);
        Self {
            door: Door::with(
                Access::default(),
                Places::of(calls, streams, arriving_bytes),
                Metrics::new(crate::metrics::group_sizes()),
                CancellationToken::new(),
            ),
            calls: calls_made,
            hand,
        }
    }

    fn call(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Body,
    ) -> tokio::task::JoinHandle<Response<Body>> {
        let hand = self.hand.clone();
        let inner = service_fn(move |request: Request<Body>| {
            let hand = hand.clone();
            async move {
                let (answer, answered) = tokio::sync::oneshot::channel();
                hand.send((request.into_body(), answer))
                    .await
                    .expect("the test listens");
                Ok::<_, Infallible>(answered.await.expect("the test answers"))
            }
        });
        let mut request = Request::new(body);
        *request.uri_mut() = path.parse().expect("it is a path");
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(*name, value.parse().expect("it is a value"));
        }
        let mut admission = self.door.layer(inner);
        tokio::spawn(async move { admission.call(request).await.expect("it never fails") })
    }

    /// A call whose answer's head is there and whose body the test feeds.
    async fn streaming(
        &mut self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> (Sender<Bytes, Status>, Response<Body>) {
        let call = self.call(path, headers, Body::empty());
        let (_, answer) = within(self.calls.recv()).await.expect("it is called");
        let (feed, body) = Channel::new(8);
        answer.send(Response::new(Body::new(body))).expect("it waits");
        (feed, within(call).await.expect("it does not panic"))
    }

    async fn refused(&self, path: &str) -> Status {
        let answer = self.call(path, &[], Body::empty()).await.expect("it does not panic");
        status_of(answer.headers())
    }
}

fn status_of(headers: &HeaderMap) -> Status {
    Status::from_header_map(headers).expect("there is a status")
}

#[track_caller]
fn is_shed(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
}

/// What does not end is a fault; the clock jumps there when nothing else happens.
async fn within<T>(work: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(Duration::from_hours(24), work).await;
    ended.expect("it ends")
}

async fn data(body: &mut Body) -> Bytes {
    let frame = within(body.frame()).await.expect("there is more").expect("it is good");
    frame.into_data().expect("it is data")
}

async fn trailers(body: &mut Body) -> Status {
    let frame = within(body.frame()).await.expect("there is more").expect("it is good");
    let status = status_of(frame.trailers_ref().expect("these are trailers"));
    assert!(within(body.frame()).await.is_none(), "trailers are the last");
    status
}

#[tokio::test(start_paused = true)]
async fn streams_keep_their_places_to_the_end_and_calls_have_their_own() {
    let mut bench = Bench::new(1, 2, 0);
    let (mut feed, mut first) = bench.streaming(WATCH, &[]).await;
    let (_second_feed, second) = bench.streaming(WATCH, &[]).await;
    is_shed(&bench.refused(WATCH).await);
    // Long after any limit of calls, they are there.
    tokio::time::advance(Duration::from_hours(10)).await;
    feed.send_data(Bytes::from_static(b"event")).await.expect("it is taken");
    assert_eq!(data(first.body_mut()).await, "event");
    is_shed(&bench.refused(WATCH).await);
    // A call gets in, and takes nobody's place but a call's.
    let get = bench.call(GET, &[], Body::empty());
    let (_, answer) = within(bench.calls.recv()).await.expect("it is called");
    is_shed(&bench.refused(GET).await);
    answer.send(Status::ok("").into_http()).expect("it waits");
    drop(within(get).await);
    let get = bench.call(GET, &[], Body::empty());
    within(bench.calls.recv()).await.expect("the place is free again");
    get.abort();
    // A stream that ends gives its place up, and so does one that is dropped.
    let mut end = HeaderMap::new();
    Status::ok("").add_header(&mut end).expect("it fits");
    feed.send_trailers(end).await.expect("it is taken");
    assert_eq!(trailers(first.body_mut()).await.code(), Code::Ok);
    let third = bench.streaming(WATCH, &[]).await;
    is_shed(&bench.refused(WATCH).await);
    drop(second);
    bench.streaming(WATCH, &[]).await;
    drop(third);
    within(bench.door.emptied()).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_deadline_with_a_status_that_says_so() {
    let mut bench = Bench::new(1, 1, 0);
    let (mut feed, mut answer) = bench.streaming(WATCH, &[("grpc-timeout", "500m")]).await;
    tokio::time::advance(Duration::from_millis(400)).await;
    feed.send_data(Bytes::from_static(b"early")).await.expect("it is taken");
    assert_eq!(data(answer.body_mut()).await, "early");
    let status = trailers(answer.body_mut()).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.get_details_error_info().is_some());
    assert!(
        feed.send_data(Bytes::new()).await.is_err(),
        "whoever feeds it hears of the end"
    );
    bench.streaming(WATCH, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_pauses_ends_at_its_deadline_too() {
    let mut bench = Bench::new(1, 1, 0);
    let (mut feed, mut answer) = bench.streaming(WATCH, &[("grpc-timeout", "1S")]).await;
    let feeding = tokio::spawn(async move { while feed.send_data(Bytes::from_static(b"more")).await.is_ok() {} });
    data(answer.body_mut()).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    let mut rest = 0;
    let status = loop {
        let frame = answer
            .body_mut()
            .frame()
            .await
            .expect("there is more")
            .expect("it is good");
        match frame.trailers_ref() {
            Some(trailers) => break status_of(trailers),
            None => rest += 1,
        }
        assert!(rest <= 1, "{rest} frames after the deadline");
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);
    feeding.await.expect("it does not panic");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_at_its_deadline_and_never_lasts_longer_than_a_minute() {
    let mut bench = Bench::new(2, 1, 0);
    for (asked, limit) in [("250m", 250), ("2M", 60_000)] {
        let began = tokio::time::Instant::now();
        let call = bench.call(GET, &[("grpc-timeout", asked)], Body::empty());
        let _held = within(bench.calls.recv()).await.expect("it is called");
        let answer = within(call).await.expect("it does not panic");
        assert_eq!(status_of(answer.headers()).code(), Code::DeadlineExceeded);
        // The paused clock jumps to its next timer, in steps of its wheel.
        assert!((limit..limit + 10).contains(&began.elapsed().as_millis()), "{asked}");
    }
    // An answer that nobody takes keeps its place no longer than that either.
    let (_feed, mut answer) = bench.streaming(GET, &[]).await;
    assert_eq!(trailers(answer.body_mut()).await.code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn requests_that_arrive_share_their_room() {
    const ROOM: usize = 64 * 1024;
    let mut bench = Bench::new(8, 1, ROOM);
    // All but the last byte of a message.
    let begun = |length: usize| {
        let mut bytes = u32::try_from(length).expect("it is short").to_be_bytes().to_vec();
        bytes.insert(0, 0);
        bytes.resize(bytes.len() + length - 1, 7);
        Bytes::from(bytes)
    };
    let (mut large, body) = Channel::<Bytes, Status>::new(8);
    let first = bench.call(COMMIT, &[], Body::new(body));
    let (mut first_body, first_answer) = within(bench.calls.recv()).await.expect("it is called");
    large.send_data(begun(FREE_BYTES + ROOM)).await.expect("it is taken");
    data(&mut first_body).await;
    // What is small gets through; one byte more than is free does not.
    for (length, is_taken) in [(FREE_BYTES + 1, true), (FREE_BYTES + 2, false)] {
        let call = bench.call(COMMIT, &[], Body::new(Full::new(begun(length))));
        let (mut body, _answer) = within(bench.calls.recv()).await.expect("it is called");
        match body.frame().await.expect("there is something") {
            Ok(_) => assert!(is_taken, "{length}"),
            Err(status) => {
                assert!(!is_taken, "{length}: {status:?}");
                is_shed(&status);
            }
        }
        call.abort();
    }
    // The message is complete, and taken: its room is free for the next one.
    large.send_data(Bytes::from_static(b"7")).await.expect("it is taken");
    data(&mut first_body).await;
    drop(large);
    assert!(first_body.frame().await.is_none());
    let second = bench.call(COMMIT, &[], Body::new(Full::new(begun(FREE_BYTES + ROOM))));
    let (mut second_body, _answer) = within(bench.calls.recv()).await.expect("it is called");
    data(&mut second_body).await;
    second.abort();
    drop((first, first_answer));
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_requests_holds_no_more_than_what_is_not_taken() {
    let mut bench = Bench::new(1, 1, 0);
    let (mut asking, body) = Channel::<Bytes, Status>::new(8);
    let call = bench.call(CONSUME, &[], Body::new(body));
    let (mut body, _answer) = within(bench.calls.recv()).await.expect("it is called");
    let mut message = vec![0, 0, 0, 4, 0];
    message.resize(message.len() + 1024, 7);
    for _ in 0..2 * FREE_BYTES / 1024 {
        let sent = asking.send_data(Bytes::from(message.clone())).await;
        sent.expect("it is taken");
        data(&mut body).await;
    }
    // Long after the first message it may still say something.
    tokio::time::advance(Duration::from_hours(1)).await;
    let sent = asking.send_data(Bytes::from(message)).await;
    sent.expect("it is taken");
    data(&mut body).await;
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_is_given_up() {
    let mut bench = Bench::new(8, 1, 0);
    let (_mute, body) = Channel::<Bytes, Status>::new(8);
    let call = bench.call(WATCH, &[], Body::new(body));
    let (mut body, _answer) = within(bench.calls.recv()).await.expect("it is called");
    let status = body.frame().await.expect("there is an end").expect_err("nothing came");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn a_later_message_that_never_ends_is_given_up_too() {
    let mut bench = Bench::new(1, 1, 0);
    let (mut asking, body) = Channel::<Bytes, Status>::new(8);
    let call = bench.call(CONSUME, &[], Body::new(body));
    let (mut body, _answer) = within(bench.calls.recv()).await.expect("it is called");
    // A whole message, and no more for as long as its sender likes.
    asking
        .send_data(Bytes::from_static(&[0, 0, 0, 0, 1, 7]))
        .await
        .expect("it is taken");
    data(&mut body).await;
    let quiet = tokio::time::timeout(Duration::from_hours(1), body.frame());
    quiet.await.expect_err("nothing came, and need not");
    // One that has begun has to end.
    asking
        .send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 7]))
        .await
        .expect("it is taken");
    data(&mut body).await;
    let status = within(body.frame()).await.expect("there is an end");
    assert_eq!(status.expect_err("the rest never came").code(), Code::DeadlineExceeded);
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_server_itself_gets_details() {
    let bench = Bench::new(8, 1, 0);
    let answer = bench.call(GET, &[("grpc-encoding", "gzip")], Body::empty()).await;
    let status = status_of(answer.expect("it does not panic").headers());
    assert_eq!(status.code(), Code::Unimplemented);
    let mut headers = HeaderMap::new();
    Status::invalid_argument("because")
        .add_header(&mut headers)
        .expect("it fits");
    assert_eq!(explain(&mut headers), Some(Code::InvalidArgument));
    let status = status_of(&headers);
    assert_eq!(status.message(), "because");
    let details = status.get_details_error_info().expect("it was given some");
    assert_eq!(
        (details.reason.as_str(), details.domain.as_str()),
        ("INVALID_ARGUMENT", "storage.dp1")
    );
}

#[tokio::test(start_paused = true)]
async fn what_never_ends_by_itself_does_not_hold_up_the_stop() {
    let mut bench = Bench::new(1, 4, 0);
    let (_feed, mut reflection) = bench.streaming(REFLECTION, &[]).await;
    let (mut health_feed, mut health) = bench.streaming(HEALTH, &[]).await;
    let (_feed, mut watch) = bench.streaming(WATCH, &[]).await;
    bench.door.0.draining.cancel();
    assert_eq!(trailers(reflection.body_mut()).await.code(), Code::Unavailable);
    health_feed
        .send_data(Bytes::from_static(b"not serving"))
        .await
        .expect("it is taken");
    bench.door.cut();
    assert_eq!(data(health.body_mut()).await, "not serving");
    assert_eq!(trailers(health.body_mut()).await.code(), Code::Unavailable);
    assert_eq!(trailers(watch.body_mut()).await.code(), Code::Unavailable);
    within(bench.door.emptied()).await;
}

#[track_caller]
fn check(value: &str, expected: Option<Duration>) {
    let headers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-timeout"),
        value.parse().expect("the value fits a header"),
    )]);
    assert_eq!(timeout(&headers), expected, "{value:?}");
}

#[test]
fn timeouts_are_read_as_the_protocol_writes_them() {
    check("1S", Some(Duration::from_secs(1)));
    check("250m", Some(Duration::from_millis(250)));
    check("99999999H", Some(Duration::from_hours(99_999_999)));
    check("100000000S", None);
    check("S", None);
    check("", None);
    check("+1S", None);
    check("1", None);
    check("1s", None);
    assert_eq!(timeout(&HeaderMap::new()), None);
}
