-- Reads that must be one round trip, or see across workspaces
-- why: a check reads state, policy version and head in one statement and one snapshot; heads and credentials are looked up before a workspace is known
-- lock: none on existing tables
-- reversible: yes
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';

-- Everything that a decision needs, in one snapshot: a row for each blind index asked for (holder NULL: unknown), or one row when none is asked for.
-- The settings keep its plan on the primary keys while tables have no statistics, and plan once: planning took longer than reading,
-- and a look-up in a million rows that were never analysed took 160 ms.
-- Runs with the caller's rights: row-level security holds for the workspace that it sets for this transaction.
CREATE FUNCTION find_states(p_ws uuid, p_indexes bytea[])
RETURNS TABLE (log_id int, log_state text, head_size bigint, epoch int, policy_version int, at timestamptz, origin text,
               blind_index bytea, holder uuid, wrapped_key bytea, revision bigint, last_entry_id uuid, sealed bytea)
LANGUAGE plpgsql VOLATILE SET search_path = volenti, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('app.workspace', p_ws::text, true);
  RETURN QUERY
    SELECT l.log_id, l.state, h.size, d.epoch, (SELECT max(v.version) FROM policy_version v WHERE v.workspace_id = p_ws), volenti.now(), l.origin,
           q.blind_index, i.holder, k.wrapped_key, s.revision, s.last_entry_id, s.sealed
    FROM (SELECT * FROM ledger_log g WHERE g.workspace_id = p_ws ORDER BY g.log_id DESC LIMIT 1) l
    JOIN ledger_head h ON h.workspace_id = p_ws AND h.log_id = l.log_id
    CROSS JOIN deployment d
    LEFT JOIN unnest(p_indexes) WITH ORDINALITY q(blind_index, o) ON true
    LEFT JOIN data_subject_identifier i ON i.workspace_id = p_ws AND i.blind_index = q.blind_index
    LEFT JOIN data_subject k ON k.workspace_id = p_ws AND k.holder = i.holder
    LEFT JOIN data_subject_state s ON s.workspace_id = p_ws AND s.holder = i.holder
    ORDER BY q.o;
END $$;
CREATE FUNCTION poll_heads() RETURNS TABLE (workspace_id uuid, log_id int, size bigint, root bytea, origin text, state text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = volenti, pg_temp
AS 'SELECT h.workspace_id, h.log_id, h.size, h.root, l.origin, l.state FROM ledger_head h JOIN ledger_log l USING (workspace_id, log_id)';
CREATE FUNCTION find_credential(p_mac bytea)
RETURNS TABLE (workspace_id uuid, credential_id uuid, component text, scopes text[], purposes text[], actions text[], expires_at timestamptz, revoked_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = volenti, pg_temp
AS 'SELECT c.workspace_id, c.credential_id, c.component, c.scopes, c.purposes, c.actions, c.expires_at, c.revoked_at FROM credential c WHERE c.mac = p_mac';
