//! `/api/v1/playlist-items`: read only. Items are written with their playlist.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use axum::routing::get;
use feed_store::ItemList;

use super::Segment;
use crate::Gateway;
use crate::body;
use crate::error::{ApiError, Task};
use crate::list::{Filter, LIST_BYTES_MAX, ListQuery, failed};

const NAME: &str = "playlist items";

pub(super) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/api/v1/playlist-items", get(list))
        .route("/api/v1/playlist-items/{id}", get(read))
}

async fn list(State(gateway): State<Gateway>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let query = ListQuery::parse(query.as_deref(), true)?;
    let filter = query.filter(&gateway).await.map_err(failed(NAME))?;
    let after = query.after(NAME, &filter)?;
    let list = match filter {
        Filter::None => ItemList::All,
        Filter::Channel(channel) => ItemList::Channel(channel),
        Filter::Nobody(_) => return Ok(ListQuery::empty_page()),
    };
    let _turn = gateway.outgoing.page().await;
    let page = gateway
        .store
        .item_page(list, query.sort, after, query.limit, LIST_BYTES_MAX);
    let page = page.await.map_err(failed(NAME))?;
    Ok(query.page(NAME, &filter, &page))
}

async fn read(State(gateway): State<Gateway>, id: Segment) -> Result<Response, ApiError> {
    let id = id.ok().and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| ApiError::bad_request("invalid_id", "Playlist item ID must be a valid UUID"))?;
    let found = gateway.store.item_text(id).await;
    let found = found.map_err(|error| ApiError::Store(Task::Read("playlist item"), error))?;
    let text = found.ok_or_else(|| ApiError::not_found("Playlist item not found"))?;
    Ok(body::representation(text))
}
