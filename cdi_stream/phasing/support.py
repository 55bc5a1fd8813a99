"""Supports of batches of crystals: shrink-wrap, its cautious form that changes the border only, and first supports.

Shrink-wrap: Marchesini et al. (2003), Phys. Rev. B 68, 140101, doi:10.1103/PhysRevB.68.140101.  The amplitude of a
strained crystal may be low inside; an update of the border alone keeps these voxels in the support:
Masto et al. (2025), arXiv:2507.06644, doi:10.48550/arXiv.2507.06644.  Arrays are in Fourier order, batches are
``(starts, *shape)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cdi_stream.phasing.convolution import convolve, gaussian_transform
from cdi_stream.phasing.kernels import above, modulus, sums_inside
from cdi_stream.phasing.shrink_wrap import Mode, Relative, ShrinkWrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a support.

    ``smallest`` and ``largest`` are sizes as shares of the array.  ``outer``, bool ``(*shape)``, is a region that the
    support never leaves, as in Wu et al. (2021), IUCrJ 8, 12, doi:10.1107/S2052252520013780; None for no such region.
    """

    smallest: float = 0.0
    largest: float = 1.0
    outer: Tensor | None = None


def smooth(amplitude: Tensor, sigma_vox: float, n_axes: int | None = None) -> Tensor:
    """Return the amplitude, blurred by a Gaussian over its last ``n_axes`` (all) axes; edges are periodic."""
    n_axes = n_axes or amplitude.ndim
    window = _gaussian(tuple(amplitude.shape[-n_axes:]), sigma_vox, str(amplitude.device))
    return convolve(amplitude, window.to(amplitude.dtype), n_axes)


@lru_cache(maxsize=16)
def _gaussian(shape: tuple[int, ...], sigma_vox: float, device: str) -> Tensor:
    return gaussian_transform(shape, (sigma_vox,) * len(shape), device=device)


def threshold_support(
    amplitude: Tensor, threshold: float, sigma_vox: float, relative: Relative = "max", within: Tensor | None = None
) -> Tensor:
    """Return where the blurred amplitude of a batch exceeds ``threshold`` times its reference amplitude.

    The reference is the maximum of the array, or the mean or rms over the present support ``within``.
    """
    blurred = smooth(amplitude, sigma_vox, amplitude.ndim - 1)
    return blurred > threshold * _level(blurred, relative, within)


def _level(blurred: Tensor, relative: Relative, within: Tensor | None) -> Tensor:
    axes = tuple(range(1, blurred.ndim))
    if relative == "max":
        return blurred.amax(axes, keepdim=True)
    if within is None:
        raise ValueError(f"support: expected the present support for a threshold relative to the {relative}, got none")
    number, total, squares = sums_inside(blurred, within)
    number = number.clamp_min(1)
    level = total / number if relative == "mean" else (squares / number).sqrt()
    return level.reshape(-1, *(1,) * (blurred.ndim - 1))


def grow(support: Tensor, n_vox: int = 1, n_axes: int | None = None) -> Tensor:
    """Return supports dilated by ``n_vox`` steps along the last ``n_axes`` (all) axes; a diagonal takes two steps.

    Edges are periodic.
    """
    for _ in range(n_vox):
        result = support
        for axis in range(-(n_axes or support.ndim), 0):
            result = result | torch.roll(support, 1, axis) | torch.roll(support, -1, axis)
        support = result
    return support


def restrict_to_border(support: Tensor, update: Tensor, n_vox: int = 1) -> Tensor:
    """Return the supports ``update`` within ``n_vox`` of the border of the present supports, and the present elsewhere.

    Voxels deeper inside stay in the support; voxels farther outside stay out of it.
    """
    n_axes = support.ndim - 1
    outer = grow(support, n_vox, n_axes)
    core = ~grow(~support, n_vox, n_axes)
    return (update & outer) | core


def update_support(support: Tensor, crystal: Tensor, wrap: ShrinkWrap, mode: Mode, limits: Limits) -> Tensor:
    """Return the next supports of a batch.

    A support that would grow above its limit keeps its brightest voxels; a support that would become too small stays
    as it is.
    """
    blurred = smooth(modulus(crystal), wrap.sigma_vox, crystal.ndim - 1)
    update, count = above(blurred, wrap.threshold * _level(blurred, wrap.relative, support))
    if mode == "border":
        update = restrict_to_border(support, update)
    if limits.outer is not None:
        update = update & limits.outer
    if mode == "border" or limits.outer is not None:
        count = update.flatten(1).sum(1)
    n = update[0].numel()
    for index in torch.nonzero(count > limits.largest * n).flatten().tolist():
        update[index] = _brightest_voxels(blurred[index] * update[index], int(limits.largest * n))
        count[index] = update[index].sum()
    is_sane = count > limits.smallest * n
    if bool(is_sane.all()):
        return update
    return torch.where(is_sane.reshape(-1, *(1,) * (support.ndim - 1)), update, support)


def _brightest_voxels(amplitude: Tensor, n: int) -> Tensor:
    """Return the ``n`` voxels with the largest amplitude; voxels of equal amplitude may make it fewer."""
    return amplitude > torch.kthvalue(amplitude.flatten(), amplitude.numel() - n).values


def box_support(shape: tuple[int, ...], share: float = 0.5) -> Tensor:
    """Return the box about the origin that takes ``share`` of the array along each axis, in Fourier order."""
    sides = [torch.fft.fftfreq(n).abs() <= share / 2 + 1e-6 for n in shape]
    return torch.stack(torch.meshgrid(*sides, indexing="ij")).all(0)


def halves(support: Tensor) -> Tensor:
    """Return one half of each support of a batch, cut along the first axis; `Detwin` uses it.

    The cut goes through the middle of the support, wherever it lies in the periodic array.
    """
    n = support.shape[1]
    turn = torch.exp(2j * torch.pi * torch.arange(n, device=support.device) / n)
    middle = (support.reshape(len(support), n, -1).sum(2) * turn).sum(1, keepdim=True)
    is_ahead = (turn * middle.conj()).imag >= -1e-6 * middle.abs()
    return support & is_ahead.reshape(-1, n, *(1,) * (support.ndim - 2))
