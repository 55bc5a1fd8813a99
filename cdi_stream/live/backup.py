"""Backup of the queue, the spool and the catalog of a results folder while the service runs, and their return.

Result files and the frames of open scans are not in a backup: result files are copied as all data of the beamline are,
and the frames change too fast.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cdi_stream.disk.aside import set_aside
from cdi_stream.disk.atomic import flush_folder
from cdi_stream.documents.spool import SPOOL, lock_folder
from cdi_stream.errors import ConfigError, InputError
from cdi_stream.operators.history import FILE_NAME
from cdi_stream.refine.backlog import REQUESTS
from cdi_stream.refine.inputs import INPUTS
from cdi_stream.refine.queue import PATIENCE_S, QUEUE
from cdi_stream.refine.turn import orphan_lock

DATABASES = (QUEUE, SPOOL, "catalog.db", "tables.db")
"""SQLite files of a results folder: queue, documents on their way, and the catalog of the Tiled server."""

FOLDERS = (REQUESTS, INPUTS)
"""Folders with the requests and the inputs of refinements, without which no job can be computed."""

FILES = ("tiled.json", FILE_NAME)
"""Small files: address and key of the Tiled server, and the history of the operators' page."""

_PARTIAL = ".partial"


def back_up(directory: Path, target: Path, *, keep: int, now: datetime | None = None) -> Path:
    """Copy queue, spool and catalog into a new folder of ``target``, and return that folder.

    The copy is consistent although service and workers go on: each database is copied in one transaction.  Most inputs
    are copied before; the others are copied while nobody changes the queue, so that every waiting job of the copy has
    its input, which is deleted only after the job has ended.

    Parameters
    ----------
    directory
        Folder of the results.
    target
        Folder of the backups.
    keep
        Number of backups that are kept; older ones are deleted when the new one is complete.
    now
        Time that gives the folder its name; None: the present.

    Raises
    ------
    InputError
        If ``directory`` has no queue and no spool, or a database is damaged.
    """
    if not any((directory / name).exists() for name in (QUEUE, SPOOL)):
        raise InputError(f"{directory}: expected the results folder of a service, with {QUEUE} or {SPOOL}; found none")
    name = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%S.%fZ")
    part = target / f"{name}{_PARTIAL}"
    part.mkdir(parents=True, mode=0o700)
    try:
        _copy_folders(directory, part)
        with _unchanged(directory / QUEUE):
            for database in DATABASES:
                if (directory / database).exists():
                    _copy_database(directory / database, part / database)
            _copy_folders(directory, part)
        for file in FILES:
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(directory / file, part / file)
        _flush(part)
        part.rename(target / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # has another name by now, unless there was an error
    flush_folder(target)
    for old in backups(target)[:-keep]:
        shutil.rmtree(old)
    return target / name


def backups(target: Path) -> list[Path]:
    """Return the complete backups in a folder, oldest first."""
    return sorted(folder for folder in target.glob("*T*Z") if folder.is_dir())


def restore(backup: Path, directory: Path) -> list[str]:
    """Put a backup into a results folder, and return the names of what was put there.

    Databases that are there are kept under another name, which ends in ``.broken``.  Documents and refinements of the
    time since the backup may be published again; they have the same uids, by which every receiver knows them.

    Raises
    ------
    ConfigError
        If a service or a worker uses the folder.
    InputError
        If ``backup`` is no complete backup.
    """
    names = [name for name in (*DATABASES, *FOLDERS, *FILES) if (backup / name).exists()]
    if backup.name.endswith(_PARTIAL) or not {QUEUE, SPOOL} & set(names):
        raise InputError(
            f"{backup}: expected a folder from 'cdi-stream backup', got {', '.join(names) or 'none of it'}"
        )
    for name in DATABASES:
        if name in names:
            _require_sound(backup / name)
    directory.mkdir(parents=True, exist_ok=True)
    with _unused(directory):
        for name in names:
            if name in DATABASES:
                set_aside(directory / name)
                shutil.copy2(backup / name, directory / name)
            elif name in FOLDERS:
                shutil.copytree(backup / name, directory / name, dirs_exist_ok=True)
            else:
                shutil.copy2(backup / name, directory / name)
        _flush(directory)
    return names


@contextlib.contextmanager
def _unchanged(queue: Path) -> Iterator[None]:
    """Let nobody change a queue meanwhile: changes wait; raises `InputError` if the file is damaged."""
    if not queue.exists():
        yield
        return
    with contextlib.closing(sqlite3.connect(queue, timeout=PATIENCE_S, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise InputError(f"{queue}: cannot be copied: {error}") from error
        yield
        db.execute("ROLLBACK")


@contextlib.contextmanager
def _unused(directory: Path) -> Iterator[None]:
    """Hold the lock of a results folder; raises `ConfigError` if a service or a worker uses it."""
    handle = lock_folder(directory)
    try:
        for lock in directory.glob("worker_*.lock"):
            with orphan_lock(directory, lock.stem) as is_free:
                if not is_free:
                    raise ConfigError(f"{directory} is in use by a worker ({lock.stem}): stop all workers first")
        yield
    finally:
        os.close(handle)


def _copy_folders(directory: Path, part: Path) -> None:
    """Copy the files of `FOLDERS` that are not copied yet; a file that a worker deletes meanwhile is left out."""
    for name in FOLDERS:
        (part / name).mkdir(exist_ok=True)
        for file in sorted((directory / name).glob("[!.]*")):
            if not (part / name / file.name).exists():
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy2(file, part / name / file.name)


def _copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite file that other processes change, by SQLite's own way (https://www.sqlite.org/backup.html)."""
    try:
        with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise InputError(f"{source}: cannot be copied: {error}") from error
    _require_sound(target)


def _require_sound(path: Path) -> None:
    """Raise `InputError` unless SQLite finds a file without damage."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            answer = db.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        answer = str(error)
    if answer != "ok":
        raise InputError(f"{path}: expected a SQLite file without damage, got: {answer}")


def _flush(folder: Path) -> None:
    """Write all files of a backup to disk, so that they survive a power cut."""
    for name in (*DATABASES, *FILES, *FOLDERS):
        for file in (folder / name).glob("*") if (folder / name).is_dir() else (folder / name,):
            if file.exists():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
    flush_folder(folder)
