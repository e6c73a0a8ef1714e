-- What the cache did for a request, and what it saved beside money. Columns are added and nothing is read or
-- written anew, however large the file is (which is why there is no CHECK: SQLite would try it on every row).
-- Rows of before do not say: their hits and joins stay one number, `cache_hits`, and all others count as bypasses.
ALTER TABLE ledger ADD COLUMN cache TEXT; -- hit, joined or miss; NULL: bypass, or not told
ALTER TABLE ledger ADD COLUMN saved_tokens INTEGER;
ALTER TABLE ledger ADD COLUMN saved_us INTEGER;

ALTER TABLE usage_daily ADD COLUMN cache_joins INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_daily ADD COLUMN cache_misses INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_daily ADD COLUMN saved_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_daily ADD COLUMN saved_us INTEGER NOT NULL DEFAULT 0;
