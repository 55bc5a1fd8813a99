"""Durable queue of refinements: one SQLite file; each change is on disk before its method returns.

A job is ``ready``, then ``leased`` by a worker, then ``computed``: its documents are in the queue and are sent in
order; each document is marked when it has arrived on the bus.  When all documents have arrived, the job is ``done``.
A job may also be ``failed`` or ``cancelled``.  A process that is killed at any moment loses no job, and no document
that has arrived is sent again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdi_stream.disk.aside import set_aside
from cdi_stream.refine.tables import connect

logger = logging.getLogger(__name__)

QUEUE = "queue.sqlite3"
"""Name of the file in the results folder."""

PATIENCE_S = 30.0
"""Time [s] to wait for another process that has locked the file."""

BOOT_MARGIN_S = 3600.0
"""Time [s] by which a lease must end later than a new lease to count as one from before a boot of the machine.

It is longer than a process can wait for a lock between its look at the clock and its change of the queue.
"""

STATES = ("ready", "leased", "computed", "done", "failed", "cancelled")
"""States of a job."""

_TO_PRUNE = """
SELECT id, key, input FROM (
    SELECT *, ROW_NUMBER() OVER (ORDER BY ended_s DESC, id DESC) AS place FROM jobs
    WHERE state = 'cancelled' OR (state = 'done' AND is_archived = 1)
) WHERE place > ? OR ended_s < ?
"""

NamedDocument = tuple[str, dict[str, Any]]
"""Name and content of a Bluesky document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One refinement in the queue.

    Parameters
    ----------
    id
        Number of the job.
    key
        Uid of the run that the job publishes.
    method
        Method of the refinement.
    spec
        Description of the job as plain values.
    input
        Name of the input file.
    state
        One of `STATES`.
    priority
        Jobs of higher priority are taken first.
    created_s
        Time at which the job was added [s since the epoch].
    attempts
        Number of workers that have taken the job.
    owner
        Worker that has leased the job, or has to send its documents.
    error
        Reason why the job failed.
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
    """Connection to the queue; each thread and each process opens its own connection.

    Parameters
    ----------
    path
        File of the queue.
    now
        Seconds since the epoch.
    patience_s
        Time [s] to wait for another process that has locked the file.
    steady
        Time [s] of the leases: one clock for all processes of this machine, which nobody sets.  After a boot it
        begins anew; a lease that ends much later than a new lease would, counts as expired.
    """

    def __init__(
        self,
        path: Path,
        now: Callable[[], float] = time.time,
        patience_s: float = PATIENCE_S,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._now = now
        self._steady = steady
        self._db = connect(path, patience_s)

    def enqueue(self, key: str, method: str, spec: Mapping[str, Any], input: str, priority: int = 0) -> bool:
        """Add a job; false if the queue has, or had, a job of the same key."""
        values = (key, method, json.dumps(spec), input, priority, self._now())
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO jobs (key, method, spec, input, priority, created_s)"
            " SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (SELECT 1 FROM former_keys WHERE key = ?1)",
            values,
        )
        return cursor.rowcount == 1

    def lease(self, owner: str, lease_s: float, *, is_attempt: bool = True) -> Job | None:
        """Return the next job, now leased by ``owner`` for ``lease_s`` [s]; None if no job is ready.

        Jobs of higher priority come first, then older jobs.  A job whose lease has expired counts as ready.
        ``is_attempt``: whether the lease counts as an attempt.
        """
        now = self._steady()
        rows = self._db.execute(
            "UPDATE jobs SET state = 'leased', owner = ?, lease_until_s = ?, attempts = attempts + ? WHERE id = ("
            " SELECT id FROM jobs WHERE state = 'ready'"
            " OR (state = 'leased' AND (lease_until_s < ? OR lease_until_s > ?))"
            " ORDER BY priority DESC, id LIMIT 1) RETURNING *",
            (owner, now + lease_s, int(is_attempt), now, now + lease_s + BOOT_MARGIN_S),
        ).fetchall()
        return _job(rows[0]) if rows else None

    def renew(self, job: Job, owner: str, lease_s: float) -> bool:
        """Extend a lease to ``lease_s`` [s] from now; false if ``owner`` has lost the job."""
        return self._update_leased("lease_until_s = ?", (self._steady() + lease_s,), job, owner)

    def complete(self, job: Job, owner: str, documents: Iterable[NamedDocument]) -> bool:
        """Store the documents of a finished job; if ``owner`` has lost the job, store nothing and return false."""
        rows = [(job.id, k, str(doc["uid"]), name, json.dumps(doc)) for k, (name, doc) in enumerate(documents)]
        with self._transaction():
            has_job = self._update_leased("state = 'computed', lease_until_s = NULL", (), job, owner)
            if has_job:
                self._db.executemany("INSERT INTO documents (job_id, seq, uid, name, doc) VALUES (?, ?, ?, ?, ?)", rows)
        return has_job

    def give_back(self, job: Job, owner: str, *, attempts: int = -1) -> None:
        """Make a leased job ready again; ``attempts`` is added to its attempts: -1 where this one does not count."""
        change = "state = 'ready', owner = NULL, attempts = MAX(attempts + ?, 0)"
        self._update_leased(change, (attempts,), job, owner)

    def fail(self, job: Job, owner: str, error: str) -> None:
        """Mark a leased job as failed, with the reason."""
        self._update_leased("state = 'failed', error = ?, ended_s = ?", (error, self._now()), job, owner)

    def take_over(self, dead: str, owner: str) -> None:
        """Make the leased jobs of a dead worker ready again, and pass its documents to ``owner``."""
        self._db.execute("UPDATE jobs SET state = 'ready', owner = NULL WHERE state = 'leased' AND owner = ?", (dead,))
        self._db.execute("UPDATE jobs SET owner = ? WHERE state = 'computed' AND owner = ?", (owner, dead))

    def owners(self) -> set[str]:
        """Return the workers that have leased a job or have documents to send."""
        rows = self._db.execute("SELECT DISTINCT owner FROM jobs WHERE state IN ('leased', 'computed')")
        return {row["owner"] for row in rows}

    def jobs_to_send(self, owner: str) -> list[Job]:
        """Return the computed jobs whose documents ``owner`` has to send."""
        rows = self._db.execute("SELECT * FROM jobs WHERE state = 'computed' AND owner = ? ORDER BY id", (owner,))
        return [_job(row) for row in rows]

    def documents_to_send(self, job: Job) -> list[NamedDocument]:
        """Return the documents of a job that have not arrived on the bus, in their order."""
        return self._documents(job.id, "AND is_heard = 0")

    def mark_delivered(self, uid: str) -> None:
        """Note that a document has arrived on the bus; other uids change nothing."""
        if self._db.execute("SELECT 1 FROM documents WHERE uid = ? AND is_heard = 0", (uid,)).fetchone():
            self._db.execute("UPDATE documents SET is_heard = 1 WHERE uid = ?", (uid,))

    def finish(self, job: Job) -> None:
        """Mark a computed job as done: all its documents have arrived."""
        self._db.execute(
            "UPDATE jobs SET state = 'done', owner = NULL, ended_s = ? WHERE id = ? AND state = 'computed'",
            (self._now(), job.id),
        )

    def jobs_to_archive(self) -> list[tuple[Job, list[NamedDocument]]]:
        """Return the done jobs, with their documents, that the archives do not have yet."""
        rows = self._db.execute("SELECT * FROM jobs WHERE state = 'done' AND is_archived = 0 ORDER BY id").fetchall()
        return [(_job(row), self._documents(row["id"], "")) for row in rows]

    def mark_archived(self, job: Job) -> None:
        """Note that the archives have the documents of a job."""
        self._db.execute("UPDATE jobs SET is_archived = 1 WHERE id = ?", (job.id,))

    def jobs(self, state: str | None = None) -> list[Job]:
        """Return all jobs, or the jobs in one state, oldest first."""
        rows = self._db.execute("SELECT * FROM jobs WHERE ?1 IS NULL OR state = ?1 ORDER BY id", (state,))
        return [_job(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        rows = self._db.execute("SELECT state, COUNT(*) AS n FROM jobs GROUP BY state")
        return dict.fromkeys(STATES, 0) | {row["state"]: row["n"] for row in rows}

    def has_work(self) -> bool:
        """Return whether there is a job to compute or a document to send."""
        return bool(self._db.execute("SELECT 1 FROM jobs WHERE state IN ('ready', 'leased', 'computed')").fetchone())

    def needs_input(self, name: str) -> bool:
        """Return whether an unfinished job uses the input file ``name``."""
        states = "('ready', 'leased', 'failed', 'cancelled')"
        row = self._db.execute(f"SELECT 1 FROM jobs WHERE input = ? AND state IN {states}", (name,))  # noqa: S608 - constant text
        return row.fetchone() is not None

    def retry(self, job_id: int) -> bool:
        """Make a failed or cancelled job ready again; false for any other job."""
        change = "state = 'ready', owner = NULL, attempts = 0, error = NULL, ended_s = NULL"
        return self._set(job_id, change, (), "'failed', 'cancelled'")

    def cancel(self, job_id: int) -> bool:
        """Cancel a ready, leased or failed job; false for any other job.  The worker of a leased job then stops it."""
        change = "state = 'cancelled', owner = NULL, ended_s = ?"
        return self._set(job_id, change, (self._now(),), "'ready', 'leased', 'failed'")

    def prioritise(self, job_id: int, priority: int) -> bool:
        """Set the priority of a ready job; false for any other job."""
        return self._set(job_id, "priority = ?", (priority,), "'ready'")

    def put_first(self, job_id: int) -> bool:
        """Give a ready job a priority above all other ready jobs; false for a job that is not ready."""
        change = "priority = 1 + (SELECT MAX(priority) FROM jobs WHERE state = 'ready')"
        return self._set(job_id, change, (), "'ready'")

    def prune(self, max_age_s: float, max_number: int) -> set[str]:
        """Delete old jobs that are done and archived, or cancelled; return the input files that no job needs any more.

        A job is old if it ended more than ``max_age_s`` [s] ago, or if ``max_number`` such jobs ended after it.  Its
        key is kept, so that it is not added again.
        """
        with self._transaction():
            rows = self._db.execute(_TO_PRUNE, (max_number, self._now() - max_age_s)).fetchall()
            self._db.executemany("INSERT OR IGNORE INTO former_keys (key) VALUES (?)", [(row["key"],) for row in rows])
            ids = [(row["id"],) for row in rows]
            self._db.executemany("DELETE FROM documents WHERE job_id = ?", ids)
            self._db.executemany("DELETE FROM jobs WHERE id = ?", ids)
        return {row["input"] for row in rows if not self.needs_input(row["input"])}

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def _documents(self, job_id: int, condition: str) -> list[NamedDocument]:
        rows = self._db.execute(
            f"SELECT name, doc FROM documents WHERE job_id = ? {condition} ORDER BY seq",  # noqa: S608 - constant text
            (job_id,),
        )
        return [(row["name"], json.loads(row["doc"])) for row in rows]

    def _update_leased(self, change: str, values: tuple[Any, ...], job: Job, owner: str) -> bool:
        """Change a job that ``owner`` has leased; false if ``owner`` has lost the job."""
        cursor = self._db.execute(
            f"UPDATE jobs SET {change} WHERE id = ? AND state = 'leased' AND owner = ?",  # noqa: S608 - constant text
            (*values, job.id, owner),
        )
        return cursor.rowcount == 1

    def _set(self, job_id: int, change: str, values: tuple[Any, ...], states: str) -> bool:
        """Change a job that is in one of ``states``; false for any other job."""
        cursor = self._db.execute(
            f"UPDATE jobs SET {change} WHERE id = ? AND state IN ({states})",  # noqa: S608 - constant text
            (*values, job_id),
        )
        return cursor.rowcount == 1

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Make all changes of a block, or none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _job(row: sqlite3.Row) -> Job:
    names = ("id", "key", "method", "input", "state", "priority", "created_s", "attempts", "owner", "error")
    return Job(spec=json.loads(row["spec"]), **{name: row[name] for name in names})


def open_queue(path: Path) -> Queue:
    """Return a connection to a queue; a file that is no queue, or has another version, is put aside."""
    try:
        return Queue(path)
    except sqlite3.OperationalError:  # locked, or a full disk: the file itself is good
        raise
    except sqlite3.DatabaseError:
        logger.exception("%s cannot be used; it is kept as %s and replaced by a new queue", path, set_aside(path))
        return Queue(path)
