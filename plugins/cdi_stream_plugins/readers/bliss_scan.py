"""Find one scan in a BLISS file, and read its texts, numbers and arrays with their sizes checked.

Scans are groups ``20.1`` in the file of a dataset, and ``SAMPLE_DATASET_20.1`` in the file of a proposal or collection,
which links to the files of the datasets.  The part behind the point is 1, but for scans with several top masters.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError

MAX_POINTS = 1_000_000
"""Largest number of points of a motor or counter that is read."""

_SCAN = re.compile(r"(?:.*_)?(\d+)\.(\d+)")
_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class BlissScan:
    """One scan of a BLISS file: its name there, its group, and the detector that the user asked for, if any."""

    name: str
    group: h5py.Group
    path: Path
    detector: str | None = None

    @property
    def place(self) -> str:
        """File and scan, for messages."""
        return f"{self.path}: scan {self.name}"


def is_scan_name(name: str) -> bool:
    """Return whether a group's name is that of a scan, such as ``20.1`` or ``PtYSZ_0001_54.1``."""
    return _SCAN.fullmatch(name) is not None


def find_scan(file: h5py.File, path: Path, wanted: int | str | None) -> BlissScan:
    """Return the scan of a number (``20``), a name (``20.1``), or a name and a detector (``20.1/mpx1x4``).

    Raises
    ------
    RecordingError
        If no scan or several have that name, if ``wanted`` is None and there are several, or if the scan lies in a
        file that cannot be opened.
    """
    names = sorted(filter(is_scan_name, file), key=_order)
    text, _, detector = ("" if wanted is None else str(wanted)).partition("/")
    matches = [text] if text in names else [name for name in names if not text or _is_meant(name, text)]
    if len(matches) != 1:
        raise RecordingError(
            f"{path}: expected --scan to name one scan, such as 20 or 20.1, got {wanted}, which fits {len(matches)}; "
            f"there are: {_listed(file, matches or names)}"
        )
    try:
        group = file[matches[0]]
    except (KeyError, OSError) as error:
        link = file.get(matches[0], getlink=True)
        raise RecordingError(
            f"{path}: scan {matches[0]} lies in {getattr(link, 'filename', path)}, which cannot be opened ({error}): "
            "copy that file to the same place beside this one, or give it as PATH"
        ) from error
    if not isinstance(group, h5py.Group):
        raise RecordingError(f"{path}: expected a group {matches[0]}, got a dataset: is it a BLISS file?")
    return BlissScan(matches[0], group, path, detector or None)


def text_of(group: h5py.Group, name: str) -> str:
    """Return a text; empty if there is none."""
    item = group.get(name)
    if not isinstance(item, h5py.Dataset) or item.size != 1 or h5py.check_string_dtype(item.dtype) is None:
        return ""
    return str(np.ravel(item.asstr(errors="replace")[()])[0])


def number_of(group: h5py.Group, name: str) -> float | None:
    """Return a number; None if there is none, or no finite one."""
    item = group.get(name)
    if not isinstance(item, h5py.Dataset) or item.size != 1 or item.dtype.kind not in "iuf":
        return None
    value = float(np.ravel(item[()])[0])
    return value if math.isfinite(value) else None


def track_of(group: h5py.Group, name: str) -> NDArray[np.float64] | None:
    """Return numbers along a scan, ``(n_points,)``; None if there are none."""
    item = group.get(name)
    if not isinstance(item, h5py.Dataset) or item.ndim != 1 or item.dtype.kind not in "iuf" or item.size < 1:
        return None
    if item.size > MAX_POINTS:
        raise RecordingError(
            f"{group.file.filename}: {group.name}/{name}: expected at most {MAX_POINTS} points, got {item.size}"
        )
    result: NDArray[np.float64] = item[()].astype(np.float64)
    return result


def of_length(track: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return the first ``n`` values of a track, NaN where it is shorter."""
    result = np.full(n, np.nan)
    result[: min(n, len(track))] = track[:n]
    return result


def unit_of(group: h5py.Group, name: str) -> str:
    """Return the unit of a dataset; empty if none is on record."""
    item = group.get(name)
    unit = "" if item is None else item.attrs.get("units", "")
    return unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)


def _order(name: str) -> tuple[int, int, str]:
    number, part = _SCAN.fullmatch(name).groups()  # type: ignore[union-attr]
    return int(number), int(part), name


def _is_meant(name: str, text: str) -> bool:
    """Return whether the end of a scan's name is the wanted one; a plain number means the part 1."""
    number, part, _ = _order(name)
    return text in ((f"{number}.{part}", str(number)) if part == 1 else (f"{number}.{part}",))


def _listed(file: h5py.File, names: list[str]) -> str:
    """Return names of scans with their commands; of many scans the last ones."""
    shown = names[-_MAX_LISTED:]
    titles = {name: text_of(group, "title") for name in shown if isinstance(group := file.get(name), h5py.Group)}
    texts = [f"{name} ({titles[name]})" if titles.get(name) else name for name in shown]
    return ("... " if len(names) > len(shown) else "") + (", ".join(texts) or "none")
