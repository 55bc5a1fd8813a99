"""Readings along a scan: missing values filled, and one value for the whole scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdi_stream.messages import Reading, RockingCurve

MAX_READINGS = 500
"""Largest number of readings that a result keeps."""


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


def run_readings(curve: RockingCurve) -> dict[str, Reading]:
    """Return the readings of a curve's run: of a reading at each frame its mean, of any other its value.

    At most `MAX_READINGS` are returned, those at each frame first; values that are not finite are left out.
    """
    finite = {name: track[np.isfinite(track)] for name, track in curve.scanned.items()}
    means = {name: float(track.mean()) for name, track in finite.items() if track.size}
    others = {name: value for name, value in curve.run.readings.items() if name not in means and np.isfinite(value)}
    kept = list({**means, **others}.items())[:MAX_READINGS]
    return {name: Reading(value=value, unit=curve.run.units.get(name, "")) for name, value in kept}
