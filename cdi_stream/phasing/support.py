"""Supports: shrink-wrap on batches, its cautious form that only moves the border, and where to begin.

Marchesini et al. (2003), Phys. Rev. B 68, 140101, doi:10.1103/PhysRevB.68.140101.  Moving only the border keeps
strained crystals, whose amplitude dips inside, from being eaten (Masto et al. 2025).  Arrays are in Fourier order;
batches are ``(starts, *shape)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cdi_stream.phasing.shrink_wrap import Mode, Relative, ShrinkWrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes a support may have, as shares of the array; ``outer`` is a region it never leaves (Wu et al. 2021b)."""

    smallest: float = 0.0
    largest: float = 1.0
    outer: Tensor | None = None


def smooth(amplitude: Tensor, sigma_vox: float, n_axes: int | None = None) -> Tensor:
    """Gaussian blur over the last ``n_axes`` (all) axes, with periodic edges."""
    n_axes = n_axes or amplitude.ndim
    axes, shape = tuple(range(-n_axes, 0)), tuple(amplitude.shape[-n_axes:])
    window = _gaussian(shape, sigma_vox, str(amplitude.device)).to(amplitude.dtype)
    result: Tensor = torch.fft.irfftn(torch.fft.rfftn(amplitude, dim=axes).mul_(window), s=shape, dim=axes)
    return result


@lru_cache(maxsize=16)
def _gaussian(shape: tuple[int, ...], sigma_vox: float, device: str) -> Tensor:
    """Transform of a Gaussian on the half spectrum."""
    window = torch.ones((), device=device)
    for axis, n in enumerate(shape):
        frequency = (torch.fft.rfftfreq if axis == len(shape) - 1 else torch.fft.fftfreq)(n, device=device)
        weight = torch.exp(-2 * (math.pi * sigma_vox * frequency) ** 2)
        window = window * weight.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return window


def threshold_support(
    amplitude: Tensor, threshold: float, sigma_vox: float, relative: Relative = "max", within: Tensor | None = None
) -> Tensor:
    """True where the blurred amplitude of a batch exceeds ``threshold`` of its maximum.

    Or of its mean or rms over ``within``, the old support.
    """
    blurred = smooth(amplitude, sigma_vox, amplitude.ndim - 1)
    return blurred > threshold * _level(blurred, relative, within)


def _level(blurred: Tensor, relative: Relative, within: Tensor | None) -> Tensor:
    axes = tuple(range(1, blurred.ndim))
    if relative == "max":
        return blurred.amax(axes, keepdim=True)
    if within is None:
        raise ValueError(f"a threshold relative to the {relative} needs the old support")
    count = within.sum(axes, keepdim=True).clamp_min(1)
    if relative == "mean":
        return (blurred * within).sum(axes, keepdim=True) / count
    return ((blurred * within).square().sum(axes, keepdim=True) / count).sqrt()


def grow(support: Tensor, n_vox: int = 1, n_axes: int | None = None) -> Tensor:
    """Dilate by ``n_vox`` steps along the last ``n_axes`` (all) axes, periodic; a diagonal is two steps."""
    for _ in range(n_vox):
        grown = support
        for axis in range(-(n_axes or support.ndim), 0):
            grown = grown | torch.roll(support, 1, axis) | torch.roll(support, -1, axis)
        support = grown
    return support


def border_only(support: Tensor, proposed: Tensor, n_vox: int = 1) -> Tensor:
    """Let a batch of supports become ``proposed`` within ``n_vox`` of its border only.

    Cores stay, far voxels never join.
    """
    n_axes = support.ndim - 1
    outer = grow(support, n_vox, n_axes)
    core = ~grow(~support, n_vox, n_axes)
    return (proposed & outer) | core


def updated(support: Tensor, crystal: Tensor, how: ShrinkWrap, mode: Mode, limits: Limits) -> Tensor:
    """Next supports of a batch.

    One that would grow too large keeps its brightest voxels; one that would vanish or become too small stays.
    """
    blurred = smooth(crystal.abs(), how.sigma_vox, crystal.ndim - 1)
    proposed = blurred > how.threshold * _level(blurred, how.relative, support)
    if mode == "border":
        proposed = border_only(support, proposed)
    if limits.outer is not None:
        proposed = proposed & limits.outer
    count, n = proposed.flatten(1).sum(1), proposed[0].numel()
    for index in torch.nonzero(count > limits.largest * n).flatten().tolist():
        proposed[index] = _brightest(blurred[index] * proposed[index], int(limits.largest * n))
    is_sane = proposed.flatten(1).sum(1) > limits.smallest * n
    return torch.where(is_sane.reshape(-1, *(1,) * (support.ndim - 1)), proposed, support)


def _brightest(amplitude: Tensor, n: int) -> Tensor:
    """The ``n`` largest voxels or so."""
    return amplitude > torch.kthvalue(amplitude.flatten(), amplitude.numel() - n).values


def box_support(shape: tuple[int, ...], share: float = 0.5) -> Tensor:
    """Box of this share of the array along each axis, about the origin."""
    sides = [torch.fft.fftfreq(n).abs() <= share / 2 + 1e-6 for n in shape]
    return torch.stack(torch.meshgrid(*sides, indexing="ij")).all(0)


def halves(support: Tensor) -> Tensor:
    """One half of each support of a batch along the first axis: what breaks the tie between a crystal and its twin.

    Cut through the support's own middle, wherever it lies; the array is periodic.
    """
    n = support.shape[1]
    turn = torch.exp(2j * torch.pi * torch.arange(n, device=support.device) / n)
    middle = (support.reshape(len(support), n, -1).sum(2) * turn).sum(1, keepdim=True)
    is_ahead = (turn * middle.conj()).imag >= -1e-6 * middle.abs()
    return support & is_ahead.reshape(-1, n, *(1,) * (support.ndim - 2))
