//! Between a gateway and its storage service: answers that are lost do not make a commit happen again, and answers that
//! are out of date when they arrive do not make a lost update.

use std::net::SocketAddr;
use std::time::Duration;

use proto::v1;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::support::{FeedClient, Form, Mode, Part, TestFeed, eventually, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
/// How often a write may lose to others.
const ATTEMPTS: usize = 16;
const COMMITTED_MAX: Duration = Duration::from_secs(20);

/// What becomes of answers.
#[derive(Clone, Debug, Default)]
struct Fate {
    /// They are kept back, while requests still arrive.
    held: bool,
    /// How often all connections were cut, with the answers that were kept back.
    cuts: u64,
    /// Who does something before each is passed on, and says when it is done.
    before: Option<mpsc::Sender<oneshot::Sender<()>>>,
}

/// Stands between a gateway and its storage service.
struct Between {
    address: SocketAddr,
    storage: watch::Sender<Option<String>>,
    fate: watch::Sender<Fate>,
    task: JoinHandle<()>,
}

impl Between {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (storage, storages) = watch::channel(None);
        let (fate, fates) = watch::channel(Fate::default());
        let task = tokio::spawn(async move {
            while let Ok((gateway, _)) = listener.accept().await {
                tokio::spawn(connect(gateway, storages.clone(), fates.clone()));
            }
        });
        Self {
            address,
            storage,
            fate,
            task,
        }
    }

    /// Whose answers these are; connections wait until it is known.
    fn lead_to(&self, storage_url: &str) {
        let address = storage_url.strip_prefix("http://").expect("an address is a URL");
        self.storage.send_replace(Some(address.to_owned()));
    }

    fn hold(&self) {
        self.fate.send_modify(|fate| fate.held = true);
    }

    /// Lets `act` be done before each answer is passed on, for as long as `work` takes; how often that was.
    async fn before_each_answer<T>(&self, mut act: impl AsyncFnMut(), work: impl Future<Output = T>) -> (T, usize) {
        let (before, mut answers) = mpsc::channel::<oneshot::Sender<()>>(1);
        self.fate.send_modify(|fate| fate.before = Some(before));
        let mut count = 0;
        let acting = async {
            while let Some(done) = answers.recv().await {
                act().await;
                count += 1;
                // Whoever waited may have lost its connection.
                let _ = done.send(());
            }
            unreachable!("the sender is kept until the work is done")
        };
        let worked = tokio::select! {
            worked = work => worked,
            never = acting => never,
        };
        self.fate.send_modify(|fate| fate.before = None);
        (worked, count)
    }

    fn cut(&self) {
        self.fate.send_modify(|fate| {
            fate.held = false;
            fate.cuts += 1;
        });
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(gateway: TcpStream, mut storages: watch::Receiver<Option<String>>, mut fate: watch::Receiver<Fate>) {
    let Ok(address) = storages.wait_for(Option::is_some).await.map(|address| address.clone()) else {
        return;
    };
    let storage = TcpStream::connect(address.expect("it was waited for")).await;
    let Ok(storage) = storage else { return };
    let cuts = fate.borrow_and_update().cuts;
    let (from_gateway, to_gateway) = gateway.into_split();
    let (from_storage, to_storage) = storage.into_split();
    tokio::select! {
        () = pass(from_gateway, to_storage) => {}
        () = pass_unless_held(from_storage, to_gateway, fate.clone()) => {}
        _ = fate.wait_for(|fate| fate.cuts != cuts) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

/// Passes frames of HTTP/2: what a storage service sends is nothing else.
async fn pass_unless_held(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut fate: watch::Receiver<Fate>) {
    let cuts = fate.borrow_and_update().cuts;
    while let Some(frame) = Frame::read(&mut from).await {
        let before = fate.borrow().before.clone();
        if let Some(before) = before.filter(|_| frame.ends_an_answer()) {
            let (done, is_done) = oneshot::channel();
            if before.send(done).await.is_ok() {
                let _ = is_done.await;
            }
        }
        let may_pass = fate.wait_for(|fate| !fate.held || fate.cuts != cuts).await;
        if may_pass.map_or(true, |fate| fate.cuts != cuts) || to.write_all(&frame.0).await.is_err() {
            return;
        }
    }
}

/// A frame of HTTP/2 (RFC 9113, section 4.1), its head included.
struct Frame(Vec<u8>);

impl Frame {
    const HEAD_LENGTH: usize = 9;
    const TYPE_HEADERS: u8 = 0x1;
    const FLAG_END_STREAM: u8 = 0x1;

    /// None at the end of the connection.
    async fn read(from: &mut OwnedReadHalf) -> Option<Self> {
        let mut bytes = vec![0; Self::HEAD_LENGTH];
        from.read_exact(&mut bytes).await.ok()?;
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        bytes.resize(Self::HEAD_LENGTH + usize::try_from(length).ok()?, 0);
        from.read_exact(&mut bytes[Self::HEAD_LENGTH..]).await.ok()?;
        Some(Self(bytes))
    }

    /// Each call's answer ends with one such frame, its trailers, and is nothing to the caller before.
    fn ends_an_answer(&self) -> bool {
        self.0[3] == Self::TYPE_HEADERS && self.0[4] & Self::FLAG_END_STREAM != 0
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_happens_once_and_is_answered_as_if_nothing_were() {
    let between = Between::start().await;
    let through = format!("http://{}", between.address);
    let form = Form::Processes {
        gateways: 1,
        consumers: 0,
    };
    let mut feed = TestFeed::start_with(form, &[("STORAGE_URL", &through)]).await;
    between.lead_to(&feed.storage_url());
    let client = feed.client();
    // The connection is there.
    client.get("/ready").await.expect(200);

    let storage = feed.storage();
    let revision = async || storage.server_info().await.expect("storage is there").store_revision;
    for (number, mode) in [Mode::Sync, Mode::Async, Mode::Sync, Mode::Async]
        .into_iter()
        .enumerate()
    {
        let before = revision().await;
        between.hold();
        // A create reads nothing: what is held back is the commit's answer.
        let body = playlist(&format!("Lost {number}"), 2);
        let created = async { client.post(PLAYLISTS, &body, mode).await.expect(mode.status(201)) };
        let lose = async {
            eventually(COMMITTED_MAX, "it is committed", async || match revision().await {
                now if now > before => Ok(()),
                now => Err(now.to_string()),
            })
            .await;
            between.cut();
        };
        let (created, ()) = futures_util::future::join(created, lose).await;
        assert_eq!(revision().await, before + 1, "one commit and no more");
        if mode == Mode::Async {
            assert_eq!(client.operation(&created).await["state"], "accepted");
        }
    }
    feed.launch(Part::Consumer(0)).await;
    feed.drained().await;
    let mut titles: Vec<_> = client
        .list(PLAYLISTS)
        .await
        .iter()
        .map(|row| row["title"].clone())
        .collect();
    titles.sort_by_key(Value::to_string);
    assert_eq!(json!(titles), json!(["Lost 0", "Lost 1", "Lost 2", "Lost 3"]));
    feed.finish().await;
}

#[tokio::test]
async fn a_write_that_loses_sixteen_times_is_given_up_and_nothing_of_it_is_written() {
    let between = Between::start().await;
    let through = format!("http://{}", between.address);
    let form = Form::Processes {
        gateways: 1,
        // It would ask storage for things of its own.
        consumers: 0,
    };
    let feed = TestFeed::start_with(form, &[("STORAGE_URL", &through)]).await;
    between.lead_to(&feed.storage_url());
    let client = feed.client();
    let created = client
        .post(PLAYLISTS, &playlist("Contended", 2), Mode::Sync)
        .await
        .expect(201);
    let path = format!("{PLAYLISTS}/{}", created.member("id"));

    let storage = feed.storage();
    let key = format!("id/{}", created.member("id"));
    // The same text again, under a new revision: as if somebody else had changed it.
    let rewrite = async || {
        let entry = storage
            .get("playlists", &key)
            .await
            .expect("storage is there")
            .expect("the playlist");
        let text = entry.text().expect("a text").to_owned();
        let commit = v1::CommitRequest {
            mutations: vec![v1::Mutation::put_text("playlists", &key, text, entry.metadata)],
            ..Default::default()
        };
        storage.commit(commit).await.expect("storage is there");
    };
    let change = json!({ "summary": "Changed" });
    for (mode, code, message) in [
        (Mode::Sync, "storage_error", "Failed to save playlist"),
        (Mode::Async, "queue_error", "Failed to queue playlist for processing"),
    ] {
        let work = client.patch(&path, &change, mode);
        let (refused, answers) = between.before_each_answer(rewrite, work).await;
        let refused = refused.expect(503);
        let message = format!("{message}: other writers were faster, nothing was written");
        assert_eq!(refused.json(), json!({ "error": code, "message": message }));
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(answers, 2 * ATTEMPTS, "a read and a conflict of each attempt");
        assert_eq!(client.get(&path).await.text, created.text);
    }
    client.patch(&path, &change, Mode::Sync).await.expect(200);
    feed.finish().await;
}

#[tokio::test]
async fn a_condition_that_held_when_it_was_judged_is_judged_again_when_the_commit_loses() {
    let between = Between::start().await;
    let mut feed = TestFeed::start(Form::THREE_PROCESSES).await;
    feed.lead(Part::Gateway(1), format!("http://{}", between.address));
    between.lead_to(&feed.storage_url());
    feed.launch(Part::Gateway(1)).await;
    let (near, far) = (feed.gateway_client(0), feed.gateway_client(1));
    far.get("/ready").await.expect(200);
    let created = near.post(PLAYLISTS, &playlist("Read", 2), Mode::Sync).await.expect(201);
    let path = format!("{PLAYLISTS}/{}", created.member("id"));

    for mode in [Mode::Sync, Mode::Async] {
        let tag = near.get(&path).await.header("etag").to_owned();
        let tag = [("if-match", tag.as_str())];
        let change = async |client: &FeedClient, who: &str| {
            let body = json!({ "summary": format!("{who} {mode:?}") });
            let sent = client.try_write(Method::PATCH, &path, Some(&body), mode, &tag);
            sent.await.expect("an answer")
        };
        // Happens after the version was read, and before the answer is there.
        let mut first = None;
        let overtake = async || {
            if first.is_none() {
                first = Some(change(&near, "near").await);
            }
        };
        let (refused, answers) = between.before_each_answer(overtake, change(&far, "far")).await;
        assert_eq!(refused.expect(412).member("error"), "precondition_failed");
        assert_eq!(answers, 3, "read, conflict, read");
        let first = first.expect("it was sent").expect(mode.status(200));
        feed.drained().await;
        assert_eq!(near.get(&path).await.text, first.text);
    }
    feed.finish().await;
}
