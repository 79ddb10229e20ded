//! `/api/v1/channels`, also called `/api/v1/playlist-groups`

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use axum::routing::get;
use feed::accept::Write;
use feed::id::Kind;
use feed::validate::{ChannelDraft, ChannelPatch, protected_fields};

use super::Segment;
use super::documents::{self, Wishes, identify, reference};
use crate::Gateway;
use crate::answer::Answer;
use crate::body::{self, Payload};
use crate::compute;
use crate::error::{ApiError, Task, Verb};
use crate::write::Draft;

const KIND: Kind = Kind::Channel;

pub(super) fn routes() -> Router<Gateway> {
    let mut routes = Router::new();
    for path in ["/api/v1/channels", "/api/v1/playlist-groups"] {
        let one = get(read).put(replace).patch(patch).delete(delete);
        routes = routes
            .route(path, get(list).post(create))
            .route(&format!("{path}/{{id}}"), one);
    }
    routes
}

async fn list(State(gateway): State<Gateway>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    documents::list(&gateway, KIND, query.as_deref()).await
}

async fn read(State(gateway): State<Gateway>, id: Segment) -> Result<Response, ApiError> {
    documents::read(&gateway, KIND, id).await
}

async fn create(State(gateway): State<Gateway>, wishes: Wishes, payload: Payload) -> Result<Answer, ApiError> {
    let task = Task::Write(KIND, Verb::Create, wishes.mode);
    let bytes = payload.bytes().await?;
    let draft = draft(&bytes, task)?;
    gateway
        .create(Draft::Channel(draft), &wishes.terms_of_create(KIND, &bytes))
        .await
}

async fn replace(
    State(gateway): State<Gateway>,
    id: Segment,
    wishes: Wishes,
    payload: Payload,
) -> Result<Answer, ApiError> {
    let task = Task::Write(KIND, Verb::Replace, wishes.mode);
    let reference = reference(id, KIND)?;
    let bytes = payload.bytes().await?;
    let draft = draft(&bytes, task)?;
    let id = identify(&gateway, KIND, &reference, task).await?;
    gateway
        .change(
            Write::ReplaceChannel(id, draft),
            Verb::Replace,
            &wishes.terms(bytes.len()),
        )
        .await
}

async fn patch(
    State(gateway): State<Gateway>,
    id: Segment,
    wishes: Wishes,
    payload: Payload,
) -> Result<Answer, ApiError> {
    let task = Task::Write(KIND, Verb::Patch, wishes.mode);
    let reference = reference(id, KIND)?;
    let bytes = payload.bytes().await?;
    let patch = parse_patch(&bytes, task)?;
    let id = identify(&gateway, KIND, &reference, task).await?;
    gateway
        .change(Write::PatchChannel(id, patch), Verb::Patch, &wishes.terms(bytes.len()))
        .await
}

/// Differs from the other methods in its errors: a code of its own for a bad id, and a message that repeats a good one.
async fn delete(State(gateway): State<Gateway>, id: Segment, wishes: Wishes) -> Result<Answer, ApiError> {
    let task = Task::Write(KIND, Verb::Delete, wishes.mode);
    let bad_id = || ApiError::bad_request("invalid_identifier", "Channel identifier must be a valid UUID or slug");
    let Path(given) = id.map_err(|_| bad_id())?;
    let reference = given.parse().map_err(|_| bad_id())?;
    let deleted = async {
        let id = identify(&gateway, KIND, &reference, task).await?;
        gateway
            .change(Write::DeleteChannel(id), Verb::Delete, &wishes.terms(0))
            .await
    };
    deleted.await.map_err(|error| match error {
        ApiError::Refused { code: "not_found", .. } => ApiError::not_found(format!("Channel not found: {given}")),
        other => other,
    })
}

fn draft(body: &[u8], task: Task) -> Result<ChannelDraft, ApiError> {
    compute::over(body.len(), || {
        ChannelDraft::parse(body::parse(body)?).map_err(|invalid| ApiError::invalid(task, &invalid))
    })
}

fn parse_patch(body: &[u8], task: Task) -> Result<ChannelPatch, ApiError> {
    compute::over(body.len(), || {
        let body = body::parse_object(body, task)?;
        documents::refuse_protected(&protected_fields(&body))?;
        ChannelPatch::parse(body).map_err(|invalid| ApiError::invalid(task, &invalid))
    })
}
