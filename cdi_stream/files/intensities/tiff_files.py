"""Read frames from TIFF: a file of one or many pages, or a folder of numbered files.

All headers are checked before the data is read.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cdi_stream.errors import IntensitiesError
from cdi_stream.files.intensities.limits import UNREADABLE, require_intensities

MAX_FRAMES = 20_000
"""Largest number of pages of a file, or of files of a folder, that is read."""

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF in either byte order."""

_SUFFIXES = (".tif", ".tiff")
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffFrames:
    """Frames ``(n, rows, cols)``, or one image ``(rows, cols)``; ``missing`` frames are zero and named in ``notes``."""

    data: NDArray[Any]
    missing: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def read_tiff(path: Path) -> TiffFrames:
    """Return all pages of a TIFF file without compression.

    Raises
    ------
    IntensitiesError
        If the pages cannot be intensities or differ in shape or type; broken files raise one of ``limits.UNREADABLE``.
    """
    return TiffFrames(data=_pages_of(path))


def is_tiff_folder(path: Path) -> bool:
    """Return whether a path is a folder that holds TIFF files."""
    return path.is_dir() and any(_is_tiff(file) for file in path.iterdir())


def read_tiff_folder(folder: Path) -> TiffFrames:
    """Return the numbered TIFF files of a folder, one image each, in the order of the last number in their names.

    The step of the numbers is the least difference of two neighbours.  A missing number is a missing frame.

    Raises
    ------
    IntensitiesError
        If names have no numbers, if numbers are not unique, or if images differ in shape or type.
    """
    files = _numbered(folder)
    numbers = sorted(files)
    step = int(np.diff(numbers).min()) if len(numbers) > 1 else 1
    places = {(number - numbers[0]) // step: files[number] for number in numbers}
    n_frames = max(places) + 1
    if any((number - numbers[0]) % step for number in numbers) or n_frames > 2 * len(numbers):
        raise IntensitiesError(
            f"{folder}: expected numbered frames with few missing, got {len(numbers)} files numbered {numbers[0]} to "
            f"{numbers[-1]}: give a folder with the frames of one scan alone"
        )
    first, dtype = _header(files[numbers[0]])
    shape = first if n_frames == 1 else (n_frames, *first)
    require_intensities(shape, dtype, str(folder))
    data = np.zeros((n_frames, *first), dtype)
    for place, file in places.items():
        data[place] = _like(_pages_of(file, is_single=True), first, dtype, file)
    missing = tuple(k for k in range(n_frames) if k not in places)
    return TiffFrames(data=data.reshape(shape), missing=missing, notes=_missing_note(missing, numbers[0], step))


def _missing_note(missing: tuple[int, ...], first: int, step: int) -> tuple[str, ...]:
    if not missing:
        return ()
    numbers = ", ".join(str(first + step * k) for k in missing[:10]) + (", ..." if len(missing) > 10 else "")
    return (f"{len(missing)} frames are missing ({numbers}): they are masked, the others keep their places",)


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def _numbered(folder: Path) -> dict[int, Path]:
    """Return the TIFF files of a folder by the last number in their names."""
    files = sorted(file for file in folder.iterdir() if _is_tiff(file))
    if len(files) > MAX_FRAMES:
        raise IntensitiesError(f"{folder}: expected at most {MAX_FRAMES} frames, got {len(files)}: cut out one scan")
    by_number: dict[int, Path] = {}
    series: Counter[tuple[str, str]] = Counter()
    for file in files:
        parts = _LAST_NUMBER.fullmatch(file.stem)
        if parts is None:
            raise IntensitiesError(
                f"{file}: expected a number in the name, as in frame_0012.tif, got none: move the file away"
            )
        number = int(parts[2])
        if number in by_number:
            raise IntensitiesError(
                f"{folder}: expected one frame of each number, got {by_number[number].name} and {file.name}: "
                "give a folder with the frames of one scan alone"
            )
        by_number[number] = file
        series[parts[1].rstrip("0123456789"), parts[3]] += 1
    if len(series) > 1:
        names = ", ".join(f"{n} of {head}*{tail}" for (head, tail), n in series.most_common(5))
        raise IntensitiesError(
            f"{folder}: expected the frames of one scan, got {names}: give a folder with the frames of one scan alone"
        )
    return by_number


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with _opened(path) as file:
        return file.pages[0].shape, _dtype(file.pages[0])


def _dtype(page: Any) -> np.dtype[Any]:
    return page.dtype or np.dtype("V1")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a TIFF file; a broken file raises `IntensitiesError`."""
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except (*UNREADABLE, IndexError, AttributeError, ArithmeticError, AssertionError, struct.error) as error:
        raise IntensitiesError(f"{path}: expected TIFF, got a broken file: {error!r}; copy it again") from error


def _pages_of(path: Path, is_single: bool = False) -> NDArray[Any]:
    """Return all pages ``(n, rows, cols)``, or a single page ``(rows, cols)``, after a check of every header."""
    n_pages = _count_pages(path)
    if is_single and n_pages > 1:
        raise IntensitiesError(f"{path}: expected one page, got {n_pages}: give the file alone, or one image a file")
    with _opened(path) as file:
        first: Any = file.pages[0]
        shape = first.shape if n_pages == 1 else (n_pages, *first.shape)
        if not is_single:
            require_intensities(shape, _dtype(first), str(path))
        for page in file.pages:
            _require_plain(page, first, path)
        if file.series[0].size != math.prod(shape) or len(file.pages) != n_pages:
            raise IntensitiesError(
                f"{path}: expected a header for every page, got {n_pages} for {file.series[0].shape} pixels: "
                "save the frames as plain TIFF or npy"
            )
        return np.stack([page.asarray() for page in file.pages]).reshape(shape)


def _count_pages(path: Path) -> int:
    """Return the number of pages, counted along the chain of headers; a truncated stack raises `IntensitiesError`."""
    n_pages = 0
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        is_big = head[2:4] in (b"+\0", b"\0+")
        number, counter, entry_bytes = ("Q", "Q", 20) if is_big else ("I", "H", 12)
        try:
            (offset,) = struct.unpack_from(order + number, head, 8 if is_big else 4)
            while offset:
                n_pages += 1
                if n_pages > MAX_FRAMES:
                    raise IntensitiesError(f"{path}: expected at most {MAX_FRAMES} pages, got more: cut out one scan")
                file.seek(offset)
                (n_entries,) = struct.unpack(order + counter, file.read(struct.calcsize(counter)))
                file.seek(entry_bytes * n_entries, os.SEEK_CUR)
                (offset,) = struct.unpack(order + number, file.read(struct.calcsize(number)))
        except (struct.error, OSError, OverflowError, ValueError) as error:
            raise IntensitiesError(
                f"{path}: expected the header of page {n_pages}, got the file's end: it is cut short, copy it again"
            ) from error
    return n_pages


def _require_plain(page: Any, first: Any, path: Path) -> None:
    """Raise an error if a page differs from the first, is compressed, or claims more bytes than the file has."""
    if page.compression != 1:
        raise IntensitiesError(f"{path}: expected TIFF without compression, got {page.compression!r}: save it plain")
    if page.shape != first.shape or page.dtype != first.dtype or page.samplesperpixel != 1:
        raise IntensitiesError(
            f"{path}: expected pages of one number a pixel, all alike, got {page.dtype} {page.shape} "
            f"beside {first.dtype} {first.shape}: save the frames alone"
        )
    if page.nbytes > path.stat().st_size or sum(page.databytecounts) > path.stat().st_size:
        raise IntensitiesError(f"{path}: expected {page.nbytes} bytes in a page: the file is cut short, copy it again")


def _like(image: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    if image.shape != shape or image.dtype != dtype:
        raise IntensitiesError(
            f"{path}: expected {dtype} {shape} like the first frame, got {image.dtype} {image.shape}: "
            "give a folder with the frames of one scan alone"
        )
    return image
