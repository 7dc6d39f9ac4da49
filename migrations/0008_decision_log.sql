-- The decision log
-- why: what was answered, to which component, about whom, on what ground; in partitions of a day, so that a day is dropped and never deleted row by row
-- lock: none on existing tables
-- reversible: yes
-- needs: the role and the schema volenti_decisions, which `volenti migrate --bootstrap` makes
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE decision_log (                        -- no identifier, no free text: a key that no policy has is stored as ?
  workspace_id uuid NOT NULL, evaluated_at timestamptz NOT NULL,
  decision_id uuid NOT NULL,                       -- a UUIDv7 of evaluated_at, so that the id alone leads to the day
  component text COLLATE "C" NOT NULL, holder uuid,  -- NULL: nobody was known by what the caller named
  action text COLLATE "C" NOT NULL, purpose text COLLATE "C" NOT NULL, channel text COLLATE "C", topic text COLLATE "C", class text COLLATE "C",
  decision text COLLATE "C" NOT NULL CHECK (decision IN ('permit', 'deny', 'defer')),
  reasons smallint[] NOT NULL CHECK (cardinality(reasons) >= 1),   -- numbers of the registry; the first is the reason
  policy_version int, policy_hash bytea,           -- NULL: no policy could be read
  epoch int NOT NULL, log_id int NOT NULL, size bigint NOT NULL,   -- the revision: entries of the log below size, and of the logs before it
  staleness_ms int NOT NULL, evidence uuid[] NOT NULL, obligations_hash bytea,
  mode text COLLATE "C" NOT NULL CHECK (mode IN ('live', 'shadow', 'audience')),
  request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),   -- a keyed HMAC of who was asked about and what
  took_us int NOT NULL,
  weight int NOT NULL CHECK (weight >= 1),         -- how many decisions the row stands for
  question jsonb NOT NULL,                         -- what else the question said, for the replay
  PRIMARY KEY (workspace_id, evaluated_at, decision_id)
) PARTITION BY RANGE (evaluated_at);
CREATE INDEX decision_log_of_holder ON decision_log (workspace_id, holder, evaluated_at, decision_id) WHERE holder IS NOT NULL;

CREATE TABLE decision_gap (                        -- rows that found no room in a process's queue
  workspace_id uuid NOT NULL, gap_id uuid NOT NULL, from_at timestamptz NOT NULL, to_at timestamptz NOT NULL,
  number bigint NOT NULL CHECK (number >= 1), recorded_at timestamptz NOT NULL,
  PRIMARY KEY (workspace_id, gap_id)
);

-- Makes the partitions of days (UTC) that are missing; returns how many. A partition is built apart and then attached, which stops neither readers
-- nor writers of the log. Nobody may read a partition but through the log: no role has a right on its schema, and it is under row-level security.
CREATE FUNCTION decision_log_prepare(p_days date[]) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = volenti, pg_temp AS $$
DECLARE d date; t text; made int := 0;
BEGIN
  FOR d IN SELECT DISTINCT x FROM unnest(p_days) x WHERE to_regclass(format('volenti_decisions.d%s', to_char(x, 'YYYYMMDD'))) IS NULL LOOP
    PERFORM pg_advisory_xact_lock(1450142725, 0);  -- "Vol" 5: of several processes one makes it
    t := format('d%s', to_char(d, 'YYYYMMDD'));
    CONTINUE WHEN EXISTS (SELECT FROM pg_class WHERE relnamespace = 'volenti_decisions'::regnamespace AND relname = t);   -- to_regclass may remember "no"
    EXECUTE format('CREATE TABLE volenti_decisions.%I (LIKE volenti.decision_log INCLUDING ALL)', t);
    EXECUTE format('ALTER TABLE volenti_decisions.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE volenti.decision_log ATTACH PARTITION volenti_decisions.%I FOR VALUES FROM (%L) TO (%L)', t,
                   d::timestamp AT TIME ZONE 'UTC', (d + 1)::timestamp AT TIME ZONE 'UTC');
    made := made + 1;
  END LOOP;
  RETURN made;
END $$;
-- Drops the days that lie wholly more than so many days back; returns how many.
CREATE FUNCTION decision_log_drop(p_keep_days int) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = volenti, pg_temp AS $$
DECLARE t text; dropped int := 0;
BEGIN
  IF p_keep_days IS NULL OR p_keep_days < 1 THEN RAISE 'the decision log keeps at least a day' USING ERRCODE = '22023'; END IF;
  FOR t IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'volenti.decision_log'::regclass
           AND c.relname < format('d%s', to_char((volenti.now() AT TIME ZONE 'UTC') - make_interval(days => p_keep_days), 'YYYYMMDD')) LOOP
    EXECUTE format('DROP TABLE volenti_decisions.%I', t);
    dropped := dropped + 1;
  END LOOP;
  RETURN dropped;
END $$;

ALTER TABLE decision_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE decision_log FORCE ROW LEVEL SECURITY;
CREATE POLICY workspace ON decision_log USING (workspace_id = volenti.current_workspace());
ALTER TABLE decision_gap ENABLE ROW LEVEL SECURITY;
ALTER TABLE decision_gap FORCE ROW LEVEL SECURITY;
CREATE POLICY workspace ON decision_gap USING (workspace_id = volenti.current_workspace());

REVOKE EXECUTE ON FUNCTION decision_log_prepare, decision_log_drop FROM PUBLIC;
GRANT SELECT, INSERT ON decision_log, decision_gap TO volenti_app;
GRANT SELECT, DELETE ON decision_gap TO volenti_eraser;
GRANT EXECUTE ON FUNCTION decision_log_prepare TO volenti_app, volenti_eraser;
GRANT EXECUTE ON FUNCTION decision_log_drop TO volenti_eraser;

-- the log, its days and the two functions belong to a role of their own: run time can make and drop days and nothing else
GRANT EXECUTE ON FUNCTION volenti.now() TO volenti_decisions;
GRANT CREATE ON SCHEMA volenti TO volenti_decisions;
ALTER TABLE decision_log OWNER TO volenti_decisions;
ALTER FUNCTION decision_log_prepare(date[]) OWNER TO volenti_decisions;
ALTER FUNCTION decision_log_drop(int) OWNER TO volenti_decisions;
REVOKE CREATE ON SCHEMA volenti FROM volenti_decisions;
