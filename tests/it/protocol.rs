//! HTTP itself: routes, headers, sizes, and what is said while storage is away.

use std::io::{Read as _, Write as _};

use reqwest::Method;
use serde_json::json;

use crate::refusals::{expect_error, send, start};
use crate::support::{Answer, Form, Mode, Part, TestFeed, playlist};

const PLAYLISTS: &str = "/api/v1/playlists";
const CHANNELS: &str = "/api/v1/channels";
const JSON: (&str, &str) = ("content-type", "application/json");
const NOBODY: &str = "385f79b6-a45f-4c1c-8080-e93a192adccc";
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

#[tokio::test]
async fn unknown_routes_list_what_there_is() {
    let (feed, client, bearer) = start().await;
    let expected = [
        "GET /api/v1",
        "GET /api/v1/health",
        "GET /api/v1/playlists",
        "POST /api/v1/playlists",
        "GET /api/v1/playlists/:id",
        "PUT /api/v1/playlists/:id",
        "PATCH /api/v1/playlists/:id",
        "DELETE /api/v1/playlists/:id",
        "GET /api/v1/channels",
        "POST /api/v1/channels",
        "GET /api/v1/channels/:id",
        "PUT /api/v1/channels/:id",
        "PATCH /api/v1/channels/:id",
        "DELETE /api/v1/channels/:id",
        "GET /api/v1/playlist-items",
        "GET /api/v1/playlist-items/:id",
    ];
    let expected = json!({
        "error": "not_found",
        "message": "The requested resource was not found",
        "available_endpoints": expected,
    });
    for path in [
        "/",
        "/api",
        "/api/v1/",
        "/api/v1/playlists/",
        "/api/v1//playlists",
        "/API/v1/playlists",
        "/api/v1/playlists/a/b",
        "/queues/process-message",
    ] {
        let answer = client.get(path).await.expect(404);
        assert_eq!(answer.json(), expected, "{path}");
        assert!(!answer.headers.contains_key("allow"), "{path}");
    }
    let headers = [("authorization", bearer.as_str()), JSON];
    for (method, path, allowed) in [
        (Method::PUT, PLAYLISTS, "GET,HEAD,POST"),
        (Method::DELETE, "/api/v1", "GET,HEAD"),
        (Method::POST, "/api/v1/playlists/x", "GET,HEAD,PUT,PATCH,DELETE"),
        (Method::TRACE, "/api/v1/channels", "GET,HEAD,POST"),
        (Method::POST, "/api/v1/playlist-items", "GET,HEAD"),
    ] {
        let answer = send(&client, method, path, &headers, "{}").await.expect(404);
        assert_eq!(answer.json(), expected, "{path}");
        assert_eq!(answer.header("allow"), allowed, "{path}");
    }
    feed.finish().await;
}

/// Pads a playlist with an override to exactly this many bytes.
fn padded(bytes: usize) -> String {
    let body = |padding: usize| {
        let item = json!({
            "source": "a:b", "duration": 1, "license": "open", "override": {"padding": "x".repeat(padding)},
        });
        json!({"dpVersion": "1.1.0", "title": "Large", "items": [item]}).to_string()
    };
    let text = body(bytes - body(0).len());
    assert_eq!(text.len(), bytes);
    text
}

/// A POST whose length only its end tells: so many chunks of a mebibyte of white space.
fn post_chunks(origin: &str, bearer: &str, chunks: usize) -> String {
    let address = origin.strip_prefix("http://").expect("an origin is a URL");
    let mut stream = std::net::TcpStream::connect(address).expect("the feed listens");
    write!(
        stream,
        "POST {PLAYLISTS} HTTP/1.1\r\nhost: {address}\r\nauthorization: {bearer}\r\nconnection: close\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .expect("the head is taken");
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 0x0010_0000], b"\r\n"].concat();
    for _ in 0..chunks {
        stream
            .write_all(&chunk)
            .expect("a body is read to its end, so that its sender gets to read the answer");
    }
    stream.write_all(b"0\r\n\r\n").expect("the end is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test]
async fn bodies_and_documents_are_bounded() {
    let (feed, client, bearer) = start().await;
    let headers = [("authorization", bearer.as_str()), JSON];
    let too_large = format!("Request body must not be larger than {BODY_BYTES_MAX} bytes");

    // At the limit the body is read and judged; the document it makes is larger than one may be.
    let answer = send(&client, Method::POST, PLAYLISTS, &headers, &padded(BODY_BYTES_MAX)).await;
    let message = answer.member("message");
    assert!(message.starts_with("Signed document would have"), "{message}");
    assert_eq!(answer.expect(413).member("error"), "payload_too_large");
    let answer = send(&client, Method::POST, PLAYLISTS, &headers, &padded(BODY_BYTES_MAX + 1)).await;
    expect_error(&answer, 413, "payload_too_large", &too_large);

    // Nobody said how long this one is.
    let (origin, credential) = (client.origin().to_owned(), bearer.clone());
    let answer = tokio::task::spawn_blocking(move || post_chunks(&origin, &credential, 9)).await;
    let answer = answer.expect("the sender does not panic");
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.contains(&too_large),
        "{answer}"
    );

    // What the feed adds leaves room for a document of almost 8 MiB, and all of it is served.
    let large = send(
        &client,
        Method::POST,
        PLAYLISTS,
        &headers,
        &padded(BODY_BYTES_MAX - 2_000),
    )
    .await
    .expect(201);
    assert!((BODY_BYTES_MAX - 2_000..=BODY_BYTES_MAX).contains(&large.text.len()));
    let path = format!("{PLAYLISTS}/{}", large.member("id"));
    assert!(client.get(&path).await.text == large.text);
    let answer = client
        .patch(&path, &json!({"summary": "x".repeat(4_096)}), Mode::Sync)
        .await
        .expect(413);
    assert_eq!(answer.member("error"), "payload_too_large");
    feed.finish().await;
}

#[tokio::test]
async fn answers_carry_what_browsers_and_logs_need() {
    let (feed, client, _) = start().await;
    let get = client.get("/api/v1").await.expect(200);
    let again = client.get("/api/v1").await.expect(200);
    assert_ne!(get.header("x-request-id"), again.header("x-request-id"));
    assert!(get.header("x-response-time").ends_with("ms"));
    assert_eq!(get.header("content-type"), "application/json");
    for path in ["/api/v1", "/nowhere", PLAYLISTS] {
        for method in [Method::GET, Method::OPTIONS] {
            let answer = send(&client, method.clone(), path, &[("x-request-id", "mine")], "").await;
            assert_eq!(answer.header("access-control-allow-origin"), "*");
            let methods = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
            assert_eq!(answer.header("access-control-allow-methods"), methods);
            let allowed = "Authorization, Content-Type, Prefer, Idempotency-Key, If-Match, If-None-Match";
            assert_eq!(answer.header("access-control-allow-headers"), allowed);
            assert_ne!(answer.header("x-request-id"), "mine");
            if method == Method::OPTIONS {
                assert_eq!(answer.header("access-control-max-age"), "86400");
                assert_eq!(answer.expect(204).text, "");
            }
        }
    }
    let created = client
        .post(PLAYLISTS, &playlist("Headed", 1), Mode::Sync)
        .await
        .expect(201)
        .json();
    for path in [
        "/api/v1".to_owned(),
        "/api/v1/health".to_owned(),
        "/health".to_owned(),
        "/ready".to_owned(),
        PLAYLISTS.to_owned(),
        format!("{PLAYLISTS}/{}", created["id"].as_str().expect("an id")),
        "/api/v1/playlist-items".to_owned(),
        format!(
            "/api/v1/playlist-items/{}",
            created["items"][0]["id"].as_str().expect("an id")
        ),
    ] {
        let head = send(&client, Method::HEAD, &path, &[], "").await.expect(200);
        assert_eq!(head.text, "", "{path}");
        assert_eq!(head.header("content-type"), "application/json");
    }
    send(&client, Method::HEAD, "/nowhere", &[], "").await.expect(404);

    assert_eq!(
        get.text,
        concat!(
            r#"{"name":"DP-1 Feed Operator API","version":"1.0.0","#,
            r#""description":"REST interface for creating, updating, and retrieving DP-1 playlists and channels","#,
            r#""specification":"DP-1 v1.1.0","openapi":"3.1.0","deployment":"self-hosted","runtime":"rust","#,
            r#""storage":"sqlite","endpoints":{"playlists":"/api/v1/playlists","channels":"/api/v1/channels","#,
            r#""playlistItems":"/api/v1/playlist-items","health":"/api/v1/health"},"#,
            r#""documentation":"https://github.com/display-protocol/dp1/blob/main/docs/spec.md"}"#
        )
    );
    let health = client.get("/api/v1/health").await.expect(200).json();
    let timestamp = &health["timestamp"];
    assert_eq!(
        health,
        json!({"status": "healthy", "timestamp": timestamp, "version": "1.0.0", "environment": "sqlite", "runtime": "rust"})
    );
    feed.finish().await;
}

#[tokio::test]
async fn storage_that_is_away_is_a_503_that_says_when_to_try_again() {
    let mut feed = TestFeed::start(Form::Processes {
        gateways: 1,
        consumers: 0,
    })
    .await;
    let client = feed.client();
    let created = client
        .post(PLAYLISTS, &playlist("Kept", 1), Mode::Sync)
        .await
        .expect(201);
    let path = format!("{PLAYLISTS}/{}", created.member("id"));
    feed.kill(Part::Storage);
    let check = |answer: &Answer, code: &str, message: &str| {
        expect_error(answer, 503, code, message);
        assert_eq!(answer.header("retry-after"), "1");
    };
    check(
        &client.get(PLAYLISTS).await,
        "storage_error",
        "Failed to retrieve playlists",
    );
    check(&client.get(&path).await, "storage_error", "Failed to retrieve playlist");
    check(
        &client.get(CHANNELS).await,
        "storage_error",
        "Failed to retrieve channels",
    );
    check(
        &client.get("/api/v1/channels/x-1234").await,
        "storage_error",
        "Failed to retrieve channel",
    );
    check(
        &client.get("/api/v1/playlist-items").await,
        "storage_error",
        "Failed to retrieve playlist items",
    );
    let item = client.get(&format!("/api/v1/playlist-items/{NOBODY}")).await;
    check(&item, "storage_error", "Failed to retrieve playlist item");
    let body = playlist("New", 1);
    for (mode, code, save, delete) in [
        (
            Mode::Sync,
            "storage_error",
            "Failed to save playlist",
            "Failed to delete playlist",
        ),
        (
            Mode::Async,
            "queue_error",
            "Failed to queue playlist for processing",
            "Failed to queue playlist for deletion",
        ),
    ] {
        check(&client.post(PLAYLISTS, &body, mode).await, code, save);
        check(&client.put(&path, &body, mode).await, code, save);
        check(&client.patch(&path, &json!({"summary": "x"}), mode).await, code, save);
        check(&client.delete(&path, mode).await, code, delete);
    }
    let health = client.get("/api/v1/health").await.expect(503);
    assert_eq!(health.member("status"), "unhealthy");
    client.get("/ready").await.expect(503);
    client.get("/health").await.expect(200);

    feed.launch(Part::Storage).await;
    client.readable(&path).await;
    client.get("/ready").await.expect(200);
    assert_eq!(client.list(PLAYLISTS).await.len(), 1, "nothing was written meanwhile");
    feed.finish().await;
}
