"""Check the arguments of the Python interface."""

from __future__ import annotations

import math

from cdi_stream.errors import ConfigError
from cdi_stream.inversion.methods import METHODS

MAX_SEED = 2**32 - 1
"""Largest seed of the random starts, the same as of the command ``phase``."""


def require_search(budget_s: float, seed: int, device: str) -> None:
    """Raise `ConfigError` unless budget, seed and device can be used."""
    require_budget(budget_s)
    require_seed(seed)
    require_device(device)


def require_budget(budget_s: float) -> None:
    """Raise `ConfigError` unless a budget is a number of seconds above zero."""
    is_number = isinstance(budget_s, int | float) and not isinstance(budget_s, bool)
    if not (is_number and math.isfinite(budget_s) and budget_s > 0):
        raise ConfigError(f"budget_s: expected a number of seconds above 0, got {budget_s!r}; give 30 for a start")


def require_seed(seed: int) -> None:
    """Raise `ConfigError` unless a seed is a whole number from 0 to `MAX_SEED`."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= int(seed) <= MAX_SEED:
        raise ConfigError(f"seed: expected a whole number from 0 to {MAX_SEED}, got {seed!r}; give 0 for a start")


def require_method(method: str, n_axes: int) -> None:
    """Raise `ConfigError` unless a method is known and takes intensities of so many axes."""
    if method not in METHODS:
        raise ConfigError(f"method: expected one of {', '.join(METHODS)}, got {method!r}; take auto if in doubt")
    if n_axes != 3 and method in ("network", "hybrid"):
        raise ConfigError(
            f"method: {method!r} expected counts of 3 axes, got {n_axes}; take 'auto', 'recipe' or 'object'"
        )


def require_device(device: str) -> None:
    """Raise `ConfigError` unless torch can compute on the device."""
    import torch

    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device: expected 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: expected a GPU with CUDA, got none that torch can use; take device='cpu'")
