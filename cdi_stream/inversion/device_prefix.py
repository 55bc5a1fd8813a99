"""Prefix of a goniometer's readings: in ophyd the motor ``theta`` of a device ``gonio`` reads ``gonio_theta``."""

from __future__ import annotations

from collections.abc import Collection

from cdi_stream.errors import CurveError
from cdi_stream.geometry.circles import Circle

_JOINTS = ("_", "-")
"""Characters between device and motor in names of ophyd and of ophyd-async."""


def device_prefix(readings: Collection[str], circles: Collection[Circle]) -> str:
    """Return the prefix under which all circles without a reading of their own name are found; empty if there is none.

    Parameters
    ----------
    readings
        Names of all readings of a curve.
    circles
        Circles that need a reading.

    Raises
    ------
    CurveError
        If the circles are found under the names of several devices.
    """
    missing_circles = [circle for circle in circles if not {circle.name, *circle.motors} & set(readings)]
    if not missing_circles:
        return ""
    found_prefixes = set.intersection(*(_prefixes(readings, circle) for circle in missing_circles))
    if len(found_prefixes) > 1:
        raise CurveError(
            f"circle {missing_circles[0].name!r} has readings in several devices, "
            f"{', '.join(sorted(prefix[:-1] for prefix in found_prefixes))}: name the motors of the right one in the "
            "motors of the circles (geometry.inline)"
        )
    return next(iter(found_prefixes), "")


def _prefixes(readings: Collection[str], circle: Circle) -> set[str]:
    """Return the prefixes of all readings that end with the name of the circle or of one of its motors."""
    ends = tuple(joint + name for joint in _JOINTS for name in (circle.name, *circle.motors))
    return {
        reading[: -len(end) + 1] for reading in readings for end in ends if reading.endswith(end) and reading != end
    }
