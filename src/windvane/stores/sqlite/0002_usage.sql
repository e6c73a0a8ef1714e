-- The ledger anew: with the user and what a cache saved, and with row numbers. A table whose rows are as
-- wide as these is a third cheaper to write that way. No index by key: sums come from usage_daily.
DROP TRIGGER ledger_is_append_only_update;
DROP TRIGGER ledger_is_append_only_delete;
ALTER TABLE ledger RENAME TO ledger_before;

CREATE TABLE ledger (
  attempt_id TEXT NOT NULL PRIMARY KEY,
  request_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  started_at_us INTEGER NOT NULL,
  key_id TEXT NOT NULL,
  team TEXT,
  tags TEXT NOT NULL,
  route TEXT,
  requested_model TEXT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  resolved_model TEXT NOT NULL,
  reason TEXT NOT NULL,
  dialect TEXT NOT NULL,
  is_stream INTEGER NOT NULL,
  certainty TEXT NOT NULL CHECK (certainty IN ('exact', 'estimated', 'assumed')),
  cost_nano_usd INTEGER CHECK (cost_nano_usd >= 0),
  hold_nano_usd INTEGER CHECK (hold_nano_usd >= 0),
  outcome TEXT NOT NULL,
  status INTEGER,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cache_read_input_tokens INTEGER NOT NULL,
  cache_creation_input_tokens INTEGER NOT NULL,
  reasoning_output_tokens INTEGER NOT NULL,
  latency_us INTEGER,
  first_chunk_us INTEGER,
  client_request_id TEXT,
  upstream_request_id TEXT,
  user TEXT,
  saved_nano_usd INTEGER CHECK (saved_nano_usd >= 0)
) STRICT;

INSERT INTO ledger SELECT *, NULL, NULL FROM ledger_before ORDER BY attempt_id;
DROP TABLE ledger_before;

CREATE INDEX ledger_by_client_request ON ledger (client_request_id)
  WHERE client_request_id IS NOT NULL;
-- For forgetting; new rows go to its end.
CREATE INDEX ledger_by_time ON ledger (started_at_us);

-- Sums by day and by all that usage is asked by; '' stands for none, tags are joined by commas. Written
-- in the transaction of the rows it sums. It stays when rows are forgotten.
CREATE TABLE usage_daily (
  day INTEGER NOT NULL, -- UTC days since 1970
  key_id TEXT NOT NULL,
  team TEXT NOT NULL,
  user TEXT NOT NULL,
  tags TEXT NOT NULL,
  provider TEXT NOT NULL,
  resolved_model TEXT NOT NULL,
  route TEXT NOT NULL,
  requests INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  failed_attempts INTEGER NOT NULL,
  unpriced_attempts INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cache_read_input_tokens INTEGER NOT NULL,
  cache_creation_input_tokens INTEGER NOT NULL,
  reasoning_output_tokens INTEGER NOT NULL,
  cost_nano_usd INTEGER NOT NULL,
  estimated_nano_usd INTEGER NOT NULL,
  assumed_nano_usd INTEGER NOT NULL,
  saved_nano_usd INTEGER NOT NULL,
  cache_hits INTEGER NOT NULL,
  PRIMARY KEY (day, key_id, team, user, tags, provider, resolved_model, route)
) STRICT, WITHOUT ROWID;

-- For what one key or one user has spent. Sums are not in them: adding to a sum leaves them alone.
CREATE INDEX usage_daily_by_key ON usage_daily (key_id, day);
CREATE INDEX usage_daily_by_user ON usage_daily (user, day) WHERE user <> '';

INSERT INTO usage_daily
SELECT
  started_at_us / 86400000000, key_id, coalesce(team, ''), coalesce(user, ''), tags, provider,
  resolved_model, coalesce(route, ''), sum(number = 1), count(*), sum(outcome <> 'ok'),
  count(*) - count(cost_nano_usd), sum(input_tokens), sum(output_tokens),
  sum(cache_read_input_tokens), sum(cache_creation_input_tokens), sum(reasoning_output_tokens),
  coalesce(sum(cost_nano_usd), 0),
  coalesce(sum(cost_nano_usd) FILTER (WHERE certainty = 'estimated'), 0),
  coalesce(sum(cost_nano_usd) FILTER (WHERE certainty = 'assumed'), 0),
  coalesce(sum(saved_nano_usd), 0), 0
FROM ledger GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;

-- Rows older than this may be deleted, no others. Only sqlite/retention.py moves it.
CREATE TABLE ledger_cutoff (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  started_before_us INTEGER NOT NULL
) STRICT;
INSERT INTO ledger_cutoff VALUES (1, 0);

CREATE TRIGGER ledger_is_append_only_update BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_is_append_only_delete BEFORE DELETE ON ledger
WHEN OLD.started_at_us >= (SELECT started_before_us FROM ledger_cutoff)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TABLE gateway_keys (
  id TEXT NOT NULL PRIMARY KEY,
  record BLOB NOT NULL -- JSON of core.keys.VirtualKey
) STRICT;
