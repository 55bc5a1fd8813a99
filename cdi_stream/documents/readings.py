"""Readings in the data of Bluesky documents: numbers, arrays, and the ids of series and images."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_ID = 2**53
"""Largest accepted image id or sequence number: a float holds no larger whole number exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingNames:
    """Ends of the data keys that name a detector's series and an image in it.

    ``sequence_id`` is the name of the series in ophyd's Eiger, ``unique_id`` the running image number of areaDetector.
    """

    series: tuple[str, ...] = ("series_id", "series", "sequence_id")
    image: tuple[str, ...] = ("image_id", "frame_id", "unique_id")


def number_of(value: Any) -> float | None:
    """Return a number, or the only number of a list or array, as float (also NaN); None for any other value."""
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
    """Return a value as a finite number; None if it is none."""
    number = number_of(value)
    return number if number is not None and math.isfinite(number) else None


def whole(value: Any) -> int | None:
    """Return a value as a whole number of at most `MAX_ID` in size; None if it is none."""
    number = finite(value)
    return int(number) if number is not None and abs(number) <= MAX_ID and number == int(number) else None


def numbers_in(data: Mapping[str, Any]) -> dict[str, float]:
    """Return the readings that are numbers by data key; NaN is kept, so that a motor without a value can be named."""
    readings = {str(key): number_of(value) for key, value in data.items()}
    return {key: value for key, value in readings.items() if value is not None}


def arrays_in(data: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Return the readings that are lists of at least two numbers, as position-capture boxes write them."""
    arrays: dict[str, tuple[float, ...]] = {}
    for key, value in data.items():
        items = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(items, list | tuple) and len(items) > 1:
            values = [number_of(item) if not isinstance(item, list | tuple) else None for item in items]
            if all(item is not None for item in values):
                arrays[str(key)] = tuple(item for item in values if item is not None)
    return arrays


def series_in(data: Mapping[str, Any], names: ReadingNames) -> tuple[str, ...]:
    """Return the ids of the series that an event names, each as text: 5, 5.0 and "5" are the same series."""
    named = [series_key(value) for key, value in data.items() if str(key).endswith(names.series)]
    return tuple(name for name in named if name)


def series_key(value: Any) -> str:
    """Return the text that stands for a series id; empty if the value can be no series id."""
    number = whole(value)
    if number is not None:
        return str(number)
    if not isinstance(value, str):
        return ""
    text = value.strip()[:200]
    return str(int(text)) if text.isdecimal() and len(text) < 16 else text


def image_in(data: Mapping[str, Any], names: ReadingNames) -> int | None:
    """Return the id of the image that an event names; None if it names none."""
    ids = (whole(value) for key, value in data.items() if str(key).endswith(names.image))
    return next((number for number in ids if number is not None), None)
