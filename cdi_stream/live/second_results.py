"""Second results of curves: phase retrieval that gives way to more urgent work, and ends when curves pile up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from cdi_stream.inversion.chain import (
    ChainSettings,
    InferredCurve,
    PreviousCrystal,
    failed,
    keep_network_crystal,
    phase_curve,
)
from cdi_stream.inversion.interruption import InterruptionError
from cdi_stream.inversion.verdict import failed_verdict
from cdi_stream.live.attempt import attempt
from cdi_stream.live.pace import Pace
from cdi_stream.messages import Result, RockingCurve, RunContext
from cdi_stream.metrics import Metrics

_STREAM = "reconstruction"
_HURRY_CHECK_S = 0.02
_INFERENCES_FIRST_S = 0.1


class StoppedError(InterruptionError):
    """Raised when the service was stopped and the time to finish curves is over."""


class _HurryError(InterruptionError):
    """Raised when so many curves wait that a phase retrieval is to end."""


class SecondResults:
    """Makes the second result of each curve.  `may_run` is cleared while there is more urgent work.

    Parameters
    ----------
    chain
        Settings of the stages.
    pace
        Tells whether curves have piled up.
    previous
        Returns the crystal of the run that a run names as its predecessor, None without one.
    is_time_up
        Whether the service stops and has no time left.
    is_refined
        Whether a refinement follows each curve.
    """

    def __init__(
        self,
        chain: ChainSettings,
        pace: Pace,
        previous: Callable[[RunContext], PreviousCrystal | None],
        is_time_up: Callable[[], bool],
        *,
        is_refined: bool,
    ) -> None:
        self.may_run = threading.Event()
        self.may_run.set()
        self._chain = chain
        self._pace = pace
        self._previous = previous
        self._is_time_up = is_time_up
        self._is_refined = is_refined

    def result_of(self, curve: RockingCurve, inferred: InferredCurve | None) -> Result:
        """Return the second result of a curve; ``inferred`` is None where the inference ended with an error.

        Raises
        ------
        StoppedError
            If the service stops before the result is there.
        """
        if inferred is None:
            verdict = failed_verdict("no result: an earlier stage failed, see the inference")
            return failed(_STREAM, curve, verdict, Metrics())
        with suppress(_HurryError):
            return attempt(curve, _STREAM, partial(self._search, inferred))
        self.may_run.wait(_INFERENCES_FIRST_S)
        return attempt(curve, _STREAM, partial(self._network_crystal, inferred))

    def _search(self, inferred: InferredCurve) -> Result:
        """Retrieve the phase; the crystal of the run before is one of the starts."""
        if inferred.volume is None:
            return phase_curve(inferred, self._chain)
        if self._pace.has_piled_up():
            raise _HurryError
        self._pace.begin()
        result = phase_curve(inferred, self._chain, self._wait_turn, self._previous(inferred.curve.run))
        self._pace.complete()
        return result

    def _network_crystal(self, inferred: InferredCurve) -> Result:
        reason = self._pace.reason(is_refined=self._is_refined)
        return keep_network_crystal(inferred, self._chain.lab_shape, reason, is_refined=self._is_refined)

    def _wait_turn(self) -> None:
        """Wait for more urgent work; end the phase retrieval if the service stops, or if curves pile up."""
        is_my_turn = False
        while not is_my_turn:
            if self._pace.must_end():
                raise _HurryError
            is_my_turn = self.may_run.wait(_HURRY_CHECK_S)
        if self._is_time_up():
            raise StoppedError
