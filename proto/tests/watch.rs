//! The watch that outlives its connection, against a service that says what the test tells it to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::client::watch::{Reset, Update, Watch};
use proto::client::{ClientError, StorageClient};
use proto::v1;
use proto::v1::kv_service_server::{KvService, KvServiceServer};
use proto::v1::watch_response::{Batch, Body, Head, Progress};
use tonic::codegen::BoxStream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What one call of `Watch` is answered with, to its end; a stream without a status at its end stays open.
#[derive(Debug)]
enum Answer {
    Refused(Status),
    /// As a stream that stays open, but after this long.
    Late(Duration, Vec<Body>),
    Stream(Vec<Body>, Option<Status>),
}

/// Answers one call after the other, and remembers what they asked for.
#[derive(Clone, Debug, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Option<u64>>>>,
}

#[tonic::async_trait]
impl KvService for Script {
    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn batch_get(&self, _: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn scan(&self, _: Request<v1::ScanRequest>) -> Result<Response<v1::ScanResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn put(&self, _: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn commit(&self, _: Request<v1::CommitRequest>) -> Result<Response<v1::CommitResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ScanStreamStream = BoxStream<v1::ScanStreamResponse>;

    async fn scan_stream(&self, _: Request<v1::ScanStreamRequest>) -> Result<Response<Self::ScanStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchStream = BoxStream<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let after = request.into_inner().after_revision;
        self.asked.lock().expect("nobody panicked").push(after);
        let answer = self.answers.lock().expect("nobody panicked").pop_front();
        let (bodies, end) = match answer {
            Some(Answer::Refused(status)) => return Err(status),
            Some(Answer::Late(wait, bodies)) => {
                tokio::time::sleep(wait).await;
                (bodies, None)
            }
            Some(Answer::Stream(bodies, end)) => (bodies, end),
            None => return Err(Status::unavailable("the script is over")),
        };
        let messages = bodies
            .into_iter()
            .map(|body| Ok(v1::WatchResponse { body: Some(body) }));
        let ended = end.is_some();
        let all: Vec<_> = messages.chain(end.map(Err)).collect();
        let (hand, stream) = tokio::sync::mpsc::channel(all.len() + 1);
        for message in all {
            hand.try_send(message).expect("there is room");
        }
        if !ended {
            tokio::spawn(async move { hand.closed().await });
        }
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(
            stream,
        ))))
    }
}

fn head(store: &str, incarnation: &str, revision: u64) -> Body {
    Body::Head(Head {
        store_id: store.to_owned(),
        incarnation: incarnation.to_owned(),
        store_revision: revision,
        oldest_revision: 0,
    })
}

fn batch(revision: u64, more: bool) -> Body {
    Body::Batch(Batch {
        revision,
        more,
        ..Default::default()
    })
}

fn progress(revision: u64) -> Body {
    Body::Progress(Progress { revision })
}

fn out_of_range(reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "storage.dp1", []);
    Status::with_error_details(Code::OutOfRange, "gone", details)
}

fn start(answers: Vec<Answer>) -> (Script, Watch) {
    let script = Script::default();
    script.answers.lock().expect("nobody panicked").extend(answers);
    let client = StorageClient::in_process(Routes::new(KvServiceServer::new(script.clone())));
    let watch = client.watch(v1::WatchRequest::default());
    (script, watch)
}

/// The next updates, in short.
async fn updates(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..count {
        let update = tokio::time::timeout(Duration::from_mins(5), watch.next()).await;
        told.push(match update.expect("something is told").expect("it is no error") {
            Update::Began {
                after_revision,
                store_revision,
            } => format!("began {after_revision}/{store_revision}"),
            Update::Changed(batch) if batch.more => format!("part of {}", batch.revision),
            Update::Changed(batch) => format!("changed {}", batch.revision),
            Update::CaughtUp { revision } => format!("caught up {revision}"),
            Update::Interrupted => "interrupted".to_owned(),
            Update::Reset(Reset::OtherStore) => "other store".to_owned(),
            Update::Reset(Reset::OtherIncarnation) => "other incarnation".to_owned(),
            Update::Reset(Reset::HistoryGone) => "history gone".to_owned(),
            Update::Reset(Reset::WentBack) => "went back".to_owned(),
        });
    }
    told
}

fn asked(script: &Script) -> Vec<Option<u64>> {
    script.asked.lock().expect("nobody panicked").clone()
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_after_the_last_complete_revision() {
    let broken = || Some(Status::unknown("the connection broke"));
    let (script, mut watch) = start(vec![
        Answer::Stream(
            vec![head("s", "i", 5), progress(5), batch(7, false), batch(9, true)],
            broken(),
        ),
        Answer::Refused(Status::unavailable("away")),
        Answer::Stream(
            vec![head("s", "i", 9), batch(9, true), batch(9, false), progress(12)],
            broken(),
        ),
        Answer::Stream(vec![head("s", "i", 12)], None),
    ]);
    let told = updates(&mut watch, 11).await;
    assert_eq!(
        told,
        [
            "began 5/5",
            "caught up 5",
            "changed 7",
            "part of 9",
            "interrupted",
            "began 7/9",
            "part of 9",
            "changed 9",
            "caught up 12",
            "interrupted",
            "began 12/12"
        ]
    );
    assert_eq!(asked(&script), [None, Some(7), Some(7), Some(12)]);
}

#[tokio::test(start_paused = true)]
async fn another_store_or_incarnation_begins_anew_and_says_so() {
    let away = || Some(Status::unavailable("draining"));
    let (script, mut watch) = start(vec![
        Answer::Stream(vec![head("s", "i", 5), batch(6, false)], away()),
        Answer::Stream(vec![head("s", "j", 6), batch(7, false)], away()),
        Answer::Stream(vec![head("s", "j", 6), batch(7, false)], away()),
        Answer::Stream(vec![head("t", "k", 90)], away()),
        Answer::Stream(vec![head("t", "k", 90)], None),
    ]);
    let told = updates(&mut watch, 9).await;
    assert_eq!(
        told,
        [
            "began 5/5",
            "changed 6",
            "interrupted",
            "other incarnation",
            "began 6/6",
            "changed 7",
            "interrupted",
            "other store",
            "began 90/90"
        ]
    );
    assert_eq!(asked(&script), [None, Some(6), None, Some(7), None]);
}

#[tokio::test(start_paused = true)]
async fn history_that_is_gone_begins_anew_and_says_so() {
    let (script, mut watch) = start(vec![
        Answer::Stream(vec![head("s", "i", 5)], Some(out_of_range("HISTORY_GONE"))),
        Answer::Stream(vec![head("s", "i", 50)], Some(Status::unavailable("draining"))),
        Answer::Refused(out_of_range("REVISION_AHEAD")),
        Answer::Stream(vec![head("s", "i", 20)], None),
    ]);
    let told = updates(&mut watch, 6).await;
    assert_eq!(
        told,
        [
            "began 5/5",
            "history gone",
            "began 50/50",
            "interrupted",
            "went back",
            "began 20/20"
        ]
    );
    assert_eq!(asked(&script), [None, None, Some(50), None]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_falls_silent_is_left() {
    let (_, mut watch) = start(vec![
        Answer::Stream(vec![head("s", "i", 5)], None),
        Answer::Stream(vec![head("s", "i", 5)], None),
    ]);
    let began = tokio::time::Instant::now();
    let told = updates(&mut watch, 3).await;
    assert_eq!(told, ["began 5/5", "interrupted", "began 5/5"]);
    assert!((200..210).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_another_attempt_would_meet_again_is_an_error() {
    let (script, mut watch) = start(vec![
        Answer::Refused(Status::unauthenticated("no token")),
        Answer::Stream(vec![head("s", "i", 5)], None),
    ]);
    let error = watch.next().await.expect_err("it is refused");
    assert!(matches!(error, ClientError::Unauthorized(_)), "{error:?}");
    assert_eq!(updates(&mut watch, 1).await, ["began 5/5"]);
    assert_eq!(asked(&script).len(), 2);
}

/// The next update, for a caller that looks in again and again and never stays for long.
async fn now_and_then(watch: &mut Watch) -> Update {
    loop {
        if let Ok(update) = tokio::time::timeout(Duration::from_millis(20), watch.next()).await {
            break update.expect("it is no error");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_never_stays_sees_it_begin_and_fall_silent() {
    let (script, mut watch) = start(vec![
        Answer::Late(Duration::from_secs(2), vec![head("s", "i", 5)]),
        Answer::Stream(vec![head("s", "i", 5)], None),
    ]);
    let began = tokio::time::Instant::now();
    assert!(matches!(now_and_then(&mut watch).await, Update::Began { .. }));
    assert_eq!(now_and_then(&mut watch).await, Update::Interrupted);
    assert!((202..210).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(matches!(now_and_then(&mut watch).await, Update::Began { .. }));
    assert_eq!(asked(&script).len(), 2, "each attempt was one call");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_asks_for_time_is_given_it() {
    let asked_for = Duration::from_secs(3);
    let details = ErrorDetails::with_retry_info(Some(asked_for));
    let shed = || Status::with_error_details(Code::ResourceExhausted, "too many", details.clone());
    let (_, mut watch) = start(vec![
        Answer::Refused(shed()),
        Answer::Stream(vec![head("s", "i", 5)], Some(shed())),
        Answer::Stream(vec![head("s", "i", 5)], None),
    ]);
    let began = tokio::time::Instant::now();
    assert_eq!(updates(&mut watch, 2).await, ["began 5/5", "interrupted"]);
    assert!(began.elapsed() >= asked_for);
    assert_eq!(updates(&mut watch, 1).await, ["began 5/5"]);
    assert!(began.elapsed() >= 2 * asked_for);
}

#[tokio::test(start_paused = true)]
async fn no_more_time_is_given_than_a_minute_and_a_half() {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_hours(1)));
    let shed = Status::with_error_details(Code::ResourceExhausted, "too many", details);
    let (_, mut watch) = start(vec![
        Answer::Refused(shed),
        Answer::Stream(vec![head("s", "i", 5)], None),
    ]);
    let began = tokio::time::Instant::now();
    assert_eq!(updates(&mut watch, 1).await, ["began 5/5"]);
    assert!((60..=90).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}
