"""Partial curves: the frames so far of a curve that is still measured, with the geometry as far as it is known.

The readings of points that are not measured yet follow evenly from those of the points so far.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cdi_stream.assemble.account import account_of
from cdi_stream.assemble.join import Join
from cdi_stream.assemble.open_curve import OpenCurve
from cdi_stream.assemble.point_count import planned_points
from cdi_stream.assemble.release import run_context
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.messages import PartialCurve, RockingCurve, read_only
from cdi_stream.stream.series import Series

AHEAD_FRACTIONS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Fractions of the frames of a curve at which the work on the frames so far is done.

The Bragg peak is mostly in the middle of a scan: it is passed at the first of them.
"""


def points_ahead(curve: OpenCurve, run: RunRecord | None) -> int:
    """Return the number of points of a curve that is measured, 0 if it is unknown, complete, ended, or without a frame.

    A detector may be armed for more images than the plan has points, and a plan may have several curves: the smaller of
    the two numbers counts.
    """
    n_received = curve.series.n_received
    stated = [n for n in (curve.n_announced, planned_points(curve.claim, run)) if n > 0]
    n = curve.claim.n_points or min(stated, default=0)
    return n if 0 < n_received < n and curve.series.ended_s is None else 0


def due_fraction(so_far: float, fractions: tuple[float, ...], done: float) -> float | None:
    """Return the largest of the fractions up to ``so_far``, if it is above the fraction ``done`` before; else None."""
    largest = max((fraction for fraction in fractions if fraction <= so_far), default=0.0)
    return largest if largest > done else None


def partial_curve(
    curve: OpenCurve,
    run: RunRecord | None,
    joined: Join,
    settings: AssembleSettings,
    fraction: float,
    n_points: int,
    *,
    is_preview: bool,
) -> PartialCurve:
    """Return the frames of a curve so far; nothing is copied but the readings.

    The doubts of the join are left out: most of them are about points that are still to come.
    """
    joined = _first_points(joined, n_points)
    series, slots = curve.series, joined.slots
    memory, has_slot = series.frames_so_far()
    is_known = (slots >= 0) & (slots < len(has_slot))
    has_frame = np.zeros(len(slots), dtype=bool)
    has_frame[is_known] = has_slot[slots[is_known]]
    n_passed = int(np.flatnonzero(has_frame)[-1]) + 1 if has_frame.any() else 0
    curve_so_far = RockingCurve(
        key=curve.key,
        series=series.start,
        run=run_context(curve, run, settings.copied_keys),
        curve_index=curve.curve_index or 0,
        counts=read_only(np.zeros((0, *memory.shape[1:]), np.uint32)),
        sentinel=series.sentinel,
        has_frame=read_only(has_frame),
        scanned=joined.scanned,
        monitor=_monitor(joined, settings.monitor, has_frame),
        exposure_s=series.exposures_s(slots),
        account=account_of(series, slots),
        doubts=curve.doubts,
        complete_s=series.last_frame_s,
        awaited=tuple(range(n_passed, len(slots))),
        image_ids=read_only(slots),
    )
    ends_s = series.last_frame_s + (len(slots) - n_passed) * _spacing_s(series)
    return PartialCurve(
        curve=curve_so_far, memory=memory, slots=slots, fraction=fraction, ends_s=ends_s, is_preview=is_preview
    )


def _first_points(joined: Join, n: int) -> Join:
    """Return the first points of a curve; the detector may be armed for more images than there will be."""
    scanned = {name: track[:n] for name, track in joined.scanned.items()}
    return replace(joined, slots=joined.slots[:n], scanned=scanned)


def _spacing_s(series: Series) -> float:
    """Return the mean time [s] between two frames of a series."""
    times_s = series.received_s(series.image_ids)
    return float(np.ptp(times_s)) / max(len(times_s) - 1, 1)


def _monitor(joined: Join, name: str | None, has_frame: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """Return the monitor at the measured points, NaN at all others; None if it cannot be used."""
    monitor = joined.scanned.get(name) if name else None
    if monitor is None or not np.all(monitor[has_frame] > 0):
        return None
    return np.where(has_frame, monitor, np.nan)
