"""Support updates: shrink-wrap, and its cautious form that only moves the border.

Marchesini et al. (2003), Phys. Rev. B 68, 140101, doi:10.1103/PhysRevB.68.140101.  Moving only the border
keeps strained crystals, whose amplitude dips inside, from being eaten (Masto et al. 2025).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def smooth(amplitude: Tensor, sigma_vox: float) -> Tensor:
    """Gaussian blur over the last axes of an array in Fourier order, with periodic edges."""
    spectrum = torch.fft.rfftn(amplitude)
    window = torch.ones((), device=amplitude.device)
    for axis, n in enumerate(amplitude.shape):
        is_last = axis == amplitude.ndim - 1
        frequency = (torch.fft.rfftfreq if is_last else torch.fft.fftfreq)(n, device=amplitude.device)
        weight = torch.exp(-2 * (math.pi * sigma_vox * frequency) ** 2)
        window = window * weight.reshape([-1 if k == axis else 1 for k in range(amplitude.ndim)])
    return torch.fft.irfftn(spectrum * window, s=amplitude.shape)


def threshold_support(amplitude: Tensor, threshold: float, sigma_vox: float) -> Tensor:
    """True where the blurred amplitude exceeds ``threshold`` of its maximum."""
    blurred = smooth(amplitude, sigma_vox)
    return blurred > threshold * blurred.amax()


def grow(support: Tensor, n_vox: int = 1) -> Tensor:
    """Dilate by ``n_vox`` along the axes (periodic); diagonal neighbours follow from two axes."""
    for _ in range(n_vox):
        grown = support
        for axis in range(support.ndim):
            grown = grown | torch.roll(support, 1, axis) | torch.roll(support, -1, axis)
        support = grown
    return support


def border_support(support: Tensor, amplitude: Tensor, threshold: float, sigma_vox: float, n_vox: int = 1) -> Tensor:
    """Apply the threshold within ``n_vox`` of the old border only: cores stay, far voxels never join."""
    outer = grow(support, n_vox)
    core = ~grow(~support, n_vox)
    return (threshold_support(amplitude, threshold, sigma_vox) & outer) | core
