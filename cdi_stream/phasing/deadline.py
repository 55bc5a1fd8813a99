"""A budget of wall time, asked after every cycle."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable


class Deadline:
    """Shares of a budget of wall time; a share is over when its part of the whole has passed.

    ``wait_turn`` is called at every question of the thread that made the deadline, and may hold it up for more urgent
    work, which costs nothing of the budget, or raise to end it all: then every share is over, in all threads.  While
    that thread is held up, so are others that ask.
    """

    def __init__(
        self,
        budget_s: float,
        clock: Callable[[], float] = time.monotonic,
        begin_s: float | None = None,
        wait_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock, self._turns = clock, _Turns(clock, wait_turn)
        self._begin_s, self.budget_s = clock() if begin_s is None else begin_s, budget_s

    def is_over(self, share: float = 1.0) -> bool:
        """Whether ``share`` of the budget is spent."""
        self._turns.wait()
        return self._turns.is_ended or self.passed_s > share * self.budget_s

    @property
    def passed_s(self) -> float:
        """Seconds since the beginning, those of waiting not counted."""
        return self._clock() - self._begin_s - self._turns.waited_s

    @property
    def passed_share(self) -> float:
        """Share of the budget that has passed, one at most."""
        return min(1.0, self.passed_s / self.budget_s) if self.budget_s > 0 else 1.0

    @property
    def left_s(self) -> float:
        """Seconds left, negative when it is over."""
        return self.budget_s - self.passed_s

    def part(self, share: float) -> Deadline:
        """The same from its beginning, with a share of the budget."""
        part = copy.copy(self)
        part.budget_s = share * self.budget_s
        return part


class _Turns:
    """What a deadline and its parts wait for, all threads together: the one that made it asks, the others follow."""

    def __init__(self, clock: Callable[[], float], wait_turn: Callable[[], None]) -> None:
        self.waited_s, self.is_ended = 0.0, False
        self._clock, self._wait_turn, self._owner = clock, wait_turn, threading.get_ident()
        self._may_go_on = threading.Event()
        self._may_go_on.set()

    def wait(self) -> None:
        """Wait until it is this thread's turn."""
        if threading.get_ident() != self._owner:
            self._may_go_on.wait()
            return
        asked_s = self._clock()
        self._may_go_on.clear()
        try:
            self._wait_turn()
        except BaseException:
            self.is_ended = True
            raise
        finally:
            self.waited_s += self._clock() - asked_s
            self._may_go_on.set()
