-- Settings and figures that a queue has got, and what a message can ask for.
alter table queue add column dedup_window_ms integer not null default 600000;
-- 0: for ever.
alter table queue add column dead_retention_ms integer not null default 1209600000;
alter table queue add column depth_max integer not null default 1000000;
alter table queue add column paused integer not null default 0;
-- 0: made before this was kept.
alter table queue add column create_ms integer not null default 0;
alter table queue add column blocked integer not null default 0;

-- State 5: blocked, behind an earlier message of its ordering key; as MessageState on the wire.
alter table message add column ordering_key text;
alter table message add column dedup_id text;
alter table message add column redrives integer not null default 0;
-- Of a dead message: since when.
alter table message add column dead_ms integer;

-- Those that died before this was kept are taken to have been the youngest they can be.
update message set dead_ms = (select clock_ms from store) where state = 4;

-- Who is next of an ordering key, and whether somebody is out.
create index message_key on message (queue_id, ordering_key, id) where ordering_key is not null and state <> 4;
-- Lists of every state, whole queues.
create index message_queue on message (queue_id, id);
create index message_dead_age on message (queue_id, dead_ms) where state = 4;

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
