-- An attempt's id begins with its request's, and ids sort by time: the primary key finds a request's
-- attempts without an index of its own, and new rows go to its end.
CREATE TABLE ledger (
  attempt_id TEXT PRIMARY KEY,
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
  upstream_request_id TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_by_client_request ON ledger (client_request_id)
  WHERE client_request_id IS NOT NULL;
CREATE INDEX ledger_by_key_and_time ON ledger (key_id, started_at_us);

CREATE TRIGGER ledger_is_append_only_update BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_is_append_only_delete BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
