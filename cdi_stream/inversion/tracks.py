"""Interpolate readings along a scan, one value for each frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fill_missing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values with NaN replaced: linear between neighbours, by the mean step beyond the first and last."""
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite) or len(finite) == len(values):
        return values
    places = np.arange(len(values))
    track = np.interp(places, finite, values[finite])
    step = (values[finite[-1]] - values[finite[0]]) / max(int(finite[-1] - finite[0]), 1)
    beyond = np.maximum(places - finite[-1], 0) - np.maximum(finite[0] - places, 0)
    return np.asarray(track + step * beyond, dtype=np.float64)
