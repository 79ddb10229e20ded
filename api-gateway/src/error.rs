//! What goes wrong, and the one mapping of it to the documented answers.

use std::borrow::Cow;
use std::error::Error;

use axum::response::{IntoResponse, Response};
use feed::accept::Refusal;
use feed::document::WriteError;
use feed::id::Kind;
use feed::state::OperationId;
use feed::validate::Invalid;
use feed_store::FeedStoreError;
use http::{HeaderValue, StatusCode, header};
use proto::limits::COMMIT_BYTES_MAX;
use serde_json::json;

use crate::answer::{confirm, locate};
use crate::prefer::Wait;

/// When a client may try again after trouble that passes, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What a writer may show, as a 401 has to say (RFC 6750): without an error if nothing was shown.
const CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Bearer realm="dp1-feed""#);
const CHALLENGE_AGAIN: HeaderValue = HeaderValue::from_static(r#"Bearer realm="dp1-feed", error="invalid_token""#);

/// How a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// When it is applied.
    Applied,
    /// When it is accepted (`Prefer: respond-async`).
    Queued,
}

/// What a write does to its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Create,
    /// PUT: the whole of it, as a create has it.
    Replace,
    /// PATCH
    Patch,
    Delete,
}

/// What was being done when something failed: the code and message of the answer depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    List(&'static str),
    Read(&'static str),
    Write(Kind, Verb, Mode),
}

/// Why a request is not answered as it was meant.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The client's doing.
    Refused {
        status: StatusCode,
        code: &'static str,
        message: Cow<'static, str>,
    },
    /// A write that does not say who sends it.
    NoCredential,
    /// A write with a secret or token that opens nothing. Why is nobody's business but the operator's.
    WrongCredential,
    /// Storage failed.
    Store(Task, FeedStoreError),
    /// Other writers were faster every time; nothing was written.
    Contended(Task),
    /// A fault of this program.
    Fault(Task, Box<dyn Error + Send + Sync>),
    /// A queued write came to nothing while its result was waited for.
    Failed {
        operation: OperationId,
        reason: String,
        wait: Wait,
    },
    /// The request took longer than any may.
    TimedOut,
    /// There is no room for an answer of this size.
    Overloaded,
}

impl ApiError {
    pub(crate) fn refused(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self::Refused { status, code, message }
    }

    pub(crate) fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
    }

    /// A body that breaks the schema: every problem of it.
    pub(crate) fn invalid(task: Task, invalid: &Invalid) -> Self {
        Self::bad_request("validation_error", format!("{}{invalid}", task.invalid()))
    }

    /// A write that the domain does not accept.
    pub(crate) fn of_refusal(refusal: Refusal, task: Task) -> Self {
        let unprocessable = |message| Self::refused(StatusCode::UNPROCESSABLE_ENTITY, "invalid_reference", message);
        match refusal {
            Refusal::NotFound => Self::not_found(task.not_found()),
            refusal @ (Refusal::UnknownPlaylist(_) | Refusal::ForeignPlaylist(_)) => unprocessable(refusal.to_string()),
            refusal @ Refusal::TooManyChannels => {
                Self::refused(StatusCode::CONFLICT, "too_many_channels", refusal.to_string())
            }
            Refusal::Document(WriteError::TooLarge { bytes }) => Self::too_large(format!(
                "Signed document would have {bytes} bytes: at most {}",
                feed::document::DOCUMENT_BYTES_MAX
            )),
            Refusal::Document(WriteError::Invalid(invalid)) => Self::invalid(task, &invalid),
            Refusal::Document(WriteError::Stored(fault)) => Self::Fault(task, Box::new(fault)),
        }
    }
}

impl Task {
    fn not_found(self) -> &'static str {
        match self {
            Self::Write(Kind::Channel, ..) => "Channel not found",
            _ => "Playlist not found",
        }
    }

    /// What precedes the problems of a body.
    pub(crate) fn invalid(self) -> &'static str {
        match self {
            Self::Write(Kind::Channel, Verb::Patch, _) => "Invalid channel update data: ",
            Self::Write(Kind::Channel, ..) => "Invalid channel data: ",
            Self::Write(_, Verb::Patch, _) => "Invalid playlist update data: ",
            _ => "Invalid playlist data: ",
        }
    }

    /// Code and message when storage failed.
    fn storage_failed(self) -> (&'static str, String) {
        match self {
            Self::List(what) | Self::Read(what) => ("storage_error", format!("Failed to retrieve {what}")),
            Self::Write(kind, Verb::Delete, Mode::Applied) => ("storage_error", format!("Failed to delete {kind}")),
            Self::Write(kind, _, Mode::Applied) => ("storage_error", format!("Failed to save {kind}")),
            Self::Write(kind, Verb::Delete, Mode::Queued) => {
                ("queue_error", format!("Failed to queue {kind} for deletion"))
            }
            Self::Write(kind, _, Mode::Queued) => ("queue_error", format!("Failed to queue {kind} for processing")),
        }
    }

    /// Message when we are at fault.
    fn failed(self) -> String {
        match self {
            Self::List(what) | Self::Read(what) => format!("Failed to retrieve {what}"),
            Self::Write(kind, Verb::Create, _) => format!("Failed to create {kind}"),
            Self::Write(kind, Verb::Replace | Verb::Patch, _) => format!("Failed to update {kind}"),
            Self::Write(kind, Verb::Delete, _) => format!("Failed to delete {kind}"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Refused { status, code, message } => answer(status, code, &message),
            Self::NoCredential => unauthorized(CHALLENGE, "Authorization header is required for write operations"),
            Self::WrongCredential => unauthorized(CHALLENGE_AGAIN, "Invalid credentials"),
            Self::Store(task, error) if error.is_transient() => {
                tracing::warn!(error = &error as &dyn Error, "storage is away");
                let (code, message) = task.storage_failed();
                unavailable(code, &message)
            }
            Self::Store(Task::Write(Kind::Playlist, Verb::Delete, _), FeedStoreError::TooLarge) => answer(
                StatusCode::CONFLICT,
                "too_many_channels",
                &format!(
                    "the channels that refer to this playlist are too large to be rewritten at once: at most {COMMIT_BYTES_MAX} bytes"
                ),
            ),
            Self::Store(_, FeedStoreError::TooLarge) => answer(
                StatusCode::PAYLOAD_TOO_LARGE,
                "payload_too_large",
                &format!("The write is larger than one commit may be: at most {COMMIT_BYTES_MAX} bytes"),
            ),
            Self::Store(task, error) => fault(task, &error),
            Self::Contended(task) => {
                tracing::warn!("write lost to others every time");
                let (code, message) = task.storage_failed();
                unavailable(
                    code,
                    &format!("{message}: other writers were faster, nothing was written"),
                )
            }
            Self::Fault(task, error) => fault(task, &*error),
            Self::Failed {
                operation,
                reason,
                wait,
            } => {
                let message = format!("The write was accepted, and failed then: {reason}");
                let mut response = answer(StatusCode::INTERNAL_SERVER_ERROR, "operation_failed", &message);
                confirm(false, Some(wait), response.headers_mut());
                locate(operation, response.headers_mut());
                response
            }
            Self::TimedOut => unavailable(
                "request_timeout",
                "The request took too long; whether it took effect is not known",
            ),
            Self::Overloaded => {
                tracing::warn!("no room for a large answer");
                unavailable("overloaded", "Too many large answers are being sent")
            }
        }
    }
}

fn fault(task: Task, error: &(dyn Error + 'static)) -> Response {
    tracing::error!(error, ?task, "request failed");
    answer(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", &task.failed())
}

fn unauthorized(challenge: HeaderValue, message: &str) -> Response {
    let mut response = answer(StatusCode::UNAUTHORIZED, "unauthorized", message);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn unavailable(code: &str, message: &str) -> Response {
    let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, code, message);
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    response
}

fn answer(status: StatusCode, code: &str, message: &str) -> Response {
    crate::body::json(status, json!({ "error": code, "message": message }).to_string())
}
