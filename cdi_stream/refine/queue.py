"""The durable queue of refinements: one SQLite file, written through to disk before anything is said to be so.

A job is ``ready``, then ``leased`` by a worker, then ``computed``: its documents lie beside it and go out one by one,
each marked when it has been heard on the bus.  When all have been heard it is ``done``; it may also be ``failed`` or
``cancelled``.  So a process killed anywhere loses no job, and sends no document twice that was heard.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdi_stream.disk.aside import set_aside

logger = logging.getLogger(__name__)

VERSION = 1
QUEUE = "queue.sqlite3"
"""Name of the file, beside the results."""

PATIENCE_S = 30.0
_WAL_TRIES, _WAL_AGAIN_S = 100, 0.01

STATES = ("ready", "leased", "computed", "done", "failed", "cancelled")

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

Document = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One refinement to do: ``key`` is the uid of the run it will publish, ``input`` the name of its file.

    ``spec`` is the rest of what it needs, as plain values.
    """

    id: int
    key: str
    method: str
    spec: Mapping[str, Any]
    input: str
    state: str
    priority: int
    created_s: float
    attempts: int
    owner: str | None
    error: str | None


class Queue:
    """One connection to the queue; each thread and each process opens its own.

    ``now`` gives seconds since the epoch, which several processes share.  Whoever holds the file locked is waited for
    for ``patience_s``.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time, patience_s: float = PATIENCE_S) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._now = now
        self._db = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA synchronous = FULL")
        if self._db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            self._create()

    def _create(self) -> None:
        """Make the tables, unless another process has done so at the same moment."""
        for _ in range(_WAL_TRIES):
            with contextlib.suppress(sqlite3.OperationalError):  # two at once are locked out whatever the time-out
                self._db.execute("PRAGMA journal_mode = WAL")
                break
            time.sleep(_WAL_AGAIN_S)
        self._db.execute("BEGIN IMMEDIATE")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        is_new = self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
        if is_new:
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._db.execute("COMMIT")
        if not is_new and found != VERSION:
            raise sqlite3.DatabaseError(f"expected a queue of version {VERSION}, got {found}")

    def enqueue(self, key: str, method: str, spec: Mapping[str, Any], input: str, priority: int = 0) -> bool:
        """Add a job; False if it is there already."""
        values = (key, method, json.dumps(spec), input, priority, self._now())
        added = self._db.execute(
            "INSERT OR IGNORE INTO jobs (key, method, spec, input, priority, created_s) VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )
        return added.rowcount == 1

    def lease(self, owner: str, lease_s: float) -> Job | None:
        """Take the next job: highest priority, then oldest; those whose lease has run out come back."""
        now = self._now()
        rows = self._db.execute(
            "UPDATE jobs SET state = 'leased', owner = ?, lease_until_s = ?, attempts = attempts + 1 WHERE id = ("
            " SELECT id FROM jobs WHERE state = 'ready' OR (state = 'leased' AND lease_until_s < ?)"
            " ORDER BY priority DESC, id LIMIT 1) RETURNING *",
            (owner, now + lease_s, now),
        ).fetchall()
        return _job(rows[0]) if rows else None

    def renew(self, job: Job, owner: str, lease_s: float) -> bool:
        """Keep a lease alive; False if the job is no longer the owner's."""
        return self._mine("lease_until_s = ?", (self._now() + lease_s,), job, owner)

    def complete(self, job: Job, owner: str, documents: Iterable[Document]) -> bool:
        """Store the documents of a finished job; False, and nothing stored, if it is no longer the owner's."""
        rows = [(job.id, k, str(doc["uid"]), name, json.dumps(doc)) for k, (name, doc) in enumerate(documents)]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            is_mine = self._mine("state = 'computed', lease_until_s = NULL", (), job, owner)
            if is_mine:
                self._db.executemany("INSERT INTO documents (job_id, seq, uid, name, doc) VALUES (?, ?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return is_mine

    def give_back(self, job: Job, owner: str) -> None:
        """Put a leased job back as if it had not been taken."""
        self._mine("state = 'ready', owner = NULL, attempts = attempts - 1", (), job, owner)

    def fail(self, job: Job, owner: str, error: str) -> None:
        """Note why a job cannot be done."""
        self._mine("state = 'failed', error = ?", (error,), job, owner)

    def take_over(self, dead: str, owner: str) -> None:
        """A worker has died: its jobs are ready again, its unsent documents are ``owner``'s to send."""
        self._db.execute("UPDATE jobs SET state = 'ready', owner = NULL WHERE state = 'leased' AND owner = ?", (dead,))
        self._db.execute("UPDATE jobs SET owner = ? WHERE state = 'computed' AND owner = ?", (owner, dead))

    def owners(self) -> set[str]:
        """Workers that hold a lease or have documents to send."""
        rows = self._db.execute("SELECT DISTINCT owner FROM jobs WHERE state IN ('leased', 'computed')")
        return {row["owner"] for row in rows}

    def jobs_to_send(self, owner: str) -> list[Job]:
        """Jobs whose documents the owner has to send."""
        rows = self._db.execute("SELECT * FROM jobs WHERE state = 'computed' AND owner = ? ORDER BY id", (owner,))
        return [_job(row) for row in rows]

    def documents_to_send(self, job: Job) -> list[Document]:
        """Documents of a job that nobody has heard yet, in their order."""
        return self._documents(job.id, "AND is_heard = 0")

    def mark_heard(self, uid: str) -> None:
        """Note that a document was heard on the bus; one that is not the queue's changes nothing."""
        if self._db.execute("SELECT 1 FROM documents WHERE uid = ? AND is_heard = 0", (uid,)).fetchone():
            self._db.execute("UPDATE documents SET is_heard = 1 WHERE uid = ?", (uid,))

    def finish(self, job: Job) -> None:
        """All documents of a computed job have been heard."""
        self._db.execute("UPDATE jobs SET state = 'done', owner = NULL WHERE id = ? AND state = 'computed'", (job.id,))

    def jobs_to_archive(self) -> list[tuple[Job, list[Document]]]:
        """Published jobs whose documents the slower sinks have not got yet."""
        rows = self._db.execute("SELECT * FROM jobs WHERE state = 'done' AND is_archived = 0 ORDER BY id").fetchall()
        return [(_job(row), self._documents(row["id"], "")) for row in rows]

    def mark_archived(self, job: Job) -> None:
        """The slower sinks have the documents too."""
        self._db.execute("UPDATE jobs SET is_archived = 1 WHERE id = ?", (job.id,))

    def jobs(self, state: str | None = None) -> list[Job]:
        """All jobs, or those of one state, oldest first."""
        rows = self._db.execute("SELECT * FROM jobs WHERE ?1 IS NULL OR state = ?1 ORDER BY id", (state,))
        return [_job(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        rows = self._db.execute("SELECT state, COUNT(*) AS n FROM jobs GROUP BY state")
        return dict.fromkeys(STATES, 0) | {row["state"]: row["n"] for row in rows}

    def has_work(self) -> bool:
        """Whether a worker would find something to do."""
        return bool(self._db.execute("SELECT 1 FROM jobs WHERE state IN ('ready', 'leased', 'computed')").fetchone())

    def needs_input(self, name: str) -> bool:
        """Whether a job that is not published may start from this file."""
        states = "('ready', 'leased', 'failed', 'cancelled')"
        row = self._db.execute(f"SELECT 1 FROM jobs WHERE input = ? AND state IN {states}", (name,))  # noqa: S608 - ours
        return row.fetchone() is not None

    def retry(self, job_id: int) -> bool:
        """Make a failed or cancelled job ready again."""
        return self._set(job_id, "state = 'ready', attempts = 0, error = NULL", "'failed', 'cancelled'")

    def cancel(self, job_id: int) -> bool:
        """Take a job out that no worker has begun."""
        return self._set(job_id, "state = 'cancelled'", "'ready', 'failed'")

    def prioritise(self, job_id: int, priority: int) -> bool:
        """Put a waiting job before those of lower priority."""
        changed = self._db.execute("UPDATE jobs SET priority = ? WHERE id = ? AND state = 'ready'", (priority, job_id))
        return changed.rowcount == 1

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def _documents(self, job_id: int, condition: str) -> list[Document]:
        rows = self._db.execute(
            f"SELECT name, doc FROM documents WHERE job_id = ? {condition} ORDER BY seq",  # noqa: S608 - ours
            (job_id,),
        )
        return [(row["name"], json.loads(row["doc"])) for row in rows]

    def _mine(self, change: str, values: tuple[Any, ...], job: Job, owner: str) -> bool:
        changed = self._db.execute(
            f"UPDATE jobs SET {change} WHERE id = ? AND state = 'leased' AND owner = ?",  # noqa: S608 - ours
            (*values, job.id, owner),
        )
        return changed.rowcount == 1

    def _set(self, job_id: int, change: str, states: str) -> bool:
        changed = self._db.execute(
            f"UPDATE jobs SET {change} WHERE id = ? AND state IN ({states})",  # noqa: S608 - ours
            (job_id,),
        )
        return changed.rowcount == 1


def _job(row: sqlite3.Row) -> Job:
    names = ("id", "key", "method", "input", "state", "priority", "created_s", "attempts", "owner", "error")
    return Job(spec=json.loads(row["spec"]), **{name: row[name] for name in names})


def open_queue(path: Path) -> Queue:
    """Open a queue for good; a file that is none, or of another version, is put aside, not obeyed."""
    try:
        return Queue(path)
    except sqlite3.OperationalError:  # locked, or the disk is full: nothing is wrong with the file
        raise
    except sqlite3.DatabaseError:
        logger.exception("%s cannot be used; it is kept as %s and a new queue is begun", path, set_aside(path))
        return Queue(path)
