"""Read fields of headers of any encoding; a value of a wrong kind counts as missing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream.messages import Box

MAX_JSON_BYTES = 1_000_000
"""Largest JSON header [bytes].

A detector's configuration has a few kB.  Small items take up to 30 times the memory of their text when parsed.
"""

MAX_COUNT = 2**63 - 1
"""Largest number of images or of an image that is accepted."""

MAX_NAME = 256
"""Largest length of the name of a series [characters]."""


def number(value: Any) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def positive(value: Any) -> float | None:
    """Return a number above zero, or None."""
    finite = number(value)
    return finite if finite is not None and finite > 0 else None


def count(value: Any) -> int | None:
    """Return a whole number from 0 to `MAX_COUNT`, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else None


def image_shape(rows: Any, cols: Any, max_pixels: int) -> tuple[int, int] | None:
    """Return announced sides as ``(rows, cols)``; None if they are not counts, or exceed ``max_pixels``."""
    rows, cols = count(rows), count(cols)
    return (rows, cols) if rows and cols and rows * cols <= max_pixels else None


def image_dtype(value: Any) -> str | None:
    """Return the name of an integer data type in NumPy's spelling, or None."""
    name = value.strip("<>=|").lower() if isinstance(value, str) else ""
    return name if name in {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32)} else None


def series_id(value: Any, key: str) -> int | str:
    """Return the name of a series, a number or a short text; raises `WireError` for other values."""
    if isinstance(value, str) and len(value) <= MAX_NAME and value.isprintable():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64:
        return value
    raise WireError(f"expected {key}, a number of 64 bits or a line of {MAX_NAME} characters, got {value!r:.40}")


def image_id(value: Any, key: str) -> int:
    """Return the number of an image; raises `WireError` if the value is not a count."""
    index = count(value)
    if index is None:
        raise WireError(f"expected {key}, a count from 0, got {value!r:.40}")
    return index


def goniometer(axes: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[float, float]]:
    """Return the axes whose start and increment are both numbers."""
    numbers = {name: (number(start), number(step)) for name, (start, step) in axes.items()}
    return {name: (start, step) for name, (start, step) in numbers.items() if start is not None and step is not None}


def read_json(part: bytes | memoryview) -> dict[str, Any]:
    """Return a JSON object; raises `WireError` for other content."""
    if len(part) > MAX_JSON_BYTES:
        raise WireError(f"expected a JSON header, got {len(part)} bytes")
    try:
        content = json.loads(bytes(part))
    except (ValueError, RecursionError) as error:
        raise WireError(f"expected a JSON header, got {bytes(part[:20])!r}: {error!s:.80}") from error
    if not isinstance(content, dict):
        raise WireError(f"expected a JSON object, got {type(content).__name__}")
    return content


def htype(header: Mapping[str, Any]) -> str | None:
    """Return the ``htype`` of a JSON header, or None; some senders put it into a list."""
    kind = header.get("htype")
    if isinstance(kind, list) and len(kind) == 1:
        kind = kind[0]
    return kind if isinstance(kind, str) else None


def cut(image: NDArray[Any], roi: Box | None) -> NDArray[Any]:
    """Return an image cut to the region of interest; raises `WireError` if the region does not fit."""
    if roi is None:
        return image
    row, row_stop, col, col_stop = roi
    if row_stop > image.shape[0] or col_stop > image.shape[1]:
        raise WireError(f"region of interest {roi} does not fit an image of {image.shape}")
    return image[row:row_stop, col:col_stop]
