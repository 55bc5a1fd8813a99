"""A budget of wall time, asked after every cycle."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable


class Deadline:
    """Shares of a budget of wall time; a share is over when its part of the whole has passed.

    ``wait_turn`` is called at every question of the thread that made the deadline, and may hold it up for more urgent
    work, or raise to end it all: then every share is over, in all threads.
    """

    def __init__(
        self,
        budget_s: float,
        clock: Callable[[], float] = time.monotonic,
        begin_s: float | None = None,
        wait_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock, self._wait_turn = clock, wait_turn
        self._owner = threading.get_ident()
        self._begin_s, self.budget_s = clock() if begin_s is None else begin_s, budget_s
        self._is_ended = threading.Event()

    def is_over(self, share: float = 1.0) -> bool:
        """Whether ``share`` of the budget is spent."""
        if threading.get_ident() == self._owner:
            try:
                self._wait_turn()
            except BaseException:
                self._is_ended.set()
                raise
        return self._is_ended.is_set() or self.passed_s > share * self.budget_s

    @property
    def passed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begin_s

    @property
    def left_s(self) -> float:
        """Seconds left, negative when it is over."""
        return self.budget_s - self.passed_s

    def part(self, share: float) -> Deadline:
        """The same from its beginning, with a share of the budget."""
        part = copy.copy(self)
        part.budget_s = share * self.budget_s
        return part
