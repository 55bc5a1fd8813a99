"""Prepare: from a rocking curve to counts about the peak, with what may be trusted of them.

Nothing here changes a count.  Bad voxels are only marked, and whatever scales the expectation travels
beside the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cdi_stream.affine import AffineMap, Shape
from cdi_stream.errors import CurveError
from cdi_stream.geometry import CurveGeometry, linear_map, require_volume
from cdi_stream.interpolate import neighbourhood_sum
from cdi_stream.messages import PreparedVolume, RockingCurve, read_only
from cdi_stream.phasing.autocorrelation import TAIL, island, lengths_vox, weights

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorKnowledge:
    """What is known of the detector beforehand, cut to the region of interest; none means nothing known."""

    good_pixels: Bools | None = None
    white_field: NDArray[np.float32] | None = None
    saturation_counts: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """Limits of the preparation; shapes in voxels."""

    max_shape: Shape = (128, 128, 128)
    min_shape: int = 16
    min_counts: int = 5_000
    autocorrelation_threshold: float = 0.02


def prepare(
    curve: RockingCurve, geometry: CurveGeometry, known: DetectorKnowledge, settings: PrepareSettings
) -> PreparedVolume:
    """Mark, crop about the peak and size up one curve.

    Raises
    ------
    CurveError
        If the volume is empty, saturated or too small to invert.
    """
    top, bottom = _extremes(curve)
    good = good_pixels(curve, known, top, bottom)
    peak = brightest_voxel(curve, np.where(good & (top < curve.sentinel), top, 0))
    start, shape = crop_window(curve.counts.shape, peak, settings)
    counts, in_scan = cut(curve.counts, start, shape)
    valid = in_scan & cut(np.broadcast_to(good, curve.counts.shape), start, shape)[0]
    valid &= cut(np.broadcast_to(curve.has_frame[:, None, None], curve.counts.shape), start, shape)[0]
    saturated = is_saturated(counts, curve.sentinel, known.saturation_counts) & valid
    _require_signal(counts, valid, saturated, settings)
    valid &= ~saturated
    aliens = isolated_voxels(counts, valid) | far_islands(counts, valid)
    valid &= ~aliens
    affine = detector_map(geometry, start, shape)
    scale = _scale_in_window(curve, known, start, shape)
    extent, oversampling = crystal_extent(counts, valid, scale, affine, settings.autocorrelation_threshold)
    return PreparedVolume(
        counts=read_only(counts),
        valid_pixels=read_only(valid),
        expected_scale=read_only(np.where(in_scan, scale, np.float32(1))),
        affine=affine,
        crystal_extent_m=extent,
        oversampling=oversampling,
        n_bad=int((~good).sum()),
        n_alien=int(aliens.sum()),
    )


def _extremes(curve: RockingCurve) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Largest and smallest count of every pixel over the frames that came."""
    frames = curve.counts if curve.has_frame.all() else curve.counts[curve.has_frame]
    if not frames.size:
        raise CurveError("expected frames, got none: check the detector's stream")
    return frames.max(axis=0), frames.min(axis=0)


def good_pixels(
    curve: RockingCurve, known: DetectorKnowledge, top: NDArray[np.uint32], bottom: NDArray[np.uint32]
) -> Bools:
    """Pixels ``(rows, cols)`` to use: not masked by wire or dark, not a gap, not hot.

    A pixel at the data type's maximum in every frame is masked by the detector; one that never falls
    below a fifth of its own maximum, nor below ten counts, is hot: a Bragg peak always passes.
    """
    good = bottom < curve.sentinel
    good &= ~((bottom >= 10) & (bottom > 0.2 * top))
    for mask in (curve.series.pixel_mask, known.good_pixels):
        if mask is not None:
            good &= mask
    if known.white_field is not None:
        good &= known.white_field > 0
    return good


def brightest_voxel(curve: RockingCurve, top: NDArray[np.uint32]) -> tuple[int, int, int]:
    """Index of the peak: brightest pixel whose neighbours are bright too, in its brightest frame.

    ``top`` is the largest count of every pixel, 0 where a pixel must not be used.
    """
    row, col = np.unravel_index(np.argmax(ndimage.median_filter(top, size=3)), top.shape)
    rows, cols = slice(max(row - 1, 0), row + 2), slice(max(col - 1, 0), col + 2)
    patch = curve.counts[:, rows, cols] * (top[rows, cols] > 0)
    frame = int(np.argmax(patch.sum(axis=(1, 2), dtype=np.int64)))
    return frame, int(row), int(col)


def crop_window(shape: tuple[int, ...], peak: tuple[int, int, int], settings: PrepareSettings) -> tuple[Shape, Shape]:
    """First voxel and shape of a window with the peak at its origin voxel; it may reach over the edge."""
    size = tuple(fast_length(min(n, limit)) for n, limit in zip(shape, settings.max_shape, strict=True))
    if min(size) < settings.min_shape:
        raise CurveError(
            f"volume too small: expected at least {settings.min_shape} voxels along each axis, got {tuple(shape)}; "
            "take more frames or a larger region of interest"
        )
    start = tuple(int(p - n // 2) for p, n in zip(peak, size, strict=True))
    return (start[0], start[1], start[2]), (size[0], size[1], size[2])


def fast_length(n: int) -> int:
    """Largest even length up to ``n`` with no prime factor above 7."""
    for length in range(n - n % 2, 1, -2):
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
    return n


def cut(array: NDArray[Any], start: Shape, shape: Shape) -> tuple[NDArray[Any], Bools]:
    """Copy a window; outside of the array it is zero.  Also returns where the array was."""
    result, inside = np.zeros(shape, dtype=array.dtype), np.zeros(shape, dtype=bool)
    source = tuple(slice(max(s, 0), min(s + n, m)) for s, n, m in zip(start, shape, array.shape, strict=True))
    target = tuple(slice(a.start - s, a.stop - s) for a, s in zip(source, start, strict=True))
    result[target] = array[source]
    inside[target] = True
    return result, inside


def is_saturated(counts: NDArray[np.uint32], sentinel: int, saturation_counts: float | None) -> Bools:
    """Voxels at the data type's maximum or at the detector's saturation value."""
    limit = sentinel if saturation_counts is None else min(sentinel, saturation_counts)
    return counts >= limit


def _require_signal(counts: NDArray[np.uint32], valid: Bools, saturated: Bools, settings: PrepareSettings) -> None:
    if saturated.sum() > 3:
        raise CurveError(
            f"saturated: {int(saturated.sum())} voxels of the peak are at the detector's limit; "
            "attenuate the beam or shorten the exposure"
        )
    total = int(counts[valid].sum(dtype=np.int64))
    if total < settings.min_counts:
        raise CurveError(
            f"empty: expected at least {settings.min_counts} counts about the peak, got {total}; "
            "check shutter, alignment and region of interest"
        )


def isolated_voxels(counts: NDArray[np.uint32], valid: Bools) -> Bools:
    """Bright voxels whose 26 neighbours hold less than a fifth of their counts.

    An oversampled peak cannot do that: its fringes are wider than a voxel.
    """
    clean = torch.from_numpy(np.where(valid, counts, 0).astype(np.float32))
    around = neighbourhood_sum(clean) - clean
    return ((clean >= 30) & (around < 0.2 * clean)).numpy()


def far_islands(counts: NDArray[np.uint32], valid: Bools, block: int = 4, min_counts: int = 200) -> Bools:
    """Islands of counts apart from the peak's and without a mate opposite the origin: alien grains.

    Diffraction of one crystal is connected through its streaks or has a partner at -q of like strength.
    """
    blocks = _block_means(np.where(valid, counts, 0), block) * block**3
    bright = blocks > max(min_counts / 4, 8 * float(np.median(blocks)))
    labels, n_labels = ndimage.label(bright, structure=np.ones((3, 3, 3)))
    if n_labels < 2:
        return np.zeros(counts.shape, dtype=bool)
    sums = ndimage.sum_labels(blocks, labels, np.arange(n_labels + 1))
    mate = ndimage.sum_labels(blocks[::-1, ::-1, ::-1], labels, np.arange(n_labels + 1))
    mate_seen = ndimage.mean(_block_means(valid, block)[::-1, ::-1, ::-1], labels, np.arange(n_labels + 1))
    alien = (sums > min_counts) & (mate < 0.02 * sums) & (mate_seen > 0.5)
    alien[[0, int(np.argmax(sums[1:])) + 1]] = False
    flagged = ndimage.binary_dilation(alien[labels]) if alien.any() else alien[labels]
    full = flagged.repeat(block, 0).repeat(block, 1).repeat(block, 2)
    return full[: counts.shape[0], : counts.shape[1], : counts.shape[2]]


def _block_means(volume: NDArray[Any], block: int) -> NDArray[np.float32]:
    """Mean over cubes of ``block`` voxels; the last along an axis may be smaller."""
    values = torch.from_numpy(volume.astype(np.float32))
    return torch.nn.functional.avg_pool3d(values[None, None], block, ceil_mode=True)[0, 0].numpy()


def _scale_in_window(curve: RockingCurve, known: DetectorKnowledge, start: Shape, shape: Shape) -> NDArray[np.float32]:
    """Expected scale of the window's voxels: by frame times by pixel."""
    by_frame, by_pixel = expected_scale(curve, known)
    frames = cut(by_frame[:, None, None], (start[0], 0, 0), (shape[0], 1, 1))
    pixels = cut(by_pixel[None], (0, *start[1:]), (1, *shape[1:]))
    return frames[0] * pixels[0]


def expected_scale(curve: RockingCurve, known: DetectorKnowledge) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Relative expectation of every frame and of every pixel, mean about 1.

    Monitor and exposure by frame (one where unknown), white field by pixel.
    """
    frames = np.ones(len(curve.counts), dtype=np.float32)
    for track in (curve.monitor, curve.exposure_s):
        if track is not None:
            frames *= np.where(np.isfinite(track), track / np.nanmean(track), 1).astype(np.float32)
    pixels = np.ones(curve.counts.shape[1:], dtype=np.float32)
    if known.white_field is not None:
        lit = known.white_field > 0
        pixels = np.where(lit, known.white_field / known.white_field[lit].mean(), 1).astype(np.float32)
    return frames, pixels


def detector_map(geometry: CurveGeometry, start: Shape, shape: Shape) -> AffineMap:
    """Affine map of the window, tangent to the exact q at its origin voxel."""
    frame, row, col = (s + n // 2 for s, n in zip(start, shape, strict=True))
    tangent = linear_map(geometry.beamline, geometry.detector, geometry.positions, frame, row, col)
    require_volume(tangent.bq)
    return AffineMap(
        shape=shape, q0=tangent.q0, bq=tangent.bq, sample_to_lab=tangent.sample_to_lab, coordinates="detector"
    )


def crystal_extent(
    counts: NDArray[np.uint32], valid: Bools, scale: NDArray[np.float32], affine: AffineMap, threshold: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Extent of the crystal along lab (x, y, z) [m] and oversampling along the array's axes.

    From the autocorrelation, whose extent is twice the crystal's: the field of view of the innermost
    64 voxels is that of the whole, at lower resolution.
    """
    shape: Shape = tuple(min(64, n) for n in counts.shape)  # type: ignore[assignment]
    start: Shape = tuple((n - m) // 2 for n, m in zip(counts.shape, shape, strict=True))  # type: ignore[assignment]
    inner, seen, expected = (torch.from_numpy(cut(array, start, shape)[0]) for array in (counts, valid, scale))
    offsets = island(inner.float(), weights(seen, expected), threshold)
    extent = TAIL * np.abs(offsets @ affine.window(start, shape).br.T).max(axis=0)
    oversampling = np.array(shape) / lengths_vox(offsets)
    return tuple(map(float, extent)), tuple(map(float, oversampling))  # type: ignore[return-value]
