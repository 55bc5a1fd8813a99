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
    n = len(shifts_steps)
    index = torch.arange(n, dtype=torch.float64, device=shifts_steps.device)
    distance = index[:, None] + shifts_steps.double()[:, None] - index
    turn = math.pi * distance / n
    kernel = torch.sin(n * turn) / (n * (torch.sin(turn) if n % 2 else torch.tan(turn)))
    is_same = torch.sin(turn).abs() < 1e-9
    return torch.where(is_same, 1.0, kernel).to(shifts_steps.dtype)


def along_first(matrix: Tensor, values: Tensor, n_axes: int) -> Tensor:
    """Return arrays ``(..., *shape)`` of ``n_axes`` axes whose first axis is multiplied by a matrix."""
    rows = values.reshape(*values.shape[: values.ndim - n_axes + 1], -1)
    return torch.matmul(matrix, rows).reshape(values.shape)
