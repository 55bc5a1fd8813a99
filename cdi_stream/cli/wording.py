"""Numbers as people read them: few digits, a unit, and what the number means."""

from __future__ import annotations

import math
from typing import Any

MEANING = {
    "chi2": "misfit to the measured magnitudes, as a share",
    "chi2_cleaned": "misfit, voxels masked by cleaning left out",
    "chi2_floor": "misfit that counting noise alone leaves",
    "r_p": "correlation with the measured magnitudes",
    "r_p_cleaned": "the same, voxels masked by cleaning left out",
    "agreement": "correlation with the crystals of other starts",
    "amplitude_spread": "spread of the amplitude inside, over its mean",
    "support_fraction": "share of the array that the crystal fills",
    "support_over_box": "crystal over the box that the counts tell of",
    "size_lab": "box of the crystal along x, y, z of the lab",
    "voxel_size": "sides of a voxel along the axes of the file",
    "voxel_size_lab": "side of a voxel on the lab grid",
    "resolution": "where the crystals of different starts part",
    "seconds": "wall time of the whole command",
}
"""What a number says, by its name without the unit."""

_UNITS = {"_nm": ("nm", 1.0), "_m": ("nm", 1e9), "_vox": ("voxels", 1.0), "_s": ("s", 1.0), "_deg": ("deg", 1.0)}
"""Unit that a name ends in, as it is shown, and the factor to it."""


def written(name: str, value: Any) -> tuple[str, str, str]:
    """Return a row of a table: the name, the value with few digits and its unit, and what it means."""
    end = next((end for end in _UNITS if name.endswith(end)), "")
    unit, factor = _UNITS.get(end, ("", 1.0))
    unit = {"seconds": "s", "ms_per_cycle": "ms"}.get(name, unit)
    text, label = _text(value, factor), name.removesuffix(end)
    return label, f"{text} {unit}" if unit and text != "-" else text, MEANING.get(label, "")


def _text(value: Any, factor: float = 1.0) -> str:
    """Few digits; lists of numbers side by side, of sentences below one another; - for what is not known."""
    if isinstance(value, list | tuple):
        is_prose = any(isinstance(item, str) for item in value)
        return ("\n" if is_prose else " x ").join(_text(item, factor) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value * factor:.4g}" if math.isfinite(value) else "-"
    return "-" if value is None else str(value)
