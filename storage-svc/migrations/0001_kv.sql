-- The one row of facts about the store itself.
create table store (
  id integer primary key check (id = 0),
  -- Of the last commit that changed a key.
  revision integer not null,
  -- Random, drawn when the store is created: 16 bytes.
  store_id blob not null,
  -- Signs receipts, so that a forged one is told from a stale one.
  secret blob not null,
  -- The latest time ever written, so that time does not run backwards over a restart.
  clock_ms integer not null
) strict;

insert into store (id, revision, store_id, secret, clock_ms) values (0, 0, randomblob(16), randomblob(32), 0);

create table namespace (
  id integer primary key,
  name text not null unique
) strict;

-- Narrow, so that millions of keys are scanned a second: larger values live in `value`.
create table entry (
  namespace_id integer not null,
  key blob not null,
  revision integer not null,
  create_revision integer not null,
  version integer not null,
  update_ms integer not null,
  expire_ms integer,
  metadata blob,
  -- 0: bytes, 1: text.
  kind integer not null,
  inline_value blob,
  value_id integer,
  primary key (namespace_id, key),
  check ((inline_value is null) <> (value_id is null))
) strict, without rowid;

create index entry_expiry on entry (expire_ms) where expire_ms is not null;

-- A value belongs to one entry. Its id is never used again.
create table value (
  id integer primary key autoincrement,
  content blob not null
) strict;

-- What effective commits were answered, by the caller's request id.
create table request (
  id text primary key,
  digest blob not null,
  outcome blob not null,
  expire_ms integer not null
) strict, without rowid;

create index request_expiry on request (expire_ms);
