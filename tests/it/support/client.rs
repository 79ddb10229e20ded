//! A client of the REST API, as any user of it would write one.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use serde_json::Value;

use super::wait::eventually;

/// Longest time that one request may take, on a busy machine and in a debug build.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time until a queued write is applied while the consumers are up.
const APPLIED_MAX: Duration = Duration::from_secs(30);

/// Whether a write is to be applied at once or queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Sync,
    Async,
}

impl Mode {
    /// The status of a write that went well, if a sync one has this.
    pub(crate) fn status(self, sync: u16) -> u16 {
        match self {
            Self::Sync => sync,
            Self::Async => 202,
        }
    }
}

/// A client of one gateway; clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct FeedClient {
    http: reqwest::Client,
    origin: String,
    secret: String,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    request: String,
}

impl FeedClient {
    /// A client of the feed at `origin` (`http://host:port`).
    pub(crate) fn new(origin: &str, secret: &str) -> Self {
        // The HTTP client wants a TLS provider to exist, though nothing here speaks TLS. A second test finds the first's.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).no_proxy().build();
        Self {
            http: http.expect("a client without settings can be made"),
            origin: origin.to_owned(),
            secret: secret.to_owned(),
        }
    }

    /// `http://host:port`.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// A request to be filled in by hand; nothing is set but the URL.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.origin))
    }

    /// A write with the secret, a JSON body if there is one, and these headers. The error is a transport's.
    pub(crate) async fn try_write(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        mode: Mode,
        headers: &[(&str, &str)],
    ) -> Result<Answer, reqwest::Error> {
        let mut request = self
            .request(method.clone(), path)
            .header(AUTHORIZATION, format!("Bearer {}", self.secret));
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        if mode == Mode::Async {
            request = request.header("prefer", "respond-async");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(format!("{method} {path}"), request).await
    }

    /// GET; the error is a transport's.
    pub(crate) async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        Answer::read(format!("GET {path}"), self.request(Method::GET, path)).await
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        answered(path, self.try_get(path).await)
    }

    /// POST of a document.
    pub(crate) async fn post(&self, path: &str, body: &Value, mode: Mode) -> Answer {
        answered(path, self.try_write(Method::POST, path, Some(body), mode, &[]).await)
    }

    /// PUT of a document.
    pub(crate) async fn put(&self, path: &str, body: &Value, mode: Mode) -> Answer {
        answered(path, self.try_write(Method::PUT, path, Some(body), mode, &[]).await)
    }

    /// PATCH of a document.
    pub(crate) async fn patch(&self, path: &str, body: &Value, mode: Mode) -> Answer {
        answered(path, self.try_write(Method::PATCH, path, Some(body), mode, &[]).await)
    }

    /// DELETE of a document.
    pub(crate) async fn delete(&self, path: &str, mode: Mode) -> Answer {
        answered(path, self.try_write(Method::DELETE, path, None, mode, &[]).await)
    }

    /// All pages of a list, such as `/api/v1/playlists?sort=desc&limit=7`, in order.
    pub(crate) async fn list(&self, path: &str) -> Vec<Value> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut all = Vec::new();
        let mut next = path.to_owned();
        loop {
            let mut page = self.get(&next).await.expect(200).json();
            let Value::Array(rows) = page["items"].take() else {
                panic!("{next} has no items: {page}")
            };
            all.extend(rows);
            let cursor = page.get("cursor").and_then(Value::as_str);
            match (&page["hasMore"], cursor) {
                (Value::Bool(true), Some(cursor)) => next = format!("{path}{separator}cursor={cursor}"),
                (Value::Bool(false), None) => return all,
                _ => panic!("{next}: cursor and hasMore go together: {page}"),
            }
        }
    }

    /// The record of an operation, as its 202 names it.
    pub(crate) async fn operation(&self, accepted: &Answer) -> Value {
        let location = accepted.header("location");
        let request = self
            .request(Method::GET, location)
            .header(AUTHORIZATION, format!("Bearer {}", self.secret));
        answered(location, Answer::read(format!("GET {location}"), request).await)
            .expect(200)
            .json()
    }

    /// Waits until the operation of a 202 has ended, and answers its state.
    pub(crate) async fn operation_end(&self, accepted: &Answer) -> String {
        eventually(APPLIED_MAX, "the operation ends", async || {
            let record = self.operation(accepted).await;
            match record["state"].as_str() {
                Some("accepted") => Err(record.to_string()),
                Some(state) => Ok(state.to_owned()),
                None => panic!("an operation without a state: {record}"),
            }
        })
        .await
    }

    /// Waits until a document is there, and answers it.
    pub(crate) async fn readable(&self, path: &str) -> Answer {
        eventually(APPLIED_MAX, &format!("{path} is readable"), async || {
            let answer = self.get(path).await;
            match answer.status {
                200 => Ok(answer),
                404 => Err(answer.text),
                _ => panic!("{answer:?}"),
            }
        })
        .await
    }
}

impl Answer {
    /// Sends a request and reads its answer; `request` names it in failures.
    pub(crate) async fn read(request: String, builder: reqwest::RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = builder.send().await?;
        Ok(Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await?,
            request,
        })
    }

    /// The answer, if it has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text);
        self
    }

    /// The body.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{}: {error}: {}", self.request, self.text))
    }

    /// A text member of the body.
    #[track_caller]
    pub(crate) fn member(&self, name: &str) -> String {
        let body = self.json();
        let member = body[name].as_str();
        member
            .unwrap_or_else(|| panic!("{}: no {name} in {body}", self.request))
            .to_owned()
    }

    /// A header.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_else(|| panic!("{}: no {name} in {:?}", self.request, self.headers))
    }
}

fn answered(path: &str, answer: Result<Answer, reqwest::Error>) -> Answer {
    answer.unwrap_or_else(|error| panic!("{path}: no answer: {error:?}"))
}
