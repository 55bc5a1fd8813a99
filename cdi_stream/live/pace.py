"""Pace: whether there is time for the phase retrieval of a curve, so that curves do not pile up."""

from __future__ import annotations

from collections.abc import Callable

TOLERATED = 1
"""Number of curves that may wait without any hurry; such a curve waits about as long as it is searched."""


class Pace:
    """Tells whether curves have piled up.

    From when more than `TOLERATED` curves wait until none waits, no curve is searched: each keeps the network's
    crystal, and the refinement follows.  A search with a fraction of its usual time would find no better crystal.

    Parameters
    ----------
    n_waiting
        Returns the number of curves that wait behind the one at work.
    is_refined
        Whether a refinement follows each curve.
    """

    def __init__(self, n_waiting: Callable[[], int], *, is_refined: bool) -> None:
        self._n_waiting = n_waiting
        self._is_refined = is_refined
        self._is_hurried = False

    def is_hurried(self) -> bool:
        """Return whether a search is to end, or not to begin."""
        n_waiting = self._n_waiting()
        self._is_hurried = n_waiting > TOLERATED or (self._is_hurried and n_waiting > 0)
        return self._is_hurried

    def reason(self) -> str:
        """Return why a curve was not searched, for its verdict."""
        after = "; the refinement goes on" if self._is_refined else ""
        n_waiting = self._n_waiting()
        who = "1 curve" if n_waiting == 1 else f"{n_waiting or 'other'} curves"
        return f"there was no time for a search, since {who} waited{after}"
