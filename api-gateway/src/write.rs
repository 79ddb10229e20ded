//! A write, from what a client wants to the commit that makes it so.
//!
//! Each attempt reads the accepted state, lets the domain judge it, and commits under the condition that what was read
//! still holds. Applied at once and queued differ in nothing but the commit that is made of the new versions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use feed::accept::{CASCADE_CHANNELS_MAX, Refusal, Write, accept, commit_applied, commit_queued, commit_to_apply};
use feed::commit::Commit;
use feed::document::Stamp;
use feed::id::{DocumentId, DocumentKey, Kind, Reference, Slug};
use feed::keys::{self, Key};
use feed::operation::OperationState;
use feed::state::{DocumentState, Resolved, State};
use feed::validate::{ChannelDraft, PlaylistDraft};
use feed_store::{FeedStore, FeedStoreError, Outcome, check_size};
use rand::RngExt as _;
use uuid::Uuid;

use crate::Gateway;
use crate::answer::Answer;
use crate::compute;
use crate::deletions::Order;
use crate::error::{ApiError, Mode, Task, Verb};
use crate::etag::Conditions;
use crate::idempotency::{RecallError, Repeatable};
use crate::locks::Turn;
use crate::origins::Target;
use crate::prefer::Wait;
use crate::slugs::Draw;

/// A write that lost to other writers this often is answered 503.
const ATTEMPTS_MAX: u32 = 16;
/// Slugs that may turn out to be somebody else's while one is drawn. Not counted as attempts: near the end of a base
/// many writers draw from few numbers, and each loss brings a new one.
const SLUGS_LOST_MAX: u32 = 64;
/// Longest pause before an attempt; drawn anew each time, so that two writers do not keep step.
const PAUSE_MAX: Duration = Duration::from_millis(25);

/// How a write is to be carried out.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) mode: Mode,
    /// How long the result of a queued write may be waited for.
    pub(crate) wait: Option<Wait>,
    /// Length of the request's body.
    pub(crate) body_bytes: usize,
    /// The host that the request was sent to: one of the feed's own.
    pub(crate) host: Option<String>,
    pub(crate) repeatable: Option<Repeatable>,
    pub(crate) conditions: Conditions,
}

/// What a new document says.
#[derive(Debug)]
pub(crate) enum Draft {
    Playlist(PlaylistDraft),
    Channel(ChannelDraft),
}

/// Why an attempt came to nothing.
enum Lost {
    /// Somebody else has the slug.
    Slug,
    /// The same request was answered meanwhile.
    Repeated,
    /// A playlist was deleted meanwhile, whichever.
    Deletion,
    /// Something else that was read has changed since.
    State,
}

/// A write that was accepted, if its commit happens.
struct Judged {
    /// Key of the written document's slug.
    slug: Key,
    answer: Answer,
    commit: Commit,
}

impl Gateway {
    /// Makes a new document.
    pub(crate) async fn create(&self, draft: Draft, terms: &Terms) -> Result<Answer, ApiError> {
        let answer = self.accept_new(draft, terms).await?;
        self.await_result(answer, Verb::Create, terms).await
    }

    /// Changes or deletes a document.
    pub(crate) async fn change(&self, write: Write, verb: Verb, terms: &Terms) -> Result<Answer, ApiError> {
        let answer = self.accept_change(write, verb, terms).await?;
        self.await_result(answer, verb, terms).await
    }

    /// Waits for the result of a queued write, if the client prefers that: it is answered then as if it had not been
    /// queued, unless it takes too long. What newer writes have replaced meanwhile has taken its effect in their order.
    async fn await_result(&self, mut answer: Answer, verb: Verb, terms: &Terms) -> Result<Answer, ApiError> {
        let (Some(operation), Some(wait)) = (answer.operation, terms.wait) else {
            return Ok(answer);
        };
        let Some(waiter) = self.waits.enter(operation, answer.body.len()) else {
            return Ok(answer);
        };
        answer.wait = Some(wait);
        match waiter.end(&self.store, wait.until).await {
            None => Ok(answer),
            Some(record) if record.state == OperationState::Failed => Err(ApiError::Failed {
                operation,
                reason: record.reason.unwrap_or_default(),
                wait,
            }),
            Some(_) => Ok(answer.after_wait(verb)),
        }
    }

    async fn accept_new(&self, draft: Draft, terms: &Terms) -> Result<Answer, ApiError> {
        let kind = match &draft {
            Draft::Playlist(_) => Kind::Playlist,
            Draft::Channel(_) => Kind::Channel,
        };
        let task = Task::Write(kind, Verb::Create, terms.mode);
        let failed = |error| ApiError::Store(task, error);
        if let Some(answer) = self.recall(terms, task).await? {
            return Ok(answer);
        }
        let title = match &draft {
            Draft::Playlist(draft) => draft.title(),
            Draft::Channel(draft) => draft.title(),
        };
        let mut draw = self.slugs.draw(kind, title, &self.store).await.map_err(failed)?;
        let id = DocumentId::random(&mut rand::rng());
        let slug = draw.slug.clone();
        let mut write = match draft {
            Draft::Playlist(draft) => Write::CreatePlaylist { id, slug, draft },
            Draft::Channel(draft) => Write::CreateChannel { id, slug, draft },
        };
        let (mut attempts, mut slugs_lost) = (0, 0);
        let mut order = Order::of(&write);
        loop {
            match self.attempt(&write, Verb::Create, terms, order).await? {
                Ok(answer) => {
                    draw.settle();
                    return Ok(answer);
                }
                Err(Lost::Slug) => {
                    slugs_lost += 1;
                    if slugs_lost == SLUGS_LOST_MAX {
                        return Err(ApiError::Contended(task));
                    }
                    draw = self.slugs.draw_again(draw, &self.store).await.map_err(failed)?;
                    set_slug(&mut write, &draw);
                }
                Err(Lost::Repeated) => {
                    if let Some(answer) = self.recall(terms, task).await? {
                        return Ok(answer);
                    }
                }
                Err(Lost::Deletion) => order = Order::BeforeDeletions,
                Err(Lost::State) => pause().await,
            }
            attempts += 1;
            if attempts - slugs_lost == ATTEMPTS_MAX {
                return Err(ApiError::Contended(task));
            }
        }
    }

    async fn accept_change(&self, write: Write, verb: Verb, terms: &Terms) -> Result<Answer, ApiError> {
        let document = write.key();
        let task = Task::Write(document.kind, verb, terms.mode);
        let turn = self.locks.turn(document).await.map_err(|_| ApiError::Contended(task))?;
        let mut turns = vec![turn];
        let mut order = Order::of(&write);
        for attempt in 1..=ATTEMPTS_MAX {
            match self.attempt(&write, verb, terms, order).await? {
                Ok(answer) => return Ok(answer),
                Err(Lost::Deletion) => {
                    order = Order::BeforeDeletions;
                    continue;
                }
                Err(Lost::Slug | Lost::Repeated | Lost::State) => {}
            }
            if attempt == 1
                && let Write::DeletePlaylist(id) = write
            {
                // It rewrites channels too, and waits for its turn at each from now on.
                let links = self.store.links(id, CASCADE_CHANNELS_MAX).await;
                let links = links.map_err(|error| ApiError::Store(task, error))?;
                self.queue_for(links.channels, &mut turns, task).await?;
            }
            pause().await;
        }
        Err(ApiError::Contended(task))
    }

    /// Which document a path means, in the accepted state; none if nobody has the slug.
    pub(crate) async fn identify(
        &self,
        kind: Kind,
        reference: &Reference,
    ) -> Result<Option<DocumentId>, FeedStoreError> {
        match reference {
            Reference::Id(id) => Ok(Some(*id)),
            Reference::Slug(slug) => self.store.id_of_slug(kind, slug).await,
        }
    }

    /// Takes the turns in one order everywhere, so that no two deletions wait for each other.
    async fn queue_for(
        &self,
        mut channels: Vec<DocumentId>,
        turns: &mut Vec<Turn>,
        task: Task,
    ) -> Result<(), ApiError> {
        channels.sort_unstable();
        for id in channels {
            turns.push(
                self.locks
                    .turn(channel_key(id))
                    .await
                    .map_err(|_| ApiError::Contended(task))?,
            );
        }
        Ok(())
    }

    async fn recall(&self, terms: &Terms, task: Task) -> Result<Option<Answer>, ApiError> {
        let Some(repeatable) = &terms.repeatable else {
            return Ok(None);
        };
        let record = self.store.text(repeatable.key()).await;
        let Some(record) = record.map_err(|error| ApiError::Store(task, error))? else {
            return Ok(None);
        };
        match repeatable.recall(&record) {
            Ok(answer) => Ok(Some(answer)),
            Err(RecallError::OtherRequest) => Err(ApiError::refused(
                http::StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "Idempotency-Key was used for another request",
            )),
            Err(RecallError::Malformed(fault)) => Err(ApiError::Fault(task, Box::new(fault))),
        }
    }

    async fn attempt(
        &self,
        write: &Write,
        verb: Verb,
        terms: &Terms,
        order: Order,
    ) -> Result<Result<Answer, Lost>, ApiError> {
        let task = Task::Write(write.key().kind, verb, terms.mode);
        let refused = |refusal| ApiError::of_refusal(refusal, task);
        let failed = |error| ApiError::Store(task, error);
        let _place = self.deletions.place(order).await;
        let state = self.state(write, terms.host.as_deref()).await.map_err(failed)?;
        let state = state.map_err(refused)?;
        // Judged anew in each attempt, on the state whose revisions its commit expects: of two writes that name one version
        // only the first can happen.
        if let Some(accepted) = state.documents.get(&write.key()).and_then(DocumentState::accepted) {
            terms.conditions.check(&accepted.document.text)?;
        }
        let bytes = terms.body_bytes + state.documents.values().map(DocumentState::text_bytes).sum::<usize>();
        let judged = compute::over(bytes, || self.judge(write, verb, terms, &state)).map_err(refused)?;
        let Judged { slug, answer, commit } = judged.map_err(failed)?;
        match self.store.commit(commit, Vec::new()).await.map_err(failed)? {
            Outcome::Committed { .. } => Ok(Ok(answer)),
            Outcome::Conflict { failed, .. } => {
                let is_repeated = terms
                    .repeatable
                    .as_ref()
                    .is_some_and(|repeatable| failed.contains(repeatable.key()));
                Ok(Err(if is_repeated {
                    Lost::Repeated
                } else if failed.contains(&slug) {
                    Lost::Slug
                } else if failed.contains(&keys::playlist_deleted()) {
                    Lost::Deletion
                } else {
                    Lost::State
                }))
            }
        }
    }

    /// Makes the new versions, and what makes them true. The inner error is that it could not be done in one commit, now
    /// or by a consumer later.
    fn judge(
        &self,
        write: &Write,
        verb: Verb,
        terms: &Terms,
        state: &State,
    ) -> Result<Result<Judged, FeedStoreError>, Refusal> {
        let now_ms = self.clock.now_ms();
        let mut stamp = Stamp {
            now_ms,
            signer: &self.settings.signer,
            rng: &mut rand::rng(),
        };
        let versions = accept(write, state, &mut stamp)?;
        let written = versions.first().expect("a write that is accepted has a version");
        let (answer, mut commit) = match terms.mode {
            Mode::Applied => (Answer::applied(verb, written), commit_applied(&versions, write, state)),
            Mode::Queued => {
                let operation = Uuid::new_v4();
                if let Err(error) = check_size(&commit_to_apply(&versions, state, operation, now_ms)) {
                    return Ok(Err(error));
                }
                let commit = commit_queued(&versions, write, state, operation, now_ms);
                (Answer::queued(written, operation), commit)
            }
        };
        if let Some(repeatable) = &terms.repeatable {
            repeatable.remember(&answer, &mut commit);
        }
        Ok(Ok(Judged {
            slug: keys::slug(written.key().kind, written.slug()),
            answer,
            commit,
        }))
    }

    /// What the write is judged on. What guards it is read first, so that no change between the two goes unseen.
    async fn state(&self, write: &Write, host: Option<&str>) -> Result<Result<State, Refusal>, FeedStoreError> {
        let document = write.key();
        let mut state = State::default();
        let urls = write.playlist_urls();
        if !urls.is_empty() {
            self.resolve(urls, host, &mut state).await?;
        }
        let mut documents = match write {
            // Its id is new: nothing can be there, and the commit checks that.
            Write::CreatePlaylist { .. } | Write::CreateChannel { .. } => Vec::new(),
            _ => vec![document],
        };
        if let Write::DeletePlaylist(id) = write {
            let links = self.store.links(*id, CASCADE_CHANNELS_MAX + 1).await?;
            if links.channels.len() > CASCADE_CHANNELS_MAX {
                return Ok(Err(Refusal::TooManyChannels));
            }
            state.links_revision = links.revision;
            documents.extend(links.channels.into_iter().map(channel_key));
        }
        state.documents = self.store.documents(&documents).await?;
        Ok(Ok(state))
    }

    /// What each URL stands for in the accepted state.
    async fn resolve(&self, urls: &[String], host: Option<&str>, state: &mut State) -> Result<(), FeedStoreError> {
        let origins = &self.settings.origins;
        let targets: Vec<_> = urls.iter().map(|url| origins.target(url, host)).collect();
        let references = targets.iter().filter_map(|target| match target {
            Target::Own(reference) => Some(reference),
            Target::OwnNobody | Target::Foreign => None,
        });
        let (mut ids, mut slugs) = (BTreeSet::new(), BTreeSet::new());
        for reference in references {
            match reference {
                Reference::Id(id) => {
                    ids.insert(*id);
                }
                Reference::Slug(slug) => {
                    slugs.insert(slug.clone());
                }
            }
        }
        let named = resolve_slugs(&self.store, &slugs).await?;
        ids.extend(named.values());
        let (playlists, revision) = self.store.accepted_playlists(&ids).await?;
        state.playlist_deleted_revision = revision;
        state.resolved = targets
            .into_iter()
            .map(|target| {
                let id = match target {
                    Target::Foreign => return Resolved::Foreign,
                    Target::OwnNobody => None,
                    Target::Own(Reference::Id(id)) => Some(id),
                    Target::Own(Reference::Slug(slug)) => named.get(&slug).copied(),
                };
                let playlist = id.and_then(|id| playlists.get(&id));
                playlist.map_or(Resolved::Unknown, |playlist| Resolved::Playlist(*playlist))
            })
            .collect();
        Ok(())
    }
}

fn channel_key(id: DocumentId) -> DocumentKey {
    DocumentKey {
        kind: Kind::Channel,
        id,
    }
}

async fn pause() {
    let pause = PAUSE_MAX.mul_f64(rand::rng().random::<f64>());
    tokio::time::sleep(pause).await;
}

async fn resolve_slugs(
    store: &FeedStore,
    slugs: &BTreeSet<Slug>,
) -> Result<BTreeMap<Slug, DocumentId>, FeedStoreError> {
    if slugs.is_empty() {
        return Ok(BTreeMap::new());
    }
    store.playlist_ids_of_slugs(slugs).await
}

fn set_slug(write: &mut Write, draw: &Draw) {
    if let Write::CreatePlaylist { slug, .. } | Write::CreateChannel { slug, .. } = write {
        *slug = draw.slug.clone();
    }
}
