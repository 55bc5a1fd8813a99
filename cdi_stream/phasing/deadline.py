"""Time budget of a search; the search checks after every cycle whether the budget is spent."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable


class Deadline:
    """A time budget; a share of the budget is a deadline too.

    Parameters
    ----------
    budget_s
        Length of the budget [s].
    clock
        Returns the time [s].
    begin_s
        Time of the clock at which the budget began; now by default.
    wait_turn
        Called whenever the thread that made the deadline checks it.  The function may block while more urgent work is
        done: this time does not count, and other threads that check the deadline wait as well.  If the function raises
        an exception, the deadline is over for all threads.
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
        """Return whether ``share`` of the budget is spent."""
        self._turns.wait()
        return self._turns.is_ended or self.passed_s > share * self.budget_s

    @property
    def passed_s(self) -> float:
        """Time since the beginning [s], without the time of waiting."""
        return self._clock() - self._begin_s - self._turns.waited_s

    @property
    def passed_share(self) -> float:
        """Share of the budget that has passed, at most 1."""
        return min(1.0, self.passed_s / self.budget_s) if self.budget_s > 0 else 1.0

    @property
    def left_s(self) -> float:
        """Time left [s], negative when the budget is spent."""
        return self.budget_s - self.passed_s

    def part(self, share: float) -> Deadline:
        """Return a deadline with the same beginning and a share of the budget."""
        part = copy.copy(self)
        part.budget_s = share * self.budget_s
        return part


class _Turns:
    """Waiting time of a deadline: the thread that made the deadline calls ``wait_turn``, other threads wait for it."""

    def __init__(self, clock: Callable[[], float], wait_turn: Callable[[], None]) -> None:
        self.waited_s, self.is_ended = 0.0, False
        self._clock, self._wait_turn, self._owner = clock, wait_turn, threading.get_ident()
        self._may_go_on = threading.Event()
        self._may_go_on.set()

    def wait(self) -> None:
        """Wait as long as more urgent work is done."""
        if threading.get_ident() != self._owner:
            self._may_go_on.wait()
            return
        begin_s = self._clock()
        self._may_go_on.clear()
        try:
            self._wait_turn()
        except BaseException:
            self.is_ended = True
            raise
        finally:
            self.waited_s += self._clock() - begin_s
            self._may_go_on.set()
