"""Frames of a scan that do not lie at even steps: their intensities, from those at even steps.

The intensity of a crystal that is oversampled by two is band-limited: its values at even steps determine the values
between them.  Whittaker (1915), Proc. R. Soc. Edinburgh 35, 181, doi:10.1017/S0370164600017806; on a periodic array the
sum over all repetitions is the kernel of Dirichlet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def frame_matrix(shifts_steps: Tensor) -> Tensor:
    """Return the matrix ``(n, n)`` from intensities at even steps to those of the frames, along the first axis.

    Parameters
    ----------
    shifts_steps
        Distance of each frame from its even step ``(n,)`` [steps], in the order of the array's first axis.
    """
    turn, n = _turns(shifts_steps), len(shifts_steps)
    kernel = torch.sin(n * turn) / (n * (torch.sin(turn) if n % 2 else torch.tan(turn)))
    return torch.where(_is_same(turn), 1.0, kernel).to(shifts_steps.dtype)


def frame_slopes(shifts_steps: Tensor) -> Tensor:
    """Return the derivatives of the rows of `frame_matrix` by the shifts of their frames, ``(n, n)`` [1/step]."""
    turn, n = _turns(shifts_steps), len(shifts_steps)
    sine, cosine = torch.sin(turn), torch.cos(turn)
    below = sine if n % 2 else sine / cosine
    change_of_below = cosine if n % 2 else cosine**-2
    slope = (n * torch.cos(n * turn) - torch.sin(n * turn) * change_of_below / below) * math.pi / (n * n * below)
    return torch.where(_is_same(turn), 0.0, slope).to(shifts_steps.dtype)


def _turns(shifts_steps: Tensor) -> Tensor:
    """Return the distances of the frames from the even steps ``(n, n)``, in half turns of the array [rad]."""
    n = len(shifts_steps)
    index = torch.arange(n, dtype=torch.float64, device=shifts_steps.device)
    return math.pi * (index[:, None] + shifts_steps.double()[:, None] - index) / n


def _is_same(turn: Tensor) -> Tensor:
    """Return where a frame lies at an even step; there the quotients of the kernel are 0 over 0."""
    return torch.sin(turn).abs() < 1e-9


def along_first(matrix: Tensor, values: Tensor, n_axes: int) -> Tensor:
    """Return arrays ``(..., *shape)`` of ``n_axes`` axes whose first axis is multiplied by a matrix."""
    rows = values.reshape(*values.shape[: values.ndim - n_axes + 1], -1)
    return torch.matmul(matrix, rows).reshape(values.shape)
