"""Projections of iterative phasing, on batches of independent starts and for any number of axes.

Arrays inside this package are in Fourier order (origin at voxel 0), so that no cycle shifts anything;
`cdi_stream.numerics.fourier` converts at the edges.  The transform's sign is the project's: to reciprocal space by
``ifftn``.  A batch is ``(starts, *shape)``; measurements have no batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cdi_stream.phasing.kernels import Mix, mix, multiply, rescale

_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Measured magnitudes in Fourier order: ``magnitude`` sqrt(counts), ``gain`` sqrt(expected scale).

    Where ``valid`` is false the model keeps its own value.  The expected counts are
    gain^2 (|F|^2 convolved with the coherence kernel) + background.  ``coherence`` is the kernel's transform, on the
    half spectrum of ``rfftn`` (Clark et al. 2012, Nat. Commun. 3, 993, doi:10.1038/ncomms1994); none means full
    coherence, no ``background`` none.
    """

    magnitude: Tensor
    gain: Tensor
    valid: Tensor
    background: Tensor | None = None
    coherence: Tensor | None = None

    @property
    def n_axes(self) -> int:
        """Number of Fourier axes."""
        return self.magnitude.ndim

    @property
    def target(self) -> Tensor:
        """Magnitudes for |F|, negative where they are free."""
        return torch.where(self.valid, self.magnitude / self.gain.clamp_min(_TINY), -1.0)

    @property
    def is_plain(self) -> bool:
        """Whether the expected counts are gain^2 |F|^2."""
        return self.background is None and self.coherence is None


def reciprocal(crystal: Tensor, n_axes: int, out: Tensor | None = None) -> Tensor:
    """F(q) of crystals in Fourier order."""
    result: Tensor = torch.fft.ifftn(crystal, dim=tuple(range(-n_axes, 0)), norm="ortho", out=out)
    return result


def direct(field: Tensor, n_axes: int, out: Tensor | None = None) -> Tensor:
    """Crystals of F(q) in Fourier order."""
    result: Tensor = torch.fft.fftn(field, dim=tuple(range(-n_axes, 0)), norm="ortho", out=out)
    return result


def expected_counts(field: Tensor, data: Measurement) -> Tensor:
    """Counts that a field ``(..., *shape)`` makes one expect; differentiable."""
    intensity = field.real.square() + field.imag.square()
    if data.coherence is not None:
        axes, shape = tuple(range(-data.n_axes, 0)), data.magnitude.shape
        spectrum = torch.fft.rfftn(intensity, dim=axes) * data.coherence
        intensity = torch.fft.irfftn(spectrum, s=shape, dim=axes).clamp_min(0)
    counts = data.gain.square() * intensity
    return counts if data.background is None else counts + data.background


def modelled_magnitude(crystal: Tensor, data: Measurement) -> Tensor:
    """Square root of the counts that crystals ``(..., *shape)`` in Fourier order make one expect."""
    return expected_counts(reciprocal(crystal, data.n_axes), data).sqrt()


class Projector:
    """Gives crystals the measured magnitudes; their phases, and what was not measured, stay.

    Fienup (1982), Appl. Opt. 21, 2758, doi:10.1364/AO.21.002758, with expected scale, background and partial
    coherence in the model.  Owns the memory it returns: the next call overwrites it.
    """

    def __init__(self, data: Measurement) -> None:
        self._data, self._target = data, data.target.contiguous()
        self._field: Tensor | None = None
        self._projected: Tensor | None = None

    def __call__(self, crystal: Tensor) -> Tensor:
        """Project a batch ``(starts, *shape)``."""
        self._field = reciprocal(crystal, self._data.n_axes, out=_fitting(self._field, crystal))
        if self._data.is_plain:
            rescale(self._field, self._target)
        else:
            expected = expected_counts(self._field, self._data).clamp_min(_TINY)
            factor = torch.where(self._data.valid, self._data.magnitude / expected.sqrt(), 1.0)
            multiply(self._field, factor.contiguous())
        self._projected = direct(self._field, self._data.n_axes, out=_fitting(self._projected, crystal))
        return self._projected


def _fitting(buffer: Tensor | None, like: Tensor) -> Tensor | None:
    return buffer if buffer is not None and buffer.shape == like.shape else None


def project_magnitude(crystal: Tensor, data: Measurement) -> Tensor:
    """Project one crystal ``shape``; see `Projector`."""
    return Projector(data)(crystal[None].contiguous())[0]


def error_reduction(crystal: Tensor, projected: Tensor, support: Tensor) -> None:
    """In place: the projection inside the support, zero outside (Fienup 1982)."""
    mix(crystal, projected, support, Mix((0, 1), (0, 0)))


def hybrid_input_output(crystal: Tensor, projected: Tensor, support: Tensor, beta: float) -> None:
    """In place: feedback crystal - beta * projection outside the support (Fienup 1982, equation 44)."""
    mix(crystal, projected, support, Mix((0, 1), (1, -beta)))


def relaxed_reflections(crystal: Tensor, projected: Tensor, support: Tensor, beta: float) -> None:
    """In place: RAAR, beta/2 (R_S R_M + 1) + (1 - beta) P_M, equation 1.5 of the source.

    With P_S a mask this is the projection inside and beta * crystal + (1 - 2 beta) * projection outside.
    Luke (2005), Inverse Problems 21, 37, doi:10.1088/0266-5611/21/1/004.
    """
    mix(crystal, projected, support, Mix((0, 1), (beta, 1 - 2 * beta)))


def difference_map(crystal: Tensor, project: Projector, support: Tensor, beta: float) -> None:
    """In place: x + beta (P_S f_M(x) - P_M f_S(x)), f_M = P_M + (P_M - 1)/beta, f_S = P_S - (P_S - 1)/beta.

    Two projections on the magnitudes a cycle unless beta is 1, where f_S is the identity and all is HIO.
    Elser (2003), J. Opt. Soc. Am. A 20, 40, doi:10.1364/JOSAA.20.000040.
    """
    if beta == 1:
        hybrid_input_output(crystal, project(crystal), support, beta)
        return
    by_support = crystal.clone()
    mix(by_support, crystal, support, Mix((0, 1), (0, 1 / beta)))
    mix(crystal, project(crystal), support, Mix((0, 1 + beta), (1, 0)))
    crystal.sub_(project(by_support), alpha=beta)
