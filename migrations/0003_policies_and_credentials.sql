-- Policies, notices and credentials
-- why: what decides a check is versioned and immutable; each change is a ledger entry in the same transaction
-- lock: none on existing tables
-- reversible: no
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE policy_version (
  workspace_id uuid NOT NULL, version int NOT NULL CHECK (version >= 1), hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  document bytea NOT NULL,                         -- the canonical JSON that was hashed
  source text NOT NULL,                            -- the YAML as its author wrote it
  published_at timestamptz NOT NULL, entry_id uuid NOT NULL,
  PRIMARY KEY (workspace_id, version), CHECK (hash = sha256(document))
);
CREATE TABLE notice_version (
  workspace_id uuid NOT NULL, notice text COLLATE "C" NOT NULL, version int NOT NULL, change text NOT NULL, hash bytea NOT NULL,
  policy_version int NOT NULL, published_at timestamptz NOT NULL,
  PRIMARY KEY (workspace_id, notice, version)
);
CREATE TABLE credential (
  workspace_id uuid NOT NULL, credential_id uuid NOT NULL, component text COLLATE "C" NOT NULL, scopes text[] NOT NULL,
  purposes text[], actions text[],                 -- NULL: all
  mac bytea NOT NULL UNIQUE CHECK (octet_length(mac) = 32),
  issued_at timestamptz NOT NULL, expires_at timestamptz, revoked_at timestamptz,
  PRIMARY KEY (workspace_id, credential_id)
);
-- Published policies and notices never change; of a credential nothing but its revocation, once.
CREATE FUNCTION only_revocation() RETURNS trigger LANGUAGE plpgsql SET search_path = volenti, pg_temp AS $$
BEGIN
  IF TG_OP = 'UPDATE' THEN
    IF OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL AND (to_jsonb(NEW) - 'revoked_at') = (to_jsonb(OLD) - 'revoked_at') THEN
      RETURN NEW;
    END IF;
  END IF;
  RAISE 'of a credential nothing changes but its revocation' USING ERRCODE = '42501';
END $$;
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['policy_version', 'notice_version', 'credential'] LOOP
    EXECUTE format('CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION %I()', t,
                   CASE t WHEN 'credential' THEN 'only_revocation' ELSE 'refuse_change' END);
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER immutable', t);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER no_truncate', t);
  END LOOP;
END $$;
