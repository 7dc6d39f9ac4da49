-- People: keys, identifiers, sealed payloads and states
-- why: everything that erasure destroys lies apart from the ledger, sealed under the holder's own key
-- lock: none on existing tables
-- reversible: no
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE data_subject (                        -- a holder: a person, or an address
  workspace_id uuid NOT NULL, holder uuid NOT NULL, wrapped_key bytea NOT NULL, PRIMARY KEY (workspace_id, holder)
);
CREATE TABLE data_subject_identifier (
  workspace_id uuid NOT NULL, blind_index bytea NOT NULL, holder uuid NOT NULL,
  sealed bytea,                                    -- NULL: recreated from the journal, value not known yet
  PRIMARY KEY (workspace_id, blind_index)
);
CREATE TABLE suppression (                         -- an address's holder; NULL: the stub of an erased person
  workspace_id uuid NOT NULL, mac bytea NOT NULL, holder uuid, PRIMARY KEY (workspace_id, mac)
);
CREATE TABLE entry_payload (
  workspace_id uuid NOT NULL, log_id int NOT NULL, idx bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY (workspace_id, log_id, idx)
);
CREATE TABLE data_subject_entry (                  -- which entries are whose
  workspace_id uuid NOT NULL, holder uuid NOT NULL, log_id int NOT NULL, idx bigint NOT NULL, PRIMARY KEY (workspace_id, holder, log_id, idx)
);
CREATE TABLE data_subject_state (                  -- the fold of a holder's entries, sealed under the holder's key
  workspace_id uuid NOT NULL, holder uuid NOT NULL, revision bigint NOT NULL, last_entry_id uuid NOT NULL, sealed bytea NOT NULL,
  PRIMARY KEY (workspace_id, holder)
) WITH (fillfactor = 70);
CREATE TABLE idempotency (                         -- key and fingerprint are HMACs, the answer is sealed
  workspace_id uuid NOT NULL, credential_id uuid NOT NULL, key bytea NOT NULL, fingerprint bytea NOT NULL,
  first_index bigint NOT NULL, entry_count int NOT NULL, answer bytea NOT NULL, created_at timestamptz NOT NULL,
  PRIMARY KEY (workspace_id, credential_id, key)
);
