//! Pages of other origins: what a browser asks before it lets them write, and what it lets them read.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::refusals::send;
use crate::support::{Answer, FeedClient, Form, Mode, Part, TestFeed, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const ORIGIN: (&str, &str) = ("origin", "https://gallery.example");
/// What scripts may read of an answer without being allowed to (the Fetch standard, CORS-safelisted response headers).
const READABLE: [&str; 6] = [
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
];

fn names(answer: &Answer, header: &str) -> BTreeSet<String> {
    let names = answer.header(header).split(',');
    names.map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// A script on a page of another origin.
struct Script {
    client: FeedClient,
    bearer: String,
}

impl Script {
    /// What a browser does for `fetch` with these headers, each of which needs permission: asks, obeys, sends, and shows
    /// the headers that may be read.
    async fn fetch(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let authorization = ("authorization", self.bearer.as_str());
        let mut headers = [&[authorization], headers].concat();
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let wanted: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
        let wanted = wanted.join(",");
        let asked = [
            ORIGIN,
            ("access-control-request-method", method.as_str()),
            ("access-control-request-headers", wanted.as_str()),
        ];
        let preflight = send(&self.client, Method::OPTIONS, path, &asked, "").await.expect(204);
        assert_eq!(preflight.header("access-control-allow-origin"), "*");
        assert_eq!(preflight.header("access-control-max-age"), "86400");
        let methods = names(&preflight, "access-control-allow-methods");
        assert!(
            methods.contains(&method.as_str().to_ascii_lowercase()),
            "{method}: {methods:?}"
        );
        let allowed = names(&preflight, "access-control-allow-headers");
        for (name, _) in &headers {
            assert!(allowed.contains(*name), "{name}: {allowed:?}");
        }

        headers.push(ORIGIN);
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut answer = send(&self.client, method, path, &headers, &body).await;
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(!answer.headers.contains_key("access-control-allow-credentials"));
        let exposed = names(&answer, "access-control-expose-headers");
        let hidden: Vec<_> = answer.headers.keys().cloned().collect();
        for name in hidden {
            if !exposed.contains(name.as_str()) && !READABLE.contains(&name.as_str()) {
                answer.headers.remove(name);
            }
        }
        answer
    }
}

#[tokio::test]
async fn a_page_of_another_origin_writes_and_reads_all_it_needs() {
    let feed = TestFeed::start(Form::OneProcess).await;
    let mut script = Script {
        client: feed.client(),
        bearer: format!("Bearer {}", feed.secret()),
    };
    let body = playlist("Of a page", 2);
    let key = ("idempotency-key", "page");
    let created = script
        .fetch(Method::POST, PLAYLISTS, &[key], Some(&body))
        .await
        .expect(201);
    assert_eq!(created.headers.get("idempotent-replayed"), None);
    let path = created.header("location").to_owned();
    let again = script
        .fetch(Method::POST, PLAYLISTS, &[key], Some(&body))
        .await
        .expect(201);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert!(!again.header("x-request-id").is_empty() && !again.header("x-response-time").is_empty());

    let known = ("if-none-match", created.header("etag"));
    script.fetch(Method::GET, &path, &[known], None).await.expect(304);
    let change = json!({ "summary": "Changed" });
    let matched = ("if-match", created.header("etag"));
    let prefer = ("prefer", "respond-async, wait=25");
    let patched = script
        .fetch(Method::PATCH, &path, &[matched, prefer], Some(&change))
        .await
        .expect(200);
    assert_eq!(patched.header("preference-applied"), "wait=25");
    let refused = script.fetch(Method::PUT, &path, &[matched], Some(&body)).await;
    assert_eq!(refused.expect(412).member("error"), "precondition_failed");
    let matched = ("if-match", patched.header("etag"));
    let queued = script
        .fetch(Method::PUT, &path, &[matched, ("prefer", "respond-async")], Some(&body))
        .await
        .expect(202);
    let operation = queued.header("location").to_owned();
    script.fetch(Method::GET, &operation, &[], None).await.expect(200);
    let matched = ("if-match", queued.header("etag"));
    script.fetch(Method::DELETE, &path, &[matched], None).await.expect(204);

    // A refusal can be read too.
    script.fetch(Method::GET, "/nowhere", &[], None).await.expect(404);
    script.bearer = "Bearer wrong".to_owned();
    let refused = script
        .fetch(Method::POST, PLAYLISTS, &[], Some(&body))
        .await
        .expect(401);
    assert_eq!(refused.member("error"), "unauthorized");
    feed.finish().await;
}

#[tokio::test]
async fn a_page_is_told_when_to_try_again() {
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await;
    let script = Script {
        client: feed.client(),
        bearer: format!("Bearer {}", feed.secret()),
    };
    script
        .client
        .post(PLAYLISTS, &playlist("Kept", 1), Mode::Sync)
        .await
        .expect(201);
    feed.kill(Part::Storage);
    let refused = script.fetch(Method::GET, PLAYLISTS, &[], None).await.expect(503);
    assert_eq!(refused.header("retry-after"), "1");
    feed.launch(Part::Storage).await;
    feed.finish().await;
}
