"""Work ahead: the steps that the frames of a curve allow before its last frame comes."""

from __future__ import annotations

from cdi_stream.errors import CurveError
from cdi_stream.inversion.chain import ChainSettings, detector_of
from cdi_stream.inversion.extent import innermost
from cdi_stream.inversion.frame_steps import FrameSteps
from cdi_stream.inversion.mark import MarkedWindow, mark
from cdi_stream.messages import PartialCurve, RockingCurve

MOST_CURVES = 2
"""Number of curves whose work is kept: a series may begin before the curve before it is over."""


class WorkAhead:
    """Does the work on the frames of curves that are still measured, and keeps it until the curve is inverted.

    ``n_again`` counts how often work had to be done again (`FrameSteps`).  One thread may use it.
    """

    def __init__(self, settings: ChainSettings) -> None:
        self.n_again = 0
        self._settings = settings
        self._steps: dict[str, FrameSteps] = {}

    def take(self, partial: PartialCurve) -> None:
        """Do the work on the frames of a curve so far."""
        curve, steps = partial.in_place(), self.steps_of(partial.curve.key)
        try:
            marked = mark(curve, detector_of(curve, self._settings.detector), self._settings.prepare, steps)
        except CurveError:  # later frames may mend it; if not, the finished curve gives the reason
            return
        given = marked.counts, marked.valid, marked.scale
        if not _awaits_innermost(curve, marked):
            marked.steps.crystal.offsets(*given)
        if self._settings.device == "cpu":
            marked.steps.filled.update(*given)
            marked.steps.filled.planes()

    def steps_of(self, key: str) -> FrameSteps:
        """Return the work on the frames of a curve, by its key; that on the oldest curve is given up for a new one."""
        if key not in self._steps:
            while len(self._steps) >= MOST_CURVES:
                self.forget(next(iter(self._steps)))
            self._steps[key] = FrameSteps()
        return self._steps[key]

    def forget(self, key: str) -> None:
        """Give up the work on a curve, which is inverted."""
        if (steps := self._steps.pop(key, None)) is not None:
            self.n_again += steps.n_again


def _awaits_innermost(curve: RockingCurve, marked: MarkedWindow) -> bool:
    """Return whether frames are to come that change the crystal's extent."""
    frames = innermost(marked.counts.shape)[0]
    first = marked.start[0]
    return any(frames.start <= point - first < frames.stop for point in curve.awaited)
