-- A queue, its settings and its exact figures. The figures change in the transaction that moves a message.
create table queue (
  id integer primary key,
  name text not null unique,
  lease_ms integer not null default 30000,
  attempts_max integer not null default 10,
  backoff_min_ms integer not null default 1000,
  backoff_max_ms integer not null default 600000,
  backoff_jitter_percent integer not null default 20,
  delayed integer not null default 0,
  ready integer not null default 0,
  leased integer not null default 0,
  dead integer not null default 0
) strict;

-- Narrow, because every change of state rewrites the row; the body is apart. Ids rise and are never used again:
-- receipts rely on it.
create table message (
  id integer primary key autoincrement,
  queue_id integer not null,
  -- 1: delayed, 2: ready, 3: leased, 4: dead; as MessageState on the wire.
  state integer not null,
  -- Delayed: when it is to be ready. Leased: when the lease ends. Otherwise without meaning.
  due_ms integer not null,
  -- Of the last lease; a receipt of an earlier one changes nothing.
  epoch integer not null default 0,
  attempt integer not null default 0,
  enqueue_ms integer not null,
  last_error text,
  dead_reason text
) strict;

create index message_delayed on message (due_ms) where state = 1;
create index message_ready on message (queue_id, id) where state = 2;
create index message_leased on message (due_ms) where state = 3;
create index message_dead on message (queue_id, id) where state = 4;

create table message_body (
  id integer primary key,
  -- 0: bytes, 1: text.
  kind integer not null,
  attributes blob,
  body blob not null
) strict;
