-- pgbench: the writes of two appends, each in a transaction of its own that holds the head's lock: a new person with one
-- identifier, then a known person. No dedupe, no tree, no row-level security: whatever is left out favours this side.
BEGIN;
SELECT size AS ix, gen_random_uuid() AS holder, gen_random_uuid() AS entry FROM ledger_head WHERE workspace_id = '$workspace' AND log_id = 1 FOR UPDATE \gset
INSERT INTO ledger_entry VALUES ('$workspace', 1, :ix, :entry::uuid, '\x$leaf_hash', '\x$leaf', clock_timestamp());
INSERT INTO entry_payload VALUES ('$workspace', 1, :ix, '\x$body');
INSERT INTO data_subject_entry VALUES ('$workspace', :holder::uuid, 1, :ix);
INSERT INTO ledger_change VALUES ('$workspace', 1, :ix, :holder::uuid);
INSERT INTO data_subject VALUES ('$workspace', :holder::uuid, '\x$wrapped_key');
INSERT INTO data_subject_identifier VALUES ('$workspace', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), :holder::uuid, '\x$identifier');
INSERT INTO data_subject_state VALUES ('$workspace', :holder::uuid, :ix + 1, :entry::uuid, '\x$state');
INSERT INTO idempotency VALUES ('$workspace', '$workspace', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), '\x$leaf_hash', :ix, 1, '\x$answer', clock_timestamp());
UPDATE ledger_head SET size = :ix + 1, root = '\x$leaf_hash', frontier = ARRAY['\x$leaf_hash'::bytea], updated_at = clock_timestamp() WHERE workspace_id = '$workspace' AND log_id = 1;
COMMIT;
BEGIN;
SELECT size AS ix, gen_random_uuid() AS entry FROM ledger_head WHERE workspace_id = '$workspace' AND log_id = 1 FOR UPDATE \gset
INSERT INTO ledger_entry VALUES ('$workspace', 1, :ix, :entry::uuid, '\x$leaf_hash', '\x$leaf', clock_timestamp());
INSERT INTO entry_payload VALUES ('$workspace', 1, :ix, '\x$body');
INSERT INTO data_subject_entry VALUES ('$workspace', :holder::uuid, 1, :ix);
INSERT INTO ledger_change VALUES ('$workspace', 1, :ix, :holder::uuid);
UPDATE data_subject_state SET revision = :ix + 1, last_entry_id = :entry::uuid, sealed = '\x$state' WHERE workspace_id = '$workspace' AND holder = :holder::uuid;
INSERT INTO idempotency VALUES ('$workspace', '$workspace', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), '\x$leaf_hash', :ix, 1, '\x$answer', clock_timestamp());
UPDATE ledger_head SET size = :ix + 1, root = '\x$leaf_hash', frontier = ARRAY['\x$leaf_hash'::bytea], updated_at = clock_timestamp() WHERE workspace_id = '$workspace' AND log_id = 1;
COMMIT;
