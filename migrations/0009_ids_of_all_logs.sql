-- An entry's id counts in all logs of its workspace
-- why: after a recovery the new log took an import, or an offer that is good for once, a second time: the append looked the id up in its own log only
-- lock: none on existing tables
-- reversible: yes
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';

-- As in 0004, with B1 over the workspace's logs, the newest first. Each look-up is still made by the whole key of one log, so that one log costs what it did.
CREATE OR REPLACE FUNCTION ledger_append(p_ws uuid, p_log int, i_cred uuid[], i_key bytea[], i_print bytea[], i_answer bytea[],
  n_item int[], n_holder uuid[], n_key bytea[], n_mac bytea[], x_item int[], x_index bytea[], x_from uuid[], x_to uuid[], x_sealed bytea[],
  h_item int[], h_holder uuid[], h_expected bigint[], h_pos int[], h_last uuid[], h_sealed bytea[],
  e_item int[], e_holder uuid[], e_id uuid[], e_leaf bytea[], e_at timestamptz[], e_body bytea[])
RETURNS TABLE(item bigint, verdict text, first_index bigint, entry_count int, answer bytea, tree_size bigint, tree_root bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = volenti, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off AS $$
#variable_conflict use_column
DECLARE h ledger_head; hs bytea[]; z int[]; cnt int[]; v text[]; fi bigint[]; ct int[]; sb bytea[]; lo bigint[];
  mv boolean[]; acc boolean[]; f bytea[]; k int; n bigint; s bigint; lv int; t bigint; x bytea; r bytea; ts timestamptz; lg int[]; live boolean;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN RAISE 'ledger_append needs READ COMMITTED'; END IF;
  PERFORM set_config('app.workspace', p_ws::text, true);
  SELECT * INTO STRICT h FROM ledger_head WHERE workspace_id = p_ws AND log_id = p_log FOR UPDATE;                       -- A lock
  SELECT array_agg(log_id ORDER BY log_id DESC), bool_or(log_id = p_log AND state = 'active') INTO lg, live FROM ledger_log WHERE workspace_id = p_ws;
  IF live IS NOT TRUE THEN RAISE 'log is not active' USING ERRCODE = '55000'; END IF;
  ts := volenti.now();

  SELECT array_agg(sha256('\x00'::bytea || l) ORDER BY o) INTO hs FROM unnest(e_leaf) WITH ORDINALITY u(l, o);
  SELECT array_agg(c ORDER BY it), array_agg(tot ORDER BY it), array_agg(mn ORDER BY it) INTO z, cnt, lo FROM (          -- B1 entries
    SELECT it, count(*)::int AS tot, min(g.idx) AS mn,
           CASE WHEN bool_or(g.leaf_hash <> hh) OR max(inner_n) > 1 OR count(g.idx) NOT IN (0, count(*)) THEN 3   -- conflict
                WHEN count(g.idx) > 0 THEN 2                                                                       -- all known
                WHEN bool_or(abs(extract(epoch FROM at - ts)) > 30) THEN 4                                         -- clock
                WHEN bool_or(first_it <> it) THEN 1 ELSE 0 END AS c                                                -- twin in this batch
    FROM (SELECT u.*, row_number() OVER (PARTITION BY it, id) AS inner_n, min(it) OVER (PARTITION BY id) AS first_it
          FROM unnest(e_item, e_id, hs, e_at) u(it, id, hh, at)) y
    LEFT JOIN LATERAL (SELECT d.idx, d.leaf_hash FROM unnest(lg) l(id) CROSS JOIN LATERAL
      (SELECT * FROM ledger_entry e WHERE e.workspace_id = p_ws AND e.log_id = l.id AND e.entry_id = y.id OFFSET 0) d LIMIT 1) g ON true GROUP BY it) w;

  mv := array_fill(false, ARRAY[cardinality(z)]);                                                                        -- B2 holders, identifiers, addresses
  FOR k IN SELECT it FROM (SELECT u.*, row_number() OVER (PARTITION BY holder ORDER BY it) AS nth
                           FROM unnest(h_item, h_holder, h_expected) u(it, holder, expected)) y
           LEFT JOIN LATERAL (SELECT * FROM data_subject_state s WHERE s.workspace_id = p_ws AND s.holder = y.holder OFFSET 0) p ON true
           WHERE nth > 1 OR expected IS DISTINCT FROM coalesce(p.revision, 0)
           UNION ALL SELECT it FROM (SELECT u.*, row_number() OVER (PARTITION BY bi ORDER BY it) AS nth
                                     FROM unnest(x_item, x_index, x_from) u(it, bi, was)) y
           LEFT JOIN LATERAL (SELECT * FROM data_subject_identifier i WHERE i.workspace_id = p_ws AND i.blind_index = y.bi OFFSET 0) d ON true WHERE nth > 1 OR was IS DISTINCT FROM d.holder
           UNION ALL SELECT it FROM (SELECT u.*, row_number() OVER (PARTITION BY m ORDER BY it) AS nth
                                     FROM unnest(n_item, n_mac) u(it, m) WHERE m IS NOT NULL) y
           LEFT JOIN LATERAL (SELECT * FROM suppression s WHERE s.workspace_id = p_ws AND s.mac = y.m OFFSET 0) q ON true WHERE nth > 1 OR q.holder IS NOT NULL LOOP mv[k] := true; END LOOP;

  SELECT array_agg(w ORDER BY j), array_agg(df ORDER BY j), array_agg(dc ORDER BY j), array_agg(ds ORDER BY j) INTO v, fi, ct, sb FROM (   -- B3 items
    SELECT j, CASE WHEN d.fingerprint = q.print THEN 'duplicate' WHEN d.fingerprint IS NOT NULL THEN 'key_reused'
                   WHEN q.z = 3 THEN 'conflict' WHEN q.z = 2 THEN 'duplicate' WHEN q.z = 4 THEN 'clock'
                   WHEN q.z = 1 OR q.moved OR (q.key IS NOT NULL AND row_number() OVER (PARTITION BY q.cred, q.key ORDER BY j) > 1) THEN 'again'
                   ELSE 'appended' END AS w,
           coalesce(d.first_index, q.lo) AS df, coalesce(d.entry_count, q.cnt) AS dc, coalesce(d.answer, q.answer) AS ds
    FROM unnest(i_cred, i_key, i_print, i_answer, z, lo, cnt, mv) WITH ORDINALITY q(cred, key, print, answer, z, lo, cnt, moved, j)
    LEFT JOIN LATERAL (SELECT * FROM idempotency i WHERE i.workspace_id = p_ws AND i.credential_id = q.cred AND i.key = q.key OFFSET 0) d ON true) c;

  SELECT array_agg(w = 'appended' ORDER BY j),                                                                           -- C positions
         array_agg(CASE w WHEN 'appended' THEN h.size + pos WHEN 'duplicate' THEN df END ORDER BY j) INTO acc, fi FROM (
    SELECT u.*, coalesce(sum(c) FILTER (WHERE w = 'appended') OVER (ORDER BY j ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS pos
    FROM unnest(v, cnt, fi) WITH ORDINALITY u(w, c, df, j)) u;
  n := h.size; r := h.root;
  IF true = ANY (acc) THEN
    WITH a AS MATERIALIZED (SELECT u.*, h.size + row_number() OVER (ORDER BY o) - 1 AS ix FROM unnest(e_item, e_holder, e_id, e_leaf, hs, e_body)
                            WITH ORDINALITY u(it, holder, id, leaf, hh, body, o) WHERE acc[it]),
    w1 AS (INSERT INTO ledger_entry SELECT p_ws, p_log, ix, id, hh, leaf, ts FROM a ORDER BY ix),
    w2 AS (INSERT INTO entry_payload SELECT p_ws, p_log, ix, body FROM a WHERE body IS NOT NULL),
    w3 AS (INSERT INTO data_subject_entry SELECT p_ws, holder, p_log, ix FROM a WHERE holder IS NOT NULL),
    w4 AS (INSERT INTO ledger_change SELECT p_ws, p_log, ix, holder FROM a)
    SELECT array_agg(hh ORDER BY ix) INTO hs FROM a;
    WITH w5 AS (INSERT INTO data_subject_state SELECT p_ws, holder, fi[it] + pos, last, sealed
                FROM unnest(h_item, h_holder, h_pos, h_last, h_sealed) u(it, holder, pos, last, sealed) WHERE acc[it]
           ON CONFLICT (workspace_id, holder) DO UPDATE SET revision = excluded.revision, last_entry_id = excluded.last_entry_id, sealed = excluded.sealed),
    w6 AS (INSERT INTO data_subject SELECT p_ws, holder, wrapped FROM unnest(n_item, n_holder, n_key) u(it, holder, wrapped) WHERE acc[it]),
    w7 AS (INSERT INTO suppression SELECT p_ws, m, holder FROM unnest(n_item, n_holder, n_mac) u(it, holder, m) WHERE acc[it] AND m IS NOT NULL
           ON CONFLICT (workspace_id, mac) DO UPDATE SET holder = excluded.holder),
    w8 AS (DELETE FROM data_subject_identifier d USING unnest(x_item, x_index, x_to) u(it, bi, new)
           WHERE acc[it] AND new IS NULL AND d.workspace_id = p_ws AND d.blind_index = bi),
    w9 AS (INSERT INTO data_subject_identifier SELECT p_ws, bi, new, sealed FROM unnest(x_item, x_index, x_to, x_sealed) u(it, bi, new, sealed)
           WHERE acc[it] AND new IS NOT NULL
           ON CONFLICT (workspace_id, blind_index) DO UPDATE SET holder = excluded.holder, sealed = excluded.sealed)
    INSERT INTO idempotency SELECT p_ws, cred, key, print, f, c, answer, ts
    FROM unnest(i_cred, i_key, i_print, i_answer, acc, fi, cnt) u(cred, key, print, answer, ok, f, c) WHERE ok AND key IS NOT NULL;

    f := h.frontier; k := cardinality(f);                                                                                -- D tree
    FOREACH x IN ARRAY hs LOOP
      s := n; lv := 0;
      WHILE s & 1 = 1 LOOP
        x := sha256('\x01'::bytea || f[k] || x); k := k - 1; s := s >> 1; lv := lv + 1;
        IF lv = 8 THEN t := n >> 8;
          INSERT INTO ledger_tile SELECT p_ws, p_log, 0, t, x, string_agg(e.leaf_hash, ''::bytea ORDER BY e.idx)
            FROM ledger_entry e WHERE e.workspace_id = p_ws AND e.log_id = p_log AND e.idx BETWEEN t << 8 AND (t << 8) + 255;
        ELSIF lv % 8 = 0 THEN t := n >> lv;
          INSERT INTO ledger_tile SELECT p_ws, p_log, lv / 8 - 1, t, x, string_agg(e.root, ''::bytea ORDER BY e.idx)
            FROM ledger_tile e WHERE e.workspace_id = p_ws AND e.log_id = p_log AND e.level = lv / 8 - 2 AND e.idx BETWEEN t << 8 AND (t << 8) + 255;
        END IF;
      END LOOP;
      k := k + 1; f[k] := x; n := n + 1;
    END LOOP;
    f := f[1:k]; r := f[k];
    FOR i IN REVERSE k - 1 .. 1 LOOP r := sha256('\x01'::bytea || f[i] || r); END LOOP;
    UPDATE ledger_head SET size = n, root = r, frontier = f, updated_at = ts WHERE workspace_id = p_ws AND log_id = p_log;
  END IF;
  RETURN QUERY SELECT j, w, ff, CASE WHEN ff IS NOT NULL THEN c END, CASE WHEN ff IS NOT NULL THEN b END, n, r                -- E answer
    FROM unnest(v, fi, ct, sb) WITH ORDINALITY u(w, ff, c, b, j) ORDER BY j;
END$$;
