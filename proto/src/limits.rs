//! Sizes, counts and times that both ends of the contract enforce; `GetServerInfo` answers them.

use std::time::Duration;

/// Longest namespace name, in characters of `[a-z0-9_.-]`.
pub const NAMESPACE_CHARS_MAX: usize = 64;
/// Most namespaces in a store.
pub const NAMESPACES_MAX: usize = 1_000;
/// Longest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 512;
/// Largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest metadata of an entry, keys and values added up, in bytes.
pub const METADATA_BYTES_MAX: usize = 1024;
/// Longest time to live of an entry.
pub const TTL_MAX: Duration = Duration::from_hours(10 * 366 * 24);
/// Longest `request_id`, in characters.
pub const REQUEST_ID_CHARS_MAX: usize = 128;
/// How long an effective commit is remembered by its `request_id`.
pub const REQUEST_ID_KEPT: Duration = Duration::from_mins(10);

/// Most mutations in a commit.
pub const COMMIT_MUTATIONS_MAX: usize = 20_000;
/// Largest commit: keys, values, metadata and message bodies added up, in bytes.
pub const COMMIT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most checks in a commit.
pub const COMMIT_CHECKS_MAX: usize = 1_024;
/// Most keys of a prefix that a check may be about.
pub const PREFIX_CHECK_KEYS_MAX: usize = 10_000;
/// Most messages enqueued by a commit or an `Enqueue`.
pub const COMMIT_ENQUEUES_MAX: usize = 100;
/// Most settlements in a commit or a `Settle`.
pub const COMMIT_SETTLEMENTS_MAX: usize = 100;

/// Most keys in a `BatchGet`.
pub const BATCH_GET_KEYS_MAX: usize = 2_048;
/// A `BatchGet` answer ends after the item that reaches this many bytes.
pub const BATCH_GET_BYTES: usize = 16 * 1024 * 1024;
/// Rows in a page of `Scan` when none are asked for.
pub const SCAN_ROWS_DEFAULT: usize = 100;
/// Most rows in a page of `Scan`.
pub const SCAN_ROWS_MAX: usize = 1_000;
/// A page of `Scan` ends after the row that reaches this many bytes.
pub const SCAN_BYTES: usize = 1024 * 1024;

/// Most `ScanStream` calls at once.
pub const SCAN_STREAMS_MAX: usize = 8;
/// Longest age of a `ScanStream`'s snapshot.
pub const SNAPSHOT_AGE_MAX: Duration = Duration::from_mins(1);
/// Most watches at once.
pub const WATCHES_MAX: usize = 256;
/// Most selectors of a `Watch`.
pub const WATCH_SELECTORS_MAX: usize = 16;
/// A batch of a `Watch` is cut after the event that reaches this many bytes.
pub const WATCH_BATCH_BYTES: usize = 1024 * 1024;
/// Shortest and longest silence before a progress mark of a `Watch`, and the usual one.
pub const WATCH_PROGRESS_MIN: Duration = Duration::from_millis(100);
/// See [`WATCH_PROGRESS_MIN`].
pub const WATCH_PROGRESS_MAX: Duration = Duration::from_mins(10);
/// See [`WATCH_PROGRESS_MIN`].
pub const WATCH_PROGRESS_DEFAULT: Duration = Duration::from_secs(10);
/// A client of a `Watch` that takes nothing for so long is cut off.
pub const WATCH_STALL_MAX: Duration = Duration::from_secs(10);

/// Longest queue name, in characters of `[a-z0-9._-]`.
pub const QUEUE_NAME_CHARS_MAX: usize = 64;
/// Most queues in a store.
pub const QUEUES_MAX: usize = 1_000;
/// Largest message body, in bytes.
pub const MESSAGE_BODY_BYTES_MAX: usize = 256 * 1024;
/// Largest attributes of a message, keys and values added up, in bytes.
pub const MESSAGE_ATTRIBUTES_BYTES_MAX: usize = 1024;
/// Longest ordering key, in bytes.
pub const ORDERING_KEY_BYTES_MAX: usize = 128;
/// Longest dedup id, in bytes.
pub const DEDUP_ID_BYTES_MAX: usize = 128;
/// Longest dedup window of a queue.
pub const DEDUP_WINDOW_MAX: Duration = Duration::from_hours(7 * 24);
/// Longest time that a queue keeps its dead messages, unless it keeps them for ever.
pub const DEAD_RETENTION_MAX: Duration = Duration::from_hours(366 * 24);
/// Most that a queue can spread its back-offs, in per cent.
pub const BACKOFF_JITTER_PERCENT_MAX: u32 = 100;
/// Most attempts that a queue can give its messages.
pub const QUEUE_ATTEMPTS_MAX: u32 = 1_000;
/// Most messages that a queue can be set to hold.
pub const QUEUE_DEPTH_MAX: u64 = 10_000_000;
/// Attempts that failed, kept of a message.
pub const FAILURES_KEPT: usize = 20;
/// Most ids in a `Redrive` or `Purge`, and most messages that one call moves or deletes.
pub const SWEPT_MESSAGES_MAX: usize = 1_000;
/// Most messages that a forced `DeleteQueue` deletes.
pub const DELETE_QUEUE_MESSAGES_MAX: u64 = 10_000;
/// Rows in a page of `ListQueues` and `ListMessages` when none are asked for.
pub const LIST_ROWS_DEFAULT: usize = 100;
/// Most rows in such a page.
pub const LIST_ROWS_MAX: usize = 1_000;
/// A page of `ListMessages` ends after the message that reaches this many bytes.
pub const LIST_BYTES: usize = 1024 * 1024;
/// Largest window of a `Consume`, in messages.
pub const WINDOW_MESSAGES_MAX: usize = 1_000;
/// Largest window of a `Consume`, in bytes of bodies.
pub const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most `Consume` streams at once.
pub const CONSUMERS_MAX: usize = 512;
/// A `Consume` says something at least so often.
pub const CONSUME_HEARTBEAT: Duration = Duration::from_secs(10);
/// A client of a `Consume` that takes nothing of what is there for it for so long is cut off.
pub const CONSUME_STALL_MAX: Duration = Duration::from_secs(10);
/// A `Consume` whose client let a lease run out is given nothing until the client is heard of, but no longer than this: one
/// that is slow and holds nothing has nothing to say. Longer than the probes of an idle connection take to find out that
/// its peer is frozen (30 s and 10 s), so that such a client is cut off first and is never given the same messages again.
pub const CONSUME_DOUBT_MAX: Duration = Duration::from_secs(45);
/// Most requests to settle that a `Consume` takes before it has answered the first of them; more wait at the client.
pub const CONSUME_SETTLES_AHEAD_MAX: usize = 16;
/// Longest delay of a new message.
pub const MESSAGE_DELAY_MAX: Duration = Duration::from_hours(30 * 24);
/// Most messages in a `Receive`.
pub const RECEIVE_MESSAGES_MAX: usize = 100;
/// An answer of `Receive` ends after the message that reaches this many bytes of bodies.
pub const RECEIVE_BYTES: usize = 3 * 1024 * 1024;
/// Longest wait of a `Receive`.
pub const RECEIVE_WAIT_MAX: Duration = Duration::from_secs(30);
/// Shortest lease.
pub const LEASE_MIN: Duration = Duration::from_millis(100);
/// Longest lease, and longest delay of a nack.
pub const LEASE_MAX: Duration = Duration::from_hours(12);
/// Kept of a nack's error or a burial's reason, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// Longest span that watch history can be kept for.
pub const HISTORY_SPAN_MAX: Duration = Duration::from_hours(30 * 24);
/// Largest chunk of a `Backup`, in bytes.
pub const BACKUP_CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Most problems that an `IntegrityCheck` tells; it ends at the last of them.
pub const CHECK_PROBLEMS_MAX: usize = 100;
/// A client of a `Backup` or an `IntegrityCheck` that takes nothing for so long is cut off.
pub const ERRAND_STALL_MAX: Duration = Duration::from_mins(1);

/// Most that answers to calls may take in memory together while their clients take them, in bytes; answers of less than
/// [`ANSWER_FREE_BYTES`] do not count.
pub const ANSWERS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// See [`ANSWERS_BYTES_MAX`].
pub const ANSWER_FREE_BYTES: usize = 64 * 1024;
/// Most that deliveries of `Consume` streams may take in memory together while their clients take them, in bytes; those of
/// less than [`ANSWER_FREE_BYTES`] do not count.
pub const DELIVERIES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most that the pages of watches may take in memory together while their clients take them, in bytes. The last 128 KiB of
/// each, which its connection holds, do not count.
pub const WATCH_PAGES_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Largest gRPC message that both ends accept: a full commit or a full value with its envelope.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 36 * 1024 * 1024;
