"""Read the frames of a scan from TIFF files; the number at the end of a file's name is the number of the frame."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError
from cdi_stream.files.intensities.limits import UNREADABLE, require_few
from cdi_stream_plugins.readers.frame_counts import Frames

_SUFFIXES = (".tif", ".tiff")
_BROKEN = (*UNREADABLE, IndexError, struct.error)


def tiff_files(folder: Path) -> list[Path]:
    """Return the TIFF files of a folder, sorted by name, without hidden files such as the ``._*`` of macOS."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))


def numbered_frames(folder: Path) -> tuple[dict[int, Path], tuple[str, ...]]:
    """Return the file of each frame number, and a note on TIFF files that are no frames.

    If files have the name of the folder (``NAME/NAME_00017.tif``), only these files are frames.

    Raises
    ------
    RecordingError
        If there is no frame, or two files have one number.
    """
    files = tiff_files(folder)
    own_files = [file for file in files if re.fullmatch(rf"{re.escape(folder.name)}_?\d+", file.stem)]
    frames: dict[int, Path] = {}
    for file in own_files or [file for file in files if re.search(r"\d$", file.stem)]:
        number = int(re.findall(r"\d+$", file.stem)[0])
        if number in frames:
            raise RecordingError(
                f"{folder}: expected one file of frame {number}, got {frames[number].name} and {file.name}: "
                "move one of them away"
            )
        frames[number] = file
    if not frames:
        raise RecordingError(
            f"{folder}: expected frames as {folder.name}_00000.tif and so on, got {len(files)} TIFF files without a "
            "frame number at the end of their names"
        )
    other_names = [file.name for file in files if file not in frames.values()]
    examples = ", ".join(other_names[:3]) + (", ..." if len(other_names) > 3 else "")
    note = f"{len(other_names)} TIFF files are no frames of {folder.name}, by their names, and left out: {examples}"
    return frames, (note,) if other_names else ()


def read_frames(files: Sequence[Path]) -> Frames:
    """Return images of one shape and type as ``(n_files, rows, cols)``, in the files' data type.

    Raises
    ------
    RecordingError
        If a file is broken, or differs from most files in shape or type.
    IntensitiesError
        If there are too many voxels.
    """
    kinds = [_kind(file) for file in files]
    (shape, dtype), _ = Counter(kinds).most_common(1)[0]
    deviating = next((k for k, kind in enumerate(kinds) if kind != (shape, dtype)), None)
    if deviating is not None:
        raise RecordingError(
            f"{files[deviating]}: expected {dtype} {shape} like most frames of the scan, got {kinds[deviating][1]} "
            f"{kinds[deviating][0]}: move the files of another measurement away"
        )
    if len(shape) != 2 or np.dtype(dtype).kind not in "iuf":
        raise RecordingError(
            f"{files[0]}: expected one grey image of counts, got {dtype} {shape}: give one file a frame"
        )
    require_few((len(files), *shape), str(files[0].parent))
    frames = np.empty((len(files), *shape), dtype=dtype)
    for place, file in zip(frames, files, strict=True):
        place[...] = read_image(file)
    return frames


def read_image(file: Path) -> NDArray[Any]:
    """Return one image; raises `RecordingError` if the file is broken."""
    try:
        return np.asarray(tifffile.imread(file))
    except _BROKEN as error:
        raise _broken(file, error) from error


def _kind(file: Path) -> tuple[tuple[int, ...], str]:
    try:
        with tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            return tuple(map(int, series.shape)), np.dtype(series.dtype).newbyteorder("=").name
    except _BROKEN as error:
        raise _broken(file, error) from error


def _broken(file: Path, error: Exception) -> RecordingError:
    size = file.stat().st_size if file.exists() else 0
    return RecordingError(
        f"{file}: expected a TIFF image, got {size} bytes that are none ({error}): copy the file again, or move it "
        "away to go on without this frame"
    )
