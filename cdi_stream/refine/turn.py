"""Whose turn it is: locks on files, which the system frees when their holder dies, however it dies.

The service holds ``urgent.lock`` from a complete curve to its document, and workers stand still between two steps for
as long.  Each worker holds the lock of a slot, so that others can tell a dead one's jobs from a living one's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_SLOTS = 64
_LOOK_AGAIN_S = 0.005
_TRIES, _TRY_AGAIN_S = 10, 0.0005


def heartbeat_file(directory: Path, pid: int) -> Path:
    """Return the file that a worker touches as long as it gets on; its time tells one that hangs."""
    return directory / f"worker-{pid}.alive"


class WorkerStopped(Exception):  # noqa: N818 - no error, but the end of the work
    """A worker was told to stop in the middle of a job."""


class UrgentLock:
    """The service's side: `begin` holds all workers up, `end` lets them go on; neither waits noticeably.

    A worker that is frozen in the moment of looking keeps the lock; the live path does without it then.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._handle = _open(directory / "urgent.lock")

    def begin(self) -> None:
        """Hold the workers up; a second time changes nothing."""
        for _ in range(_TRIES):
            if _try_lock(self._handle, fcntl.LOCK_EX):
                return
            time.sleep(_TRY_AGAIN_S)

    def end(self) -> None:
        """Let the workers go on."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go for good."""
        os.close(self._handle)


class Turn:
    """A worker's side: `wait` returns when nothing is urgent, and raises `WorkerStopped` when told to stop."""

    def __init__(
        self, directory: Path, is_stopped: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._handle = _open(directory / "urgent.lock")
        self._is_stopped = is_stopped
        self._sleep = sleep

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for one's turn, calling ``meanwhile`` now and then; to be called before each step."""
        while not self._is_stopped():
            meanwhile()
            if _try_lock(self._handle, fcntl.LOCK_SH):
                fcntl.flock(self._handle, fcntl.LOCK_UN)
                return
            self._sleep(_LOOK_AGAIN_S)
        raise WorkerStopped

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


@contextlib.contextmanager
def slot(directory: Path) -> Iterator[str]:
    """Take the first free slot for a worker; yields its name, an owner of leases.

    Raises
    ------
    OSError
        If all slots are taken.
    """
    for number in range(MAX_SLOTS):
        handle = _open(directory / f"worker_{number}.lock")
        if _try_lock(handle, fcntl.LOCK_EX):
            try:
                yield f"worker_{number}"
            finally:
                os.close(handle)
            return
        os.close(handle)
    raise OSError(f"{MAX_SLOTS} workers run on {directory} already")


@contextlib.contextmanager
def orphan_lock(directory: Path, owner: str) -> Iterator[bool]:
    """Whether no process holds a worker's slot; if so, none can take it in the meantime."""
    handle = _open(directory / f"{owner}.lock")
    try:
        yield _try_lock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
