-- 1 in a copy made by Backup: the first to open it draws a new store id and a new secret, for it may have gone back in
-- time.
alter table store add column is_copy integer not null default 0;
