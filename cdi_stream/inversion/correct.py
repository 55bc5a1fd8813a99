"""Resample intensities and crystals between the skew detector axes and orthogonal lab axes.

Both directions interpolate with cubic splines (`cdi_stream.numerics.interpolate`).  A crystal is first sampled at half
steps by padding its diffraction; the spline's error is then small up to the last measured fringe.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.geometry.affine import AffineMap, Shape, lab_grid
from cdi_stream.inversion.filling import FilledFrames, filled_intensity
from cdi_stream.messages import LabVolume, PreparedVolume, read_only
from cdi_stream.numerics.block_means import block_means
from cdi_stream.numerics.boxes import bounding_box
from cdi_stream.numerics.fourier import to_crystal, to_reciprocal
from cdi_stream.numerics.interpolate import resample, resample_mask, resample_planes

Complex = NDArray[np.complex64]


def to_lab(
    volume: PreparedVolume, n: int, oversampling: float, device: str = "cpu", filled: FilledFrames | None = None
) -> LabVolume:
    """Resample measured intensities onto a lab grid of ``n``^3 voxels.

    Parameters
    ----------
    volume
        Counts in detector coordinates.
    n
        Voxels along each axis of the lab grid.
    oversampling
        Field of view over the crystal's longest extent; it fixes the grid's voxel size.
    device
        Device of the computation.
    filled
        Filled intensities of frames of this volume that are computed already, on the CPU.

    Returns
    -------
    LabVolume
        Magnitudes, square roots of intensities, scaled to a maximum of 1; ``valid_pixels`` is the measured region.
    """
    voxel_size_m = oversampling * max(volume.crystal_extent_m) / n
    target = lab_grid(volume.affine, (n, n, n), voxel_size_m)
    filled = filled or FilledFrames()
    intensity = filled.of(volume) if device == "cpu" else filled_intensity(volume, device)
    source = volume.affine
    measured = torch.from_numpy(volume.valid_pixels.copy()).to(device)
    if oversampling >= 2:  # below, a block would average over most of a fringe
        intensity, source = _binned(intensity, volume.affine, target)
        measured, _ = _binned(measured, volume.affine, target)
    matrix, offset = index_map(source, target)
    if device == "cpu" and source is volume.affine:
        lab = resample_planes(filled.planes(), matrix, target.shape, offset)
    else:
        lab = resample(intensity, matrix, target.shape, offset)
    lab = lab.clamp_min(0).sqrt()
    valid = resample_mask(measured > 0.5, matrix, target.shape, offset)
    lab = torch.where(valid, lab, 0.0)
    lab = lab / lab.amax().clamp_min(1e-12)
    return LabVolume(magnitude=read_only(lab.cpu().numpy()), valid_pixels=read_only(valid.cpu().numpy()), affine=target)


def index_map(source: AffineMap, target: AffineMap) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix and offset that map voxels of the target to voxels of the source in reciprocal space."""
    inverse = np.linalg.inv(source.bq)
    return inverse @ target.bq, inverse @ (target.q0 - source.q0)


def crystal_index_map(source: AffineMap, target: AffineMap) -> NDArray[np.float64]:
    """Return the matrix that maps voxels of the target to voxels of the source in real space."""
    return np.linalg.inv(source.br) @ target.br


def crystal_to(
    density: Tensor, source: AffineMap, target: AffineMap, centre_vox: NDArray[np.float64] | None = None
) -> Tensor:
    """Resample a complex crystal from the voxels of one map to the voxels of another map.

    Only the bounding box of the crystal is resampled; the rest of the target is zero.

    Parameters
    ----------
    density
        Complex crystal on the voxels of ``source``.
    source, target
        Maps of the present and of the new voxels.
    centre_vox
        Source index that is moved to the target's origin voxel; None: origin stays at origin.
    """
    matrix = crystal_index_map(source, target)
    centre = np.array(source.shape) // 2 if centre_vox is None else centre_vox
    first, shape = _box(density)
    crystal = density[tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))]
    fine = _twice_as_fine(crystal)
    window, size = _window_of(first, shape, centre, matrix, target.shape)
    middle = window + np.array(size) // 2 - np.array(target.shape) // 2
    offset = 2 * (centre + matrix @ middle - (first + np.array(shape) // 2))
    result = torch.zeros(target.shape, dtype=density.dtype, device=density.device)
    part = resample(fine, 2 * matrix, size, offset)
    result[tuple(slice(a, a + n) for a, n in zip(window, size, strict=True))] = part
    return result


def support_to(
    support: Tensor, source: AffineMap, target: AffineMap, centre_vox: NDArray[np.float64] | None = None
) -> Tensor:
    """Resample a support like `crystal_to`: true where more than half of the neighbourhood is inside."""
    origin = np.array(source.shape) // 2
    offset = np.zeros(3) if centre_vox is None else centre_vox - origin
    return resample_mask(support, crystal_index_map(source, target), target.shape, offset, share=0.5)


def _box(density: Tensor, margin: int = 6) -> tuple[NDArray[np.intp], Shape]:
    """Return first voxel and even shape of a crystal's bounding box, with a margin [voxels], inside the array."""
    amplitude = density.abs()
    box = bounding_box((amplitude > 1e-6 * amplitude.amax()).cpu().numpy())
    first, shape = [], []
    for along, n in zip(box, density.shape, strict=True):
        low, high = (along.start, along.stop) if along.stop else (0, n)  # an empty crystal has no box
        low, high = max(0, low - margin), min(n, high + margin)
        shape.append(high - low - (high - low) % 2)
        first.append(low)
    return np.array(first), (shape[0], shape[1], shape[2])


def _window_of(
    first: NDArray[np.intp], shape: Shape, centre: NDArray[np.float64], matrix: NDArray[np.float64], target: Shape
) -> tuple[NDArray[np.intp], Shape]:
    """Return first index and shape of the target voxels that a box of the source covers."""
    corners = np.array(list(product(*((a, a + n) for a, n in zip(first, shape, strict=True)))))
    reach = (corners - centre) @ np.linalg.inv(matrix).T + np.array(target) // 2
    low = np.clip(np.floor(reach.min(axis=0)).astype(int), 0, np.array(target) - 1)
    high = np.clip(np.ceil(reach.max(axis=0)).astype(int) + 1, low + 1, target)
    size = high - low
    return low, (int(size[0]), int(size[1]), int(size[2]))


def fitting_lab_grid(support: NDArray[np.bool_], source: AffineMap, shape: Shape) -> AffineMap:
    """Return a lab grid of ``shape`` with cubic voxels that holds the support.

    The voxel size is the finest step of the source, or larger if the support would not fit otherwise.
    """
    corners = np.argwhere(support) @ source.br.T
    extent = np.ptp(corners, axis=0)[::-1] if len(corners) else np.zeros(3)
    least_voxel_m = (extent / (0.9 * np.array(shape))).max()
    return lab_grid(source, shape, max(float(np.linalg.norm(source.br, axis=0).min()), float(least_voxel_m)))


def centre_of_mass(density: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Return the centre of mass of |rho|^2 as a fractional index."""
    weight = np.abs(density) ** 2
    total = max(float(weight.sum()), 1e-30)
    axes = [np.arange(n) for n in weight.shape]
    marginals = [weight.sum(axis=tuple(k for k in range(3) if k != axis)) for axis in range(3)]
    return np.array([float(m @ a) / total for m, a in zip(marginals, axes, strict=True)])


def _binned(array: Tensor, source: AffineMap, target: AffineMap) -> tuple[Tensor, AffineMap]:
    """Average over blocks where source steps are less than half of the target's, so that all counts contribute."""
    coarse = np.linalg.norm(target.bq, axis=0).min()
    factors = [max(1, int(coarse / step)) for step in np.linalg.norm(source.bq, axis=0)]
    if max(factors) == 1:
        return array, source
    return block_means(array, (factors[0], factors[1], factors[2])), source.binned(factors)


def _twice_as_fine(density: Tensor) -> Tensor:
    """Sample a crystal at half steps by padding its diffraction; the origin voxel stays the origin voxel."""
    pad = [p for n in reversed(density.shape) for p in _doubling_pad(n)]
    return to_crystal(torch.nn.functional.pad(to_reciprocal(density), pad)) * 2**1.5


def _doubling_pad(n: int) -> tuple[int, int]:
    """Return the voxels to add before and after an axis of ``n``, so that origin n//2 becomes origin n of 2n voxels."""
    return n - n // 2, n // 2
