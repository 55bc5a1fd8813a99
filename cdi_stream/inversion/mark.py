"""Cut a rocking curve about its Bragg peak, and mark the voxels that may be used: no geometry is needed for it.

No count is changed.  Bad voxels are marked, and factors such as monitor and flat field are kept as the expected scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdi_stream.config import PrepareConfig
from cdi_stream.errors import CurveError
from cdi_stream.geometry.affine import Shape
from cdi_stream.inversion.blemishes import Blemishes, find_blemishes, no_count_from, saturation_limit
from cdi_stream.inversion.frame_work import FrameWork, WindowWork
from cdi_stream.inversion.pixels import DetectorKnowledge, expected_scale, pixels_to_use
from cdi_stream.inversion.window import Window, brightest_voxel, crop_window, cut
from cdi_stream.messages import RockingCurve

Bools = NDArray[np.bool_]

MIN_SHAPE_VOX = 16
"""Smallest side of the cropped volume [voxels]."""

MOST_SATURATED = 3
"""Largest number of saturated voxels of a volume that can be inverted; they are marked as not valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedWindow:
    """Window of a curve about its Bragg peak; the arrays have the shape of the window.

    Parameters
    ----------
    start
        Voxel (frame, row, col) of the curve at which the window begins; it may lie outside of the curve.
    counts, valid, scale
        Counts, voxels that may be used, and expected scale.
    blemishes
        Hot voxels and alien peaks.
    n_bad
        Number of pixels of the image that must not be used.
    work
        Work on the frames of the window.
    """

    start: Shape
    counts: NDArray[np.uint32]
    valid: Bools
    scale: NDArray[np.float32]
    blemishes: Blemishes
    n_bad: int
    work: WindowWork


def mark(curve: RockingCurve, detector: DetectorKnowledge, settings: PrepareConfig, work: FrameWork) -> MarkedWindow:
    """Return the window of a curve about its Bragg peak with the voxels that may be used.

    Parameters
    ----------
    curve
        Rocking curve; only the frames of ``has_frame`` are read.
    detector
        Bad pixels, flat field and saturation of the detector.
    settings
        Limits of the preparation.
    work
        Work on the frames of this curve that is already done, or none; the work on its other frames is added.

    Raises
    ------
    CurveError
        If the volume is empty, saturated or too small to invert.
    """
    top, bottom = work.extremes(curve)
    good = pixels_to_use(curve, detector, top, bottom)
    limit = saturation_limit(curve.sentinel, detector.saturation_counts)
    usable_top = np.where(good & (top < no_count_from(curve.sentinel)), top, 0)
    peak = brightest_voxel(curve.counts, usable_top, curve.has_frame)
    start, shape = crop_window(curve.counts.shape, peak, settings.max_shape, MIN_SHAPE_VOX)
    here = work.in_window(Window(start=start, shape=shape, good=cut(good, start[1:], shape[1:])[0], limit=limit))
    here.add(curve.counts, curve.has_frame)
    seen = here.survey()
    _require_signal(here.n_saturated, seen.total, settings)
    blemishes = find_blemishes(here.counts, here.valid, peak=tuple(n // 2 for n in shape), seen=seen)
    return MarkedWindow(
        start=start,
        counts=here.counts,
        valid=here.valid & ~blemishes.voxels,
        scale=_scale_in_window(curve, detector, start, shape),
        blemishes=blemishes,
        n_bad=int((~good).sum()),
        work=here,
    )


def _require_signal(n_saturated: int, total: float, settings: PrepareConfig) -> None:
    """Raise `CurveError` if voxels are saturated, or if the sum ``total`` of the counts is too small."""
    if n_saturated > MOST_SATURATED:
        raise CurveError(
            f"saturated: {n_saturated} voxels of the peak are at the detector's limit; "
            "attenuate the beam or shorten the exposure"
        )
    if total < settings.min_counts:
        raise CurveError(
            f"empty: expected at least {settings.min_counts} counts about the peak, got {total:.0f}; "
            "check shutter, alignment and region of interest"
        )


def _scale_in_window(
    curve: RockingCurve, detector: DetectorKnowledge, start: Shape, shape: Shape
) -> NDArray[np.float32]:
    """Return the expected scale of the window's voxels: that of the frame times that of the pixel.

    A frame outside of the scan and a pixel outside of the image have 1.
    """
    by_frame, by_pixel = expected_scale(curve, detector)
    frames, in_frames = cut(by_frame, start[:1], shape[:1])
    pixels, in_pixels = cut(by_pixel, start[1:], shape[1:])
    frames, pixels = np.where(in_frames, frames, np.float32(1)), np.where(in_pixels, pixels, np.float32(1))
    result: NDArray[np.float32] = frames[:, None, None] * pixels
    return result
