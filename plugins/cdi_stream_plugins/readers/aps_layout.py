"""Find the files of a scan of APS 34-ID-C: the SPEC file that describes it, and the folder of its images.

The images of scan 54 lie in a folder ``NAME_S0054``, where NAME is the name of the SPEC file, or its original name in
the line ``#F``.  The folder above it has the name of the detector (``#UIMDET``).  Where several files fit, PATH
decides: it may be the SPEC file, the image folder, or the detector's folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdi_stream.errors import RecordingError
from cdi_stream_plugins.readers.spec import SpecScan, is_spec, read_spec
from cdi_stream_plugins.readers.tiff_frames import tiff_files

_FOLDER = re.compile(r"(.+)_S0*(\d+)$")
_DETECTOR = re.compile(r"34idc[A-Za-z]+\d*")
_LEVELS_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanPlace:
    """Image folder of a scan, and the entries of one SPEC file with the number of the scan.

    One of the entries describes the scan.  ``doubts`` are dropped if the frames' sums show that entry and images belong
    together.
    """

    entries: tuple[SpecScan, ...]
    folder: Path
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def spec_files(path: Path) -> list[Path]:
    """Return the SPEC files of a path: the file itself, or the files in the folder, else in the folders above."""
    if path.is_file():
        return [path] if is_spec(path) else []
    if not path.is_dir():
        return []
    below = sorted(p for p in path.rglob("*") if p.suffix.lower() not in (".tif", ".tiff") and is_spec(p))
    levels = (sorted(p for p in above.iterdir() if is_spec(p)) for above in path.absolute().parents[:_LEVELS_UP])
    return below or next((files for files in levels if files), [])


def scan_place(path: Path, scan: int | str | None) -> ScanPlace:
    """Return images and SPEC entries of one scan below ``path``.

    Raises
    ------
    RecordingError
        If ``scan`` is None and there are several scans, if the scan does not exist, or if several files or folders fit;
        the message lists them.
    """
    path = path.absolute()
    specs, folders = spec_files(path), _image_folders(path)
    number = _number(path, folders, scan)
    scan_folders = [folder for folder in folders if _folder_number(folder) == number]
    entries = {spec: tuple(s for s in read_spec(spec) if s.number == number) for spec in specs}
    entries = {spec: scans for spec, scans in entries.items() if scans}
    if not entries:
        raise RecordingError(f"{path}: there is no scan {number} in {_listed(specs)}")
    pairs = [(spec, folder) for spec in entries for folder in scan_folders]
    likely = _likeliest(pairs, entries)
    doubts: tuple[str, ...] = ()
    if not likely and scan_folders == [path]:
        likely = pairs
        doubts = (f"{path.name} is not the image folder that {_listed(list(entries))} means, by name and detector",)
    if len(likely) != 1:
        raise RecordingError(_choice(path, number, likely or pairs, is_unlike=not likely))
    (spec, folder), *_ = likely
    notes = tuple(
        f"{place} is read; there is also {_listed([candidate for candidate in candidates if candidate != place])}"
        for place, candidates in ((spec, specs), (folder, scan_folders))
        if len(candidates) > 1
    )
    return ScanPlace(entries=_named(entries[spec], spec, folder), folder=folder, notes=notes, doubts=doubts)


def _image_folders(path: Path) -> list[Path]:
    """Return the image folders below ``path``, or ``path`` itself if it is an image folder."""
    if path.is_dir() and _FOLDER.match(path.name) and tiff_files(path):
        return [path]
    root = path.parent if path.is_file() else path
    return sorted(p for p in root.rglob("*_S*") if p.is_dir() and _FOLDER.match(p.name) and tiff_files(p))


def _folder_number(folder: Path) -> int:
    return int(_FOLDER.sub(r"\2", folder.name))


def _number(path: Path, folders: Sequence[Path], scan: int | str | None) -> int:
    numbers = sorted({_folder_number(folder) for folder in folders})
    if scan is None and len(numbers) == 1:
        return numbers[0]
    if not isinstance(scan, int) or scan not in numbers:
        available = ", ".join(map(str, numbers)) or "none"
        raise RecordingError(
            f"{path}: expected --scan to name a scan with frames (in a folder NAME_S0001 or the like), got {scan}; "
            f"there are: {available}"
        )
    return scan


def _likeliest(pairs: list[tuple[Path, Path]], entries: dict[Path, tuple[SpecScan, ...]]) -> list[tuple[Path, Path]]:
    """Return the pairs of SPEC file and image folder that fit best by name, then by detector; empty if no name fits."""
    ranks = {pair: _rank(*pair, entries[pair[0]]) for pair in pairs}
    matches = [rank for rank in ranks.values() if rank is not None]
    return [pair for pair, rank in ranks.items() if rank is not None and rank == min(matches)]


def _rank(spec: Path, folder: Path, entries: Sequence[SpecScan]) -> tuple[int, int] | None:
    """Return the rank of an image folder for a SPEC file, the lowest is best; None if it belongs to another file."""
    prefix = _FOLDER.sub(r"\1", folder.name)
    mentions = [text for entry in entries for line in entry.header if folder.name in (text := line.text)]
    by_name = (
        0 if prefix in (spec.stem, spec.name) else 1 if prefix in {e.file_name for e in entries} or mentions else None
    )
    detectors = {text.strip(": ") for entry in entries for text in entry.texts("#UIMDET")}
    folder_detectors = set(_DETECTOR.findall(" ".join(folder.parts[-3:-1])))
    if by_name is None or (detectors and folder_detectors and not detectors & folder_detectors):
        return None
    return by_name, 0 if detectors & folder_detectors else 1


def _named(entries: tuple[SpecScan, ...], spec: Path, folder: Path) -> tuple[SpecScan, ...]:
    """Return the entries below the head with the name of the images, where a SPEC file holds several heads."""
    prefix = _FOLDER.sub(r"\1", folder.name)
    own_entries = tuple(entry for entry in entries if entry.file_name == prefix)
    return entries if prefix in (spec.stem, spec.name) else own_entries or entries


def _choice(path: Path, number: int, pairs: list[tuple[Path, Path]], *, is_unlike: bool) -> str:
    folders, specs = sorted({folder for _, folder in pairs}), sorted({spec for spec, _ in pairs})
    description = "none that is named after the SPEC file and its detector (#UIMDET)" if is_unlike else f"{len(pairs)}"
    return (
        f"{path}: expected one folder of images of scan {number}, got {description}: images lie in {_listed(folders)}; "
        f"the scan stands in {_listed(specs)}. Give the image folder, or the SPEC file, as PATH"
    )


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
