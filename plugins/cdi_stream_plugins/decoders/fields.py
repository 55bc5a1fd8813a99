"""Fields of headers, whatever the encoding: a value that is not what it should be is as good as none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream.messages import Box

MAX_JSON_BYTES = 1_000_000
"""A detector's whole configuration is a few kB; the parsed form of small items takes 30 times their text."""

MAX_COUNT = 2**63 - 1
MAX_NAME = 256


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
    found = number(value)
    return found if found is not None and found > 0 else None


def count(value: Any) -> int | None:
    """Return a whole number from 0 that 64 bits hold, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else None


def image_shape(rows: Any, cols: Any, max_pixels: int) -> tuple[int, int] | None:
    """Return announced sides as ``(rows, cols)``; None unless an image of that size would be taken."""
    rows, cols = count(rows), count(cols)
    return (rows, cols) if rows and cols and rows * cols <= max_pixels else None


def image_dtype(value: Any) -> str | None:
    """Return the name of a data type of whole numbers as numpy spells it, or None."""
    name = value.strip("<>=|").lower() if isinstance(value, str) else ""
    return name if name in {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32)} else None


def series_id(value: Any, key: str) -> int | str:
    """Return the name of a series, a number or a short line; raises `WireError` if it is none."""
    if isinstance(value, str) and len(value) <= MAX_NAME and value.isprintable():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64:
        return value
    raise WireError(f"expected {key}, a number of 64 bits or a line of {MAX_NAME} characters, got {value!r:.40}")


def image_id(value: Any, key: str) -> int:
    """Return the number of an image; raises `WireError` if it is none."""
    found = count(value)
    if found is None:
        raise WireError(f"expected {key}, a count from 0, got {value!r:.40}")
    return found


def goniometer(axes: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[float, float]]:
    """Keep the axes whose start and increment are both numbers."""
    found = {name: (number(start), number(step)) for name, (start, step) in axes.items()}
    return {name: (start, step) for name, (start, step) in found.items() if start is not None and step is not None}


def read_json(part: bytes | memoryview) -> dict[str, Any]:
    """Read one JSON object; raises `WireError` if it is something else."""
    if len(part) > MAX_JSON_BYTES:
        raise WireError(f"expected a JSON header, got {len(part)} bytes")
    try:
        found = json.loads(bytes(part))
    except (ValueError, RecursionError) as error:
        raise WireError(f"expected a JSON header, got {bytes(part[:20])!r}: {error!s:.80}") from error
    if not isinstance(found, dict):
        raise WireError(f"expected a JSON object, got {type(found).__name__}")
    return found


def htype(header: Mapping[str, Any]) -> str | None:
    """Kind of a JSON header; some senders put it into a list."""
    kind = header.get("htype")
    if isinstance(kind, list) and len(kind) == 1:
        kind = kind[0]
    return kind if isinstance(kind, str) else None


def cut(image: NDArray[Any], roi: Box | None) -> NDArray[Any]:
    """Cut an image to the region of interest; raises `WireError` if it does not fit."""
    if roi is None:
        return image
    row, row_stop, col, col_stop = roi
    if row_stop > image.shape[0] or col_stop > image.shape[1]:
        raise WireError(f"region of interest {roi} does not fit an image of {image.shape}")
    return image[row:row_stop, col:col_stop]
