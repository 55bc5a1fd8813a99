"""Turns between service and workers: locks on files, which the system releases when a process ends or is killed.

The service holds ``urgent.lock`` from a complete curve to its document; meanwhile the workers pause between two steps.
It holds ``monitor.lock`` while it notes the documents that arrive on the bus; workers send documents only then.  Each
worker holds the lock of its slot, so that the jobs of a dead worker can be recognised.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_SLOTS = 64
"""Largest number of workers on one results folder."""

MONITOR_PATIENCE_S = 120.0
"""Time [s] that a worker waits for a service before it sends documents that only the worker itself notes."""

_LOOK_AGAIN_S = 0.005
_TRIES, _TRY_AGAIN_S = 10, 0.0005


def heartbeat_file(directory: Path, pid: int) -> Path:
    """Return the heartbeat of a worker: a file that the worker touches while it makes progress."""
    return directory / f"worker-{pid}.alive"


class WorkerStopped(Exception):  # noqa: N818 - no error, but the end of the work
    """Raised in a worker that must stop in the middle of a job."""


class UrgentLock:
    """The lock of the service: `begin` pauses all workers, `end` lets them continue; each call takes at most 5 ms.

    A worker that is suspended during its test of the lock keeps the lock; the live path then continues without it.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._handle = _open(directory / "urgent.lock")

    def begin(self) -> None:
        """Pause the workers; a second call changes nothing."""
        for _ in range(_TRIES):
            if _try_lock(self._handle, fcntl.LOCK_EX):
                return
            time.sleep(_TRY_AGAIN_S)

    def end(self) -> None:
        """Let the workers continue."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the lock and close its file."""
        os.close(self._handle)


class MonitorLock:
    """The lock of the service while its delivery monitor listens."""

    def __init__(self, directory: Path) -> None:
        self._handle = _open(directory / "monitor.lock")

    def hold(self) -> None:
        """Hold the lock; call this again and again, because a worker that looks at the lock may be in the way."""
        _try_lock(self._handle, fcntl.LOCK_EX)

    def close(self) -> None:
        """Release the lock and close its file."""
        os.close(self._handle)


class SecondMonitor:
    """The delivery monitor of the service, as a worker sees it: with it, two processes note what has arrived."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._handle = _open(directory / "monitor.lock")
        self._clock = clock
        self._seen_s = clock()

    def may_send(self) -> bool:
        """Return whether the service listens, or has not for `MONITOR_PATIENCE_S`."""
        if not _try_lock(self._handle, fcntl.LOCK_SH):
            self._seen_s = self._clock()
            return True
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        return self._clock() - self._seen_s > MONITOR_PATIENCE_S

    def close(self) -> None:
        """Close the file of the lock."""
        os.close(self._handle)


class Turn:
    """The lock seen by a worker: `wait` returns when no curve is urgent.

    ``is_stopped`` returns whether the worker must end; ``sleep`` waits for a time [s].
    """

    def __init__(
        self, directory: Path, is_stopped: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._handle = _open(directory / "urgent.lock")
        self._is_stopped = is_stopped
        self._sleep = sleep

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until no curve is urgent; call this before each step.  ``meanwhile`` is called during the wait.

        Raises
        ------
        WorkerStopped
            If the worker is to end.
        """
        while not self._is_stopped():
            meanwhile()
            if _try_lock(self._handle, fcntl.LOCK_SH):
                fcntl.flock(self._handle, fcntl.LOCK_UN)
                return
            self._sleep(_LOOK_AGAIN_S)
        raise WorkerStopped

    def close(self) -> None:
        """Close the file of the lock."""
        os.close(self._handle)


@contextlib.contextmanager
def slot(directory: Path) -> Iterator[str]:
    """Yield the name of the first free slot, locked for a worker; the name is the owner of its leases.

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
    raise OSError(f"expected fewer than {MAX_SLOTS} workers on {directory}; end some of them, or use another folder")


@contextlib.contextmanager
def orphan_lock(directory: Path, owner: str) -> Iterator[bool]:
    """Yield whether no process holds the slot of a worker; no process can take the slot within this context."""
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
