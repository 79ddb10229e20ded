//! `dp1-feed queue`: list, show, redrive, purge.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use proto::client::{Connection, StorageClient};
use proto::limits::{COMMIT_ENQUEUES_MAX, LIST_ROWS_MAX};
use proto::v1;
use runtime::clock::Clock;
use serde_json::{Value, json};
use storage_svc::{Store, StoreArgs, Sync};
use tokio::net::TcpListener;

use crate::commands::{COMMAND_MAX, expect_failure, expect_lines};
use crate::operations::{FAILURES, fail};
use crate::support::{Answer, Ended, Form, Launch, Mode, Part, Process, TestFeed, channel, eventually, playlist, run};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
/// Longest time until a process is ready, or a message is given up.
const SOON: Duration = Duration::from_secs(20);

const NO_CONSUMER: Form = Form::Processes {
    gateways: 1,
    consumers: 0,
};

fn launch(storage_url: &str, arguments: &str) -> Launch {
    let folder = std::env::temp_dir();
    let launch = Launch::new("dp1-feed", &folder)
        .argument("queue")
        .variable("STORAGE_URL", storage_url);
    arguments.split_whitespace().fold(launch, Launch::argument)
}

async fn queue(feed: &TestFeed, arguments: &str) -> Ended {
    run(&launch(&feed.storage_url(), arguments), COMMAND_MAX).await
}

/// Lines of a command that ends well.
pub(crate) async fn lines(feed: &TestFeed, arguments: &str) -> Vec<String> {
    let ended = queue(feed, arguments).await;
    expect_lines(&ended).into_iter().map(str::to_owned).collect()
}

/// The one JSON document of a command that ends well.
async fn document(feed: &TestFeed, arguments: &str) -> Value {
    let lines = lines(feed, &format!("{arguments} --json")).await;
    let [line] = lines.as_slice() else {
        panic!("not one line: {lines:?}")
    };
    serde_json::from_str(line).expect("JSON")
}

/// Ends with code 2, and nothing but usage on stderr.
async fn expect_usage(feed: &TestFeed, arguments: &str, word: &str) {
    let ended = queue(feed, arguments).await;
    assert_eq!(ended.status.code(), Some(2), "{arguments}: {ended:?}");
    assert_eq!(ended.stdout, Vec::<String>::new());
    assert!(ended.stderr.iter().any(|line| line.contains(word)), "{ended:?}");
}

/// A playlist whose create was given up: its message is dead.
async fn dead_create(feed: &mut TestFeed) -> Answer {
    let client = feed.client();
    let created = client.post(PLAYLISTS, &playlist("Dead", 1), Mode::Async).await;
    let created = created.expect(202);
    fail(&feed.storage(), FAILURES).await;
    feed.launch(Part::Consumer(0)).await;
    assert_eq!(client.operation_end(&created).await, "failed");
    feed.stop(Part::Consumer(0)).await;
    created
}

fn path(kind: &str, answer: &Answer) -> String {
    format!("{kind}/{}", answer.member("id"))
}

/// Keys of a namespace that start so.
async fn keys(feed: &TestFeed, namespace: &str, prefix: &str) -> Vec<String> {
    let storage = feed.storage();
    let page = storage.scan(v1::ScanRequest {
        selector: Some(v1::Selector {
            namespace: namespace.to_owned(),
            keys: Some(v1::selector::Keys::Prefix(prefix.to_owned())),
        }),
        omit_values: true,
        page_size: 1_000,
        ..Default::default()
    });
    let rows = page.await.expect("storage answers").rows;
    rows.into_iter().filter_map(|row| Some(row.entry?.key)).collect()
}

async fn stop(mut feed: TestFeed, parts: &[Part]) {
    for part in parts {
        feed.stop(*part).await;
    }
}

#[tokio::test]
async fn queues_and_their_messages_are_listed_and_shown() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    assert_eq!(lines(&feed, "list").await, ["no queues"]);
    assert_eq!(document(&feed, "list").await, json!({"queues": []}));
    expect_failure(&queue(&feed, "list other").await, &["there is no queue other"]);
    assert_eq!(lines(&feed, "list writes").await, ["no messages"]);
    assert_eq!(lines(&feed, "redrive --all").await, ["messages redriven: 0"]);

    let dead = dead_create(&mut feed).await;
    let client = feed.client();
    let ready = client
        .post(PLAYLISTS, &playlist("Ready", 1), Mode::Async)
        .await
        .expect(202);

    let listed = lines(&feed, "list").await;
    let words: Vec<Vec<_>> = listed.iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        words[0],
        [
            "QUEUE", "READY", "DELAYED", "LEASED", "BLOCKED", "DEAD", "OLDEST", "READY"
        ]
    );
    assert_eq!(words[1][..6], ["writes", "1", "0", "0", "0", "1"]);
    assert_eq!(listed.len(), 2);
    let listed = document(&feed, "list").await;
    let figures = &listed["queues"][0];
    assert_eq!(figures["name"], "writes");
    assert_eq!((&figures["dead"], &figures["ready"]), (&json!(1), &json!(1)));
    assert!(figures["oldestReadySeconds"].as_f64().is_some_and(|age| age >= 0.0));

    let listed = lines(&feed, "list writes").await;
    assert_eq!(listed.len(), 3, "{listed:?}");
    for (line, id, state, answer) in [(&listed[1], "1", "dead", &dead), (&listed[2], "2", "ready", &ready)] {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[..2], [id, state]);
        assert!(words.contains(&path(PLAYLISTS, answer).as_str()), "{line}");
    }
    let last_error = format!("failure {FAILURES}");
    assert!(listed[1].ends_with(&last_error), "{listed:?}");
    let listed = document(&feed, "list writes --state dead").await;
    assert_eq!(listed["messages"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["messages"][0]["documents"], json!([path(PLAYLISTS, &dead)]));
    assert_eq!(listed["nextPage"], Value::Null);
    assert_eq!(lines(&feed, "list writes --state blocked").await, ["no messages"]);

    let listed = lines(&feed, "list writes --limit 1").await;
    let token = listed
        .last()
        .and_then(|line| line.strip_prefix("there are more: --page "));
    let next = document(
        &feed,
        &format!("list writes --limit 1 --page {}", token.expect("a token")),
    )
    .await;
    assert_eq!(next["messages"][0]["id"], 2);
    assert_eq!(next["nextPage"], Value::Null);

    let shown = document(&feed, "show 1").await;
    assert_eq!(shown["message"]["state"], "dead");
    assert_eq!(
        shown["message"]["failures"].as_array().map(Vec::len),
        Some(FAILURES + 1)
    );
    assert_eq!(shown["message"]["failures"][0]["error"], "failure 1");
    assert_eq!(shown["operation"], client.operation(&dead).await);
    assert_eq!(
        shown["documents"],
        json!([{"path": path(PLAYLISTS, &dead), "pending": true}])
    );
    let shown = lines(&feed, "show 1").await.join("\n");
    for words in [
        "dead",
        &last_error,
        "failed",
        &path(PLAYLISTS, &dead),
        "waits for this message",
    ] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }
    expect_failure(
        &queue(&feed, "show 9").await,
        &["there is no message 9 in queue writes"],
    );
    stop(feed, &[Part::Gateway(0), Part::Storage]).await;
}

#[tokio::test]
async fn dead_messages_get_another_try() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let (one, other) = (dead_create(&mut feed).await, dead_create(&mut feed).await);
    let waiting = client
        .post(PLAYLISTS, &playlist("Ready", 1), Mode::Async)
        .await
        .expect(202);

    expect_failure(&queue(&feed, "redrive 1 3").await, &["message 3 is not dead but ready"]);
    expect_failure(&queue(&feed, "redrive 1 9").await, &["there is no message 9"]);
    assert_eq!(client.operation(&one).await["state"], "failed");

    assert_eq!(lines(&feed, "redrive 1").await, ["messages redriven: 1"]);
    let record = client.operation(&one).await;
    assert_eq!(record["state"], "accepted");
    assert_eq!((record.get("reason"), record.get("finishedAt")), (None, None));
    assert_eq!(client.operation(&other).await["state"], "failed");
    let all = document(&feed, "redrive --all").await;
    assert_eq!(all, json!({"queue": "writes", "redriven": 1}));
    assert_eq!(document(&feed, "redrive --all").await["redriven"], 0);

    feed.launch(Part::Consumer(0)).await;
    for accepted in [&one, &other, &waiting] {
        assert_eq!(client.operation_end(accepted).await, "applied");
        client.get(&path(PLAYLISTS, accepted)).await.expect(200);
    }
    feed.finish().await;
}

#[tokio::test]
async fn a_purged_write_is_as_if_it_had_not_been_accepted() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let dead = dead_create(&mut feed).await;
    let shown = document(&feed, "list writes --state dead").await;
    let id = shown["messages"][0]["id"].to_string();
    assert_eq!(
        lines(&feed, &format!("purge {id}")).await,
        ["messages purged: 1, writes withdrawn: 1"]
    );
    let record = client.operation(&dead).await;
    assert_eq!(
        (&record["state"], &record["reason"]),
        (&json!("failed"), &json!("withdrawn"))
    );
    assert_eq!(keys(&feed, "pending", "").await, Vec::<String>::new());
    assert_eq!(keys(&feed, "playlists", "slug/").await, Vec::<String>::new());
    let gone = path(PLAYLISTS, &dead);
    client
        .patch(&gone, &json!({"title": "x"}), Mode::Sync)
        .await
        .expect(404);
    expect_failure(
        &queue(&feed, &format!("purge {id}")).await,
        &["nothing was purged", "no message"],
    );

    // A version that replaced another one takes that one with it.
    let kept = client
        .post(PLAYLISTS, &playlist("Kept", 1), Mode::Sync)
        .await
        .expect(201);
    let older = client
        .patch(&path(PLAYLISTS, &kept), &json!({"title": "Older"}), Mode::Async)
        .await
        .expect(202);
    let newer = client
        .patch(&path(PLAYLISTS, &kept), &json!({"summary": "Newer"}), Mode::Async)
        .await
        .expect(202);
    let purged = document(&feed, "purge --all --yes").await;
    assert_eq!(
        purged,
        json!({"queue": "writes", "purged": 2, "withdrawn": 1, "kept": []})
    );
    assert_eq!(client.operation(&older).await["state"], "superseded");
    assert_eq!(client.operation(&newer).await["reason"], "withdrawn");
    let patched = client
        .patch(&path(PLAYLISTS, &kept), &json!({"note": "n"}), Mode::Sync)
        .await
        .expect(200);
    assert_eq!(
        (patched.member("title"), patched.json().get("summary")),
        ("Kept".to_owned(), None)
    );
    assert_eq!(client.get(&path(PLAYLISTS, &kept)).await.text, patched.text);
    stop(feed, &[Part::Gateway(0), Part::Storage]).await;
}

#[tokio::test]
async fn a_purged_deletion_gives_its_channels_back() {
    let feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let made = client
        .post(PLAYLISTS, &playlist("Stays", 1), Mode::Sync)
        .await
        .expect(201);
    let url = feed.public_url(&path(PLAYLISTS, &made));
    let body = channel("Keeps it", std::slice::from_ref(&url));
    let before = client.post(CHANNELS, &body, Mode::Sync).await.expect(201);
    client.delete(&path(PLAYLISTS, &made), Mode::Async).await.expect(202);
    client.post(CHANNELS, &body, Mode::Sync).await.expect(422);
    assert_eq!(
        lines(&feed, "purge --state ready").await,
        ["messages purged: 1, writes withdrawn: 1"]
    );
    assert_eq!(client.get(&path(CHANNELS, &before)).await.text, before.text);
    // It is linked again: its deletion finds both channels.
    let after = client.post(CHANNELS, &body, Mode::Sync).await.expect(201);
    client.delete(&path(PLAYLISTS, &made), Mode::Sync).await.expect(204);
    for channel in [&before, &after] {
        let channel = client.get(&path(CHANNELS, channel)).await.expect(200).json();
        assert_eq!(channel["playlists"], json!([]));
    }
    stop(feed, &[Part::Gateway(0), Part::Storage]).await;
}

#[tokio::test]
async fn a_write_that_others_need_stays_until_they_are_gone() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let needed = client
        .post(PLAYLISTS, &playlist("Needed", 1), Mode::Async)
        .await
        .expect(202);
    let url = feed.public_url(&path(PLAYLISTS, &needed));
    let needs = client
        .post(CHANNELS, &channel("Needs it", &[url]), Mode::Async)
        .await
        .expect(202);
    let kept = queue(&feed, "purge 1").await;
    assert_eq!(kept.status.code(), Some(1), "{kept:?}");
    assert_eq!(kept.stdout[0], "messages purged: 0, writes withdrawn: 0");
    for words in [
        "1 kept: channel",
        &needs.member("id"),
        &needed.member("id"),
        "would not be there",
    ] {
        assert!(kept.stdout[1].contains(words), "no {words:?} in {kept:?}");
    }
    assert_eq!(client.operation(&needed).await["state"], "accepted");
    // All of them go, the newest first.
    assert_eq!(
        lines(&feed, "purge --all --yes").await,
        ["messages purged: 2, writes withdrawn: 2"]
    );
    assert_eq!(keys(&feed, "channels", "").await, Vec::<String>::new());

    // What a channel would fall back to is no better than what it would lose.
    let deleted = client
        .post(PLAYLISTS, &playlist("Deleted", 1), Mode::Sync)
        .await
        .expect(201);
    let url = feed.public_url(&path(PLAYLISTS, &deleted));
    let changed = client
        .post(CHANNELS, &channel("Changed", &[url]), Mode::Sync)
        .await
        .expect(201);
    let other = client
        .post(PLAYLISTS, &playlist("Other", 1), Mode::Sync)
        .await
        .expect(201);
    let moved = json!({"playlists": [feed.public_url(&path(PLAYLISTS, &other))]});
    let moved = client
        .patch(&path(CHANNELS, &changed), &moved, Mode::Async)
        .await
        .expect(202);
    client.delete(&path(PLAYLISTS, &deleted), Mode::Sync).await.expect(204);
    let kept = queue(&feed, "purge --all --yes --json").await;
    assert_eq!(kept.status.code(), Some(1), "{kept:?}");
    let printed: Value = serde_json::from_str(&kept.stdout[0]).expect("JSON");
    assert_eq!((&printed["purged"], &printed["withdrawn"]), (&json!(0), &json!(0)));
    let reason = printed["kept"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("again, which was deleted"), "{reason}");
    feed.launch(Part::Consumer(0)).await;
    assert_eq!(client.operation_end(&moved).await, "applied");
    stop(feed, &[Part::Consumer(0), Part::Gateway(0), Part::Storage]).await;
}

/// The consumer has the message already: it finds nothing to apply, and what is recorded stays so.
#[tokio::test]
async fn a_write_that_is_out_with_a_consumer_can_be_withdrawn() {
    let mut feed = TestFeed::start(NO_CONSUMER).await;
    let client = feed.client();
    let created = client
        .post(PLAYLISTS, &playlist("Out", 1), Mode::Async)
        .await
        .expect(202);
    let storage = feed.storage();
    let received = storage.receive(v1::ReceiveRequest {
        queue: feed_store::WRITE_QUEUE.to_owned(),
        lease: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    });
    let receipt = received.await.expect("storage answers")[0].receipt.clone();
    // As if the command had been cut short after this.
    let message = storage
        .get_message(feed_store::WRITE_QUEUE, 1)
        .await
        .expect("storage answers");
    let message = message.expect("it is there");
    let message = feed::operation::OperationMessage::parse(message.text().expect("text")).expect("our own");
    let store = feed_store::FeedStore::new(storage.clone());
    assert_eq!(store.withdraw(&message, 0).await.expect("nothing needs it"), 1);
    let nack = v1::settlement::Nack {
        delay: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    let settlement = v1::Settlement {
        receipt,
        action: Some(v1::settlement::Action::Nack(nack)),
    };
    storage.settle(vec![settlement]).await.expect("storage answers");
    feed.launch(Part::Consumer(0)).await;
    feed.drained().await;
    let record = client.operation(&created).await;
    assert_eq!(
        (&record["state"], &record["reason"]),
        (&json!("failed"), &json!("withdrawn"))
    );
    client.get(&path(PLAYLISTS, &created)).await.expect(404);
    stop(feed, &[Part::Consumer(0), Part::Gateway(0), Part::Storage]).await;
}

#[tokio::test]
async fn other_queues_are_only_queues() {
    let feed = TestFeed::start(NO_CONSUMER).await;
    let storage = feed.storage();
    let text = "{\"operation\":\u{1b}[2J";
    let message = v1::NewMessage {
        queue: "other".to_owned(),
        content: Some(v1::new_message::Content::Text(text.to_owned())),
        ordering_key: "key".to_owned(),
        ..Default::default()
    };
    let commit = v1::CommitRequest {
        enqueues: vec![message; 3],
        ..Default::default()
    };
    storage.commit(commit).await.expect("storage answers");
    let listed = document(&feed, "list other").await;
    let states: Vec<_> = (0..3).map(|at| listed["messages"][at]["state"].clone()).collect();
    assert_eq!(states, ["ready", "blocked", "blocked"]);
    let shown = document(&feed, "show 1 --queue other").await;
    assert_eq!(
        (&shown["message"]["text"], &shown["operation"]),
        (&json!(text), &Value::Null)
    );
    let shown = lines(&feed, "show 1 --queue other").await;
    assert!(shown.iter().all(|line| !line.contains('\u{1b}')), "{shown:?}");
    assert_eq!(document(&feed, "purge 2 --queue other").await["purged"], 1);
    assert_eq!(
        document(&feed, "purge --state blocked --queue other").await["purged"],
        1
    );
    assert_eq!(document(&feed, "purge --all --yes --queue other").await["purged"], 1);
    assert_eq!(lines(&feed, "list other").await, ["no messages"]);

    for (arguments, word) in [
        ("purge --all", "--yes"),
        ("purge", "required"),
        ("purge 1 --all --yes", "cannot be used"),
        ("purge --all --yes --state dead", "cannot be used"),
        ("purge --state gone", "gone"),
        ("redrive", "required"),
        ("redrive 1 --all", "cannot be used"),
        ("redrive x", "invalid"),
        ("show", "required"),
        ("list --state dead", "required"),
        ("list other --limit 0", "0"),
        ("list other --limit 1001", "1001"),
    ] {
        expect_usage(&feed, arguments, word).await;
    }
    feed.finish().await;
}

/// Before each page that is read there come more messages than a page holds.
#[tokio::test]
async fn a_purge_ends_with_what_was_there_when_it_began() {
    const THERE: usize = LIST_ROWS_MAX + LIST_ROWS_MAX / 2;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = StoreArgs {
        storage_sync: Sync::Normal,
        ..StoreArgs::at(folder.path().join("store.db"))
    };
    let store = Store::open(&args, Clock::system()).expect("the store opens");
    let storage = StorageClient::in_process(storage_svc::routes(&store));
    add(&storage, THERE).await;
    let writer = storage.clone();
    let watch = from_fn(move |request: Request, next: Next| {
        let writer = writer.clone();
        async move {
            if request.uri().path().ends_with("/ListMessages") {
                add(&writer, LIST_ROWS_MAX + 1).await;
            }
            next.run(request).await
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let router = storage_svc::routes(&store).into_axum_router().layer(watch);
    let serving = tokio::spawn(axum::serve(listener, router).into_future());

    for arguments in ["purge --all --yes --queue other", "purge --state ready --queue other"] {
        let before = ready(&storage).await;
        let purged = run(&launch(&url, arguments), SOON).await;
        let expected = format!("messages purged: {before}, writes withdrawn: 0");
        assert_eq!(expect_lines(&purged), [expected]);
        let pages = before.div_ceil(LIST_ROWS_MAX);
        assert_eq!(ready(&storage).await, pages * (LIST_ROWS_MAX + 1));
    }
    serving.abort();
}

/// Adds so many messages to a queue that is none of ours.
async fn add(storage: &StorageClient, count: usize) {
    for first in (0..count).step_by(COMMIT_ENQUEUES_MAX) {
        let message = v1::NewMessage {
            queue: "other".to_owned(),
            ..Default::default()
        };
        let commit = v1::CommitRequest {
            enqueues: vec![message; COMMIT_ENQUEUES_MAX.min(count - first)],
            ..Default::default()
        };
        storage.commit(commit).await.expect("storage answers");
    }
}

/// How many messages of that queue are ready.
async fn ready(storage: &StorageClient) -> usize {
    let stats = storage.queue_stats("other").await.expect("storage answers");
    usize::try_from(stats.expect("the queue is used").ready).expect("it fits")
}

#[tokio::test]
async fn what_stops_a_command_is_said_in_a_sentence() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let away = run(&launch("http://127.0.0.1:1", "list"), COMMAND_MAX).await;
    expect_failure(&away, &["storage service at http://127.0.0.1:1", "unavailable"]);

    let service = Launch::new("storage-svc", folder.path())
        .variable("STORAGE_LISTEN", "127.0.0.1:0")
        .variable("STORAGE_TOKEN", "a-token")
        .variable("STORAGE_ADMIN_TOKEN", "an-admin-token");
    let mut service = Process::start(&service);
    let ready = service.ready("storage-svc ready on ", SOON).await.expect("it starts");
    let url = format!("http://{ready}");
    let storage = StorageClient::connect_lazy(&Connection {
        token: Some("a-token".to_owned()),
        ..Connection::to(url.clone())
    });
    let storage = storage.expect("an address is a URL");
    let commit = v1::CommitRequest {
        enqueues: vec![v1::NewMessage {
            queue: "writes".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    eventually(SOON, "a message is there", async || {
        let committed = storage.commit(commit.clone()).await;
        committed.map(|_| ()).map_err(|error| format!("{error:?}"))
    })
    .await;
    let with = |token, arguments: &str| launch(&url, arguments).variable("STORAGE_TOKEN", token);
    let refused = "storage does not let this client in";
    expect_failure(&run(&with("wrong", "list"), COMMAND_MAX).await, &[refused]);
    assert_eq!(expect_lines(&run(&with("a-token", "list"), COMMAND_MAX).await).len(), 2);
    expect_failure(&run(&with("a-token", "purge 1"), COMMAND_MAX).await, &[refused]);
    let admin = with("a-token", "purge 1").variable("STORAGE_ADMIN_TOKEN", "an-admin-token");
    assert_eq!(
        expect_lines(&run(&admin, COMMAND_MAX).await),
        ["messages purged: 1, writes withdrawn: 0"]
    );
    service.terminate();
    assert!(service.ended(SOON).await.status.success());
}
