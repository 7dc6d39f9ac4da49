-- Roles and schema
-- why: nothing at run time owns a table; each role may do what its part of the service needs and no more
-- run by: `volenti migrate --bootstrap` (and by `volenti serve` on the embedded database), as a role that may create roles; safe to repeat
SET lock_timeout = '3s';
SET statement_timeout = '60s';
DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['volenti_owner', 'volenti_lookup', 'volenti_decisions'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', r);
    END IF;
  END LOOP;
  FOREACH r IN ARRAY ARRAY['volenti_migrate', 'volenti_app', 'volenti_admin', 'volenti_signer', 'volenti_audit', 'volenti_eraser', 'volenti_service'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
      EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', r);
    END IF;
    EXECUTE format('ALTER ROLE %I SET search_path = volenti', r);
    EXECUTE format('ALTER ROLE %I SET synchronous_commit = on', r);
    EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', r, '2s');
    -- a client that is silently gone in the middle of a change holds the head of a log for this long at most
    EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', r, CASE WHEN r IN ('volenti_migrate', 'volenti_audit') THEN '60s' ELSE '15s' END);
    -- and its connection counts against max_connections until TCP gives it up, by default after two hours
    EXECUTE format('ALTER ROLE %I SET tcp_keepalives_idle = 10', r);
    EXECUTE format('ALTER ROLE %I SET tcp_keepalives_interval = 5', r);
    EXECUTE format('ALTER ROLE %I SET tcp_keepalives_count = 3', r);
    EXECUTE format('ALTER ROLE %I SET tcp_user_timeout = %L', r, '25s');
    EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', r, CASE WHEN r IN ('volenti_migrate', 'volenti_audit') THEN '0' ELSE '5s' END);
  END LOOP;
END $$;
GRANT volenti_owner TO volenti_migrate;
GRANT volenti_lookup, volenti_decisions TO volenti_owner;
-- what the service logs in as where all its roles share one address; it takes a role at the start of each connection
GRANT volenti_app, volenti_admin, volenti_signer, volenti_audit, volenti_eraser TO volenti_service;
CREATE SCHEMA IF NOT EXISTS volenti AUTHORIZATION volenti_owner;
-- the days of the decision log, made and dropped at run time: apart, so that the role that may do so can make nothing beside the other tables
CREATE SCHEMA IF NOT EXISTS volenti_decisions AUTHORIZATION volenti_decisions;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA volenti TO volenti_lookup, volenti_decisions, volenti_app, volenti_admin, volenti_signer, volenti_audit, volenti_eraser, volenti_migrate,
  volenti_service;
