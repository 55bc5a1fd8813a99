"""Check type and shape of intensities and masks from a file's header, before memory is allocated."""

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
"""Largest number of voxels that is read from a file: 645 along each of three axes."""

MIN_LENGTH = 8
"""Least length of every axis of intensities [voxels]."""

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
"""Exceptions that NumPy, zipfile and h5py raise at broken files."""

Shape = tuple[int, ...]


def require_intensities(shape: Shape, dtype: np.dtype[Any], where: str) -> None:
    """Raise an error unless intensities can have this type and shape.

    Parameters
    ----------
    shape, dtype
        Shape and type of the array.
    where
        File and array, for the error message.

    Raises
    ------
    IntensitiesError
        If the values are not real numbers, if there are not 2 or 3 axes, or too few or too many voxels.
    """
    if dtype.kind == "c":
        raise IntensitiesError(
            f"{where}: expected measured intensities, got complex numbers, as of a reconstructed crystal: "
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
    """Raise `IntensitiesError` unless a mask can have this type and shape; ``where`` names file and array."""
    if dtype.kind not in "biuf" or len(shape) not in (2, 3):
        raise IntensitiesError(
            f"{where}: expected a mask of 0 and 1 with 2 or 3 axes, got type {dtype} and {_short(shape)}"
        )
    require_few(shape, where)


def require_few(shape: Shape, where: str) -> None:
    """Raise `IntensitiesError` if a shape has more than `MAX_VOXELS` voxels; ``where`` names file and array."""
    if math.prod(shape) > MAX_VOXELS:
        raise IntensitiesError(
            f"{where}: expected at most {MAX_VOXELS} voxels, got {_short(shape)}: crop about the peak"
        )


def _short(shape: Shape) -> str:
    return f"shape {shape}" if len(shape) < 9 else f"{len(shape)} axes"
