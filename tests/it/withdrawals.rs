//! Writes that are withdrawn while others, queued and not, go on and are applied: what is left is whole.

use std::cell::RefCell;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{FeedClient, Form, Launch, Mode, Part, TestFeed, channel, playlist, run};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
const WRITERS: usize = 6;
/// Withdrawals without a consumer, and as many beside one.
const PURGES: usize = 30;
/// Paths that are written to next; older ones are let be.
const PATHS_MAX: usize = 8;
/// Writes beside each: withdrawing takes longer than writing, and has to keep up.
const WRITES: usize = 60;
const COMMAND_MAX: Duration = Duration::from_mins(1);

/// The documents that all write to.
#[derive(Default)]
struct Pool {
    playlists: RefCell<Vec<String>>,
    channels: RefCell<Vec<String>>,
}

impl Pool {
    fn add(paths: &RefCell<Vec<String>>, collection: &str, id: Option<String>) {
        let mut paths = paths.borrow_mut();
        paths.extend(id.map(|id| format!("{collection}/{id}")));
        if paths.len() > PATHS_MAX {
            paths.remove(0);
        }
    }

    fn any(paths: &RefCell<Vec<String>>) -> Option<String> {
        paths.borrow().choose(&mut rand::rng()).cloned()
    }
}

/// Writes at random while it may.
async fn write(feed: &TestFeed, client: FeedClient, pool: &Pool, permits: &Semaphore) {
    while let Ok(permit) = permits.acquire().await {
        permit.forget();
        let mode = if rand::rng().random_ratio(3, 4) {
            Mode::Async
        } else {
            Mode::Sync
        };
        let two = [Pool::any(&pool.playlists), Pool::any(&pool.playlists)];
        let urls: Vec<_> = two.iter().flatten().map(|path| feed.public_url(path)).collect();
        let to_any = match rand::rng().random_range(0..8) {
            0 | 1 => Pool::any(&pool.playlists).map(|path| (path, Some(json!({"summary": "Any"})))),
            2 => Pool::any(&pool.playlists).map(|path| (path, None)),
            3 | 4 if !urls.is_empty() => Pool::any(&pool.channels).map(|path| (path, Some(json!({"playlists": urls})))),
            5 => Pool::any(&pool.channels).map(|path| (path, None)),
            _ => None,
        };
        if let Some((path, change)) = to_any {
            let method = change.as_ref().map_or(Method::DELETE, |_| Method::PATCH);
            send(&client, method, &path, change, mode).await;
        } else if urls.is_empty() || rand::random() {
            let created = send(&client, Method::POST, PLAYLISTS, Some(playlist("Any", 2)), mode).await;
            Pool::add(&pool.playlists, PLAYLISTS, created);
        } else {
            let created = send(&client, Method::POST, CHANNELS, Some(channel("Any", &urls)), mode).await;
            Pool::add(&pool.channels, CHANNELS, created);
        }
    }
}

/// The id in the answer, if the write was accepted. Others may have deleted or withdrawn what it is about.
async fn send(client: &FeedClient, method: Method, path: &str, body: Option<Value>, mode: Mode) -> Option<String> {
    let sent = client.try_write(method, path, body.as_ref(), mode, &[]);
    let answer = sent.await.expect("an answer");
    match answer.status {
        200..=202 => Some(answer.json()["id"].as_str().unwrap_or_default().to_owned()),
        204 | 404 | 422 => None,
        _ => panic!("{answer:?}"),
    }
}

/// Withdraws what waits now; how many writes that were.
async fn purge(feed: &TestFeed) -> u64 {
    let folder = std::env::temp_dir();
    let launch = ["queue", "purge", "--all", "--yes", "--json"].into_iter();
    let launch = launch.fold(Launch::new("dp1-feed", &folder), Launch::argument);
    let ended = run(&launch.variable("STORAGE_URL", feed.storage_url()), COMMAND_MAX).await;
    // Some may be kept because others need them.
    assert!(matches!(ended.status.code(), Some(0 | 1)), "{ended:?}");
    let [line] = ended.stdout.as_slice() else {
        panic!("not one line: {ended:?}")
    };
    let purged: Value = serde_json::from_str(line).expect("JSON");
    purged["withdrawn"].as_u64().expect("a number")
}

#[tokio::test]
async fn withdrawals_beside_writes_of_every_kind_leave_nothing_half() {
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 2,
        consumers: 0,
    })
    .await;
    let pool = Pool::default();
    for consumers in 0..2 {
        if consumers > 0 {
            feed.launch(Part::Consumer(0)).await;
        }
        let permits = Semaphore::new(0);
        let writers = (0..WRITERS).map(|number| write(&feed, feed.gateway_client(number % 2), &pool, &permits));
        let withdrawals = async {
            let mut withdrawn = 0;
            for _ in 0..PURGES {
                permits.add_permits(WRITES);
                withdrawn += purge(&feed).await;
            }
            permits.close();
            withdrawn
        };
        let (_, withdrawn) = futures_util::future::join(join_all(writers), withdrawals).await;
        assert!(consumers > 0 || withdrawn > 0, "there was something to withdraw");
    }
    feed.finish().await;
}
