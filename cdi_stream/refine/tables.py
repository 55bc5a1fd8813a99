"""Tables of the queue: opens a SQLite file, makes the tables, and brings the tables of an older version up to date."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

VERSION = 2
"""Version of the tables; a file of a later version is put aside."""

_WAL_TRIES, _WAL_AGAIN_S = 100, 0.01

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, method TEXT NOT NULL, spec TEXT NOT NULL, input TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'ready', priority INTEGER NOT NULL DEFAULT 0, created_s REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, owner TEXT, lease_until_s REAL, error TEXT,
    is_archived INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, priority DESC, id);
CREATE TABLE IF NOT EXISTS documents (
    job_id INTEGER NOT NULL REFERENCES jobs (id), seq INTEGER NOT NULL, uid TEXT NOT NULL, name TEXT NOT NULL,
    doc TEXT NOT NULL, is_heard INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (job_id, seq)
);
CREATE INDEX IF NOT EXISTS jobs_by_input ON jobs (input);
CREATE INDEX IF NOT EXISTS documents_by_uid ON documents (uid);
"""

_FROM_1_TO_2 = """
ALTER TABLE jobs ADD COLUMN ended_s REAL;
UPDATE jobs SET ended_s = created_s WHERE state IN ('done', 'failed', 'cancelled');
CREATE TABLE former_keys (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""
"""Time at which a job ended, and the keys of jobs that were deleted."""


def connect(path: Path, patience_s: float) -> sqlite3.Connection:
    """Return a connection to a queue; each change is on disk when it is made.

    ``patience_s`` is the time [s] to wait for another process that has locked the file.

    Raises
    ------
    sqlite3.DatabaseError
        If the file is no queue, or one of a later version.
    """
    db = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA synchronous = FULL")
        if _version(db) != VERSION:
            _bring_up_to_date(db)
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Make the tables, or change those of an older version, unless another process does so at the same moment."""
    for _ in range(_WAL_TRIES):
        with contextlib.suppress(sqlite3.OperationalError):  # of two at once one fails despite the timeout
            db.execute("PRAGMA journal_mode = WAL")
            break
        time.sleep(_WAL_AGAIN_S)
    db.execute("BEGIN IMMEDIATE")
    version = _version(db)
    if version == 0 and db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0:
        _run(db, _SCHEMA)
        version = 1
    if version == 1:
        _run(db, _FROM_1_TO_2)
        version = VERSION
    if version != VERSION:
        raise sqlite3.DatabaseError(f"expected a queue of version {VERSION}, got version {version}")
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        db.execute(statement)
