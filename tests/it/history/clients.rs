//! Clients that write the same few documents at once, and note what they were answered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::check::{Answer, Document, Effect, Fields, TEXTS, Write};
use crate::support::{self, FeedClient, Mode};

/// Clients of one history, at most.
const CLIENTS_MAX: usize = 3;
/// Writes of one client, at most.
const WRITES_MAX: usize = 3;
/// Longest time until a create is answered, however often it is sent.
const CREATED_MAX: Duration = Duration::from_secs(20);
/// Longest pause after a write that was not answered.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Whichever gateway reads it, this is the feed's own.
const ORIGIN: &str = "http://feed.test";

/// What all clients share.
pub(super) struct Clients {
    /// One for each gateway.
    gateways: Vec<FeedClient>,
    began: Instant,
    count: Cell<usize>,
    writes: RefCell<Vec<Write>>,
}

/// A request to come.
#[derive(Clone)]
struct Request {
    method: Method,
    path: String,
    body: Option<Value>,
    document: Option<Document>,
    effect: Effect,
    value: String,
}

impl Clients {
    pub(super) fn new(gateways: Vec<FeedClient>) -> Self {
        Self {
            gateways,
            began: Instant::now(),
            count: Cell::new(0),
            writes: RefCell::default(),
        }
    }

    /// All that was written so far.
    pub(super) fn into_writes(self) -> Vec<Write> {
        self.writes.into_inner()
    }

    /// One history: a playlist or two, perhaps a channel over them, and some clients that write these.
    pub(super) async fn history(&self, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut documents = Vec::new();
        for _ in 0..rng.random_range(1..=2) {
            let request = self.create("playlist", Vec::new());
            documents.extend(self.send_until_answered(&request, &mut rng).await);
        }
        if rng.random() {
            let request = self.create("channel", ids(&documents));
            if !documents.is_empty() {
                documents.extend(self.send_until_answered(&request, &mut rng).await);
            }
        }
        if documents.is_empty() {
            return;
        }
        let clients = (0..rng.random_range(1..=CLIENTS_MAX)).map(|_| self.client(&documents, rng.random()));
        join_all(clients).await;
    }

    /// A new playlist by a queued write, whose acceptance must be answered.
    pub(super) async fn queue(&self) -> Answer {
        let request = self.create("playlist", Vec::new());
        let began = self.now();
        let answer = send(&self.gateways[0], &request, Mode::Async, &[]).await;
        assert_ne!(answer, Answer::Lost, "nothing is in the way of a queued write");
        self.note(request, Mode::Async, began, answer.clone());
        answer
    }

    async fn client(&self, documents: &[Document], seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        for _ in 0..rng.random_range(1..=WRITES_MAX) {
            let request = self.change(documents, &mut rng);
            let (mode, gateway) = (mode(&mut rng), self.gateway(&mut rng));
            let began = self.now();
            let answer = send(gateway, &request, mode, &[]).await;
            let is_lost = answer == Answer::Lost;
            self.note(request, mode, began, answer);
            if is_lost {
                pause(&mut rng).await;
            }
        }
    }

    /// Which document it made, if that is known in the end.
    async fn send_until_answered(&self, request: &Request, rng: &mut SmallRng) -> Option<Document> {
        let mode = mode(rng);
        let began = self.now();
        let start = Instant::now();
        let headers = [("idempotency-key", request.value.as_str())];
        loop {
            let answer = send(self.gateway(rng), request, mode, &headers).await;
            let document = match &answer {
                Answer::Accepted { document, .. } => Some(document.clone()),
                Answer::Refused => None,
                Answer::Lost if start.elapsed() > CREATED_MAX => None,
                Answer::Lost => {
                    pause(rng).await;
                    continue;
                }
            };
            self.note(request.clone(), mode, began, answer);
            return document;
        }
    }

    fn create(&self, kind: &str, playlists: Vec<String>) -> Request {
        let value = self.value();
        Request {
            method: Method::POST,
            path: format!("/api/v1/{kind}s"),
            body: Some(body(&value, &playlists)),
            document: None,
            effect: Effect::Create(whole(&value, playlists)),
            value,
        }
    }

    fn change(&self, documents: &[Document], rng: &mut SmallRng) -> Request {
        let value = self.value();
        let document = documents.choose(rng).expect("there are some").clone();
        let (kind, id) = document.split_once('/').expect("it is made so");
        let path = format!("/api/v1/{kind}s/{id}");
        let playlists = if kind == "channel" { ids(documents) } else { Vec::new() };
        let (method, body, effect) = match rng.random_range(0..10) {
            0 | 1 => (Method::DELETE, None, Effect::Delete),
            2 | 3 => (
                Method::PUT,
                Some(body(&value, &playlists)),
                Effect::Replace(whole(&value, playlists)),
            ),
            number => {
                // A channel's playlists now and then, and a text with them, to know the write by.
                let playlists = (number == 4 && kind == "channel").then_some(playlists);
                let name = *TEXTS.choose(rng).expect("there are some");
                let mut members = Map::from_iter([(name.to_owned(), json!(value))]);
                members.extend(playlists.as_ref().map(|ids| ("playlists".to_owned(), json!(urls(ids)))));
                let effect = Effect::Patch(BTreeMap::from([(name, value.clone())]), playlists);
                (Method::PATCH, Some(Value::Object(members)), effect)
            }
        };
        Request {
            method,
            path,
            body,
            document: Some(document),
            effect,
            value,
        }
    }

    /// Sent by one write only; a title, a summary and the address of a picture all the same.
    fn value(&self) -> String {
        self.count.set(self.count.get() + 1);
        format!("https://example.com/write-{}", self.count.get())
    }

    fn note(&self, request: Request, mode: Mode, began: u64, answer: Answer) {
        self.writes.borrow_mut().push(Write {
            value: request.value,
            document: request.document,
            effect: request.effect,
            is_queued: mode == Mode::Async,
            began,
            ended: self.now(),
            answer,
        });
    }

    fn gateway(&self, rng: &mut SmallRng) -> &FeedClient {
        self.gateways.choose(rng).expect("there are some")
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a test is short")
    }
}

async fn send(gateway: &FeedClient, request: &Request, mode: Mode, headers: &[(&str, &str)]) -> Answer {
    let (method, body) = (request.method.clone(), request.body.as_ref());
    let Ok(answer) = gateway.try_write(method, &request.path, body, mode, headers).await else {
        return Answer::Lost;
    };
    match answer.status {
        200..300 => {
            let operation = (answer.status == 202).then(|| answer.header("location").to_owned());
            let operation = operation.and_then(|path| Some(path.rsplit('/').next()?.to_owned()));
            let document = request.document.clone().unwrap_or_else(|| {
                let kind = if request.path.contains("channel") {
                    "channel"
                } else {
                    "playlist"
                };
                format!("{kind}/{}", answer.member("id"))
            });
            let text = (request.effect != Effect::Delete).then_some(answer.text);
            Answer::Accepted {
                document,
                text,
                operation,
            }
        }
        404 => Answer::Refused,
        422 if answer.member("error") == "invalid_reference" => Answer::Refused,
        503 => Answer::Lost,
        _ => panic!("{} {}: {answer:?}", request.method, request.path),
    }
}

async fn pause(rng: &mut SmallRng) {
    tokio::time::sleep(rng.random_range(Duration::ZERO..PAUSE_MAX)).await;
}

fn mode(rng: &mut SmallRng) -> Mode {
    if rng.random() { Mode::Sync } else { Mode::Async }
}

fn ids(documents: &[Document]) -> Vec<String> {
    let playlists = documents
        .iter()
        .filter_map(|document| document.strip_prefix("playlist/"));
    playlists.map(str::to_owned).collect()
}

fn urls(ids: &[String]) -> Vec<String> {
    ids.iter().map(|id| format!("{ORIGIN}/api/v1/playlists/{id}")).collect()
}

/// A playlist, or a channel over these.
fn body(title: &str, playlists: &[String]) -> Value {
    if playlists.is_empty() {
        support::playlist(title, 1)
    } else {
        support::channel(title, &urls(playlists))
    }
}

fn whole(title: &str, playlists: Vec<String>) -> Fields {
    Fields {
        texts: BTreeMap::from([("title", title.to_owned())]),
        playlists,
    }
}
