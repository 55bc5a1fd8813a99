"""Prepare a rocking curve for inversion: crop it about the Bragg peak and mark the voxels that may be used.

No count is changed.  Bad voxels are marked, and factors such as monitor and flat field are kept as the expected scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cdi_stream.config import PrepareConfig
from cdi_stream.errors import CurveError
from cdi_stream.geometry.affine import AffineMap, Shape
from cdi_stream.geometry.circles import CurveGeometry, LinearMap, linear_map, require_volume
from cdi_stream.inversion.blemishes import find_blemishes, good_pixels, is_saturated, no_count_from
from cdi_stream.inversion.damage import doubt_of_damage
from cdi_stream.inversion.survey import survey
from cdi_stream.inversion.window import brightest_voxel, crop_window, cut
from cdi_stream.messages import PreparedVolume, RockingCurve, read_only
from cdi_stream.phasing.autocorrelation import island, lengths_vox, tapered, weights
from cdi_stream.phasing.tuning import TUNING

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorKnowledge:
    """Detector properties from calibration, cut to the region of interest; None where a property is not known."""

    good_pixels: Bools | None = None
    white_field: NDArray[np.float32] | None = None
    saturation_counts: float | None = None


MIN_SHAPE_VOX = 16
"""Smallest side of the cropped volume [voxels]."""

MOST_SATURATED = 3
"""Largest number of saturated voxels of a volume that can be inverted; they are marked as not valid."""

LEAST_SHIFT_STEPS = 0.05
"""Distance of a frame from its even step [steps] below which a scan counts as even."""

AUTOCORRELATION_THRESHOLD = 0.02
"""Share of the largest autocorrelation above which a voxel belongs to the crystal's extent."""


def prepare(
    curve: RockingCurve, geometry: CurveGeometry, detector: DetectorKnowledge, settings: PrepareConfig
) -> PreparedVolume:
    """Return one curve cropped about its Bragg peak, with valid voxels, expected scale and the crystal's extent.

    Parameters
    ----------
    curve
        Rocking curve.
    geometry
        Angles, energy and detector placement of the curve.
    detector
        Bad pixels, flat field and saturation of the detector.
    settings
        Limits of the preparation.

    Raises
    ------
    CurveError
        If the volume is empty, saturated or too small to invert.
    """
    top, bottom = _extremes(curve)
    good = pixels_to_use(curve, detector, top, bottom)
    peak = brightest_voxel(curve.counts, np.where(good & (top < no_count_from(curve.sentinel)), top, 0))
    start, shape = crop_window(curve.counts.shape, peak, settings.max_shape, MIN_SHAPE_VOX)
    counts, _ = cut(curve.counts, start, shape)
    valid = np.zeros(shape, dtype=bool)
    valid[cut(curve.has_frame, start[:1], shape[:1])[0]] = cut(good, start[1:], shape[1:])[0]
    saturated = is_saturated(counts, curve.sentinel, detector.saturation_counts) & valid
    valid &= ~saturated
    seen = survey(counts, valid)
    _require_signal(int(np.count_nonzero(saturated)), seen.total, settings)
    blemishes = find_blemishes(counts, valid, peak=tuple(n // 2 for n in shape), seen=seen)
    valid &= ~blemishes.voxels
    tangent = tangent_at(geometry, _origin(start, shape))
    affine = map_of(tangent, shape)
    scale = _scale_in_window(curve, detector, start, shape)
    extent, oversampling = crystal_extent(counts, valid, scale, affine, AUTOCORRELATION_THRESHOLD)
    return PreparedVolume(
        counts=read_only(counts),
        valid_pixels=read_only(valid),
        expected_scale=read_only(scale),
        affine=affine,
        crystal_extent_m=extent,
        oversampling=oversampling,
        n_bad=int((~good).sum()),
        n_alien=int(np.count_nonzero(blemishes.voxels)),
        frame_shifts=frame_shifts(tangent, start[0], shape[0]),
        doubts=doubt_of_damage(blemishes.hot, start[0]),
    )


def _extremes(curve: RockingCurve) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the largest and smallest count of every pixel over the received frames."""
    frames = curve.counts if curve.has_frame.all() else curve.counts[curve.has_frame]
    if not frames.size:
        raise CurveError("expected frames, got none: check the detector's stream")
    return frames.max(axis=0), frames.min(axis=0)


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


def frame_shifts(tangent: LinearMap, first: int, n_frames: int) -> NDArray[np.float64] | None:
    """Return the distances of the frames of a window from even steps ``(n_frames,)`` [steps]; None for even steps.

    ``first`` is the frame of the scan at which the window begins.  Places of the window outside of the scan get 0.
    """
    shifts, _ = cut(tangent.uneven_steps[:, 0], (first,), (n_frames,))
    return read_only(shifts) if np.abs(shifts).max() > LEAST_SHIFT_STEPS else None


def detector_map(geometry: CurveGeometry, start: Shape, shape: Shape) -> AffineMap:
    """Return the affine map of a window of the curve, tangent to the exact q at the window's origin voxel."""
    return map_of(tangent_at(geometry, _origin(start, shape)), shape)


def _origin(start: Shape, shape: Shape) -> Shape:
    frame, row, col = (s + n // 2 for s, n in zip(start, shape, strict=True))
    return frame, row, col


def tangent_at(geometry: CurveGeometry, voxel: Shape) -> LinearMap:
    """Return the linear map of q at a voxel (frame, row, col) of a scan."""
    return linear_map(geometry.beamline, geometry.detector, geometry.positions, *voxel)


def map_of(tangent: LinearMap, shape: Shape) -> AffineMap:
    """Return the affine map of a window whose origin voxel has this linear map."""
    require_volume(tangent.bq)
    return AffineMap(
        shape=shape, q0=tangent.q0, bq=tangent.bq, sample_to_lab=tangent.sample_to_lab, coordinates="detector"
    )


def crystal_extent(
    counts: NDArray[np.uint32], valid: Bools, scale: NDArray[np.float32], affine: AffineMap, threshold: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the crystal's extent along lab (x, y, z) [m], and the oversampling along the array's axes.

    Both follow from the autocorrelation, whose extent is twice the crystal's.  The innermost 64 voxels suffice: they
    have the field of view of the whole array at a lower resolution.

    Parameters
    ----------
    counts, valid, scale
        Counts, valid voxels and expected scale, of one shape.
    affine
        Map of the voxels.
    threshold
        Value of the autocorrelation, relative to its maximum, at which the crystal's autocorrelation ends.
    """
    shape: Shape = tuple(min(64, n) for n in counts.shape)
    start: Shape = tuple((n - m) // 2 for n, m in zip(counts.shape, shape, strict=True))
    inner = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    inner_counts = torch.from_numpy(counts[inner].astype(np.float32))
    inner_valid, inner_scale = (torch.from_numpy(array[inner].copy()) for array in (valid, scale))
    offsets = island(inner_counts, tapered(inner_counts, weights(inner_valid, inner_scale)), threshold)
    extent = TUNING.tail_correction * np.abs(offsets @ affine.window(start, shape).br.T).max(axis=0)
    oversampling = np.array(shape) / lengths_vox(offsets)
    return tuple(map(float, extent)), tuple(map(float, oversampling))  # type: ignore[return-value]
