"""Numbers in the data of Bluesky documents: which values are readings, and which keys name a series or an image."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_ID = 2**53
"""Largest id of an image or number of an event that is believed: floats hold no larger whole numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingNames:
    """Ends of the data keys that name a detector's series and an image in it.

    ``sequence_id`` is ophyd's Eiger's name of a series, ``unique_id`` areaDetector's running number of an image.
    """

    series: tuple[str, ...] = ("series_id", "series", "sequence_id")
    image: tuple[str, ...] = ("image_id", "frame_id", "unique_id")


def number_of(value: Any) -> float | None:
    """Return a value as a number, NaN included; a list or array of one number is that number; None for all else."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if getattr(value, "size", 0) == 1 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def finite(value: Any) -> float | None:
    """Return a finite number, or None."""
    number = number_of(value)
    return number if number is not None and math.isfinite(number) else None


def whole(value: Any) -> int | None:
    """Return a whole number of at most `MAX_ID` in size, or None."""
    number = finite(value)
    return int(number) if number is not None and abs(number) <= MAX_ID and number == int(number) else None


def numbers_in(data: Mapping[str, Any]) -> dict[str, float]:
    """Return the readings that are numbers; NaN is one, so that a motor without a value is named later."""
    found = {str(key): number_of(value) for key, value in data.items()}
    return {key: value for key, value in found.items() if value is not None}


def arrays_in(data: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Return the readings that are lists of two numbers or more, as position capture boxes give them."""
    found: dict[str, tuple[float, ...]] = {}
    for key, value in data.items():
        items = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(items, list | tuple) and len(items) > 1:
            values = [number_of(item) if not isinstance(item, list | tuple) else None for item in items]
            if all(item is not None for item in values):
                found[str(key)] = tuple(item for item in values if item is not None)
    return found


def series_in(data: Mapping[str, Any], names: ReadingNames) -> tuple[str, ...]:
    """Return the series that an event names, each as text: 5, 5.0 and "5" are the same series."""
    named = [series_key(value) for key, value in data.items() if str(key).endswith(names.series)]
    return tuple(name for name in named if name)


def series_key(value: Any) -> str:
    """Return the text under which a series is known; empty if the value can name none."""
    number = whole(value)
    if number is not None:
        return str(number)
    if not isinstance(value, str):
        return ""
    text = value.strip()[:200]
    return str(int(text)) if text.isdecimal() and len(text) < 16 else text


def image_in(data: Mapping[str, Any], names: ReadingNames) -> int | None:
    """Return the id of the image that an event names, or None."""
    found = (whole(value) for key, value in data.items() if str(key).endswith(names.image))
    return next((number for number in found if number is not None), None)
