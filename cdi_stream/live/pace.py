"""Pace: whether there is time for the phase retrieval of a curve, so that curves do not pile up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

MOST_WAITING = 1
"""Largest number of curves that may wait without any hurry; such a curve waits about as long as its search takes."""

FIRST_SEARCH_S = 0.5
"""Usual time of a search [s], as long as none has come to its end."""

LONGEST_WAIT = 1.5
"""Time for which a curve waits until the search at work ends, over the usual time of a search."""


class Pace:
    """Knows the curves that wait; tells whether a search is to begin, and whether the search at work is to end.

    From when more than `MOST_WAITING` curves wait until none waits, no search begins: each curve keeps the network's
    crystal, and the refinement follows.  A search with a fraction of its usual time would find no better crystal.

    The search at work ends only when a curve has waited for `LONGEST_WAIT` times the usual time of a search.  Curves
    that come steadily therefore never end a search that takes its usual time.

    Parameters
    ----------
    clock
        Monotonic time [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._arrivals_s: deque[float] = deque()
        self._is_pile = False
        self._begin_s = 0.0
        self._usual_s = FIRST_SEARCH_S

    @property
    def n_curves(self) -> int:
        """Number of curves between their last frame and their last result."""
        return len(self._arrivals_s)

    @property
    def n_waiting(self) -> int:
        """Number of curves that wait behind the one at work."""
        return max(0, self.n_curves - 1)

    def arrive(self) -> None:
        """Note that a curve is complete."""
        self._arrivals_s.append(self._clock())

    def leave(self) -> None:
        """Note that the first of the curves has its last result."""
        self._arrivals_s.popleft()

    def has_piled_up(self) -> bool:
        """Return whether no search is to begin; a pile is remembered until no curve waits."""
        self._is_pile = self.n_waiting > MOST_WAITING or (self._is_pile and self.n_waiting > 0)
        return self._is_pile

    def begin(self) -> None:
        """Note that a search begins."""
        self._begin_s = self._clock()

    def must_end(self) -> bool:
        """Return whether the search at work is to end; if so, the usual time is at least the time of this search."""
        now_s = self._clock()
        if not self.has_piled_up() or now_s - self._arrivals_s[1] < LONGEST_WAIT * self._usual_s:
            return False
        self._usual_s = max(self._usual_s, now_s - self._begin_s)
        return True

    def complete(self) -> None:
        """Note that a search has come to its end, which tells the usual time."""
        self._usual_s = self._clock() - self._begin_s

    def reason(self, *, is_refined: bool) -> str:
        """Return why a curve has no search, for its verdict; ``is_refined`` tells whether a refinement follows."""
        after = "; the refinement goes on" if is_refined else ""
        return f"there was no time for a search, since {self.n_waiting} curve{'s' * (self.n_waiting > 1)} waited{after}"
