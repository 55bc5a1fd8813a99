"""Prepare a rocking curve for inversion: voxels to use about its Bragg peak, their q, and the crystal's extent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdi_stream.config import PrepareConfig
from cdi_stream.geometry.affine import AffineMap, Shape
from cdi_stream.geometry.circles import CurveGeometry, LinearMap, linear_map, require_volume
from cdi_stream.inversion.damage import doubt_of_damage
from cdi_stream.inversion.extent import crystal_extent
from cdi_stream.inversion.frame_work import FrameWork
from cdi_stream.inversion.mark import mark
from cdi_stream.inversion.pixels import DetectorKnowledge
from cdi_stream.inversion.window import cut
from cdi_stream.messages import PreparedVolume, RockingCurve, read_only

LEAST_SHIFT_STEPS = 0.05
"""Distance of a frame from its even step [steps] below which a scan counts as even."""


def prepare(
    curve: RockingCurve,
    geometry: CurveGeometry,
    detector: DetectorKnowledge,
    settings: PrepareConfig,
    work: FrameWork | None = None,
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
    work
        Work on the frames of this curve that was done while later frames came; the result is the same without it.

    Raises
    ------
    CurveError
        If the volume is empty, saturated or too small to invert.
    """
    marked = mark(curve, detector, settings, work or FrameWork())
    start, shape = marked.start, marked.counts.shape
    tangent = tangent_at(geometry, _origin(start, shape))
    affine = map_of(tangent, shape)
    offsets = marked.work.crystal.offsets(marked.counts, marked.valid, marked.scale)
    extent, oversampling = crystal_extent(offsets, affine)
    return PreparedVolume(
        counts=read_only(marked.counts),
        valid_pixels=read_only(marked.valid),
        expected_scale=read_only(marked.scale),
        affine=affine,
        crystal_extent_m=extent,
        oversampling=oversampling,
        n_bad=marked.n_bad,
        n_alien=int(np.count_nonzero(marked.blemishes.voxels)),
        frame_shifts=frame_shifts(tangent, start[0], shape[0]),
        doubts=doubt_of_damage(marked.blemishes.hot, start[0]),
    )


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
