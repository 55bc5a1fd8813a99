"""Heartbeats as files: a process touches a file while it makes progress, another process looks at the file.

The age of a heartbeat is measured with the monotonic clock of the process that looks: a change of the system's clock
neither hides a process that hangs nor kills a process that works.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

BEAT_S = 1.0
"""Shortest time [s] between two touches of a heartbeat."""


class Beat:
    """Heartbeat of this process: `touch` may be called at every step.

    ``makes_file``: whether a file that does not exist is made.
    """

    def __init__(self, path: Path, *, makes_file: bool = True) -> None:
        self._path = path
        self._makes_file = makes_file
        self._touched_s = -BEAT_S

    def is_due(self) -> bool:
        """Return whether the next `touch` touches the file."""
        return time.monotonic() - self._touched_s >= BEAT_S

    def touch(self) -> None:
        """Touch the file, at most every `BEAT_S`; a disk that fails is ignored."""
        if self.is_due():
            self._touched_s = time.monotonic()
            with contextlib.suppress(OSError):
                self._path.touch() if self._makes_file else os.utime(self._path)

    def end(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


class Pulse:
    """Heartbeat of another process, as this process sees it."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._mark = self._read()
        self._changed_s = clock()

    def age_s(self) -> float:
        """Return the time [s] since the file was seen to change; call this regularly."""
        if (mark := self._read()) != self._mark:
            self._mark, self._changed_s = mark, self._clock()
        return self._clock() - self._changed_s

    @property
    def has_beaten(self) -> bool:
        """Whether the file existed at the last look."""
        return self._mark is not None

    def _read(self) -> int | None:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None
