"""Previews of curves that are still measured: the first work that is dropped when time is short."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from cdi_stream.inversion.ahead import WorkAhead
from cdi_stream.inversion.chain import ChainSettings
from cdi_stream.inversion.interruption import InterruptionError
from cdi_stream.inversion.preview import preview_curve
from cdi_stream.live.attempt import attempt
from cdi_stream.live.outgoing import Outgoing
from cdi_stream.messages import PartialCurve, Result
from cdi_stream.networks.torchscript import Network

logger = logging.getLogger(__name__)


class _DropError(InterruptionError):
    """Raised between the steps of a preview that is dropped; the text is the reason."""


class Previews:
    """Computes and publishes previews, or drops them; ``n_published`` and ``n_dropped`` count both.

    A preview is dropped if its curve is expected to be complete before the preview is, as far as the last preview
    tells.  So the inference of the curve does not wait for it.

    Parameters
    ----------
    network, chain
        Network, and settings of the stages.
    ahead
        Work on the frames of curves that are still measured.
    outgoing
        Publishes the previews.
    clock
        Monotonic time [s].
    """

    def __init__(
        self,
        network: Network,
        chain: ChainSettings,
        ahead: WorkAhead,
        outgoing: Outgoing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n_published = self.n_dropped = 0
        self._network = network
        self._chain = chain
        self._ahead = ahead
        self._outgoing = outgoing
        self._clock = clock
        self._duration_s = 0.0

    def take(self, curve: PartialCurve, why_not: Callable[[], str]) -> None:
        """Publish the preview of a curve, or drop it.

        ``why_not`` is called before each step; the preview is dropped as soon as it returns a reason.
        """
        try:
            self._require_time(curve)
            self._publish(curve, why_not)
        except _DropError as reason:
            self.n_dropped += 1
            text = "run %s curve %d: the preview at %.0f %% is dropped: %s (%d dropped so far)"
            run = curve.curve.run.uid[:8]
            logger.info(text, run, curve.curve.curve_index, 100 * curve.fraction, reason, self.n_dropped)

    def _require_time(self, curve: PartialCurve) -> None:
        if self._clock() + self._duration_s > curve.ends_s:
            self._duration_s /= 2  # one slow preview must not prevent all others
            raise _DropError("the curve will be complete before it")

    def _publish(self, curve: PartialCurve, why_not: Callable[[], str]) -> None:
        def proceed() -> None:
            """Raise an error if the preview is to be dropped."""
            if reason := why_not():
                raise _DropError(reason)

        begin_s = self._clock()
        proceed()
        result: Result = attempt(curve.curve, "preview", partial(self._preview, curve, proceed))
        proceed()
        problem = self._outgoing.result(curve.curve.run, result)
        self._duration_s = self._clock() - begin_s
        if problem is not None:
            raise _DropError(problem)
        self.n_published += 1

    def _preview(self, curve: PartialCurve, proceed: Callable[[], None]) -> Result:
        with self._ahead.work_on(curve.curve.key) as work:
            return preview_curve(curve, self._network, self._chain, proceed, work)
