"""Convert units as beamlines spell them: ``deg``, ``Degrees``, ``°``, ``mrad``, ``keV``, ``KEV``, ``um`` (by pint)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

Kind = Literal["angle", "energy", "length"]

INSIDE: dict[Kind, str] = {"angle": "rad", "energy": "eV", "length": "m"}
"""Units in which the project computes, by kind of quantity."""


@lru_cache(maxsize=256)
def factor(unit: str, kind: Kind) -> float | None:
    """Return the factor from a unit to the project's unit of that kind; None if it is no unit of the kind.

    A spelling that pint does not know is tried in small letters as well: many control systems write capitals.
    """
    registry = _registry()
    for spelling in (unit.strip(), unit.strip().lower(), unit.strip().lower().replace("ev", "eV")):
        try:
            if kind == "angle" and registry.get_base_units(spelling)[1] != registry.radian:
                continue  # pint accepts any plain number, even a percentage, as an angle
            return float(registry.Quantity(1.0, spelling).to(INSIDE[kind]).magnitude) if spelling else None
        except Exception:  # noqa: BLE001, S112 - pint raises errors of many kinds at odd texts
            continue
    return None


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()
