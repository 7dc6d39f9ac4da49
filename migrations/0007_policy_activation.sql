-- When a version of the policy is in force
-- why: publishing makes a version; that it is in force from an instant on is a fact of its own, so that a version can wait for its day and an older one can come back
-- lock: ACCESS EXCLUSIVE on policy_version, for one pass over it: its owner reads the rows of all workspaces once
-- reversible: no
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';

-- In force at an instant is the version of the largest (active_from, number) whose active_from is not after it.
CREATE TABLE policy_activation (
  workspace_id uuid NOT NULL,
  number int NOT NULL CHECK (number >= 1),         -- the order of the entries; the later one of the same instant counts
  version int NOT NULL, active_from timestamptz NOT NULL, recorded_at timestamptz NOT NULL,
  entry_id uuid NOT NULL,                          -- policy.published or policy.activated
  PRIMARY KEY (workspace_id, number)
);
CREATE UNIQUE INDEX policy_activation_in_force ON policy_activation (workspace_id, active_from, number) INCLUDE (version);

-- Versions of before were in force as soon as they were published.
ALTER TABLE policy_version NO FORCE ROW LEVEL SECURITY;
INSERT INTO policy_activation SELECT workspace_id, version, version, published_at, published_at, entry_id FROM policy_version;
ALTER TABLE policy_version FORCE ROW LEVEL SECURITY;

CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON policy_activation FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON policy_activation FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE policy_activation ENABLE ALWAYS TRIGGER immutable;
ALTER TABLE policy_activation ENABLE ALWAYS TRIGGER no_truncate;
ALTER TABLE policy_activation ENABLE ROW LEVEL SECURITY;
ALTER TABLE policy_activation FORCE ROW LEVEL SECURITY;
CREATE POLICY workspace ON policy_activation USING (workspace_id = volenti.current_workspace());
GRANT SELECT ON policy_activation TO volenti_app, volenti_admin, volenti_audit;
GRANT INSERT ON policy_activation TO volenti_admin;

-- As in 0005, with the version that is in force now, the activation that says so, and when the next one comes.
-- The time is read once, so that the version and the end of its time fit each other. New columns stand last: code of before reads by position.
-- squawk-ignore ban-drop-function
DROP FUNCTION find_states(uuid, bytea[]);
CREATE FUNCTION find_states(p_ws uuid, p_indexes bytea[])
RETURNS TABLE (log_id int, log_state text, head_size bigint, epoch int, policy_version int, at timestamptz, origin text,
               blind_index bytea, holder uuid, wrapped_key bytea, revision bigint, last_entry_id uuid, sealed bytea,
               policy_activation int, policy_until timestamptz)
LANGUAGE plpgsql VOLATILE SET search_path = volenti, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off AS $$
#variable_conflict use_column
DECLARE ts timestamptz;
BEGIN
  PERFORM set_config('app.workspace', p_ws::text, true);
  ts := volenti.now();
  RETURN QUERY
    SELECT l.log_id, l.state, h.size, d.epoch, f.version, ts, l.origin,
           q.blind_index, i.holder, k.wrapped_key, s.revision, s.last_entry_id, s.sealed, f.number,
           (SELECT a.active_from FROM policy_activation a WHERE a.workspace_id = p_ws AND a.active_from > ts ORDER BY a.active_from LIMIT 1)
    FROM (SELECT * FROM ledger_log g WHERE g.workspace_id = p_ws ORDER BY g.log_id DESC LIMIT 1) l
    JOIN ledger_head h ON h.workspace_id = p_ws AND h.log_id = l.log_id
    CROSS JOIN deployment d
    LEFT JOIN LATERAL (SELECT a.version, a.number FROM policy_activation a WHERE a.workspace_id = p_ws AND a.active_from <= ts
                       ORDER BY a.active_from DESC, a.number DESC LIMIT 1) f ON true
    LEFT JOIN unnest(p_indexes) WITH ORDINALITY q(blind_index, o) ON true
    LEFT JOIN data_subject_identifier i ON i.workspace_id = p_ws AND i.blind_index = q.blind_index
    LEFT JOIN data_subject k ON k.workspace_id = p_ws AND k.holder = i.holder
    LEFT JOIN data_subject_state s ON s.workspace_id = p_ws AND s.holder = i.holder
    ORDER BY q.o;
END $$;
REVOKE EXECUTE ON FUNCTION find_states(uuid, bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_states(uuid, bytea[]) TO volenti_app;
