-- The check of `certainty`, written out: for a list of three, SQLite builds a table and drops it again with
-- every row, which was a quarter of what a row costs. Nothing that is stored changes, so only the words of
-- the schema do (the procedure for that is SQLite's own: ALTER TABLE, "Making Other Kinds Of Table Schema
-- Changes"). The table that comes and goes tells other connections to read the schema again.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(
  sql,
  'CHECK (certainty IN (''exact'', ''estimated'', ''assumed''))',
  'CHECK (certainty = ''exact'' OR certainty = ''estimated'' OR certainty = ''assumed'')'
) WHERE type = 'table' AND name = 'ledger';
CREATE TABLE schema_has_changed (id INTEGER);
DROP TABLE schema_has_changed;
PRAGMA writable_schema = RESET;
