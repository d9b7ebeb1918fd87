"""The tables of the file of live linking, and those of its earlier format brought up to date."""

from __future__ import annotations

import sqlite3

FORMAT = 2

_TABLES = (
    """
    CREATE TABLE sequences (
      name TEXT PRIMARY KEY,
      revision INTEGER NOT NULL,  -- frames linked so far
      touched REAL NOT NULL,      -- when the last one came, in seconds since 1970
      head TEXT NOT NULL,         -- tracks.live.state.Head as JSON
      tracks BLOB,                -- its open tracks; NULL: closed, because it was idle for long
      checksum INTEGER            -- CRC-32 of head and tracks; NULL: written in format 1
    )
    """,
    """
    CREATE TABLE answers (
      sequence TEXT NOT NULL,
      request_id TEXT NOT NULL,
      revision INTEGER NOT NULL,  -- of the sequence, after this request
      digest BLOB NOT NULL,       -- of the request
      body BLOB NOT NULL,         -- of the answer
      checksum INTEGER,           -- CRC-32 of digest and body; NULL: written in format 1
      PRIMARY KEY (sequence, request_id)
    )
    """,
    "CREATE INDEX answers_by_age ON answers (sequence, revision)",
)
_FROM_FORMAT_1 = (
    "ALTER TABLE sequences ADD COLUMN checksum INTEGER",
    "ALTER TABLE answers ADD COLUMN checksum INTEGER",
)


def make_tables(connection: sqlite3.Connection) -> int:
    """Make the tables of a new file, or bring those of an older version up to date.

    Returns:
        The format found; ``FORMAT`` where the tables are now as they should be.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not version and not tables:
        statements: tuple[str, ...] = _TABLES
    elif version == 1:
        statements = _FROM_FORMAT_1
    else:
        return int(version)
    for statement in (*statements, f"PRAGMA user_version = {FORMAT}"):
        connection.execute(statement)
    return FORMAT
