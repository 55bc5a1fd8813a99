"""Tally: counts of frames, results and latencies since the start of the service, for the feed and its monitoring."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

from cdi_stream.messages import FrameAccount

LATENCY_BOUNDS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Upper bounds [s] of the bins of a latency; a longer latency counts in a last bin without a bound."""

NEW_IN_STAGE = {"inference": None, "reconstruction": ("phase",)}
"""Steps whose latency a result adds; None: all.  A reconstruction repeats the latencies of its inference."""

GRADES = {
    "inference": ("preliminary", "failed"),
    "reconstruction": ("good", "doubtful", "failed"),
    "refinement": ("good", "doubtful", "failed"),
}
"""Verdicts of each stage; each is told from the start, as 0, so that the first failure is seen as a change."""


class _Latencies:
    """Histogram of the latencies of one step: number in each bin, and sum [s]."""

    def __init__(self) -> None:
        self._numbers = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        self._numbers[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def as_dict(self) -> dict[str, object]:
        """Return numbers and sum, for the feed."""
        return {"numbers": list(self._numbers), "sum_s": self._sum_s}


class Tally:
    """Counts of a service since its start.  Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_curves = 0
        self._frames: Counter[str] = Counter(received=0, missing=0, duplicate=0, late=0, bad=0)
        self._results = {stage: Counter(dict.fromkeys(grades, 0)) for stage, grades in GRADES.items()}
        self._latencies: dict[str, _Latencies] = {}

    def curve(self, account: FrameAccount) -> None:
        """Count a curve whose measurement is over, with its frames by fate."""
        with self._lock:
            self._n_curves += 1
            self._frames.update(
                received=account.received,
                missing=len(account.missing),
                duplicate=account.duplicate,
                late=account.late,
                bad=account.bad,
            )

    def result(self, stage: str, grade: str, total_s: float | None = None, metrics: Mapping[str, float] = {}) -> None:
        """Count a result, with the latency of its steps.

        Parameters
        ----------
        stage, grade
            Stage and verdict of the result.
        total_s
            Time from the last frame's receipt to the document [s]; None: not measured.
        metrics
            Numbers of the result; those called ``latency_STEP_s`` are counted.
        """
        with self._lock:
            self._results.setdefault(stage, Counter())[grade] += 1
            if total_s is not None:
                self._latencies.setdefault(stage, _Latencies()).add(total_s)
            for step, seconds in _steps(stage, metrics).items():
                self._latencies.setdefault(step, _Latencies()).add(seconds)

    def as_dict(self) -> dict[str, object]:
        """Return the counts as plain values, for the feed."""
        with self._lock:
            return {
                "curves": self._n_curves,
                "frames": dict(self._frames),
                "results": {stage: dict(grades) for stage, grades in self._results.items()},
                "latency_bounds_s": list(LATENCY_BOUNDS_S),
                "latencies": {step: latencies.as_dict() for step, latencies in self._latencies.items()},
            }


def _steps(stage: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the latency [s] of each step that a result of this stage adds."""
    steps = {
        name.removeprefix("latency_").removesuffix("_s"): seconds
        for name, seconds in metrics.items()
        if name.startswith("latency_") and name != "latency_s"
    }
    names = NEW_IN_STAGE.get(stage, ())
    return {step: seconds for step, seconds in steps.items() if names is None or step in names}
