"""Measures of a reconstruction; each is a pure function of arrays, with its equation and source.

Measured magnitudes are sqrt(counts), ``(*shape)``, of two or three axes.  Modelled arrays may be a batch,
``(..., *shape)``; the result is then ``(...)``.  Sums are float64.  ``valid``, bool ``(*shape)``, marks the voxels to
use; None means all voxels.  Arrays whose origin matters are in Fourier order (origin at voxel 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FAINTEST = 1e-6
"""Smallest expected counts of `poisson_llk` [counts]: one count where none was expected then adds about 13."""

_TINY = 1e-30


def voxel_pair(model: Tensor, measured: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the voxels of both arrays to use, ``(..., n)`` and ``(n,)``, in double precision."""
    pair = model.flatten(model.ndim - measured.ndim), measured.flatten()
    if valid is not None:  # places along one axis, since a place along each of three takes three times the memory
        places = valid.flatten().nonzero()[:, 0]
        pair = pair[0][..., places], pair[1][places]
    a, b = (values.to(torch.promote_types(values.dtype, torch.float64)) for values in pair)
    return a, b


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products of the last axis, ``(...)``, without an array of products in memory."""
    result: Tensor = torch.linalg.vecdot(a, b)
    return result


def fitted_scale(model_magnitude: Tensor, magnitude: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the scale s ``(...)`` that minimises sum (s |F| - sqrt I)^2: sum |F| sqrt I / sum |F|^2."""
    model, measured = voxel_pair(model_magnitude, magnitude, valid)
    return _dot(model, measured) / _dot(model, model).clamp_min(_TINY)


def chi2(model_magnitude: Tensor, magnitude: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the misfit sum (s |F| - sqrt I)^2 / sum I, ``(...)``, with one fitted scale s; 0 is perfect.

    Wu et al. (2021), npj Comput. Mater. 7, 175, doi:10.1038/s41524-021-00644-z, L4.  The paper does not say how the
    scale is chosen.
    """
    model, measured = voxel_pair(model_magnitude, magnitude, valid)
    rest = fitted_scale(model, measured)[..., None] * model - measured
    return _dot(rest, rest) / _dot(measured, measured).clamp_min(_TINY)


def chi2_floor(model_magnitude: Tensor, magnitude: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the value of `chi2` that Poisson noise alone leaves to a true model, ``(...)``.

    sum E[(sqrt n - sqrt lambda)^2] / sum I with n ~ Poisson(lambda) and lambda = (s |F|)^2.
    """
    model, measured = voxel_pair(model_magnitude, magnitude, valid)
    scale = fitted_scale(model, measured)
    table = torch.from_numpy(_noise_table()).to(measured)
    place = ((scale[..., None] * model).abs() / _NOISE_STEP).clamp_max(len(table) - 2)
    before = place.int()
    low, high = table[before], table[before + 1]
    noise = (low + (place - before) * (high - low)).sum(-1, dtype=torch.float64)
    return noise / _dot(measured, measured).clamp_min(_TINY)


_NOISE_STEP = 0.01
"""Step of the root of the mean counts in `_noise_table`."""


@lru_cache(maxsize=1)
def _noise_table() -> NDArray[np.float64]:
    """Return E[(sqrt n - sqrt I)^2] of Poisson n for evenly spaced sqrt I, from 0 to 8; it tends to 1/4."""
    root = np.arange(0, 8, _NOISE_STEP)
    n = np.arange(200)
    log_factorial = np.cumsum(np.log(np.maximum(n, 1)))
    log_p = 2 * n * np.log(np.maximum(root, 1e-150))[:, None] - root[:, None] ** 2 - log_factorial
    table: NDArray[np.float64] = (np.exp(log_p) * (np.sqrt(n) - root[:, None]) ** 2).sum(1)
    return table


def r_p(model_magnitude: Tensor, magnitude: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the Pearson correlation of magnitudes, ``(...)``; NaN where the model is zero everywhere."""
    a, b = (values - values.mean(-1, keepdim=True) for values in voxel_pair(model_magnitude, magnitude, valid))
    return _dot(a, b) / (_dot(a, a) * _dot(b, b)).sqrt()


def r_p_wu2021(model_magnitude: Tensor, magnitude: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return sum |a| |b| / sqrt(sum a^2 sum b^2), ``(...)``, a and b the deviations from the mean magnitudes.

    Wu et al. (2021), npj Comput. Mater. 7, 175, doi:10.1038/s41524-021-00644-z, L3.  For comparison with the paper
    only: because of the absolute values it exceeds `r_p`, is positive for unrelated arrays, and ignores the signs of
    the deviations.
    """
    a, b = (values - values.mean(-1, keepdim=True) for values in voxel_pair(model_magnitude, magnitude, valid))
    return (a * b).abs().sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def relative_rms(predicted: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Return sqrt sum (p - g)^2 / sqrt sum g^2 of real arrays p (predicted) and g (truth), ``(...)``.

    Wu et al. (2021), npj Comput. Mater. 7, 175, doi:10.1038/s41524-021-00644-z, L1 (amplitude), L2 (phase).
    """
    p, g = voxel_pair(predicted, truth, where)
    return (p - g).square().sum(-1).sqrt() / g.square().sum(-1).sqrt().clamp_min(_TINY)


def poisson_llk(expected_counts: Tensor, counts: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the negative Poisson log-likelihood per voxel, relative to the saturated model, ``(...)``.

    The mean over ``where`` of lambda - n + n ln(n / lambda), which is half the mean deviance.  It is never negative,
    zero where lambda = n, and about 1/2 for the truth at high counts (less below one count per voxel).  Lambda is at
    least `FAINTEST`, so a model of zeros has a finite value.  The expected counts are not scaled here; their likeliest
    scale is sum n / sum lambda.  Over voxels that were held out of the phasing this is the free log-likelihood of
    Favre-Nicolin, Leake and Chushkin (2020), Sci. Rep. 10, 2664, doi:10.1038/s41598-020-57561-2.
    """
    expected, n = voxel_pair(expected_counts, counts, where)
    expected = expected.clamp_min(FAINTEST)
    return (expected - n + torch.xlogy(n, n / expected)).mean(-1)


def held_out_islands(
    valid: Tensor,
    generator: torch.Generator,
    share: float = 0.05,
    radius_vox: int = 3,
    centre: Sequence[int] | None = None,
    keep_centre: float = 0.05,
) -> Tensor:
    """Return voxels to hold out of the phasing, bool ``(*shape)``: balls at random places, valid voxels only.

    Parameters
    ----------
    valid
        Voxels that were measured, bool ``(*shape)``.
    generator
        Random generator, on the CPU.
    share
        Share of the valid voxels to hold out, approximately.
    radius_vox
        Radius of a ball [voxels]; smaller where fewer than four balls would be needed.
    centre
        Index of the Bragg peak; None for voxel 0, the origin in Fourier order.
    keep_centre
        Distance from the centre, in lengths of each axis, within which no voxel is held out; distances are periodic.

    Notes
    -----
    Favre-Nicolin et al. (2020), J. Appl. Cryst. 53, 1404, doi:10.1107/S1600576720010985.
    """
    shape = torch.tensor(valid.shape)
    origin = [0] * valid.ndim if centre is None else centre
    steps = (torch.roll(torch.fft.fftfreq(n), int(c)) for n, c in zip(valid.shape, origin, strict=True))
    distance = sum(step.square() for step in torch.meshgrid(*steps, indexing="ij"))
    allowed = valid.cpu() & (torch.as_tensor(distance) > keep_centre**2)
    held, places = torch.zeros_like(allowed), allowed.flatten().nonzero()[:, 0]
    if len(places):
        ball, n_islands = _islands(len(places), valid.ndim, share, radius_vox)
        chosen = places[torch.randint(len(places), (n_islands,), generator=generator)]
        seeds = torch.stack(torch.unravel_index(chosen, valid.shape), -1)
        held[((seeds[:, None] + ball) % shape).flatten(0, 1).unbind(-1)] = True
    return (held & allowed).to(valid.device)


def _islands(n_places: int, n_axes: int, share: float, radius_vox: int) -> tuple[Tensor, int]:
    """Return the offsets in a ball, ``(n, n_axes)``, and the number of random balls that together cover ``share``."""
    while True:
        cube = torch.cartesian_prod(*[torch.arange(-radius_vox, radius_vox + 1)] * n_axes)
        ball = cube[cube.square().sum(-1) <= radius_vox**2]
        n_islands = round(math.log1p(-share) / math.log1p(-len(ball) / n_places)) if len(ball) < n_places else 0
        if n_islands >= 4 or radius_vox == 0:
            return ball, max(n_islands, 1)
        radius_vox -= 1


def nmse(truth: Tensor, crystal: Tensor) -> Tensor:
    """Return 1 - |correlation|^2 of an aligned crystal with the truth, ``(...)``; 0 is perfect, 1 unrelated.

    Scale and global phase have no influence.  Shift and twin have: remove them before by `cdi_stream.phasing.align`.
    """
    a, b = voxel_pair(crystal, truth, None)
    power = (a.abs().square().sum(-1) * b.abs().square().sum(-1)).clamp_min(_TINY)
    return 1 - (a.conj() * b).sum(-1).abs().square() / power


def phase_error_rms_rad(truth: Tensor, crystal: Tensor) -> Tensor:
    """Return the root mean square phase difference of an aligned crystal from the truth, ``(...)`` [rad].

    Over voxels where |truth| exceeds half its maximum, after the global phase of their overlap is removed.
    """
    a, b = voxel_pair(crystal, truth, None)
    overlap = (a.conj() * b).sum(-1, keepdim=True)
    inside = b.abs() > 0.5 * b.abs().max()
    difference = (a * b.conj() * torch.polar(torch.ones_like(overlap.real), overlap.angle())).angle()
    return difference[..., inside].square().mean(-1).sqrt()
