"""Preview: the network's crystal of a curve that is still measured; the frames to come are not valid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np

from cdi_stream.inversion.chain import ChainSettings, infer_curve
from cdi_stream.inversion.frame_work import FrameWork
from cdi_stream.messages import PartialCurve, PreparedVolume, Result
from cdi_stream.metrics import PreviewMetrics
from cdi_stream.networks.torchscript import Network

PASSED_SHARE = 0.5
"""Counts of the newest frame, as a share of the largest counts of a frame, from which on the peak is not passed yet.

Crystals of curves that are cut at half of their peak differ from the final crystal by an NMSE of 0.7 and more
(``python -m tests.bench.previews``).
"""


def preview_curve(
    partial: PartialCurve,
    network: Network,
    settings: ChainSettings,
    proceed: Callable[[], None] = lambda: None,
    work: FrameWork | None = None,
) -> Result:
    """Return the crystal of the frames so far; its verdict is ``preliminary`` at best, with the frames as a reason.

    ``proceed`` is called between the steps, and may raise an error to end them.  ``work`` is the work on the frames
    that is done already; the work on its newer frames is added.
    """
    curve = partial.with_counts()
    inferred = infer_curve(curve, network, settings, proceed=proceed, work=work)
    account, verdict = curve.account, inferred.result.verdict
    text = f"a preview of {account.received} of {account.expected} frames: the others are not measured yet"
    reasons = (text, *_peak_reason(inferred.volume), *verdict.reasons)
    return replace(
        inferred.result,
        stream="preview",
        verdict=replace(verdict, reasons=reasons),
        metrics=PreviewMetrics(**asdict(inferred.result.metrics), fraction=partial.fraction),
    )


def _peak_reason(volume: PreparedVolume | None) -> tuple[str, ...]:
    """Return a reason if the newest frame has much of the largest counts: the Bragg peak is not passed; else none."""
    if volume is None:
        return ()
    newest = np.flatnonzero(volume.valid_pixels.any(axis=(1, 2)))[-1]
    sums = volume.counts.sum(axis=(1, 2), dtype=np.int64, where=volume.valid_pixels)
    share = float(sums[newest] / sums.max())
    if share < PASSED_SHARE:
        return ()
    return (f"the newest frame has {100 * share:.0f} % of the largest counts: the Bragg peak is not passed yet",)
