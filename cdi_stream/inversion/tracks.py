"""Interpolate readings along a scan, one value for each frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fill_missing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values with NaN replaced: linear between neighbours, by the mean step beyond the first and last."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known) or len(known) == len(values):
        return values
    places = np.arange(len(values))
    filled = np.interp(places, known, values[known])
    step = (values[known[-1]] - values[known[0]]) / max(int(known[-1] - known[0]), 1)
    beyond = np.maximum(places - known[-1], 0) - np.maximum(known[0] - places, 0)
    return np.asarray(filled + step * beyond, dtype=np.float64)
