//! `dp1-feed queue`: looks into the queues of a storage service, gives dead messages another try, and purges.
//!
//! Messages of the write queue stand for operations. Redriving one makes its operation accepted again; purging one takes
//! its operation back first, so that nothing accepted is left behind without anybody to apply it.

mod print;

use anyhow::{Context as _, bail, ensure};
use feed::operation::OperationMessage;
use feed_store::{FeedStore, FeedStoreError, StorageArgs, WRITE_QUEUE, WithdrawError};
use proto::limits::{LIST_ROWS_MAX, SWEPT_MESSAGES_MAX};
use proto::v1::{self, MessageState};
use runtime::clock::Clock;
use runtime::secret::Secret;

/// Messages in a page of `list` unless it is asked for another number.
const PAGE_ROWS: u16 = 50;
/// Operations are taken back this many at a time before their messages are purged: as many messages may be left without an
/// operation if the command is cut short, which harms nobody and is mended by running it again.
const WITHDRAWN_AHEAD_MAX: usize = 100;

/// What to do with queues.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The queues with their figures, or the messages of one.
    List(List),
    /// One message: its attempts, what went wrong, and what it is about.
    Show(Show),
    /// Give dead messages another try.
    Redrive(Redrive),
    /// Delete messages for good. A queued write is taken back first, as if it had not been accepted: its document is what it
    /// was before, and its operation failed with the reason `withdrawn`.
    Purge(Purge),
}

/// Where the queues are, and how to print.
#[derive(Debug, clap::Args)]
struct At {
    #[command(flatten)]
    storage: StorageArgs,
    /// Token that the storage service asks for before it redrives or purges, if it has one of its own for that.
    #[arg(long, env = "STORAGE_ADMIN_TOKEN", hide_env_values = true)]
    storage_admin_token: Option<Secret>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct List {
    /// A queue whose messages are listed, by id.
    queue: Option<String>,
    /// Only messages in this state.
    #[arg(long, requires = "queue")]
    state: Option<State>,
    /// Messages in a page, 1 to 1000.
    #[arg(long, default_value_t = PAGE_ROWS, value_parser = clap::value_parser!(u16).range(1..=LIST_ROWS_MAX as i64))]
    limit: u16,
    /// The next page, as the one before names it.
    #[arg(long, requires = "queue")]
    page: Option<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The message.
    id: u64,
    /// Its queue.
    #[arg(long, default_value = WRITE_QUEUE)]
    queue: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
struct Redrive {
    /// Dead messages.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<u64>,
    /// All that are dead.
    #[arg(long)]
    all: bool,
    /// Their queue.
    #[arg(long, default_value = WRITE_QUEUE)]
    queue: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
struct Purge {
    /// Messages, whatever their state.
    #[arg(required_unless_present_any = ["all", "state"], conflicts_with_all = ["all", "state"])]
    ids: Vec<u64>,
    /// All messages of the queue; needs --yes.
    #[arg(long, requires = "yes", conflicts_with = "state")]
    all: bool,
    /// All messages in this state.
    #[arg(long)]
    state: Option<State>,
    /// All messages are meant.
    #[arg(long)]
    yes: bool,
    /// Their queue.
    #[arg(long, default_value = WRITE_QUEUE)]
    queue: String,
    #[command(flatten)]
    at: At,
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum State {
    /// Waits for its time.
    Delayed,
    /// To be delivered next.
    Ready,
    /// Out with a consumer.
    Leased,
    /// Given up.
    Dead,
    /// Behind an earlier message of its ordering key.
    Blocked,
}

const ALL_STATES: [MessageState; 5] = [
    MessageState::Delayed,
    MessageState::Ready,
    MessageState::Leased,
    MessageState::Dead,
    MessageState::Blocked,
];

impl From<State> for MessageState {
    fn from(state: State) -> Self {
        match state {
            State::Delayed => Self::Delayed,
            State::Ready => Self::Ready,
            State::Leased => Self::Leased,
            State::Dead => Self::Dead,
            State::Blocked => Self::Blocked,
        }
    }
}

/// The queues of one storage service.
struct Queues {
    store: FeedStore,
    clock: Clock,
}

/// What purging came to.
#[derive(Debug, Default)]
struct Purged {
    messages: u64,
    /// Operations that were taken back.
    withdrawn: usize,
    /// Messages whose operation could not be taken back, and why.
    kept: Vec<(u64, anyhow::Error)>,
}

/// Does it and prints what came of it.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let (at, changes) = match &args.command {
        Command::List(List { at, .. }) | Command::Show(Show { at, .. }) => (at, false),
        Command::Redrive(Redrive { at, .. }) | Command::Purge(Purge { at, .. }) => (at, true),
    };
    let mut storage = at.storage.clone();
    let token = at
        .storage_admin_token
        .as_ref()
        .filter(|token| changes && !token.is_blank());
    if let Some(token) = token {
        storage.storage_token = Some(token.clone());
    }
    let queues = Queues {
        store: FeedStore::new(storage.connect_lazy()?),
        clock: Clock::system(),
    };
    let done = queues.carry_out(&args.command).await;
    done.with_context(|| format!("storage service at {}", storage.storage_url))
}

impl Queues {
    async fn carry_out(&self, command: &Command) -> anyhow::Result<()> {
        match command {
            Command::List(List { queue: None, at, .. }) => {
                let queues = self.queues().await?;
                print::queues(&queues, at.json)
            }
            Command::List(list) => {
                let queue = list.queue.as_deref().unwrap_or_default();
                let page = self.page(
                    queue,
                    list.state.map(Into::into),
                    list.limit.into(),
                    list.page.as_deref(),
                );
                print::messages(queue, &page.await?, self.clock.now_ms(), list.at.json)
            }
            Command::Show(show) => self.show(show).await,
            Command::Redrive(redrive) => {
                let redriven = self.redrive(redrive).await?;
                print::redriven(&redrive.queue, redriven, redrive.at.json)
            }
            Command::Purge(purge) => {
                let purged = self.purge(purge).await?;
                print::purged(&purge.queue, &purged, purge.at.json)?;
                let kept = purged.kept.len();
                ensure!(
                    kept == 0,
                    "{kept} of the messages were kept, their writes not withdrawn"
                );
                Ok(())
            }
        }
    }

    async fn queues(&self) -> anyhow::Result<Vec<v1::Queue>> {
        let mut queues = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self.store.client().list_queues(v1::ListQueuesRequest {
                page_size: i32::try_from(LIST_ROWS_MAX).unwrap_or(i32::MAX),
                page_token,
            });
            let page = page.await?;
            queues.extend(page.queues);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(queues);
            }
        }
    }

    async fn page(
        &self,
        queue: &str,
        state: Option<MessageState>,
        rows: usize,
        token: Option<&str>,
    ) -> anyhow::Result<v1::ListMessagesResponse> {
        let page = self.store.client().list_messages(v1::ListMessagesRequest {
            queue: queue.to_owned(),
            state: state.unwrap_or_default().into(),
            page_size: i32::try_from(rows).unwrap_or(i32::MAX),
            page_token: token.unwrap_or_default().to_owned(),
            // Those of other queues are not looked into.
            omit_bodies: queue != WRITE_QUEUE,
        });
        match page.await? {
            Some(page) => Ok(page),
            // The feed's queue is made by the first write that waits in it.
            None if queue == WRITE_QUEUE => Ok(v1::ListMessagesResponse::default()),
            None => bail!("there is no queue {queue}"),
        }
    }

    async fn message(&self, queue: &str, id: u64) -> anyhow::Result<v1::Message> {
        let found = self.store.client().get_message(queue, id).await?;
        found.with_context(|| format!("there is no message {id} in queue {queue}"))
    }

    async fn show(&self, show: &Show) -> anyhow::Result<()> {
        let message = self.message(&show.queue, show.id).await?;
        let Some(operation) = operation(&message) else {
            return print::message(&message, None, show.at.json);
        };
        let record = self.store.operation(operation.operation).await?;
        let owned = self.store.owned(operation.operation, &operation.documents).await?;
        let write = print::Write {
            message: &operation,
            record: record.as_ref(),
            owned: &owned,
        };
        print::message(&message, Some(&write), show.at.json)
    }

    async fn redrive(&self, redrive: &Redrive) -> anyhow::Result<u64> {
        let Redrive { queue, ids, .. } = redrive;
        let mut messages = Vec::with_capacity(ids.len());
        for id in ids {
            let message = self.message(queue, *id).await?;
            let state = message.state();
            ensure!(
                state == MessageState::Dead,
                "message {id} is not dead but {}: nothing was redriven",
                print::state(state)
            );
            messages.push(message);
        }
        let mut redriven = 0;
        for messages in messages.chunks(SWEPT_MESSAGES_MAX) {
            redriven += self.redrive_messages(queue, messages).await?;
        }
        if !redrive.all {
            return Ok(redriven);
        }
        let mut token = String::new();
        loop {
            // What dies again meanwhile is behind: each message is given one more try by this.
            let page = self
                .page(queue, Some(MessageState::Dead), SWEPT_MESSAGES_MAX, Some(&token))
                .await?;
            redriven += self.redrive_messages(queue, &page.messages).await?;
            token = page.next_page_token;
            if token.is_empty() {
                return Ok(redriven);
            }
        }
    }

    /// The messages first: the operation of one that is still dead would be recorded as failed again by the next sweep.
    /// One that has ended meanwhile stays as it ended.
    async fn redrive_messages(&self, queue: &str, messages: &[v1::Message]) -> anyhow::Result<u64> {
        if messages.is_empty() {
            return Ok(0);
        }
        let ids = messages.iter().map(|message| message.id).collect();
        let moved = self.store.client().redrive(queue, ids).await?.moved;
        for operation in messages.iter().filter_map(operation) {
            self.store.accept_again(&operation).await?;
        }
        Ok(moved)
    }

    async fn purge(&self, purge: &Purge) -> anyhow::Result<Purged> {
        let Purge { queue, ids, .. } = purge;
        for id in ids {
            self.message(queue, *id).await.context("nothing was purged")?;
        }
        let states = purge.state.map(MessageState::from);
        let states = states.as_ref().map_or(&ALL_STATES[..], std::slice::from_ref);
        let mut ids = if ids.is_empty() {
            self.ids(queue, purge.state.map(Into::into)).await?
        } else {
            ids.clone()
        };
        // The newest first: what was accepted later mostly needs what was accepted before.
        ids.sort_unstable_by(|one, other| other.cmp(one));
        ids.dedup();
        let mut purged = Purged::default();
        loop {
            let before = purged.messages;
            for ids in ids.chunks(WITHDRAWN_AHEAD_MAX) {
                let mut going = Vec::with_capacity(ids.len());
                for id in ids {
                    if self.withdraw(queue, *id, states, &mut purged).await? {
                        going.push(*id);
                    }
                }
                if !going.is_empty() {
                    purged.messages += self.store.client().purge(queue, going, states).await?.deleted;
                }
            }
            // Those that were kept may have needed one that has gone now.
            if purged.kept.is_empty() || purged.messages == before {
                return Ok(purged);
            }
            ids = std::mem::take(&mut purged.kept).into_iter().map(|(id, _)| id).collect();
        }
    }

    /// Takes back what a message stands for; whether the message may go.
    async fn withdraw(
        &self,
        queue: &str,
        id: u64,
        states: &[MessageState],
        purged: &mut Purged,
    ) -> anyhow::Result<bool> {
        if queue != WRITE_QUEUE {
            return Ok(true);
        }
        let Some(message) = self.store.client().get_message(queue, id).await? else {
            return Ok(false);
        };
        if !states.contains(&message.state()) {
            return Ok(false);
        }
        let Some(operation) = operation(&message) else {
            return Ok(true);
        };
        match self.store.withdraw(&operation, self.clock.now_ms()).await {
            Ok(documents) => {
                purged.withdrawn += usize::from(documents > 0);
                Ok(true)
            }
            Err(WithdrawError::Store(error @ FeedStoreError::Storage(_))) => bail!(error),
            Err(why) => {
                purged.kept.push((id, why.into()));
                Ok(false)
            }
        }
    }

    /// The messages in a state, at most as many as the queue holds when it is asked: in a queue that is filled faster
    /// than it is read there would be no end of them. Those that come meanwhile are behind all that were there.
    async fn ids(&self, queue: &str, state: Option<MessageState>) -> anyhow::Result<Vec<u64>> {
        let v1::QueueStats {
            ready,
            delayed,
            leased,
            dead,
            blocked,
            ..
        } = self.store.client().queue_stats(queue).await?.unwrap_or_default();
        let count = ready + delayed + leased + dead + blocked;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut ids = Vec::new();
        let mut token = String::new();
        loop {
            let page = self.page(queue, state, LIST_ROWS_MAX, Some(&token)).await?;
            ids.extend(page.messages.iter().map(|message| message.id));
            token = page.next_page_token;
            if token.is_empty() || ids.len() >= count {
                ids.truncate(count);
                return Ok(ids);
            }
        }
    }
}

/// What a message of the write queue says; none for any other.
fn operation(message: &v1::Message) -> Option<OperationMessage> {
    let text = message.text().filter(|_| message.queue == WRITE_QUEUE)?;
    OperationMessage::parse(text).ok()
}
