"""What arrays of intensities and masks may be, judged from headers: before anything is allocated."""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

from cdi_stream.errors import IntensitiesError

MAX_VOXELS = 2**28
"""Largest array that is read: 645 voxels along each of three axes."""

MIN_LENGTH = 8
"""Shortest axis of intensities."""

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
)
"""What NumPy, zipfile and h5py raise on broken files."""

Shape = tuple[int, ...]


def require_intensities(shape: Shape, dtype: np.dtype[Any], where: str) -> None:
    """Refuse what cannot be intensities.

    Raises
    ------
    IntensitiesError
        If they are no real numbers, have not 2 or 3 axes, or too few or too many voxels.
    """
    if dtype.kind == "c":
        raise IntensitiesError(
            f"{where}: expected measured intensities, got complex numbers, as a reconstructed crystal or a field has: "
            "give intensities, not amplitudes"
        )
    if dtype.kind not in "iuf":
        raise IntensitiesError(f"{where}: expected intensities as real numbers, got type {dtype}: give intensities")
    if len(shape) not in (2, 3):
        raise IntensitiesError(f"{where}: expected 2 or 3 axes, got {_short(shape)}: cut out one pattern")
    if min(shape) < MIN_LENGTH:
        raise IntensitiesError(
            f"{where}: expected at least {MIN_LENGTH} voxels along each axis, got {_short(shape)}: "
            "take more frames or a larger region of interest"
        )
    require_few(shape, where)


def require_mask(shape: Shape, dtype: np.dtype[Any], where: str) -> None:
    """Refuse what cannot be a mask; raises `IntensitiesError`."""
    if dtype.kind not in "biuf" or len(shape) not in (2, 3):
        raise IntensitiesError(
            f"{where}: expected a mask of 0 and 1 with 2 or 3 axes, got type {dtype} and {_short(shape)}"
        )
    require_few(shape, where)


def require_few(shape: Shape, where: str) -> None:
    """Refuse more voxels than `MAX_VOXELS`; raises `IntensitiesError`."""
    if math.prod(shape) > MAX_VOXELS:
        raise IntensitiesError(
            f"{where}: expected at most {MAX_VOXELS} voxels, got {_short(shape)}: crop about the peak"
        )


def _short(shape: Shape) -> str:
    return f"shape {shape}" if len(shape) < 9 else f"{len(shape)} axes"
