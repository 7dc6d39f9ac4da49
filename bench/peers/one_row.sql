-- pgbench: one row, one commit, into a table that equals ledger_entry. Nothing is locked.
INSERT INTO one_row VALUES ('$workspace', 1, nextval('one_row_idx'), gen_random_uuid(), '\x$leaf_hash', '\x$leaf', clock_timestamp());
