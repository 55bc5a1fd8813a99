"""Shifts of a crystal by less than a voxel: the intensities do not determine them, an even amplitude does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

_MOST_STEPS = 25
"""Largest number of steps of the minimiser."""
_LEAST_CHANGE = 1e-7
"""Relative change of sum |rho|^4 at which the minimiser ends: the limit of single precision."""


def shift_crystal(crystal: Tensor, shift_vox: Tensor) -> Tensor:
    """Return a crystal, in any order, shifted by ``shift_vox (axes,)`` [voxels]; its intensities stay the same."""
    result: Tensor = torch.fft.ifftn(torch.fft.fftn(crystal) * phase_ramp(crystal.shape, -shift_vox, crystal.device))
    return result


def phase_ramp(shape: Sequence[int], shift_vox: Tensor | Sequence[int], device: torch.device) -> Tensor:
    """Return exp(2 pi i s.k / N) at the voxels k of an array of this shape in Fourier order, for a shift s [voxels]."""
    angle = torch.zeros((), device=device)
    for axis, n in enumerate(shape):
        waves = 2 * math.pi * torch.fft.fftfreq(n, device=device) * shift_vox[axis]
        angle = angle + waves.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return torch.polar(torch.ones_like(angle), angle)


def shift_to_even_amplitude(crystal: Tensor, is_over: Callable[[], bool] = lambda: False) -> Tensor:
    """Return a crystal, shifted by less than a voxel such that its amplitude is most even: sum |rho|^4 is smallest.

    A face that cuts through voxels makes the amplitude ring inside and outside.  Of all crystals with the same
    intensities, the returned one is closest to a crystal of one material.  The search ends early once ``is_over``.
    """
    unit = crystal / crystal.abs().square().mean().sqrt().clamp_min(1e-30)

    def ringing(shift_vox: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the mean of |rho|^4 of the crystal shifted by ``shift_vox``, and its gradient."""
        shift = torch.tensor(shift_vox, dtype=torch.float32, device=crystal.device, requires_grad=True)
        value = torch.view_as_real(shift_crystal(unit, shift)).square().sum(-1).square().mean()
        (slope,) = torch.autograd.grad(value, shift)
        return value.item(), slope.double().cpu().numpy()

    def stop_if_over(shift_vox: NDArray[np.float64]) -> None:
        """Raise `StopIteration`, which ends the search, once ``is_over``."""
        if is_over():
            raise StopIteration

    options = {"maxiter": _MOST_STEPS, "maxls": 6, "ftol": _LEAST_CHANGE}
    with torch.enable_grad():
        minimum = minimize(
            ringing, np.zeros(crystal.ndim), jac=True, method="L-BFGS-B", callback=stop_if_over, options=options
        )
    return shift_crystal(crystal, torch.tensor(minimum.x, dtype=torch.float32, device=crystal.device))
