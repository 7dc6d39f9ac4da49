-- Workspaces and their ledgers
-- why: one append-only Merkle log a workspace; the locked head row is the only source of an index
-- lock: none on existing tables
-- reversible: no
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE deployment (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  key_fingerprint bytea NOT NULL CHECK (octet_length(key_fingerprint) = 32),
  epoch int NOT NULL CHECK (epoch >= 1),           -- rises with each recovery
  test_clock timestamptz                           -- NULL except under `volenti serve --test-clock`
);
-- The only place where SQL reads the time.
CREATE FUNCTION volenti.now() RETURNS timestamptz LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = volenti, pg_temp
  AS 'SELECT coalesce((SELECT test_clock FROM deployment), clock_timestamp())';
-- Which workspace the present transaction is for; after a transaction-local setting ends the value is '', not NULL.
CREATE FUNCTION volenti.current_workspace() RETURNS uuid LANGUAGE sql STABLE SET search_path = volenti, pg_temp
  AS $$SELECT NULLIF(current_setting('app.workspace', true), '')::uuid$$;

CREATE TABLE workspace (
  workspace_id uuid PRIMARY KEY,
  name text COLLATE "C" UNIQUE NOT NULL CHECK (name ~ '^[a-z0-9-]{1,40}$'),
  wrapped_key bytea NOT NULL,                      -- its key wraps the holders' keys and seals what is nobody's
  settings jsonb NOT NULL
);
CREATE TABLE ledger_log (
  workspace_id uuid NOT NULL, log_id int NOT NULL, origin text COLLATE "C" UNIQUE NOT NULL, created_at timestamptz NOT NULL,
  state text NOT NULL CHECK (state IN ('active', 'frozen', 'sealed')),
  PRIMARY KEY (workspace_id, log_id)
);
CREATE TABLE ledger_head (
  workspace_id uuid NOT NULL, log_id int NOT NULL, size bigint NOT NULL CHECK (size >= 0),
  root bytea NOT NULL CHECK (octet_length(root) = 32), frontier bytea[] NOT NULL, updated_at timestamptz NOT NULL,
  PRIMARY KEY (workspace_id, log_id)
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);   -- one hot row a log: HOT updates
CREATE TABLE ledger_entry (
  workspace_id uuid NOT NULL, log_id int NOT NULL, idx bigint NOT NULL, entry_id uuid NOT NULL,
  leaf_hash bytea NOT NULL, leaf bytea NOT NULL CHECK (octet_length(leaf) BETWEEN 1 AND 16384),
  inserted_at timestamptz NOT NULL,                -- not signed; no proof, export or answer relies on it
  PRIMARY KEY (workspace_id, log_id, idx), UNIQUE (workspace_id, log_id, entry_id),
  CHECK (leaf_hash = sha256('\x00'::bytea || leaf))
);
CREATE TABLE ledger_tile (
  workspace_id uuid NOT NULL, log_id int NOT NULL, level smallint NOT NULL, idx bigint NOT NULL,
  root bytea NOT NULL CHECK (octet_length(root) = 32), hashes bytea NOT NULL CHECK (octet_length(hashes) = 8192),
  PRIMARY KEY (workspace_id, log_id, level, idx)
);
ALTER TABLE ledger_tile ALTER hashes SET STORAGE EXTERNAL;
CREATE TABLE ledger_checkpoint (
  workspace_id uuid NOT NULL, log_id int NOT NULL, size bigint NOT NULL, root bytea NOT NULL, note text NOT NULL,
  signed_at timestamptz NOT NULL, PRIMARY KEY (workspace_id, log_id, size)
);
CREATE TABLE ledger_change (                       -- the change feed: whose state an entry changed; NULL: the workspace itself
  workspace_id uuid NOT NULL, log_id int NOT NULL, idx bigint NOT NULL, holder uuid, PRIMARY KEY (workspace_id, log_id, idx)
);

-- Append-only, also against the owner and (until triggers are dropped) a superuser.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = volenti, pg_temp AS $$
BEGIN RAISE '% only takes new rows: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = '42501'; END $$;
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['ledger_entry', 'ledger_tile', 'ledger_checkpoint'] LOOP
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t);
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER append_only', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER no_truncate', t);
  END LOOP;
END $$;
CREATE FUNCTION head_only_grows() RETURNS trigger LANGUAGE plpgsql SET search_path = volenti, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' OR (NEW.workspace_id, NEW.log_id) <> (OLD.workspace_id, OLD.log_id) OR NEW.size < OLD.size OR (NEW.size = OLD.size AND NEW.root <> OLD.root) THEN
    RAISE 'a tree head only grows' USING ERRCODE = '42501';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER only_grows BEFORE UPDATE OR DELETE ON ledger_head FOR EACH ROW EXECUTE FUNCTION head_only_grows();
ALTER TABLE ledger_head ENABLE ALWAYS TRIGGER only_grows;
CREATE FUNCTION log_state_moves() RETURNS trigger LANGUAGE plpgsql SET search_path = volenti, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' OR (NEW.workspace_id, NEW.log_id, NEW.origin, NEW.created_at) IS DISTINCT FROM (OLD.workspace_id, OLD.log_id, OLD.origin, OLD.created_at)
     OR (OLD.state, NEW.state) NOT IN (('active', 'frozen'), ('frozen', 'active'), ('frozen', 'sealed')) THEN
    RAISE 'a log goes from active to frozen to active or sealed; nothing else of it changes' USING ERRCODE = '42501';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER state_moves BEFORE UPDATE OR DELETE ON ledger_log FOR EACH ROW EXECUTE FUNCTION log_state_moves();
ALTER TABLE ledger_log ENABLE ALWAYS TRIGGER state_moves;
