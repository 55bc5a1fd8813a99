"""Format numbers for people: few digits, a unit, and the meaning of the number."""

from __future__ import annotations

import math
from typing import Any

from cdi_stream.metrics import MEANINGS

_MEANINGS = {
    "chi2_cleaned": "misfit without the voxels masked by cleaning",
    "r_p_cleaned": "correlation without the voxels masked by cleaning",
    "size_lab": "size of the crystal along x, y, z of the lab",
    "voxel_size": "sides of a voxel along the axes of the file",
    "voxel_size_lab": "side of a voxel on the lab grid",
    "resolution": "length at which different starts disagree",
    "seconds": "time of the whole command",
}
"""Meaning of the numbers that only commands show, or show in another unit, by name without the unit."""

_UNITS = {"_nm": ("nm", 1.0), "_m": ("nm", 1e9), "_vox": ("voxels", 1.0), "_s": ("s", 1.0), "_deg": ("deg", 1.0)}
"""Unit in which a number is shown, and the factor to it, by the ending of the name."""


def table_row(name: str, value: Any) -> tuple[str, str, str]:
    """Return a row of a table: name, value with few digits and unit, and meaning."""
    end = next((end for end in _UNITS if name.endswith(end)), "")
    unit, factor = _UNITS.get(end, ("", 1.0))
    unit = {"seconds": "s", "ms_per_cycle": "ms"}.get(name, unit)
    text, label = _text(value, factor), name.removesuffix(end)
    return label, f"{text} {unit}" if unit and text != "-" else text, _MEANINGS.get(label) or MEANINGS.get(name, "")


def _text(value: Any, factor: float = 1.0) -> str:
    """Return a value as text: few digits, lists of numbers in one line, lists of sentences in several; - if unknown."""
    if isinstance(value, list | tuple):
        is_prose = any(isinstance(item, str) for item in value)
        return ("\n" if is_prose else " x ").join(_text(item, factor) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value * factor:.4g}" if math.isfinite(value) else "-"
    return "-" if value is None else str(value)
