"""Pace: the time that the phase retrieval of one curve may take, so that curves do not pile up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from cdi_stream.messages import Result

N_REMEMBERED = 9
"""Number of curves whose times tell the usual time of a phase retrieval."""


TOLERATED = 2
"""Number of curves that may wait without any haste: a run of a few curves is no pile."""

FIRST_SHARE = 0.2
"""Usual time of a phase retrieval, as a share of the time limit, as long as no curve was phased."""


class Pace:
    """Time limit of a curve while other curves wait.

    While at most `TOLERATED` curves wait, a curve has the whole time limit.  From when n curves wait, more than that,
    each has 1/(n + 1) of the usual time of a phase retrieval, so that all together take about the usual time.

    Parameters
    ----------
    budget_s
        Time limit of a curve alone [s].
    n_waiting
        Returns the number of curves that wait.
    is_refined
        Whether a refinement follows each curve.
    clock
        Monotonic time [s].
    """

    def __init__(
        self,
        budget_s: float,
        n_waiting: Callable[[], int],
        *,
        is_refined: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget_s = budget_s
        self._n_waiting = n_waiting
        self._is_refined = is_refined
        self._clock = clock
        self._times_s: deque[float] = deque(maxlen=N_REMEMBERED)
        self._most_waiting = 0

    def allowed_share(self) -> float:
        """Return the share of the time limit that a curve may use now."""
        n_waiting = self._n_waiting()
        self._most_waiting = max(self._most_waiting, n_waiting) if n_waiting > TOLERATED else 0
        if n_waiting <= TOLERATED:
            return 1.0
        usual_s = median(self._times_s) if self._times_s else FIRST_SHARE * self._budget_s
        return min(1.0, usual_s / self._budget_s) / (self._most_waiting + 1)

    def run(self, retrieve_phase: Callable[[], Result]) -> Result:
        """Return the result of a phase retrieval; a result that was ended early for other curves says so."""
        begin_s = self._clock()
        result = retrieve_phase()
        seconds, n_waiting = self._clock() - begin_s, self._n_waiting()
        if not result.metrics.is_truncated:
            self._times_s.append(seconds)
            return result
        if n_waiting <= TOLERATED:  # the search had its whole time limit
            return result
        after = "; the refinement goes on" if self._is_refined else ""
        note = f"the search was ended after {seconds:.1f} s, since {n_waiting} more curves waited{after}"
        return replace(result, verdict=replace(result.verdict, reasons=(*result.verdict.reasons, note)))
