"""The same crystal in an earlier scan: laid on the voxels of a new measurement, and compared with the new result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cdi_stream.geometry.affine import AffineMap
from cdi_stream.messages import Crystal, read_only
from cdi_stream.numerics.fourier import mirror, twin
from cdi_stream.phasing.align import align
from cdi_stream.phasing.projections import Measurement, direct, reciprocal


def turned(crystal: Crystal, affine: AffineMap) -> Crystal:
    """Return a crystal in the lab axes of another scan, in which the sample circles may stand at other angles.

    ``affine`` is the map of the other scan.
    """
    own = crystal.affine
    rotation = affine.sample_to_lab @ own.sample_to_lab.T
    return replace(
        crystal,
        affine=replace(own, q0=rotation @ own.q0, bq=rotation @ own.bq, sample_to_lab=affine.sample_to_lab),
    )


def laid_on_peak(crystal: Tensor, data: Measurement) -> Tensor:
    """Return a crystal with the phase ramp that lays its diffraction on the measured diffraction, in Fourier order.

    The Bragg peak need not lie at the same voxel as in the earlier scan, since the window or the mean lattice may
    differ.  The diffraction is shifted by the whole number of voxels at which the modelled magnitudes correlate best
    with the measured magnitudes.
    """
    field = reciprocal(crystal, data.n_axes)
    measured = torch.fft.fftn(data.target.clamp_min(0))
    correlation = torch.fft.ifftn(measured * torch.fft.fftn(field.abs()).conj()).real
    shift = np.unravel_index(int(correlation.argmax()), correlation.shape)
    axes = tuple(range(-data.n_axes, 0))
    return direct(torch.roll(field, tuple(map(int, shift)), axes), data.n_axes)


def like_previous(crystal: Crystal, previous: Tensor) -> tuple[Crystal, float]:
    """Return a crystal, or its twin if that is nearer to the previous crystal, and the correlation with that crystal.

    The diffraction does not tell a crystal from its twin; a series of one crystal should not jump between both.

    Parameters
    ----------
    crystal
        The new crystal, origin at N//2.
    previous
        The previous crystal on the same voxels, complex.
    """
    density = torch.from_numpy(crystal.density.copy())
    match = align(previous, density)
    if match.variant != "twin":
        return crystal, match.correlation
    support = mirror(torch.from_numpy(crystal.support.copy()), (0, 1, 2))
    twin_crystal = replace(crystal, density=read_only(twin(density).numpy()), support=read_only(support.numpy()))
    return twin_crystal, match.correlation
