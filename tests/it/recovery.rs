//! `kill -9` of every part in turn, again and again, under writes of every kind: what was answered is there exactly
//! once, what was deleted stays so, and nothing is half written.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, FeedClient, Form, Mode, Part, TestFeed, channel, eventually, playlist, verify_document};

/// Streams of writes, each on documents of its own, so that each knows what must come of them.
const WRITERS: usize = 6;
/// Writes answered between one kill and the next.
const WRITES_BETWEEN_KILLS: usize = 30;
/// Longest time until a write is answered 2xx, and until the next kill; a part is away for much less.
const ANSWERED_MAX: Duration = Duration::from_mins(1);
/// Pause before a write is sent again.
const AGAIN: Duration = Duration::from_millis(50);
const ITEMS: usize = 3;

#[tokio::test]
async fn three_processes_killed_in_turn_lose_and_double_nothing() {
    let form = Form::Processes {
        gateways: 1,
        consumers: 2,
    };
    let in_turn = [
        Part::Storage,
        Part::Gateway(0),
        Part::Consumer(0),
        Part::Storage,
        Part::Consumer(1),
        Part::Gateway(0),
    ];
    kill_under_load(form, &in_turn.repeat(4)).await;
}

#[tokio::test]
async fn one_process_killed_again_and_again_loses_and_doubles_nothing() {
    kill_under_load(Form::OneProcess, &[Part::Whole; 12]).await;
}

async fn kill_under_load(form: Form, kills: &[Part]) {
    let mut feed = TestFeed::start(form).await;
    let client = feed.client();
    let load = Load::default();
    let writers = (0..WRITERS).map(|number| Writer::new(number, &client, &load).write_until_stopped());
    let killer = async {
        for part in kills {
            load.progress().await;
            feed.kill(*part);
            if matches!(part, Part::Consumer(_)) {
                // Writes go on without it; its leases run out meanwhile or afterwards.
                load.progress().await;
            }
            feed.launch(*part).await;
        }
        load.progress().await;
        load.stopped.set(true);
    };
    let (written, ()) = futures_util::future::join(join_all(writers), killer).await;

    feed.drained().await;
    let written = written.into_iter().fold(Written::default(), Written::and);
    assert!(load.failed.get() > 0, "the kills hit writes");
    assert!(!written.deleted.is_empty() && !written.channels.is_empty() && !written.accepted.is_empty());
    read_back(&feed, &client, &written).await;
    feed.finish().await;
}

/// What the writers and the killer know of each other.
#[derive(Default)]
struct Load {
    answered: Cell<usize>,
    /// Attempts that were not answered 2xx.
    failed: Cell<usize>,
    stopped: Cell<bool>,
}

impl Load {
    async fn progress(&self) {
        let before = self.answered.get();
        eventually(ANSWERED_MAX, "writes are answered", async || {
            match self.answered.get() - before {
                enough if enough >= WRITES_BETWEEN_KILLS => Ok(()),
                few => Err(format!("{few} answered")),
            }
        })
        .await;
    }
}

/// What must be there in the end.
#[derive(Default)]
struct Written {
    /// By id: title and last summary.
    playlists: BTreeMap<String, (String, String)>,
    /// By id: title, and the ids of its playlists in order.
    channels: BTreeMap<String, (String, Vec<String>)>,
    /// Paths, by id and by slug.
    deleted: Vec<String>,
    /// Answers to queued writes.
    accepted: Vec<Answer>,
}

impl Written {
    fn and(mut self, other: Self) -> Self {
        self.playlists.extend(other.playlists);
        self.channels.extend(other.channels);
        self.deleted.extend(other.deleted);
        self.accepted.extend(other.accepted);
        self
    }
}

/// One stream of writes: the next begins when the one before is answered.
struct Writer<'a> {
    number: usize,
    client: &'a FeedClient,
    load: &'a Load,
    written: Written,
    writes: usize,
    /// Slugs by id.
    slugs: BTreeMap<String, String>,
}

impl<'a> Writer<'a> {
    fn new(number: usize, client: &'a FeedClient, load: &'a Load) -> Self {
        Self {
            number,
            client,
            load,
            written: Written::default(),
            writes: 0,
            slugs: BTreeMap::new(),
        }
    }

    async fn write_until_stopped(mut self) -> Written {
        let mut turn = 0;
        while !self.load.stopped.get() {
            turn += 1;
            let playlist = self.create_playlist(turn).await;
            self.patch_playlist(&playlist, turn).await;
            self.patch_playlist(&playlist, turn + 1).await;
            if turn % 3 == 0 {
                self.create_channel(turn).await;
            }
            if turn % 4 == 0 {
                self.delete_playlist().await;
            }
            if turn % 5 == 0 {
                self.patch_channel(turn).await;
            }
            if turn % 9 == 0 {
                self.delete_channel().await;
            }
        }
        self.written
    }

    async fn create_playlist(&mut self, turn: usize) -> String {
        let title = format!("Playlist {} of writer {}", turn, self.number);
        let answer = self
            .send(Method::POST, "/api/v1/playlists", Some(playlist(&title, ITEMS)))
            .await;
        let id = self.created(answer.as_ref());
        self.written.playlists.insert(id.clone(), (title, String::new()));
        id
    }

    async fn patch_playlist(&mut self, id: &str, value: usize) {
        let summary = format!("Version {value}");
        let path = format!("/api/v1/playlists/{id}");
        self.send(Method::PATCH, &path, Some(json!({ "summary": summary })))
            .await;
        self.written.playlists.get_mut(id).expect("a playlist of this writer").1 = summary;
    }

    /// Over the playlists that are deleted next, so that deletions have channels to take them out of.
    async fn create_channel(&mut self, turn: usize) {
        let title = format!("Channel {} of writer {}", turn, self.number);
        let ids: Vec<_> = self.written.playlists.keys().take(3).cloned().collect();
        let urls: Vec<_> = ids
            .iter()
            .map(|id| format!("{}/api/v1/playlists/{id}", self.client.origin()))
            .collect();
        let answer = self
            .send(Method::POST, "/api/v1/channels", Some(channel(&title, &urls)))
            .await;
        let id = self.created(answer.as_ref());
        self.written.channels.insert(id, (title, ids));
    }

    async fn patch_channel(&mut self, turn: usize) {
        let Some(id) = self.written.channels.keys().next().cloned() else {
            return;
        };
        let title = format!("Channel of writer {}, renamed at {turn}", self.number);
        let path = format!("/api/v1/channels/{id}");
        self.send(Method::PATCH, &path, Some(json!({ "title": title }))).await;
        self.written.channels.get_mut(&id).expect("a channel of this writer").0 = title;
    }

    /// Takes it out of the channels that have it.
    async fn delete_playlist(&mut self) {
        let Some((id, _)) = self.written.playlists.pop_first() else {
            return;
        };
        self.delete("playlists", &id).await;
        for (_, playlists) in self.written.channels.values_mut() {
            playlists.retain(|playlist| *playlist != id);
        }
    }

    async fn delete_channel(&mut self) {
        let Some((id, _)) = self.written.channels.pop_first() else {
            return;
        };
        self.delete("channels", &id).await;
    }

    async fn delete(&mut self, collection: &str, id: &str) {
        let path = format!("/api/v1/{collection}/{id}");
        self.send(Method::DELETE, &path, None).await;
        self.written
            .deleted
            .push(format!("/api/v1/{collection}/{}", self.slugs[id]));
        self.written.deleted.push(path);
    }

    fn created(&mut self, answer: Option<&Answer>) -> String {
        let answer = answer.expect("a POST is answered");
        let id = answer.member("id");
        self.slugs.insert(id.clone(), answer.member("slug"));
        id
    }

    /// Sends one write, in either mode by turns, until it is answered 2xx. A DELETE whose answer was lost may find
    /// nothing the next time; it has no answer then.
    async fn send(&mut self, method: Method, path: &str, body: Option<Value>) -> Option<Answer> {
        self.writes += 1;
        let mode = if (self.writes + self.number).is_multiple_of(2) {
            Mode::Sync
        } else {
            Mode::Async
        };
        let idempotency_key = format!("writer-{}-write-{}", self.number, self.writes);
        let headers = [("idempotency-key", idempotency_key.as_str())];
        let headers = if method == Method::POST { &headers[..] } else { &[] };
        let start = Instant::now();
        let mut is_repeated = false;
        loop {
            let failure = match self
                .client
                .try_write(method.clone(), path, body.as_ref(), mode, headers)
                .await
            {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    self.load.answered.set(self.load.answered.get() + 1);
                    if answer.status == 202 {
                        self.written.accepted.push(answer.clone());
                    }
                    return Some(answer);
                }
                Ok(answer) if answer.status == 404 && method == Method::DELETE && is_repeated => return None,
                Ok(answer) if answer.status == 503 => answer.text,
                Ok(answer) => panic!("{method} {path} is refused: {answer:?}"),
                Err(error) => format!("{error:?}"),
            };
            assert!(
                start.elapsed() < ANSWERED_MAX,
                "{method} {path} is not answered; last failure: {failure}"
            );
            is_repeated = true;
            self.load.failed.set(self.load.failed.get() + 1);
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn read_back(feed: &TestFeed, client: &FeedClient, written: &Written) {
    let text = |document: &Value, member: &str| document[member].as_str().unwrap_or_default().to_owned();
    let key = feed.public_key();

    let playlists = client.list("/api/v1/playlists").await;
    let titles: BTreeSet<_> = playlists.iter().map(|playlist| text(playlist, "title")).collect();
    assert_eq!(titles.len(), playlists.len(), "each playlist is there once");
    let stored: BTreeMap<_, _> = playlists
        .iter()
        .map(|playlist| {
            (
                text(playlist, "id"),
                (text(playlist, "title"), text(playlist, "summary")),
            )
        })
        .collect();
    assert_eq!(stored, written.playlists);

    let channels = client.list("/api/v1/channels").await;
    let stored: BTreeMap<_, _> = channels
        .iter()
        .map(|channel| {
            let urls = channel["playlists"].as_array().expect("a channel has playlists").iter();
            let ids = urls.map(|url| {
                url.as_str()
                    .and_then(|url| url.rsplit('/').next())
                    .unwrap_or_default()
                    .to_owned()
            });
            (text(channel, "id"), (text(channel, "title"), ids.collect()))
        })
        .collect();
    assert_eq!(stored, written.channels);

    for (collection, documents) in [("playlists", &playlists), ("channels", &channels)] {
        for document in documents {
            let (id, slug) = (text(document, "id"), text(document, "slug"));
            let by_id = client.get(&format!("/api/v1/{collection}/{id}")).await.expect(200);
            verify_document(&by_id.text, &key).unwrap_or_else(|fault| panic!("{fault}: {}", by_id.text));
            assert_eq!(by_id.json(), *document);
            let by_slug = client.get(&format!("/api/v1/{collection}/{slug}")).await.expect(200);
            assert_eq!(by_slug.text, by_id.text);
        }
    }
    let items = playlists
        .iter()
        .flat_map(|playlist| playlist["items"].as_array().expect("items"));
    let resolved = futures_util::stream::iter(items).map(|item| async move {
        let read = client
            .get(&format!("/api/v1/playlist-items/{}", text(item, "id")))
            .await
            .expect(200);
        assert_eq!(read.json(), *item);
    });
    assert_eq!(resolved.buffer_unordered(8).count().await, playlists.len() * ITEMS);

    for (id, (title, members)) in &written.channels {
        let listed = client.list(&format!("/api/v1/playlists?channel={id}")).await;
        let listed: BTreeSet<_> = listed.iter().map(|playlist| text(playlist, "id")).collect();
        assert_eq!(listed, members.iter().cloned().collect(), "playlists of {title}");
        let items = client.list(&format!("/api/v1/playlist-items?channel={id}")).await;
        assert_eq!(items.len(), members.len() * ITEMS, "items of {title}");
    }
    for path in &written.deleted {
        client.get(path).await.expect(404);
    }
    for accepted in &written.accepted {
        let record = client.operation(accepted).await;
        assert!(
            record["state"] == "applied" || record["state"] == "superseded",
            "{record}"
        );
    }
}
