"""Background that changes linearly over the array: air scatter, fluorescence, the tail of another peak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearBackground:
    """Linear function of the place in the array; zero where it would fall below zero.

    ``counts`` is the value at the origin [counts per voxel], ``slopes`` the change from voxel to voxel, one per axis.
    Both are the same numbers on a coarser grid, which is the middle of the array.
    """

    counts: float
    slopes: tuple[float, ...]

    def on(self, like: Tensor) -> Tensor:
        """Return the background of an array ``(*shape)`` in Fourier order [counts per voxel]."""
        numbers = (self.counts, *self.slopes)
        total = sum((number * part for number, part in zip(numbers, parts(like), strict=True)), torch.zeros_like(like))
        return total.clamp_min(0)

    def move(self, step: Sequence[float]) -> LinearBackground:
        """Return the background with a step added: of the value at the origin, then of the slopes."""
        first, *others = step
        slopes = tuple(slope + change for slope, change in zip(self.slopes, others, strict=True))
        return LinearBackground(counts=max(self.counts + first, 0.0), slopes=slopes)


def parts(like: Tensor) -> list[Tensor]:
    """Return the derivatives of a background: by its value at the origin, 1, and by its slopes, places in voxels."""
    places = [torch.fft.fftfreq(n, 1 / n, dtype=like.dtype, device=like.device) for n in like.shape]
    return [torch.ones_like(like), *torch.meshgrid(*places, indexing="ij")]
