"""Standing alarms for operators, and a log that floods of the same complaint do not drown."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any


class Alarms:
    """Alarms by key, from any thread; one stands until it is cleared.

    ``wall_clock`` gives seconds since the epoch.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._standing: dict[str, tuple[str, float]] = {}

    def set(self, key: str, text: str) -> None:
        """Raise an alarm, or give a standing one another text."""
        with self._lock:
            since_s = self._standing.get(key, ("", self._wall_clock()))[1]
            self._standing[key] = (text, since_s)

    def clear(self, key: str) -> None:
        """Take an alarm back."""
        with self._lock:
            self._standing.pop(key, None)

    def standing(self) -> list[dict[str, Any]]:
        """Return the alarms that stand: ``key, text, since_s`` (seconds since the epoch)."""
        with self._lock:
            return [{"key": key, "text": text, "since_s": since} for key, (text, since) in self._standing.items()]


class Complaints:
    """Log of things that cannot be used: of each kind the first few, then a count once in a while.

    Two complaints are of one kind if they differ in numbers only.  ``clock`` gives monotonic seconds.
    """

    FIRST, EVERY_S, MAX_KINDS = 3, 30.0, 200

    def __init__(self, logger: logging.Logger, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: dict[str, int] = {}
        self.first: str | None = None
        self._logger = logger
        self._what = what
        self._clock = clock
        self._logged_s: dict[str, float] = {}

    @property
    def n(self) -> int:
        """Complaints in all."""
        return sum(self.counts.values())

    def add(self, text: str) -> None:
        """Count a complaint, and log it unless many of its kind were logged of late."""
        self.first = self.first or text
        kind = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "#", text)[:120]
        if kind not in self.counts and len(self.counts) >= self.MAX_KINDS:
            kind = "of many other kinds"
        self.counts[kind] = n = self.counts.get(kind, 0) + 1
        now = self._clock()
        if n <= self.FIRST or now - self._logged_s.get(kind, -self.EVERY_S) >= self.EVERY_S:
            self._logged_s[kind] = now
            self._logger.warning("%s dropped (%d of this kind so far): %s", self._what, n, text)
