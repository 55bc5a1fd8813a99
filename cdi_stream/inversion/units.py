"""Units as beamlines spell them, by pint: ``deg``, ``Degrees``, ``°``, ``mrad``, ``keV``, ``KEV``, ``um`` and so on."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

Kind = Literal["angle", "energy", "length"]

INSIDE: dict[Kind, str] = {"angle": "rad", "energy": "eV", "length": "m"}
"""Units inside the project, by kind of quantity."""


@lru_cache(maxsize=256)
def factor(unit: str, kind: Kind) -> float | None:
    """Return what a value in a unit is multiplied by to have it in the unit inside; None if it is no unit of the kind.

    A spelling that pint does not know is tried in small letters, since many control systems shout.
    """
    registry = _registry()
    for spelling in (unit.strip(), unit.strip().lower(), unit.strip().lower().replace("ev", "eV")):
        try:
            if kind == "angle" and registry.get_base_units(spelling)[1] != registry.radian:
                continue  # pint takes any plain number, a percentage too, for an angle
            return float(registry.Quantity(1.0, spelling).to(INSIDE[kind]).magnitude) if spelling else None
        except Exception:  # noqa: BLE001, S112 - pint raises errors of many kinds at odd texts
            continue
    return None


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()
