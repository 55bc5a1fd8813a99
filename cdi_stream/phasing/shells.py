"""Shells of constant |q - Q0|, and curves over these shells, each with its equation and source.

Magnitudes are sqrt(counts), ``(*shape)`` of two or three axes, in Fourier order (origin at voxel 0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cdi_stream.phasing.measures import fitted_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Shells:
    """Shells of equal width in |q - Q0|, out to the corners of the array.

    ``label (*shape)`` is the number of the shell of each voxel, in Fourier order; ``q (n_shells,)`` is the mean
    |q - Q0| of the voxels of each shell, NaN for a shell without voxels.
    """

    label: Tensor
    q: Tensor

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the values over each shell, ``(n_shells,)``."""
        return torch.bincount(self.label.flatten(), values.flatten().double(), minlength=len(self.q))

    def mean(self, values: Tensor, where: Tensor) -> Tensor:
        """Return the mean over the voxels of each shell that are true in ``where``, ``(n_shells,)``; NaN if none is."""
        return self.total(torch.where(where, values, 0)) / self.total(where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A curve over shells: ``value (n_shells,)`` against ``q (n_shells,)``."""

    q: Tensor
    value: Tensor


def radial_q(shape: Sequence[int], bq: ArrayLike | None = None, device: torch.device | str = "cpu") -> Tensor:
    """Return |q - Q0| = |B_q (i - N//2)| of every voxel, ``(*shape)`` float64, in Fourier order.

    ``bq`` has the steps along the array's axes as columns, ``(3, n_axes)`` [1/m]; without it the steps are
    2 pi / N, that is q in radians per voxel of the crystal.
    """
    columns = np.diag(2 * np.pi / np.array(shape)) if bq is None else np.asarray(bq, dtype=float)
    axes = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=device) for n in shape]
    index = torch.meshgrid(*axes, indexing="ij")  # views, so that a large volume takes two arrays and not ten
    squared = torch.zeros(tuple(shape), dtype=torch.float64, device=device)
    for row in torch.as_tensor(columns).tolist():  # one lab axis after the other
        along = torch.zeros_like(squared)
        for place, step in zip(index, row, strict=True):
            along.add_(place, alpha=step)
        squared.addcmul_(along, along)
    return squared.sqrt_()


def shells(
    shape: Sequence[int], bq: ArrayLike | None = None, n_shells: int | None = None, device: torch.device | str = "cpu"
) -> Shells:
    """Return shells of equal width in `radial_q`, which takes the same arguments.

    By default there are half as many shells as the longest axis has voxels.
    """
    n_shells = n_shells or (max(shape) + 1) // 2
    q = radial_q(shape, bq, device)
    label = (q * (n_shells / q.max().clamp_min(1e-30))).long().clamp_max(n_shells - 1)
    without_q = Shells(label=label, q=torch.zeros(n_shells, device=device))
    return Shells(label=label, q=without_q.mean(q, torch.ones_like(label, dtype=torch.bool)))


def prtf(fields: Iterable[Tensor], magnitude: Tensor, over: Shells, valid: Tensor | None = None) -> Curve:
    """Return the phase retrieval transfer function: the mean over each shell of s |mean over runs of F| / sqrt I.

    ``fields`` are the Fourier transforms ``(*shape)`` of aligned crystals, one for each run, in Fourier order, of which
    one is needed at a time; the scale s fits the mean magnitude of the runs.  A value of 1 means that all runs have
    the same phase and the measured magnitude.  Voxels without counts are left out.  Chapman et al. (2006), J. Opt. Soc.
    Am. A 23, 1179, doi:10.1364/JOSAA.23.001179.
    """
    runs, moduli, n_runs = torch.zeros((), device=magnitude.device), torch.zeros_like(magnitude), 0
    for field in fields:
        runs, moduli, n_runs = runs + field, moduli + field.abs(), n_runs + 1
    scale = fitted_scale(moduli / n_runs, magnitude, valid)
    where = magnitude > 0 if valid is None else valid & (magnitude > 0)
    ratio = scale * (runs / n_runs).abs() / torch.where(where, magnitude, 1)
    return Curve(q=over.q, value=over.mean(ratio, where))


def fsw(field: Tensor, over: Shells) -> Curve:
    """Return the Fourier spectral weight: |F| summed over each shell.

    Wu et al. (2021), npj Comput. Mater. 7, 175, doi:10.1038/s41524-021-00644-z: The paper integrates the
    diffraction amplitude, so this is a sum, not a mean, and grows with the volume of the shell.
    """
    return Curve(q=over.q, value=over.total(field.abs()))


def resolution(curve: Curve, level: float = 1 / math.e) -> float:
    """Return the resolution: 2 pi / q where the curve first falls below ``level``, by linear interpolation.

    In metres for q in 1/m, in voxels for q in radians per voxel.  Infinite if the innermost shell is below the level;
    2 pi over the outermost q if no shell is.
    """
    is_finite = torch.isfinite(curve.value)
    q, value = curve.q[is_finite].cpu().numpy(), curve.value[is_finite].cpu().numpy()
    below = np.flatnonzero(value < level)
    if len(below) == 0:
        return float(2 * np.pi / q[-1]) if len(q) else math.inf
    if below[0] == 0:
        return math.inf
    pair = [below[0], below[0] - 1]
    return float(2 * np.pi / np.interp(level, value[pair], q[pair]))
