"""The tables of a SQLite ledger, in one place for the writer that creates and the checker that compares them.

A row holds the very line that JSONL would hold; every other column is computed from it, so no second copy can disagree.
Needs SQLite 3.38 (the `->>` operator).
"""

from __future__ import annotations

__all__ = ["COLUMNS", "MIN_SQLITE", "SCHEMA", "SCHEMA_VERSION", "STATEMENTS"]

MIN_SQLITE = (3, 38, 0)
SCHEMA_VERSION = "1"

# Name, type, JSON operator. `->` keeps JSON text, `->>` gives the SQL value.
COLUMNS = (
    ("type", "TEXT", "->>"),
    ("id", "TEXT", "->>"),
    ("timestamp", "TEXT", "->>"),
    ("direction", "TEXT", "->>"),
    ("transport", "TEXT", "->>"),
    ("method", "TEXT", "->>"),
    ("request_id", "TEXT", "->>"),
    ("tool_name", "TEXT", "->>"),
    ("params", "TEXT", "->"),
    ("result", "TEXT", "->"),
    ("error", "TEXT", "->"),
    ("duration_ms", "INTEGER", "->>"),
    ("client_id", "TEXT", "->>"),
    ("server_id", "TEXT", "->>"),
    ("outcome", "TEXT", "->>"),
    ("of", "INTEGER", "->>"),
    ("signature", "TEXT", "->>"),
)
_INDEXED = ("timestamp", "id", "method", "tool_name", "client_id", "outcome")
_SEED_COLUMNS = (
    "id, timestamp, direction, transport, method, request_id, tool_name, params, result, error, "
    "duration_ms, client_id, server_id, signature"
)

_ENTRIES = "CREATE TABLE entries (seq INTEGER PRIMARY KEY, line TEXT NOT NULL, {})".format(
    ", ".join(f"{name} {type_} GENERATED ALWAYS AS (line {op} '$.{name}') VIRTUAL" for name, type_, op in COLUMNS)
)

# `sqlite_schema` keeps each statement as it was typed, so the text itself is what a checker compares: by name.
SCHEMA = {
    "entries": _ENTRIES,
    **{f"entries_{name}": f"CREATE INDEX entries_{name} ON entries({name})" for name in _INDEXED},
    # Every index costs a commit of one line a page; this one is touched only by lines that close something.
    "entries_of": "CREATE INDEX entries_of ON entries(of) WHERE of IS NOT NULL",
    "checkpoints": "CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL)",
    "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "audit_entries": f"CREATE VIEW audit_entries AS SELECT {_SEED_COLUMNS} FROM entries WHERE type IS NULL",  # noqa: S608
}

# To run once, in order, in one transaction, on a database without tables.
STATEMENTS = (*SCHEMA.values(), f"INSERT INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}')")  # noqa: S608
