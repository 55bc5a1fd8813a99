"""Spool: the documents of this service, in order, on disk until every sink has them.

The spool is one SQLite file in the results folder.  The documents of a result, and the note that its curve is
published, are written in one transaction, so that a service that is killed neither loses a document nor reconstructs a
curve twice.  The file survives the end of the process; after a power cut the last moments may be missing.  While the
file cannot be written (full disk, lock), documents are kept in memory and delivered from there; they are written
later.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdi_stream.alarms import Alarms
from cdi_stream.disk.aside import set_aside
from cdi_stream.documents.plain import to_plain
from cdi_stream.errors import ConfigError
from cdi_stream.messages import Document

logger = logging.getLogger(__name__)

BUS = "bus"
"""Name of the document bus among the sinks."""

SPOOL = "spool.sqlite3"
"""Name of the file in the results folder."""

VERSION = 1
"""Version of the tables; a file of another version is put aside."""

MAX_REMEMBERED = 10_000
"""Number of published curves, and of raw runs, that are kept in the file."""

_LOCKED_S = 0.05
"""Time [s] to wait for a lock on the file; the live path must not wait longer."""

_SCHEMA = (
    "CREATE TABLE documents (id INTEGER PRIMARY KEY, run TEXT NOT NULL, name TEXT NOT NULL, doc TEXT NOT NULL)",
    "CREATE INDEX documents_by_run ON documents (run)",
    "CREATE TABLE runs (run TEXT PRIMARY KEY, is_over INTEGER NOT NULL DEFAULT 0, sinks TEXT NOT NULL)",
    "CREATE TABLE heard (id INTEGER NOT NULL, sink TEXT NOT NULL, PRIMARY KEY (id, sink))",
    "CREATE TABLE done (run TEXT NOT NULL, sink TEXT NOT NULL, PRIMARY KEY (run, sink))",
    "CREATE TABLE curves (key TEXT PRIMARY KEY)",
    "CREATE TABLE attempts (raw_uid TEXT PRIMARY KEY, n INTEGER NOT NULL)",
)

Item = tuple[str, Mapping[str, Any]]
"""Name and content of a document."""

_Change = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One document in the spool: ``id`` is its place in the order of all documents, ``run`` the uid of its run."""

    id: int
    run: str
    name: str
    doc: Document


class Spool:
    """Documents that wait for delivery.  Safe to use from several threads; each folder has one service.

    Parameters
    ----------
    directory
        Folder of the results.
    sinks
        Names of the sinks other than the bus.
    alarms
        Alarms of the service: one is active while the file cannot be written.

    Raises
    ------
    ConfigError
        If another service uses the folder, or the folder cannot be written.
    """

    def __init__(self, directory: Path, sinks: tuple[str, ...] = (), alarms: Alarms | None = None) -> None:
        self.sinks = (BUS, *sinks)
        self.changed = threading.Condition()
        self._alarms = alarms or Alarms()
        self._n_delivered = dict.fromkeys(self.sinks, 0)
        self._path = directory / SPOOL
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock_handle = lock_folder(directory)
        except OSError as error:
            raise ConfigError(
                f"publish.directory {directory}: cannot be written: {error}; choose another folder"
            ) from error
        self._unsaved: deque[_Change] = deque()
        try:
            self._load_state(_open_database(self._path))
        except (sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise ConfigError(f"{self._path} cannot be used: {error}; free the disk or the lock on it") from error
            logger.exception("%s cannot be read; it is kept as %s", self._path, set_aside(self._path))
            self._load_state(_open_database(self._path))

    def put(
        self, run: str, items: Iterable[Item], *, curve_key: str | None = None, sinks: tuple[str, ...] | None = None
    ) -> None:
        """Add documents in one transaction.

        Parameters
        ----------
        run
            Uid of the run of the documents.
        items
            Documents in their order.
        curve_key
            Key of the curve that counts as published from now on.
        sinks
            Sinks that take the run; None means all sinks.
        """
        with self.changed:
            changes: list[_Change] = []
            for name, doc in items:
                changes += self._add(run, name, to_plain(dict(doc)), sinks or self.sinks)
            if curve_key is not None:
                self._curves.add(curve_key)
                changes.append(("INSERT OR IGNORE INTO curves (key) VALUES (?)", (curve_key,)))
            self._save(changes)
            self.changed.notify_all()

    def next_attempt(self, raw_uid: str) -> int:
        """Return the number of runs that this service has begun for a raw run; part of the uid of the next one."""
        result: int = self._attempts.get(raw_uid, 0)
        return result

    def is_published(self, curve_key: str) -> bool:
        """Whether the reconstruction of a curve is in the spool, or was."""
        return curve_key in self._curves

    def close_open_runs(self, reason: str) -> int:
        """Add the stop documents of runs that an earlier service left open; return the number of these runs."""
        left = list(self._open.items())
        for run, entries in left:
            names = {e.doc["uid"]: e.doc["name"] for e in entries if e.name == "descriptor"}
            counts = dict.fromkeys(names.values(), 0)
            for entry in entries:
                if entry.name == "event" and entry.doc["descriptor"] in names:
                    counts[names[entry.doc["descriptor"]]] += 1
            stop = {"uid": f"{run}-stop", "run_start": run, "time": time.time(), "exit_status": "abort"}
            self.put(run, [("stop", {**stop, "reason": reason, "num_events": counts})])
        return len(left)

    def waiting(self, sink: str) -> list[Entry]:
        """Return the documents that a sink does not have yet, in their order."""
        with self.changed:
            return list(self._waiting[sink])

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the numbers of documents of each sink: ``waiting``, and ``delivered`` since the start."""
        with self.changed:
            waiting = {sink: len(queue) for sink, queue in self._waiting.items()}
            return {"waiting": waiting, "delivered": dict(self._n_delivered)}

    def mark_delivered(self, sink: str, entry: Entry) -> None:
        """Note that a sink has a document; with its stop document the sink has the whole run."""
        with self.changed:
            self._n_delivered[sink] += 1
            queue = self._waiting[sink]
            if queue and queue[0].id == entry.id:
                queue.popleft()
            else:
                with contextlib.suppress(ValueError):
                    queue.remove(entry)
            changes: list[_Change] = [("INSERT OR IGNORE INTO heard VALUES (?, ?)", (entry.id, sink))]
            if entry.name == "stop":
                changes += self._finish_run(sink, entry.run)
            self._save(changes)

    def mark_sent(self, sink: str, entries: Iterable[Entry]) -> None:
        """Note that documents were sent to a sink, so that the next start does not send them again.

        In this process they still wait until `mark_delivered`.
        """
        with self.changed:
            self._save([("INSERT OR IGNORE INTO heard VALUES (?, ?)", (entry.id, sink)) for entry in entries])

    def mark_unsent(self, sink: str, entries: Iterable[Entry]) -> None:
        """Take back `mark_sent` for documents that did not arrive, so that the next start sends them."""
        with self.changed:
            self._save([("DELETE FROM heard WHERE id = ? AND sink = ?", (entry.id, sink)) for entry in entries])

    def earlier_documents(self, entry: Entry) -> list[Entry]:
        """Return the earlier documents of the run of ``entry`` that are still in the spool."""
        with self.changed:
            rows = self._db.execute(
                "SELECT id, name, doc FROM documents WHERE run = ? AND id < ? ORDER BY id", (entry.run, entry.id)
            )
            return [Entry(id=number, run=entry.run, name=name, doc=json.loads(doc)) for number, name, doc in rows]

    def rewind(self, sink: str, entries: Iterable[Entry]) -> None:
        """Put documents before the waiting ones of a sink, so that it gets them again first."""
        with self.changed:
            self._waiting[sink].extendleft(reversed(list(entries)))

    def close(self) -> dict[str, int]:
        """Close the file; return the number of waiting documents of each sink that has any."""
        with self.changed:
            self._save([])
            left = {name: len(queue) for name, queue in self._waiting.items() if queue}
            self._db.close()
            os.close(self._lock_handle)
        return left

    def _add(self, run: str, name: str, doc: dict[str, Any], sinks: tuple[str, ...]) -> list[_Change]:
        """Queue a document for its sinks; return the changes that write it into the file."""
        entry = Entry(id=self._next_id, run=run, name=name, doc=doc)
        self._next_id += 1
        changes: list[_Change] = []
        if name == "start":
            changes.append(("INSERT OR IGNORE INTO runs (run, sinks) VALUES (?, ?)", (run, json.dumps(sinks))))
            changes += self._count_attempt(str(doc.get("original_run_uid", "")))
            self._open[run] = []
        self._open.setdefault(run, []).append(entry)
        changes.append(("INSERT INTO documents VALUES (?, ?, ?, ?)", (entry.id, run, name, json.dumps(doc))))
        if name == "stop":
            changes.append(("UPDATE runs SET is_over = 1 WHERE run = ?", (run,)))
            self._open.pop(run, None)
        for sink in sinks:
            self._waiting[sink].append(entry)
        return changes

    def _count_attempt(self, raw_uid: str) -> list[_Change]:
        n = self._attempts.pop(raw_uid, 0) + 1
        self._attempts[raw_uid] = n
        for old in list(self._attempts)[: max(0, len(self._attempts) - MAX_REMEMBERED)]:
            del self._attempts[old]
        return [("INSERT OR REPLACE INTO attempts VALUES (?, ?)", (raw_uid, n))]

    def _finish_run(self, sink: str, run: str) -> list[_Change]:
        """Return the changes when a sink has a whole run; a run that every sink has is deleted."""
        if any(entry.run == run for queue in self._waiting.values() for entry in queue):
            return [("INSERT OR IGNORE INTO done VALUES (?, ?)", (run, sink))]
        return _deletions(run)

    def _load_state(self, db: sqlite3.Connection) -> None:
        """Read the state that an earlier service wrote into the file."""
        self._db = db
        for table in ("curves", "attempts"):  # older rows are no longer needed
            db.execute(
                f"DELETE FROM {table} WHERE rowid <= (SELECT MAX(rowid) FROM {table}) - {MAX_REMEMBERED}"  # noqa: S608 - constant text
            )
        self._waiting: dict[str, deque[Entry]] = {name: deque() for name in self.sinks}
        self._attempts = dict(db.execute("SELECT raw_uid, n FROM attempts"))
        self._curves = {key for (key,) in db.execute("SELECT key FROM curves")}
        self._open: dict[str, list[Entry]] = {}
        self._next_id = 1 + (db.execute("SELECT MAX(id) FROM documents").fetchone()[0] or 0)
        self._load_documents()

    def _load_documents(self) -> None:
        """Read the documents that wait for a sink; delete the runs that every sink has."""
        heard = set(self._db.execute("SELECT id, sink FROM heard"))
        done = set(self._db.execute("SELECT run, sink FROM done"))
        runs = {run: (bool(over), json.loads(sinks)) for run, over, sinks in self._db.execute("SELECT * FROM runs")}
        for number, run, name, doc in self._db.execute("SELECT id, run, name, doc FROM documents ORDER BY id"):
            is_over, sinks = runs.get(run, (True, self.sinks))
            entry = Entry(id=number, run=run, name=name, doc=json.loads(doc))
            if not is_over:
                self._open.setdefault(run, []).append(entry)
            for sink in self.sinks:
                if sink in sinks and (run, sink) not in done and (number, sink) not in heard:
                    self._waiting[sink].append(entry)
        under_way = {entry.run for queue in self._waiting.values() for entry in queue}
        for run in {run for run, (is_over, _) in runs.items() if is_over} - under_way:
            self._save(_deletions(run))

    def _save(self, changes: list[_Change]) -> None:
        """Write changes in one transaction; if that fails, they are written with the next changes."""
        self._unsaved.extend(changes)
        if not self._unsaved:
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for statement, values in self._unsaved:
                self._db.execute(statement, values)
            self._db.execute("COMMIT")
            self._unsaved.clear()
            self._alarms.clear("spool")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            text = (
                f"{self._path} cannot be written ({error}): documents are kept in memory; "
                "make room on the disk, or end the program that locks the file"
            )
            self._alarms.set("spool", text)
            logger.warning(text)


def _deletions(run: str) -> list[_Change]:
    """Return the changes that delete a run from all tables."""
    return [
        ("DELETE FROM heard WHERE id IN (SELECT id FROM documents WHERE run = ?)", (run,)),
        ("DELETE FROM documents WHERE run = ?", (run,)),
        ("DELETE FROM runs WHERE run = ?", (run,)),
        ("DELETE FROM done WHERE run = ?", (run,)),
    ]


def _open_database(path: Path) -> sqlite3.Connection:
    """Return an open database; a file that is no spool, or has another version, is put aside.

    Raises
    ------
    ConfigError
        If the file is locked or cannot be written.
    """
    try:
        return _connect(path)
    except sqlite3.OperationalError as error:
        raise ConfigError(
            f"{path} cannot be used: {error}; make room on the disk, or end the program that locks the file"
        ) from error
    except sqlite3.DatabaseError:
        logger.exception("%s cannot be used; it is kept as %s and replaced by a new file", path, set_aside(path))
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_LOCKED_S, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    if db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0:
        for statement in _SCHEMA:
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
    if (version := db.execute("PRAGMA user_version").fetchone()[0]) != VERSION:
        db.close()
        raise sqlite3.DatabaseError(f"expected a spool of version {VERSION}, got version {version}")
    return db


def lock_folder(directory: Path) -> int:
    """Lock a results folder for one service until the process ends; return the handle of the lock.

    Raises
    ------
    ConfigError
        If another process holds the lock.
    """
    handle = os.open(directory / "service.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise ConfigError(
            f"{directory} is in use by another service: stop that one, or set publish.directory to another folder"
        ) from error
    return handle
