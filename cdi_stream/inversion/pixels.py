"""Pixels of a curve that may be used, and the expected scale of its frames and pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdi_stream.inversion.blemishes import good_pixels
from cdi_stream.messages import RockingCurve

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorKnowledge:
    """Detector properties from calibration, cut to the region of interest; None where a property is not known."""

    good_pixels: Bools | None = None
    white_field: NDArray[np.float32] | None = None
    saturation_counts: float | None = None


def pixels_to_use(
    curve: RockingCurve, detector: DetectorKnowledge, top: NDArray[np.uint32], bottom: NDArray[np.uint32]
) -> Bools:
    """Return the pixels ``(rows, cols)`` to use: unmasked, neither gap nor hot, with a positive flat field.

    Parameters
    ----------
    curve
        Rocking curve; its header may hold a pixel mask.
    detector
        Bad pixels and flat field of the detector.
    top, bottom
        Largest and smallest count of every pixel over the frames.
    """
    good = good_pixels(top, bottom, curve.sentinel)
    for mask in (curve.series.pixel_mask, detector.good_pixels):
        if mask is not None:
            good &= mask
    if detector.white_field is not None:
        good &= detector.white_field > 0
    return good


def expected_scale(curve: RockingCurve, detector: DetectorKnowledge) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the expected scale of every frame and of every pixel, each about 1 on average.

    Monitor and exposure time give the scale of a frame, 1 where they are not known; the flat field gives that of a
    pixel.
    """
    frames = np.ones(len(curve.counts), dtype=np.float32)
    for track in (curve.monitor, curve.exposure_s):
        if track is not None:
            frames *= np.where(np.isfinite(track), track / np.nanmean(track), 1).astype(np.float32)
    pixels = np.ones(curve.counts.shape[1:], dtype=np.float32)
    if detector.white_field is not None:
        field = detector.white_field
        is_positive = field > 0
        pixels = np.where(is_positive, field / field[is_positive].mean(), 1).astype(np.float32)
    return frames, pixels
