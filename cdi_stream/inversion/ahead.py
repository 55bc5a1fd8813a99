"""Work ahead: what the frames of a curve allow before its last frame comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cdi_stream.errors import CurveError
from cdi_stream.inversion.chain import ChainSettings, detector_of
from cdi_stream.inversion.extent import innermost
from cdi_stream.inversion.frame_work import FrameWork
from cdi_stream.inversion.interruption import InterruptionError
from cdi_stream.inversion.mark import MarkedWindow, mark
from cdi_stream.messages import PartialCurve, RockingCurve

MOST_CURVES = 2
"""Number of curves whose work is kept: a series may begin before the curve before it is over."""

MOST_RESTARTS = 2
"""Number of times that work on a curve is done again before its last frame."""


class WorkAhead:
    """Does the work on the frames of curves that are still measured, and keeps it until the curve is inverted.

    ``n_again`` is the number of curves whose last frames made the work before useless (`FrameWork`).  One thread may
    use it.

    Parameters
    ----------
    settings
        Settings of the stages.
    clock
        Monotonic time [s].
    """

    def __init__(self, settings: ChainSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.n_again = 0
        self._settings = settings
        self._clock = clock
        self._duration_s = 0.0
        self._work: dict[str, FrameWork] = {}

    def take(self, partial: PartialCurve) -> None:
        """Do the work on the frames of a curve so far, if the curve is not expected to be complete before."""
        begin_s = self._clock()
        if begin_s + self._duration_s > partial.ends_s:
            self._duration_s /= 2  # one slow piece of work must not prevent all others
            return
        with self.work_on(partial.curve.key) as work:
            if work.n_again < MOST_RESTARTS:
                self._do(partial.in_place(), work)
        self._duration_s = self._clock() - begin_s

    def _do(self, curve: RockingCurve, work: FrameWork) -> None:
        try:
            marked = mark(curve, detector_of(curve, self._settings.detector), self._settings.prepare, work)
        except CurveError:  # later frames may mend it; if not, the finished curve gives the reason
            return
        given = marked.counts, marked.valid, marked.scale
        if not _awaits_innermost(curve, marked):
            marked.work.crystal.offsets(*given)
        if self._settings.device == "cpu":
            marked.work.filled.update(*given)
            marked.work.filled.planes()

    @contextmanager
    def work_on(self, key: str) -> Iterator[FrameWork]:
        """Lend the work on a curve, by the curve's key; the work on the oldest curve is given up for that on a new one.

        After an error of the program nothing is kept, since the work may be half done.
        """
        work = self._work.pop(key, None) or FrameWork()
        try:
            yield work
        except (CurveError, InterruptionError):
            self._keep(key, work)
            raise
        self._keep(key, work)

    def _keep(self, key: str, work: FrameWork) -> None:
        while len(self._work) >= MOST_CURVES:
            del self._work[next(iter(self._work))]
        self._work[key] = work

    @contextmanager
    def last_work_on(self, key: str) -> Iterator[FrameWork]:
        """Lend the work on a curve for the last time."""
        work = self._work.pop(key, None) or FrameWork()
        n_before = work.n_again
        yield work
        self.n_again += work.n_again > n_before


def _awaits_innermost(curve: RockingCurve, marked: MarkedWindow) -> bool:
    """Return whether frames are to come that change the crystal's extent."""
    frames = innermost(marked.counts.shape)[0]
    first = marked.start[0]
    return any(frames.start <= point - first < frames.stop for point in curve.awaited)
