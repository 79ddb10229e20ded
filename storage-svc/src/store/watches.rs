//! Watches: each is a cursor over the history, moved by a task of its own. There are no queues of events: a watch that
//! falls behind reads what it missed, and one that falls too far behind is told so.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::limits::{VALUE_BYTES_MAX, WATCH_BATCH_BYTES, WATCH_PAGES_BYTES_MAX, WATCHES_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::changes::{self, Cursor, Page, Query};
use super::flow::{End, Flow, Handed, Refusal, Source, flow};
use super::readers::Readers;
use super::room::{Reserved, Room};
use super::stop::Stop;
use super::{history, kv};
use crate::config::StreamLimits;
use crate::error::StoreError;
use crate::model::{Deadline, Told, Watch};

/// Most watches that read at the same time, so that they leave readers to the calls.
const READING_MAX: usize = 2;

// So that any page finds room in the end: at least one value, and what it was behind.
const _: () = assert!(WATCH_PAGES_BYTES_MAX > VALUE_BYTES_MAX + 2 * WATCH_BATCH_BYTES);

/// A turn to read.
type Turn = OwnedSemaphorePermit;

/// The watches of a store.
#[derive(Debug)]
pub(super) struct Watches {
    readers: Readers,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    room: Room,
    stall_max: Duration,
}

impl Watches {
    pub(super) fn new(readers: Readers, limits: StreamLimits) -> Self {
        Self {
            readers,
            places: Arc::new(Semaphore::new(WATCHES_MAX)),
            turns: Arc::new(Semaphore::new(READING_MAX)),
            room: Room::new(limits.watch_pages_bytes_max),
            stall_max: limits.watch_stall_max,
        }
    }

    /// How many there are now.
    pub(super) fn count(&self) -> usize {
        WATCHES_MAX - self.places.available_permits()
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
            room: self.room.clone(),
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
            patience: self.stall_max,
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
    room: Room,
    revision: watch::Receiver<u64>,
    query: Arc<Query>,
    cursor: Cursor,
    /// Everything up to this revision has been passed on by the reader.
    told: u64,
    told_at: Instant,
    /// What was handed over since, with the revision up to which it tells everything: a page and two marks at most.
    passing: Vec<(Handed<Told>, u64)>,
    /// A progress mark has been told.
    marked: bool,
    /// How long the next messages may wait for the reader.
    patience: Duration,
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
        self.tell(vec![head], None, 0).await?;
        loop {
            // A watch holds the room of one page at a time: whoever waits for room holds none.
            self.passed_on().await?;
            let (page, turn) = self.read().await?;
            self.cursor = page.cursor;
            if page.batches.is_empty() {
                drop(turn);
            } else {
                let entries = page.batches.iter().flat_map(|batch| &batch.events);
                let bytes = entries.map(|(_, entry)| kv::entry_bytes(entry)).sum();
                let room = self.make_room(bytes).await?;
                drop(turn);
                let told = page.batches.into_iter().map(Told::Changes).collect();
                self.tell(told, Some(room), bytes).await?;
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

    /// The next page, and the turn that it was read in: to be kept until there is room for the page, so that few pages
    /// are there without.
    async fn read(&mut self) -> Result<(Page, Turn), End> {
        let (query, cursor) = (Arc::clone(&self.query), self.cursor);
        let reading = async {
            let turn = Arc::clone(&self.turns).acquire_owned().await;
            let turn = turn.map_err(|_| StoreError::Closing)?;
            // The turn is held until the read is over, even if nobody waits for it any more.
            let read = move |connection: &_| Ok((changes::page(connection, &query, cursor)?, turn));
            self.readers.read(None, read).await
        };
        tokio::select! {
            biased;
            () = self.source.gone() => Err(End::Gone),
            () = self.stop.stopped() => Err(StoreError::Closing.into()),
            page = reading => Ok(page?.found),
        }
    }

    /// Waits for a commit, telling now and then that there was none.
    async fn wait(&mut self) -> Result<(), End> {
        loop {
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
        self.tell(vec![Told::Progress(self.cursor.complete)], None, 0).await
    }

    /// Waits until the reader has passed on what it was told.
    async fn passed_on(&mut self) -> Result<(), End> {
        let Some((last, complete)) = self.passing.last_mut() else {
            return Ok(());
        };
        let latest = Instant::now() + self.patience;
        tokio::select! {
            biased;
            () = self.source.gone() => return Err(End::Gone),
            () = self.stop.stopped() => return Err(StoreError::Closing.into()),
            () = last.passed_on() => self.told = *complete,
            () = tokio::time::sleep_until(latest.into()) => return Err(self.give_up(Refusal::Late)),
        }
        self.passing.clear();
        Ok(())
    }

    /// Waits for room. Whoever has it gives it back when its reader passes on its page, or is given up.
    async fn make_room(&self, bytes: usize) -> Result<Reserved, End> {
        tokio::select! {
            biased;
            () = self.source.gone() => Err(End::Gone),
            () = self.stop.stopped() => Err(StoreError::Closing.into()),
            room = self.room.take(bytes) => Ok(room?),
        }
    }

    /// How a watch ends whose reader did not make room: what it has not passed on is taken back, so that it holds no room
    /// that others need, and is not counted as told.
    fn give_up(&mut self, refusal: Refusal) -> End {
        if refusal == Refusal::Gone {
            return End::Gone;
        }
        let mut first_left = None;
        for (handed, complete) in self.passing.drain(..) {
            let left = handed.take_back().next();
            if left.is_none() && first_left.is_none() {
                self.told = complete;
            }
            first_left = first_left.or(left);
        }
        if let Some(Told::Changes(batch)) = first_left {
            self.told = self.told.max(batch.revision - 1);
        }
        let last_revision = self.told;
        StoreError::SlowWatcher { last_revision }.into()
    }

    async fn tell(&mut self, told: Vec<Told>, room: Option<Reserved>, bytes: usize) -> Result<(), End> {
        let latest = Instant::now() + self.patience;
        let handed_over = tokio::select! {
            biased;
            () = self.stop.stopped() => return Err(StoreError::Closing.into()),
            handed_over = self.source.hand_over(told, room, latest) => handed_over,
        };
        let handed = handed_over.map_err(|refusal| self.give_up(refusal))?;
        self.passing.push((handed, self.cursor.complete));
        let passed_on = self.passing.iter().take_while(|(handed, _)| handed.is_passed_on());
        for (_, complete) in self.passing.drain(..passed_on.count()) {
            self.told = complete;
        }
        self.told_at = Instant::now();
        // The next wait until these are on their way, which takes longer if they are large.
        let batches = u32::try_from(bytes / WATCH_BATCH_BYTES).unwrap_or(u32::MAX);
        self.patience = self.stall_max.saturating_mul(batches.saturating_add(1));
        Ok(())
    }
}
