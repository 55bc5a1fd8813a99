"""Projections of iterative phasing, batched and for any number of axes.

Arrays inside this package are in Fourier order (origin at voxel 0), so that no cycle shifts anything;
`cdi_stream.fourier` converts at the edges.  The transform's sign is the project's: to reciprocal space by
``ifftn``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Measured magnitudes in Fourier order: ``magnitude`` sqrt(counts), ``gain`` sqrt(expected scale).

    Where ``valid`` is false the model keeps its own value.  The modelled magnitude is gain * |F|.
    """

    magnitude: Tensor
    gain: Tensor
    valid: Tensor

    @property
    def n_axes(self) -> int:
        """Number of Fourier axes."""
        return self.magnitude.ndim


def reciprocal(crystal: Tensor, n_axes: int) -> Tensor:
    """F(q) of crystals in Fourier order."""
    return torch.fft.ifftn(crystal, dim=tuple(range(-n_axes, 0)), norm="ortho")


def direct(field: Tensor, n_axes: int) -> Tensor:
    """Crystals of F(q) in Fourier order."""
    return torch.fft.fftn(field, dim=tuple(range(-n_axes, 0)), norm="ortho")


def project_magnitude(crystal: Tensor, data: Measurement) -> Tensor:
    """Give the crystal the measured magnitudes; its phases, and what was not measured, stay.

    Fienup (1982), Appl. Opt. 21, 2758, doi:10.1364/AO.21.002758, with the expected scale in the model.
    """
    field = reciprocal(crystal, data.n_axes)
    factor = data.magnitude / (data.gain * field.abs()).clamp_min(_TINY)
    return direct(field * torch.where(data.valid, factor, 1.0), data.n_axes)


def error_reduction(crystal: Tensor, projected: Tensor, support: Tensor) -> Tensor:
    """Zero outside the support, the projection inside (Fienup 1982)."""
    del crystal
    return projected * support


def hybrid_input_output(crystal: Tensor, projected: Tensor, support: Tensor, beta: float) -> Tensor:
    """Feedback crystal - beta * projection outside the support (Fienup 1982, equation 44)."""
    return torch.where(support, projected, crystal - beta * projected)
