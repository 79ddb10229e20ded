//! The stream of messages that outlives its connection, against a service that says what the test tells it to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::client::StorageClient;
use proto::client::consume::{Consume, Update};
use proto::v1;
use proto::v1::consume_request::{Body as Ask, Open};
use proto::v1::consume_response::{Body, Deliveries, Draining, Heartbeat, Opened};
use proto::v1::queue_service_server::{QueueService, QueueServiceServer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::codegen::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// What one stream is told, each after a pause, and how it ends: not at all without a status.
#[derive(Debug)]
struct Answer(Vec<(Duration, Body)>, Option<Status>);

/// Answers one stream after the other, and remembers what they said.
#[derive(Clone, Debug, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("nobody panicked").clone()
    }

    /// Waits until it has heard so much.
    async fn heard_so_much(&self, count: usize) -> Vec<String> {
        let heard = async {
            while self.heard().len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), heard)
            .await
            .expect("it is said");
        self.heard()
    }
}

/// Hears the first request, and then the others while it tells what it has to tell.
async fn tell(
    answer: Answer,
    mut requests: Streaming<v1::ConsumeRequest>,
    heard: Arc<Mutex<Vec<String>>>,
    hand: mpsc::Sender<Result<v1::ConsumeResponse, Status>>,
) {
    hear(&mut requests, &heard).await;
    let listening = async {
        while hear(&mut requests, &heard).await {}
        std::future::pending::<()>().await;
    };
    let telling = async {
        for (pause, body) in answer.0 {
            tokio::time::sleep(pause).await;
            let told = hand.send(Ok(v1::ConsumeResponse { body: Some(body) })).await;
            if told.is_err() {
                return;
            }
        }
        match answer.1 {
            // Fails if nobody listens any more.
            Some(status) => drop(hand.send(Err(status)).await),
            None => hand.closed().await,
        }
    };
    tokio::select! {
        () = listening => {}
        () = telling => {}
    }
}

/// Notes the next request; false if there is none.
async fn hear(requests: &mut Streaming<v1::ConsumeRequest>, heard: &Mutex<Vec<String>>) -> bool {
    let Ok(Some(request)) = requests.message().await else {
        return false;
    };
    let said = match request.body {
        Some(Ask::Open(open)) => format!("open {} {}", open.queue, open.max_outstanding_messages),
        Some(Ask::Settle(settle)) => format!("settle {}", settle.settlements.len()),
        Some(Ask::Drain(_)) => "drain".to_owned(),
        None => "nothing".to_owned(),
    };
    heard.lock().expect("nobody panicked").push(said);
    true
}

macro_rules! only_consume {
    ($($method:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl QueueService for Script {
            $(async fn $method(&self, _: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                Err(Status::unimplemented(""))
            })*

            type ConsumeStream = BoxStream<v1::ConsumeResponse>;

            async fn consume(
                &self,
                request: Request<Streaming<v1::ConsumeRequest>>,
            ) -> Result<Response<Self::ConsumeStream>, Status> {
                let answer = self.answers.lock().expect("nobody panicked").pop_front();
                let answer = answer.unwrap_or(Answer(Vec::new(), Some(Status::unavailable("the script is over"))));
                let (hand, stream) = mpsc::channel(1);
                tokio::spawn(tell(answer, request.into_inner(), Arc::clone(&self.heard), hand));
                Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(stream))))
            }
        }
    };
}

only_consume! {
    create_queue(CreateQueueRequest) -> CreateQueueResponse;
    update_queue(UpdateQueueRequest) -> UpdateQueueResponse;
    list_queues(ListQueuesRequest) -> ListQueuesResponse;
    delete_queue(DeleteQueueRequest) -> DeleteQueueResponse;
    enqueue(EnqueueRequest) -> EnqueueResponse;
    receive(ReceiveRequest) -> ReceiveResponse;
    settle(SettleRequest) -> SettleResponse;
    get_message(GetMessageRequest) -> GetMessageResponse;
    list_messages(ListMessagesRequest) -> ListMessagesResponse;
    redrive(RedriveRequest) -> RedriveResponse;
    purge(PurgeRequest) -> PurgeResponse;
    get_queue_stats(GetQueueStatsRequest) -> GetQueueStatsResponse;
}

fn opened() -> Body {
    Body::Opened(Opened::default())
}

fn deliveries(count: usize) -> Body {
    Body::Deliveries(Deliveries {
        deliveries: vec![v1::Delivery::default(); count],
    })
}

fn at_once(bodies: Vec<Body>, end: Option<Status>) -> Answer {
    Answer(bodies.into_iter().map(|body| (Duration::ZERO, body)).collect(), end)
}

fn start(answers: Vec<Answer>) -> (Script, Consume) {
    let script = Script::default();
    script.answers.lock().expect("nobody panicked").extend(answers);
    let client = StorageClient::in_process(Routes::new(QueueServiceServer::new(script.clone())));
    let consume = client.consume(Open {
        queue: "q".to_owned(),
        max_outstanding_messages: 7,
        ..Default::default()
    });
    (script, consume)
}

/// The next updates, in short.
async fn updates(consume: &mut Consume, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..count {
        let update = tokio::time::timeout(Duration::from_mins(5), consume.next()).await;
        told.push(match update.expect("something is told") {
            Update::Opened => "opened".to_owned(),
            Update::Deliveries(deliveries) => format!("delivered {}", deliveries.len()),
            Update::Draining => "draining".to_owned(),
            Update::Interrupted(error) => format!("interrupted: {error}"),
        });
    }
    told
}

#[tokio::test(start_paused = true)]
async fn it_comes_back_and_asks_for_the_same() {
    let away = || Some(Status::unavailable("away"));
    let (script, mut consume) = start(vec![
        at_once(
            vec![opened(), deliveries(2), Body::Draining(Draining::default())],
            away(),
        ),
        at_once(Vec::new(), away()),
        at_once(vec![deliveries(1)], None),
        at_once(vec![opened(), deliveries(1)], None),
    ]);
    let told = updates(&mut consume, 8).await;
    assert_eq!(
        told,
        [
            "opened",
            "delivered 2",
            "draining",
            "interrupted: storage is unavailable",
            "interrupted: storage is unavailable",
            "interrupted: storage broke its contract: the first response says that the stream is open",
            "opened",
            "delivered 1",
        ]
    );
    assert_eq!(script.heard_so_much(4).await, ["open q 7"; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_falls_silent_is_left_and_one_that_beats_is_not() {
    let heartbeat = || (Duration::from_secs(25), Body::Heartbeat(Heartbeat {}));
    let (_, mut consume) = start(vec![
        Answer(vec![(Duration::ZERO, opened()), heartbeat(), heartbeat()], None),
        at_once(vec![opened()], None),
    ]);
    let began = Instant::now();
    let told = updates(&mut consume, 3).await;
    assert_eq!(
        told,
        ["opened", "interrupted: storage did not answer in time", "opened"]
    );
    let took = began.elapsed().as_secs();
    assert!((80..81).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_waiting_breaks_nothing_off() {
    let second = Duration::from_secs(1);
    let (script, mut consume) = start(vec![Answer(vec![(second, opened()), (second, deliveries(1))], None)]);
    let mut told = Vec::new();
    while told.len() < 2 {
        if let Ok(update) = tokio::time::timeout(Duration::from_millis(30), consume.next()).await {
            told.push(update);
        }
    }
    assert!(matches!(told[..], [Update::Opened, Update::Deliveries(_)]), "{told:?}");
    assert_eq!(script.heard(), ["open q 7"]);
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_as_soon_as_they_are_open_are_opened_ever_more_seldom() {
    let answers = (0..200).map(|_| at_once(vec![opened()], Some(Status::unavailable("away"))));
    let (script, mut consume) = start(answers.collect());
    let minutes = 2;
    let consuming = async {
        loop {
            consume.next().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_mins(minutes), consuming);
    ended.await.expect_err("it goes on for ever");
    let opened = script.heard().len();
    // 50 ms doubled up to 5 s takes seven; then one in 2.5 to 7.5 s.
    assert!((7 + 15..7 + 50).contains(&opened), "{opened}");
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_when_it_drains_is_told() {
    let later = Duration::from_secs(1);
    let (script, mut consume) = start(vec![Answer(
        vec![
            (Duration::ZERO, opened()),
            (later, Body::Heartbeat(Heartbeat {})),
            (later, deliveries(3)),
            (later, Body::Settled(v1::SettleResponse::default())),
        ],
        Some(Status::unavailable("the end")),
    )]);
    assert!(consume.settler().is_none(), "there is no stream yet");
    assert_eq!(updates(&mut consume, 1).await, ["opened"]);
    let settler = consume.settler().expect("it stands");
    let mut rest = consume.drain();
    assert_eq!(rest.next().await.map(|deliveries| deliveries.len()), Some(3));
    assert!(settler.settle(v1::Settlement::default()), "it stands still");
    assert_eq!(script.heard_so_much(3).await, ["open q 7", "drain", "settle 1"]);
    assert!(rest.next().await.is_none(), "it has ended");
    assert!(rest.next().await.is_none(), "and is not opened again");
    drop(rest);
    let closed = async {
        while settler.settle(v1::Settlement::default()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), closed)
        .await
        .expect("nothing settles through it");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_open_drains_at_once() {
    let (script, consume) = start(vec![]);
    assert!(consume.drain().next().await.is_none());
    assert_eq!(script.heard(), Vec::<String>::new());
}
