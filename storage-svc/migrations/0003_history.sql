-- What watches tell: each change of a key, by revision, for a span. A value is written once, in `value` or inline; a
-- larger one outlives its entry for as long as a change names it.
create table change (
  -- The revision, shifted left by 15 bits, and the number of the change within it: the rows lie in the order they are
  -- told in, and a put costs one append.
  id integer primary key,
  revision integer not null generated always as (id >> 15) virtual,
  namespace_id integer not null,
  key blob not null,
  -- 1: put, 2: delete, 3: expire; as WatchEvent.Kind on the wire.
  event integer not null,
  -- When it was committed.
  time_ms integer not null,
  -- Key, value, metadata and the row itself: what the span is counted in.
  bytes integer not null,
  -- Of a put, as in `entry`.
  create_revision integer,
  version integer,
  expire_ms integer,
  metadata blob,
  kind integer,
  inline_value blob,
  value_id integer
) strict;

-- The lowest revision that a watch can begin after: changes up to it are not told any more, whether or not their rows
-- are gone.
alter table store add column history_revision integer not null default 0;
-- Of the rows in `change`: how many, and their bytes added up.
alter table store add column history_changes integer not null default 0;
alter table store add column history_bytes integer not null default 0;

-- Nothing is known of what was changed before this migration.
update store set history_revision = revision;
