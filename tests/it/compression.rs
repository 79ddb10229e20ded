//! Answers in the encoding that a client takes, each form with a tag of its own.

use std::io::Read as _;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{FeedClient, Form, Mode, TestFeed, channel, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
const JSON: (&str, &str) = ("content-type", "application/json");
/// Smallest answer that is encoded.
const ENCODED_BYTES_MIN: usize = 1024;

/// An answer as it came.
#[derive(Debug)]
struct Raw {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Raw {
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{:?} {text:.200}", self.headers);
        self
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    /// The text, decoded by what did not encode it.
    #[track_caller]
    fn text(&self) -> String {
        let mut text = String::new();
        let read = match self.header("content-encoding") {
            None => self.body.as_slice().read_to_string(&mut text),
            Some("gzip") => flate2::read::GzDecoder::new(self.body.as_slice()).read_to_string(&mut text),
            Some("br") => brotli_decompressor::Decompressor::new(self.body.as_slice(), 4096).read_to_string(&mut text),
            Some(other) => panic!("{other}"),
        };
        read.expect("a whole text");
        text
    }
}

async fn send(client: &FeedClient, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Raw {
    let mut request = client.request(method, path).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("an answer");
    Raw {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await.expect("a whole answer").to_vec(),
    }
}

async fn get(client: &FeedClient, path: &str, headers: &[(&str, &str)]) -> Raw {
    send(client, Method::GET, path, headers, "").await
}

fn tag_of(text: &str, encoding: Option<&str>) -> String {
    let digest = hex::encode(Sha256::digest(text));
    encoding.map_or_else(
        || format!("\"{digest}\""),
        |encoding| format!("\"{digest}-{encoding}\""),
    )
}

/// A channel of exactly so many bytes, a small one being padded; its path.
async fn sized(client: &FeedClient, bytes: usize) -> String {
    let made = client
        .post(PLAYLISTS, &playlist("In the channel", 1), Mode::Sync)
        .await
        .expect(201);
    let url = format!("{}{PLAYLISTS}/{}", client.origin(), made.member("id"));
    let mut body = channel("Sized", &[url]);
    body["summary"] = json!("");
    let made = client.post(CHANNELS, &body, Mode::Sync).await.expect(201);
    let path = format!("{CHANNELS}/{}", made.member("id"));
    body["summary"] = json!("x".repeat(bytes - made.text.len()));
    let put = client.put(&path, &body, Mode::Sync).await.expect(200);
    assert_eq!(put.text.len(), bytes);
    path
}

#[tokio::test]
async fn answers_come_in_the_best_encoding_that_is_taken() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let mut body = playlist("Encoded", 1_000);
    // Hexadecimal digits of chance shrink to half: in every encoding it is large enough to be sent in parts.
    let noise: String = (0..5_000)
        .map(|number: u32| hex::encode(Sha256::digest(number.to_be_bytes())))
        .collect();
    body["items"][0]["override"] = json!({ "noise": noise });
    let made = client.post(PLAYLISTS, &body, Mode::Sync).await.expect(201);
    for title in ["One", "Two"] {
        client
            .post(PLAYLISTS, &playlist(title, 3), Mode::Sync)
            .await
            .expect(201);
    }
    let item = made.json()["items"][1]["id"].as_str().map(str::to_owned);
    for path in [
        format!("{PLAYLISTS}/{}", made.member("id")),
        format!("{PLAYLISTS}?sort=desc&limit=2"),
        PLAYLISTS.to_owned(),
        "/api/v1/playlist-items".to_owned(),
    ] {
        let plain = get(&client, &path, &[]).await.expect(200);
        let text = plain.text();
        assert_eq!(plain.header("vary"), Some("accept-encoding"));
        for (accepted, encoding) in [
            ("gzip", Some("gzip")),
            ("x-gzip", Some("gzip")),
            ("GZIP;q=0.5", Some("gzip")),
            ("gzip, deflate, br, zstd", Some("br")),
            ("br;q=0.1, gzip", Some("gzip")),
            ("br;q=0, gzip;q=0", None),
            ("deflate, zstd", None),
            ("identity", None),
            ("identity;q=0", None),
            ("*;q=0", None),
            ("", None),
        ] {
            let headers = [("accept-encoding", accepted)];
            let answer = get(&client, &path, &headers).await.expect(200);
            assert_eq!(answer.header("content-encoding"), encoding, "{accepted}");
            assert!(answer.text() == text, "{path} {accepted}");
            assert_eq!(answer.header("etag"), Some(tag_of(&text, encoding).as_str()));
            assert_eq!(answer.header("vary"), Some("accept-encoding"));
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(
                answer.header("content-length"),
                Some(answer.body.len().to_string().as_str())
            );
            assert!(
                encoding.is_none() || answer.body.len() < text.len() * 2 / 3,
                "{path} {accepted}"
            );

            let head = send(&client, Method::HEAD, &path, &headers, "").await.expect(200);
            assert_eq!(head.body, b"");
            for name in ["content-encoding", "etag", "vary", "content-type", "cache-control"] {
                assert_eq!(head.header(name), answer.header(name), "{name}");
            }
            // It may be left out, but it must not be another.
            assert!(
                head.header("content-length")
                    .is_none_or(|length| Some(length) == answer.header("content-length"))
            );
        }
    }
    let item = format!("/api/v1/playlist-items/{}", item.expect("an item"));
    let small = get(&client, &item, &[("accept-encoding", "br")]).await.expect(200);
    assert_eq!(small.header("content-encoding"), None);

    for (bytes, encoding) in [(ENCODED_BYTES_MIN, Some("br")), (ENCODED_BYTES_MIN - 1, None)] {
        let path = sized(&client, bytes).await;
        let answer = get(&client, &path, &[("accept-encoding", "br")]).await.expect(200);
        assert_eq!(answer.header("content-encoding"), encoding);
        assert_eq!(answer.header("etag"), Some(tag_of(&answer.text(), encoding).as_str()));
    }
    feed.finish().await;
}

#[tokio::test]
async fn each_form_has_a_tag_and_is_not_taken_for_another() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let made = client
        .post(PLAYLISTS, &playlist("Forms", 20), Mode::Sync)
        .await
        .expect(201);
    let path = format!("{PLAYLISTS}/{}", made.member("id"));
    let tag = |encoding| tag_of(&made.text, encoding);
    let (plain, gzip, br) = (tag(None), tag(Some("gzip")), tag(Some("br")));
    for (accepted, known, expected) in [
        ("br", &br, Some(&br)),
        ("gzip", &gzip, Some(&gzip)),
        ("identity", &plain, Some(&plain)),
        ("br", &format!("W/{br}"), Some(&br)),
        // The plain form can be read by anybody, and is as good as the one that would be sent.
        ("br", &plain, Some(&plain)),
        ("br", &format!("{plain}, {gzip}, {br}"), Some(&br)),
        ("br", &"*".to_owned(), Some(&br)),
        // A cache may hold a form that this client cannot read.
        ("identity", &br, None),
        ("br", &gzip, None),
        ("gzip", &br, None),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let headers = [("accept-encoding", accepted), ("if-none-match", known)];
            let answer = send(&client, method.clone(), &path, &headers, "").await;
            if let Some(expected) = expected {
                let answer = answer.expect(304);
                assert_eq!(answer.header("etag"), Some(expected.as_str()), "{accepted} {known}");
                assert_eq!(answer.header("vary"), Some("accept-encoding"));
                assert_eq!(answer.header("cache-control"), Some("no-cache"));
                for name in ["content-encoding", "content-type"] {
                    assert_eq!(answer.header(name), None);
                }
                assert_eq!(answer.body, b"");
            } else {
                let answer = answer.expect(200);
                assert!(method == Method::HEAD || answer.text() == made.text);
            }
        }
    }
    for accepted in ["br", "identity"] {
        for known in [&plain, &gzip, &br] {
            let headers = [("accept-encoding", accepted), ("if-match", known)];
            get(&client, &path, &headers).await.expect(200);
        }
    }
    feed.finish().await;
}

#[tokio::test]
async fn a_write_is_answered_in_an_encoding_and_its_tag_can_be_written_on() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let client = feed.client();
    let bearer = format!("Bearer {}", feed.secret());
    let body = playlist("Written", 600).to_string();
    let write = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        let all = [&[("authorization", bearer.as_str()), JSON], headers].concat();
        send(&client, method, path, &all, body).await
    };
    for (accepted, encoding) in [
        ("br", Some("br")),
        ("gzip", Some("gzip")),
        ("identity;q=0", None),
        ("*;q=0", None),
    ] {
        let accepted = ("accept-encoding", accepted);
        for prefer in ["respond-async", "respond-nothing"] {
            let prefer = ("prefer", prefer);
            let is_queued = prefer.1 == "respond-async";
            let made = write(Method::POST, PLAYLISTS, &[accepted, prefer], &body).await;
            let made = made.expect(if is_queued { 202 } else { 201 });
            assert_eq!(made.header("content-encoding"), encoding);
            let text = made.text();
            let tag = made.header("etag").expect("a tag").to_owned();
            assert_eq!(tag, tag_of(&text, encoding));

            let document: Value = serde_json::from_str(&text).expect("a document");
            let path = format!("{PLAYLISTS}/{}", document["id"].as_str().expect("an id"));
            for (known, status) in [(format!("W/{tag}"), 412), (tag, if is_queued { 202 } else { 200 })] {
                let headers = [accepted, prefer, ("if-match", known.as_str())];
                let patched = write(Method::PATCH, &path, &headers, r#"{"summary":"Patched"}"#).await;
                patched.expect(status);
            }
        }
    }
    feed.finish().await;
}
