"""Where a crystal lies between the voxels: the intensities leave that open, the evenness of its amplitude does not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

_STEPS = 25
_ENOUGH = 1e-7
"""Relative change at which it is as even as single precision can tell."""


def moved(crystal: Tensor, shift_vox: Tensor) -> Tensor:
    """Move a crystal, in any order, by ``shift_vox`` ``(axes,)``, whole voxels or not; its intensities stay."""
    angle = torch.zeros((), device=crystal.device)
    for axis, n in enumerate(crystal.shape):
        waves = -2 * math.pi * torch.fft.fftfreq(n, device=crystal.device) * shift_vox[axis]
        angle = angle + waves.reshape([-1 if k == axis else 1 for k in range(crystal.ndim)])
    field = torch.fft.fftn(crystal) * torch.polar(torch.ones_like(angle), angle)
    result: Tensor = torch.fft.ifftn(field)
    return result


def on_voxels(crystal: Tensor, is_over: Callable[[], bool] = lambda: False) -> Tensor:
    """Move a crystal by less than a voxel to where its amplitude is most even: sum |rho|^4 is least.

    Faces that cut voxels let the amplitude ring, inside and out, so of all crystals with the same intensities this one
    is the most like one of a single material.  Once that `is_over` it stays where it then is.
    """
    unit = crystal / crystal.abs().square().mean().sqrt().clamp_min(1e-30)

    def ringing(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        shift = torch.tensor(at, dtype=torch.float32, device=crystal.device, requires_grad=True)
        found = torch.view_as_real(moved(unit, shift)).square().sum(-1).square().mean()
        (slope,) = torch.autograd.grad(found, shift)
        return found.item(), slope.double().cpu().numpy()

    def stop_if_over(at: NDArray[np.float64]) -> None:
        if is_over():
            raise StopIteration

    how = {"maxiter": _STEPS, "maxls": 6, "ftol": _ENOUGH}
    with torch.enable_grad():
        found = minimize(
            ringing, np.zeros(crystal.ndim), jac=True, method="L-BFGS-B", callback=stop_if_over, options=how
        )
    return moved(crystal, torch.tensor(found.x, dtype=torch.float32, device=crystal.device))
