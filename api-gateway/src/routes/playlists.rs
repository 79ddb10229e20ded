//! `/api/v1/playlists`

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use axum::routing::get;
use feed::accept::Write;
use feed::id::Kind;
use feed::validate::{PlaylistDraft, PlaylistPatch, protected_fields};

use super::Segment;
use super::documents::{self, Wishes, identify, reference};
use crate::Gateway;
use crate::answer::Answer;
use crate::body::{self, Payload};
use crate::compute;
use crate::error::{ApiError, Task, Verb};
use crate::write::Draft;

const KIND: Kind = Kind::Playlist;

pub(super) fn routes() -> Router<Gateway> {
    Router::new().route("/api/v1/playlists", get(list).post(create)).route(
        "/api/v1/playlists/{id}",
        get(read).put(replace).patch(patch).delete(delete),
    )
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
        .create(Draft::Playlist(draft), &wishes.terms_of_create(KIND, &bytes))
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
            Write::ReplacePlaylist(id, draft),
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
        .change(Write::PatchPlaylist(id, patch), Verb::Patch, &wishes.terms(bytes.len()))
        .await
}

async fn delete(State(gateway): State<Gateway>, id: Segment, wishes: Wishes) -> Result<Answer, ApiError> {
    let task = Task::Write(KIND, Verb::Delete, wishes.mode);
    let reference = reference(id, KIND)?;
    let id = identify(&gateway, KIND, &reference, task).await?;
    gateway
        .change(Write::DeletePlaylist(id), Verb::Delete, &wishes.terms(0))
        .await
}

fn draft(body: &[u8], task: Task) -> Result<PlaylistDraft, ApiError> {
    compute::over(body.len(), || {
        PlaylistDraft::parse(body::parse(body)?).map_err(|invalid| ApiError::invalid(task, &invalid))
    })
}

fn parse_patch(body: &[u8], task: Task) -> Result<PlaylistPatch, ApiError> {
    compute::over(body.len(), || {
        let body = body::parse_object(body, task)?;
        documents::refuse_protected(&protected_fields(&body))?;
        PlaylistPatch::parse(body).map_err(|invalid| ApiError::invalid(task, &invalid))
    })
}
