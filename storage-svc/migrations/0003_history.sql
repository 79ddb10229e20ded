-- What watches tell: each change of a key, by revision, for a span. A value is written once, in `value` or inline; a
-- larger one outlives its entry for as long as a change names it.
create table change (
  id integer primary key autoincrement,
  revision integer not null,
  namespace_id integer not null,
  key blob not null,
  -- 1: put, 2: delete, 3: expire; as WatchEvent.Kind on the wire.
  event integer not null,
  -- When it was committed.
  time_ms integer not null,
  -- Key, value and metadata: what the span is counted in.
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

create index change_revision on change (revision, id);

-- The lowest revision that a watch can begin after: changes up to it may have been forgotten.
alter table store add column history_revision integer not null default 0;

-- Nothing is known of what was changed before this migration.
update store set history_revision = revision;
