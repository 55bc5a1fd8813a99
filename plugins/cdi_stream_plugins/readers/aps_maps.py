"""Read dark image and flat field of APS 34-ID-C, which lie next to the SPEC file for the whole detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError
from cdi_stream_plugins.readers.spec import SpecScan
from cdi_stream_plugins.readers.tiff_frames import read_image


def detector_maps(
    entry: SpecScan, shape: tuple[int, ...]
) -> tuple[NDArray[np.bool_] | None, NDArray[np.float32] | None]:
    """Return good pixels (dark <= 1) and flat field of a scan, cut to its region of interest; None without a file."""
    dark, white = entry.file.parent / "dark.tif", entry.file.parent / "whitefield.tif"
    good = _cut(dark, entry, shape) <= 1 if dark.exists() else None
    field = _cut(white, entry, shape).astype(np.float32) if white.exists() else None
    return good, field


def _cut(file: Path, entry: SpecScan, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the part of an image that the frames show; the image covers the whole detector, or the same region."""
    image = read_image(file)
    if image.shape == shape:
        return image
    texts = [word for text in entry.texts("#UIMR5")[:1] for word in text.split()[:4]]
    col, n_cols, row, n_rows = map(int, texts) if len(texts) == 4 and all(map(str.isdigit, texts)) else (0, 0, 0, 0)
    region = image[row : row + n_rows, col : col + n_cols] if image.ndim == 2 else image
    if (n_rows, n_cols) != shape or region.shape != shape:
        raise RecordingError(
            f"{file}: expected an image of {shape} pixels like the frames, or one that holds their region (#UIMR5 "
            f"{' '.join(texts) or 'missing'}: column, width, row, height), got {image.shape}: take the image of this "
            "detector, or move it away"
        )
    return region
