"""Detector images that the configuration names: bad pixels and white field."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import ConfigError

MAX_IMAGE_PIXELS = 1_000_000_000
"""Largest image of bad pixels or a white field; sixty times a detector of 16 million pixels."""


def read_image(path: Path) -> NDArray[np.generic]:
    """Read a detector image ``(rows, cols)`` from npy or tif.

    Raises
    ------
    ConfigError
        If the file holds no image, or an image of more than `MAX_IMAGE_PIXELS` pixels.
    """
    try:
        image = _npy(path) if path.suffix == ".npy" else _tif(path)
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{path}: expected an image as npy or tif: {error}") from error
    if image.ndim != 2 or image.dtype.kind not in "biuf":
        raise ConfigError(f"{path}: expected an image of rows and columns, got {image.shape} of {image.dtype}")
    return image


def _npy(path: Path) -> NDArray[np.generic]:
    image = np.load(path, mmap_mode="r", allow_pickle=False)  # takes no memory for what a header claims
    if image.size > MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.shape} are more than {MAX_IMAGE_PIXELS} pixels")
    return np.array(image)


def _tif(path: Path) -> NDArray[np.generic]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if math.prod(page.shape) > MAX_IMAGE_PIXELS:
            raise ValueError(f"{page.shape} are more than {MAX_IMAGE_PIXELS} pixels")
        return np.asarray(page.asarray())
