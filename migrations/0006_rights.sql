-- Row-level security and grants
-- why: an answer in one workspace never depends on another; each role holds the least that its part of the service needs
-- lock: none on existing tables
-- reversible: yes
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['workspace', 'ledger_log', 'ledger_head', 'ledger_entry', 'ledger_tile', 'ledger_checkpoint', 'ledger_change', 'data_subject',
    'data_subject_identifier', 'suppression', 'entry_payload', 'data_subject_entry', 'data_subject_state', 'idempotency',
    'policy_version', 'notice_version', 'credential'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY workspace ON %I USING (workspace_id = volenti.current_workspace())', t);
  END LOOP;
END $$;
CREATE POLICY administration ON workspace TO volenti_admin USING (true);
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA volenti FROM PUBLIC;
GRANT EXECUTE ON FUNCTION volenti.now(), volenti.current_workspace() TO volenti_app, volenti_admin, volenti_signer, volenti_audit, volenti_eraser, volenti_lookup;

-- the service's reads and its only write: the append
GRANT SELECT ON ALL TABLES IN SCHEMA volenti TO volenti_app;
GRANT EXECUTE ON FUNCTION ledger_append, find_states, poll_heads, find_credential TO volenti_app;
-- workspaces, credentials, policies, the test clock
GRANT SELECT ON ALL TABLES IN SCHEMA volenti TO volenti_admin;
GRANT INSERT ON workspace, deployment, policy_version, notice_version, credential TO volenti_admin;
GRANT UPDATE (settings) ON workspace TO volenti_admin;
GRANT UPDATE (revoked_at) ON credential TO volenti_admin;
GRANT UPDATE (test_clock, epoch) ON deployment TO volenti_admin;
GRANT EXECUTE ON FUNCTION ledger_append, ledger_open TO volenti_admin;
-- the checkpointer
GRANT SELECT ON ledger_log, ledger_head, ledger_entry, ledger_tile, ledger_checkpoint, deployment, workspace TO volenti_signer;
GRANT INSERT ON ledger_checkpoint TO volenti_signer;
GRANT EXECUTE ON FUNCTION poll_heads, ledger_freeze TO volenti_signer;
-- verification without personal data
GRANT SELECT ON ledger_log, ledger_head, ledger_entry, ledger_tile, ledger_checkpoint, ledger_change, policy_version, notice_version, credential, deployment, workspace TO volenti_audit;
GRANT EXECUTE ON FUNCTION poll_heads TO volenti_audit;
-- what time and erasure remove
GRANT SELECT, DELETE ON idempotency, ledger_change TO volenti_eraser;
GRANT SELECT ON ledger_entry TO volenti_eraser;
GRANT EXECUTE ON FUNCTION poll_heads TO volenti_eraser;

-- the two functions that see across workspaces belong to a role of their own
GRANT SELECT ON ledger_log, ledger_head TO volenti_lookup;
GRANT SELECT (workspace_id, credential_id, component, scopes, purposes, actions, expires_at, revoked_at, mac) ON credential TO volenti_lookup;
CREATE POLICY lookup ON ledger_log TO volenti_lookup USING (true);
CREATE POLICY lookup ON ledger_head TO volenti_lookup USING (true);
CREATE POLICY lookup ON credential TO volenti_lookup USING (true);
GRANT CREATE ON SCHEMA volenti TO volenti_lookup;
ALTER FUNCTION poll_heads() OWNER TO volenti_lookup;
ALTER FUNCTION find_credential(bytea) OWNER TO volenti_lookup;
REVOKE CREATE ON SCHEMA volenti FROM volenti_lookup;
