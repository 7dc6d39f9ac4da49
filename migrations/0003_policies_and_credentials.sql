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
CREATE FUNCTION only_revocation() RETURNS trigger LANGUAGE plpgsql SET search_path = volenti, pg_temp AS $$
BEGIN
  IF TG_TABLE_NAME = 'credential' AND TG_OP = 'UPDATE' AND OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL
     AND (to_jsonb(NEW) - 'revoked_at') = (to_jsonb(OLD) - 'revoked_at') THEN
    RETURN NEW;
  END IF;
  RAISE '% is immutable', TG_TABLE_NAME USING ERRCODE = '42501';
END $$;
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON credential FOR EACH ROW EXECUTE FUNCTION only_revocation();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON policy_version FOR EACH ROW EXECUTE FUNCTION only_revocation();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON notice_version FOR EACH ROW EXECUTE FUNCTION only_revocation();
