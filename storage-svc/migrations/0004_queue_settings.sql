-- Settings and figures that a queue has got. The table is made anew because ids of queues are never used again either:
-- whoever waits at a queue that is deleted must not be served by the next one.
create table queue_next (
  id integer primary key autoincrement,
  name text not null unique,
  lease_ms integer not null default 30000,
  attempts_max integer not null default 10,
  backoff_min_ms integer not null default 1000,
  backoff_max_ms integer not null default 600000,
  backoff_jitter_percent integer not null default 20,
  dedup_window_ms integer not null default 600000,
  -- 0: for ever.
  dead_retention_ms integer not null default 1209600000,
  depth_max integer not null default 1000000,
  paused integer not null default 0,
  -- 0: made before this was kept.
  create_ms integer not null default 0,
  delayed integer not null default 0,
  ready integer not null default 0,
  leased integer not null default 0,
  dead integer not null default 0,
  blocked integer not null default 0
) strict;

insert into queue_next (id, name, lease_ms, attempts_max, backoff_min_ms, backoff_max_ms, backoff_jitter_percent,
    delayed, ready, leased, dead)
  select id, name, lease_ms, attempts_max, backoff_min_ms, backoff_max_ms, backoff_jitter_percent,
    delayed, ready, leased, dead
  from queue;

drop table queue;
alter table queue_next rename to queue;

-- Queues whose dead messages go one day.
create index queue_forgets on queue (id) where dead > 0 and dead_retention_ms > 0;

-- State 5: blocked, behind an earlier message of its ordering key; as MessageState on the wire. The due_ms of a blocked
-- message is when it may be ready; that of a ready one is in the past, so that it can be blocked again.
alter table message add column ordering_key text;
alter table message add column redrives integer not null default 0;
-- Of a dead message: since when.
alter table message add column dead_ms integer;

-- Those that died before this was kept are taken to have been the youngest they can be.
update message set dead_ms = (select clock_ms from store) where state = 4;

-- Claims and lists of every state; the two that it makes superfluous.
create index message_state on message (queue_id, state, id);
drop index message_ready;
drop index message_dead;
-- Of one ordering key at most one message is delayed, ready or leased.
create unique index message_unblocked on message (queue_id, ordering_key)
  where ordering_key is not null and state < 4;
-- Who is next of an ordering key.
create index message_blocked on message (queue_id, ordering_key, id) where state = 5;
create index message_dead_age on message (queue_id, dead_ms) where state = 4;

-- With the body, because it never changes.
alter table message_body add column dedup_id text;

-- What went wrong with a message: its last attempts that failed.
create table failure (
  message_id integer not null,
  -- Rising within the message.
  number integer not null,
  attempt integer not null,
  time_ms integer not null,
  error text not null,
  primary key (message_id, number)
) strict, without rowid;

-- Ids of messages that must not be sent twice within the queue's window.
create table dedup (
  queue_id integer not null,
  dedup_id text not null,
  message_id integer not null,
  expire_ms integer not null,
  primary key (queue_id, dedup_id)
) strict, without rowid;

create index dedup_expiry on dedup (expire_ms);
