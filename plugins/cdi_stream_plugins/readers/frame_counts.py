"""Convert frames of any number type to raw counts, with gaps as the largest value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError

Frames = NDArray[Any]
"""Frames ``(n_frames, rows, cols)`` of any number type."""

MAX_NEGATIVE = 0.01
"""Largest share of voxels below zero outside of detector gaps; frames with a larger share are refused."""


def as_counts(frames: Frames, names: Sequence[str]) -> tuple[Frames, float | None]:
    """Return frames as unsigned integers of the same width, and the largest value of the files' data type.

    Values below zero and NaN are gaps; they become the type's maximum.  64-bit integers and floats become uint32.
    Unsigned frames are returned unchanged with None, since their type states the limit itself.

    Parameters
    ----------
    frames
        Counts ``(n_frames, rows, cols)``.
    names
        File or place of each frame, for error messages.

    Raises
    ------
    RecordingError
        If values are fractions or too large, or if too many voxels outside of gaps are below zero.
    """
    is_small = frames.dtype.itemsize <= 4 and frames.dtype.kind in "iu"
    if is_small and frames.dtype.kind == "u":
        return frames, None
    is_gap = ~(frames >= 0)
    blemishes = is_gap & ~is_gap.all(axis=0)
    if blemishes.mean() >= MAX_NEGATIVE:
        raise RecordingError(
            f"{names[0]}: expected raw counts, got {blemishes.mean():.1%} of the voxels of the scan below zero: give "
            "frames from which no background was subtracted"
        )
    dtype = np.dtype(f"u{frames.dtype.itemsize}") if is_small else np.dtype(np.uint32)
    limit = np.iinfo(dtype).max
    is_odd = ~is_gap & (frames >= limit)
    if frames.dtype.kind == "f":
        is_odd |= ~is_gap & (frames != np.rint(frames))
    if is_odd.any():
        index = tuple(map(int, np.argwhere(is_odd)[0]))
        raise RecordingError(
            f"{names[index[0]]}: expected whole counts below {limit}, got {frames[index]} at pixel {index[1:]}: give "
            "raw frames, not corrected ones"
        )
    whole = np.where(is_gap, 0, frames) if frames.dtype.kind == "f" else frames  # integers wrap, NaN would warn
    counts = whole.astype(dtype)
    counts[is_gap] = limit
    return counts, float(np.iinfo(frames.dtype).max) if is_small else None
