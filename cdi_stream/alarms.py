"""Active alarms for operators, and a log that counts repeated complaints instead of writing each of them."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any


class Alarms:
    """Active alarms by key; an alarm is active until it is cleared.  Safe to use from several threads.

    ``wall_clock`` gives seconds since the epoch.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._standing: dict[str, tuple[str, float]] = {}

    def set(self, key: str, text: str) -> None:
        """Raise an alarm, or change the text of an active alarm."""
        with self._lock:
            since_s = self._standing.get(key, ("", self._wall_clock()))[1]
            self._standing[key] = (text, since_s)

    def clear(self, key: str) -> None:
        """Clear an alarm; a key without an alarm changes nothing."""
        with self._lock:
            self._standing.pop(key, None)

    def active(self) -> list[dict[str, Any]]:
        """Return the active alarms, each with ``key``, ``text`` and ``since_s`` [s since the epoch]."""
        with self._lock:
            return [{"key": key, "text": text, "since_s": since} for key, (text, since) in self._standing.items()]


class Complaints:
    """Log of messages or documents that cannot be used.

    The first `FIRST` complaints of each kind are written to the log, later complaints once in `EVERY_S` with their
    count.  Two complaints are of the same kind if they differ only in numbers and in quoted text.

    Parameters
    ----------
    logger
        Log that is written to.
    noun
        Name of the things that cannot be used, as it appears in the log: ``message``, ``document``.
    clock
        Monotonic time [s].
    """

    FIRST = 3
    """Number of complaints of one kind that are all written to the log."""

    EVERY_S = 30.0
    """Shortest time [s] between two later log entries of one kind."""

    MAX_KINDS = 200
    """Number of kinds that are counted apart; all further kinds share one count."""

    def __init__(self, logger: logging.Logger, noun: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: dict[str, int] = {}
        self.first: str | None = None
        self._logger = logger
        self._noun = noun
        self._clock = clock
        self._logged_s: dict[str, float] = {}

    @property
    def n(self) -> int:
        """Number of complaints of all kinds."""
        return sum(self.counts.values())

    def add(self, text: str) -> None:
        """Count a complaint, and write it to the log as far as the limits allow."""
        self.first = self.first or text
        kind = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "#", text)[:120]
        if kind not in self.counts and len(self.counts) >= self.MAX_KINDS:
            kind = "of many other kinds"
        self.counts[kind] = n = self.counts.get(kind, 0) + 1
        now = self._clock()
        if n <= self.FIRST or now - self._logged_s.get(kind, -self.EVERY_S) >= self.EVERY_S:
            self._logged_s[kind] = now
            self._logger.warning("%s dropped (%d of this kind so far): %s", self._noun, n, text)
