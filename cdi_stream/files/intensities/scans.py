"""Convert a recorded scan to intensities, with the same masking and geometry as in the live service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream import registry
from cdi_stream.config import FixedGeometry, InlineBeamline
from cdi_stream.errors import CdiStreamError, IntensitiesError, RecordingError
from cdi_stream.files.intensities.limits import require_intensities
from cdi_stream.files.intensities.volume import Intensities
from cdi_stream.files.recording import DETECTOR_HEADER
from cdi_stream.geometry.circles import Beamline, LinearMap, require_volume
from cdi_stream.inversion.blemishes import is_saturated, no_count_from
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.pixels import DetectorKnowledge, expected_scale, pixels_to_use
from cdi_stream.inversion.prepare import frame_shifts, map_of, tangent_at
from cdi_stream.inversion.window import brightest_voxel
from cdi_stream.messages import FrameAccount, RecordedScan, RockingCurve, RunContext, SeriesStart, read_only

Bools = NDArray[np.bool_]
AXES = ("frame", "row", "col")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Beamline and fixed geometry of a configuration, which give each frame of a scan its angles."""

    beamline: Beamline
    fixed: FixedGeometry


def scan_intensities(scan: RecordedScan, placement: Placement | None = None) -> Intensities:
    """Return all frames ``(n_frames, rows, cols)`` of a scan as intensities, not cropped, with their affine map.

    Missing frames, gaps, hot and masked pixels, and saturated voxels are marked.  Where the geometry is not known there
    is no map, and a note says why.

    Parameters
    ----------
    scan
        Recorded scan.
    placement
        Beamline and fixed geometry, which replace the recorded geometry of the scan.

    Raises
    ------
    IntensitiesError
        If the frames cannot be intensities.
    RecordingError
        If motors or images do not fit the frames, or ``placement`` does not fit the scan.
    """
    _require_fit(scan)
    curve, doubts = curve_of(scan)
    detector = DetectorKnowledge(white_field=scan.white_field, saturation_counts=curve.series.saturation_counts)
    frames = curve.counts if curve.has_frame.all() else curve.counts[curve.has_frame]
    top, bottom = frames.max(axis=0), frames.min(axis=0)
    good = pixels_to_use(curve, detector, top, bottom)
    peak = brightest_voxel(curve.counts, np.where(good & (top < no_count_from(curve.sentinel)), top, 0))
    valid = good & curve.has_frame[:, None, None]
    saturated = is_saturated(curve.counts, curve.sentinel, detector.saturation_counts) & valid
    valid &= ~saturated
    if saturated.any():
        doubts += (f"{int(saturated.sum())} voxels are at the detector's limit (the peak is saturated): masked",)
    tangent, more_doubts, notes = _tangent_of(scan, curve, peak, placement)
    shape: Any = curve.counts.shape
    by_frame, by_pixel = expected_scale(curve, detector)
    return Intensities(
        counts=read_only(curve.counts),
        valid_pixels=read_only(valid),
        expected_scale=read_only(by_frame[:, None, None] * by_pixel),
        affine=None if tangent is None else map_of(tangent, (1, 1, 1)).window([-p for p in peak], shape),
        frame_shifts=None if tangent is None else frame_shifts(tangent, 0, len(curve.counts)),
        axes=AXES,
        source=scan.name,
        is_periodic=False,
        notes=(*scan.notes, *notes, *_mask_note(int((~good).sum()))),
        doubts=(*doubts, *more_doubts),
    )


def _require_fit(scan: RecordedScan) -> None:
    """Raise an error if frames are not counts, or if motor readings or images do not fit the frames."""
    frames = scan.frames
    require_intensities(frames.shape, frames.dtype, scan.name)
    if frames.ndim != 3 or frames.dtype.kind == "f" or frames.dtype.itemsize > 4:
        raise IntensitiesError(
            f"{scan.name}: expected frames of integers of 32 bits at most, got {frames.dtype} {frames.shape}: "
            "give raw counts"
        )
    if not scan.has_frame.any():
        raise IntensitiesError(
            f"{scan.name}: expected frames, got none: all {len(frames)} are missing; check the folder of the frames"
        )
    lengths = {name: np.shape(track) for name, track in scan.scanned.items()}
    wrong = {name: shape for name, shape in lengths.items() if shape != (len(frames),)}
    images = {"pixel mask": scan.pixel_mask, "white field": scan.white_field}
    wrong |= {name: a.shape for name, a in images.items() if a is not None and a.shape != frames.shape[1:]}
    for name, shape in wrong.items():
        raise RecordingError(
            f"{scan.name}: expected {name} to fit frames of shape {frames.shape}, got {shape}; check the scan's record"
        )


def curve_of(scan: RecordedScan) -> tuple[RockingCurve, tuple[str, ...]]:
    """Return the scan as one rocking curve, and doubts; gaps of signed data (below zero) become the largest value."""
    frames, n = scan.frames, len(scan.frames)
    sentinel = int(np.iinfo(frames.dtype).max)
    counts = frames if frames.dtype.kind == "u" else np.where(frames < 0, sentinel, frames)
    monitor: Any = next((track for name, track in scan.scanned.items() if name.lower() == "monitor"), None)
    header: dict[str, Any] = {key: float(scan.detector[key]) for key in DETECTOR_HEADER if key in scan.detector}
    is_dark = monitor is not None and not np.all(monitor[scan.has_frame] > 0)
    missing = tuple(np.flatnonzero(~scan.has_frame).tolist())
    curve = RockingCurve(
        series=SeriesStart(
            series=scan.name,
            pixel_mask=None if scan.pixel_mask is None else scan.pixel_mask.astype(bool),
            **header,
        ),
        run=RunContext(uid=scan.name, readings=scan.baseline, units=scan.units),
        curve_index=0,
        counts=counts.astype(np.uint32, copy=False),
        sentinel=sentinel,
        has_frame=scan.has_frame,
        scanned=scan.scanned,
        monitor=None if is_dark else monitor,
        account=FrameAccount(expected=n, received=n - len(missing), missing=missing),
        doubts=(),
        complete_s=0.0,
    )
    doubts = (*scan.doubts, *_missing_doubt(missing, n))
    return curve, (*doubts, "the monitor is not above zero in every frame: it is not used") if is_dark else doubts


def _missing_doubt(missing: tuple[int, ...], n: int) -> tuple[str, ...]:
    """Return a doubt that names the missing frames; empty if all are there."""
    if not missing:
        return ()
    indices = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
    return (f"incomplete: {len(missing)} of {n} frames missing ({indices}): they are left out",)


def _tangent_of(
    scan: RecordedScan, curve: RockingCurve, peak: tuple[int, int, int], placement: Placement | None
) -> tuple[LinearMap | None, tuple[str, ...], tuple[str, ...]]:
    """Return the linear map of q at the peak, or None where the geometry is unknown, with doubts and notes."""
    try:
        beamline, fixed = (
            (_beamline_of(scan), FixedGeometry()) if placement is None else (placement.beamline, placement.fixed)
        )
        geometry, doubts, notes = locate(curve, beamline, fixed)
        tangent = tangent_at(geometry, peak)
        require_volume(tangent.bq)
        return tangent, doubts, notes
    except (CdiStreamError, ValueError, TypeError) as error:
        if placement is not None:
            raise RecordingError(f"{scan.name}: the geometry of --config does not fit: {error}") from error
        return None, (), (f"the geometry is unknown, so there is no object in lab axes: {error}",)


def _beamline_of(scan: RecordedScan) -> Beamline:
    if scan.beamline is None:
        raise RecordingError("expected a beamline on record, got none")
    if isinstance(scan.beamline, str):
        beamline: Beamline = registry.load("cdi_stream.beamline", scan.beamline)
        return beamline
    return InlineBeamline.model_validate(dict(scan.beamline)).beamline()


def _mask_note(n_bad: int) -> tuple[str, ...]:
    return (f"{n_bad} pixels are masked (gaps, hot or known to be bad)",) if n_bad else ()
