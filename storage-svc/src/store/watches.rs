//! Watches: each is a cursor over the history, moved by a task of its own. There are no queues of events: a watch that
//! falls behind reads what it missed, and one that falls too far behind is told so.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::limits::{VALUE_BYTES_MAX, WATCH_BATCH_BYTES, WATCH_PAGES_BYTES_MAX, WATCHES_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::changes::{self, Cursor, Page, Query};
use super::flow::{End, Flow, Handed, Source, flow};
use super::readers::Readers;
use super::room::{Reserved, Room};
use super::stop::Stop;
use super::{history, kv};
use crate::config::StreamLimits;
use crate::error::StoreError;
use crate::model::{Deadline, Told, Watch};

/// Most watches that read at the same time, so that they leave readers to the calls.
const READING_MAX: usize = 2;

/// Most that a page without large values takes.
const SMALL_PAGE_BYTES: usize = 2 * WATCH_BATCH_BYTES;
/// Most that any page takes: a value, what it was behind, and what was begun behind that.
const PAGE_BYTES_MAX: usize = VALUE_BYTES_MAX + 2 * WATCH_BATCH_BYTES;
/// The part of the room that is kept for small pages, so that they need not wait for readers of large values.
const SMALL_PAGES_PART: usize = 4;

// So that any page finds room.
const _: () = assert!(WATCH_PAGES_BYTES_MAX / SMALL_PAGES_PART > SMALL_PAGE_BYTES);
const _: () = assert!(WATCH_PAGES_BYTES_MAX - WATCH_PAGES_BYTES_MAX / SMALL_PAGES_PART > PAGE_BYTES_MAX);

/// A watch waits for room as long as so many readers in a row that stall; then it is ended: whoever watches comes back.
const ROOM_WAIT_STALLS: u32 = 3;

/// The watches of a store.
#[derive(Debug)]
pub(super) struct Watches {
    readers: Readers,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    rooms: Rooms,
    stall_max: Duration,
}

/// Room for pages; clones are the same.
#[derive(Clone, Debug)]
struct Rooms {
    small: Room,
    large: Room,
}

/// What was handed over to the reader.
struct Passing {
    handed: Handed<Told>,
    /// The revision of each batch.
    revisions: Vec<u64>,
    /// Of what was written.
    bytes: usize,
    /// Everything up to this revision is told by it and what was before.
    complete: u64,
}

impl Watches {
    pub(super) fn new(readers: Readers, limits: StreamLimits) -> Self {
        let small_bytes = limits.watch_pages_bytes_max / SMALL_PAGES_PART;
        Self {
            readers,
            places: Arc::new(Semaphore::new(WATCHES_MAX)),
            turns: Arc::new(Semaphore::new(READING_MAX)),
            rooms: Rooms {
                small: Room::new(small_bytes),
                large: Room::new(limits.watch_pages_bytes_max - small_bytes),
            },
            stall_max: limits.watch_stall_max,
        }
    }

    /// How many there are now.
    pub(super) fn count(&self) -> usize {
        WATCHES_MAX - self.places.available_permits()
    }

    /// How much room is left for pages.
    pub(super) fn pages_left_bytes(&self) -> usize {
        self.rooms.small.left_bytes() + self.rooms.large.left_bytes()
    }

    /// Begins one. `revision` tells of commits.
    pub(super) async fn begin(
        &self,
        watch: Watch,
        revision: watch::Receiver<u64>,
        deadline: Deadline,
        stop: Stop,
    ) -> Result<Flow<Told>, StoreError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| StoreError::TooMany {
            what: "watches",
            most: WATCHES_MAX,
        })?;
        let facts = self.readers.read(deadline, history::facts).await?.found;
        let after = watch.after_revision.unwrap_or(facts.revision);
        if after > facts.revision {
            return Err(StoreError::RevisionAhead {
                store_revision: facts.revision,
            });
        }
        if after < facts.history_revision {
            return Err(StoreError::HistoryGone {
                oldest: facts.history_revision,
                store_revision: facts.revision,
            });
        }
        let (source, flow) = flow();
        let teller = Teller {
            readers: self.readers.clone(),
            turns: Arc::clone(&self.turns),
            rooms: self.rooms.clone(),
            revision,
            query: Arc::new(Query {
                selectors: watch.selectors,
                with: watch.with,
            }),
            cursor: Cursor::behind(after),
            told: after,
            told_at: Instant::now(),
            passing: Vec::new(),
            marked: false,
            stall_max: self.stall_max,
            progress_interval: watch.progress_interval,
            stop,
            source,
            _place: place,
        };
        tokio::spawn(teller.run(facts));
        Ok(flow)
    }
}

/// One watch.
struct Teller {
    readers: Readers,
    turns: Arc<Semaphore>,
    rooms: Rooms,
    revision: watch::Receiver<u64>,
    query: Arc<Query>,
    cursor: Cursor,
    /// Everything up to this revision has been passed on by the reader.
    told: u64,
    told_at: Instant,
    /// What was handed over since: a page and two marks at most.
    passing: Vec<Passing>,
    /// A progress mark has been told.
    marked: bool,
    /// How long it waits for a reader who takes nothing, and, per batch, for one who takes something all the time.
    stall_max: Duration,
    progress_interval: Duration,
    stop: Stop,
    source: Source<Told>,
    _place: OwnedSemaphorePermit,
}

impl Teller {
    async fn run(mut self, facts: history::Facts) {
        let ended = self.follow(facts).await.map(|never| match never {});
        self.source.end(ended);
    }

    async fn follow(&mut self, facts: history::Facts) -> Result<Infallible, End> {
        let head = Told::Head {
            store_revision: facts.revision,
            oldest_revision: facts.history_revision,
        };
        self.tell(vec![head], Vec::new(), None, 0).await?;
        loop {
            // A watch holds the room of one page at a time: whoever waits for room holds none.
            self.passed_on().await?;
            let (page, mut room) = self.read().await?;
            self.cursor = page.cursor;
            if page.batches.is_empty() {
                drop(room);
            } else {
                let entries = page.batches.iter().flat_map(|batch| &batch.events);
                let bytes = entries.map(|(_, entry)| kv::entry_bytes(entry)).sum();
                room.shrink(bytes);
                let revisions = page.batches.iter().map(|batch| batch.revision).collect();
                let told = page.batches.into_iter().map(Told::Changes).collect();
                self.tell(told, revisions, Some(room), bytes).await?;
            }
            let is_due = if self.marked {
                self.told_at.elapsed() >= self.progress_interval
            } else {
                self.cursor.complete >= facts.revision
            };
            if is_due {
                self.mark().await?;
            }
            if page.is_last {
                self.wait().await?;
            }
        }
    }

    /// The next page, and the room for as much as it could have been.
    async fn read(&mut self) -> Result<(Page, Reserved), End> {
        let reading = async {
            if let Some(read) = self.read_in(&self.rooms.small, SMALL_PAGE_BYTES).await? {
                return Ok(read);
            }
            let read = self.read_in(&self.rooms.large, PAGE_BYTES_MAX).await?;
            read.ok_or(StoreError::Damaged("a value that is too large"))
        };
        tokio::select! {
            biased;
            () = self.source.gone() => Err(End::Gone),
            () = self.stop.stopped() => Err(StoreError::Closing.into()),
            read = reading => Ok(read?),
        }
    }

    /// The next page if it fits into `bytes_max`, for which there is room.
    async fn read_in(&self, room: &Room, bytes_max: usize) -> Result<Option<(Page, Reserved)>, StoreError> {
        let (query, cursor) = (Arc::clone(&self.query), self.cursor);
        let bytes_max = bytes_max.min(room.bytes());
        // Readers that take nothing give theirs back before this wait is over; others may keep it longer.
        let wait = self.stall_max * ROOM_WAIT_STALLS;
        let room = tokio::time::timeout(wait, room.take(bytes_max)).await;
        let room = room.map_err(|_| StoreError::Overloaded)??;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| StoreError::Closing)?;
        // Both are held until the read is over, even if nobody waits for it any more.
        let read = move |connection: &_| {
            let page = changes::page(connection, &query, cursor, bytes_max)?;
            drop(turn);
            Ok(page.map(|page| (page, room)))
        };
        Ok(self.readers.read(None, read).await?.found)
    }

    /// Waits for a commit, telling now and then that there was none.
    async fn wait(&mut self) -> Result<(), End> {
        loop {
            // What is not taken now is not taken later either, for all that is known.
            self.passed_on().await?;
            let due = self.told_at + self.progress_interval;
            let complete = self.cursor.complete;
            tokio::select! {
                biased;
                () = self.source.gone() => return Err(End::Gone),
                () = self.stop.stopped() => return Err(StoreError::Closing.into()),
                () = tokio::time::sleep_until(due.into()) => {}
                changed = self.revision.wait_for(|revision| *revision > complete) => {
                    return changed.map(|_| ()).map_err(|_| StoreError::Closing.into());
                }
            }
            self.mark().await?;
        }
    }

    async fn mark(&mut self) -> Result<(), End> {
        self.marked = true;
        let mark = Told::Progress(self.cursor.complete);
        self.tell(vec![mark], Vec::new(), None, 0).await
    }

    /// Waits until the reader has passed on what it was told.
    async fn passed_on(&mut self) -> Result<(), End> {
        let Some(last) = self.passing.last() else {
            return Ok(());
        };
        match self.bear(last.handed.passed_on()).await {
            Ok(passed_on) => passed_on?,
            Err(Late) => return Err(self.give_up()),
        }
        for passed_on in self.passing.drain(..) {
            self.told = passed_on.complete;
        }
        Ok(())
    }

    async fn tell(
        &mut self,
        told: Vec<Told>,
        revisions: Vec<u64>,
        room: Option<Reserved>,
        bytes: usize,
    ) -> Result<(), End> {
        let Ok(handed) = self.bear(self.source.hand_over(told, room)).await else {
            return Err(self.give_up());
        };
        let (handed, complete) = (handed??, self.cursor.complete);
        self.passing.push(Passing {
            handed,
            revisions,
            bytes,
            complete,
        });
        let passed_on = self.passing.iter().take_while(|passing| passing.handed.is_passed_on());
        for passed_on in self.passing.drain(..passed_on.count()) {
            self.told = passed_on.complete;
        }
        self.told_at = Instant::now();
        Ok(())
    }

    /// Waits for something that the reader has to do, as long as it gets on with it.
    async fn bear<T>(&self, what: impl Future<Output = T>) -> Result<Result<T, End>, Late> {
        // What is large takes longer.
        let bytes: usize = self.passing.iter().map(|passing| passing.bytes).sum();
        let batches = u32::try_from(bytes / WATCH_BATCH_BYTES).unwrap_or(u32::MAX);
        let latest = Instant::now() + self.stall_max.saturating_mul(batches.saturating_add(1));
        let mut what = std::pin::pin!(what);
        loop {
            let parts = self.source.way().parts();
            let look = latest.min(Instant::now() + self.stall_max);
            tokio::select! {
                biased;
                () = self.source.gone() => return Ok(Err(End::Gone)),
                () = self.stop.stopped() => return Ok(Err(StoreError::Closing.into())),
                done = &mut what => return Ok(Ok(done)),
                () = tokio::time::sleep_until(look.into()) => {}
            }
            if Instant::now() >= latest || self.source.way().parts() == parts {
                return Err(Late);
            }
        }
    }

    /// How a watch ends whose reader did not take what it was told in time: what has not left is taken back, so that it
    /// holds no room that others need, and is not counted as told.
    fn give_up(&mut self) -> End {
        let passing: Vec<_> = self.passing.drain(..).collect();
        let left: Vec<_> = passing
            .iter()
            .map(|passing| (!passing.handed.is_passed_on()).then(|| passing.handed.take_back()))
            .collect();
        // Now the reader has nothing to pass on but what it has begun: only the last of that can be torn.
        let torn = usize::from(self.source.way().close());
        for (passing, left) in passing.iter().zip(left) {
            match left.map(|left| left + torn) {
                None | Some(0) => self.told = passing.complete,
                Some(left) => {
                    let revision = passing.revisions.get(passing.revisions.len().saturating_sub(left));
                    self.told = revision.map_or(self.told, |revision| self.told.max(revision - 1));
                    break;
                }
            }
        }
        let last_revision = self.told;
        StoreError::SlowWatcher { last_revision }.into()
    }
}

/// The reader did not do it in time.
struct Late;
