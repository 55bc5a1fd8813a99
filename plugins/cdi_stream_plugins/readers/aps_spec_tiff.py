"""APS 34-ID-C scans: motors and counters from a SPEC file, frames from TIFF files.

``PATH`` is the SPEC file or a folder that holds one; frames lie in a folder whose name ends in the scan
number (``..._S0054``), in the order of the number at the end of their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError
from cdi_stream.recording import RecordedScan

PIXEL_SIZE_M = 55e-6
"""Timepix (34idcTIM1, 34idcTIM2)."""

_UNITS = {"Energy": "keV", "camdist": "mm"}
_MOTORS = ("Theta", "Chi", "Phi", "Delta", "Gamma", "Energy", "camdist")


@dataclass(frozen=True, slots=True, kw_only=True)
class _SpecScan:
    command: str
    motors: dict[str, float]
    columns: dict[str, NDArray[np.float64]]
    region: tuple[int, int, int, int] | None


class ApsSpecTiffReader:
    """Reader of group ``cdi_stream.reader``; see the module's docstring for the layout."""

    def can_read(self, path: Path) -> bool:
        """Whether there is a SPEC file that speaks of 34-ID-C's detectors."""
        spec = _spec_file(path)
        return spec is not None and "34idc" in spec.read_text(errors="replace")[:20_000]

    def read(self, path: Path, scan: int | None) -> RecordedScan:
        """Read one scan; the frames' sums are held against the SPEC column ImageTot by whoever plays it."""
        spec = _spec_file(path)
        if spec is None:
            raise RecordingError(f"{path}: expected a SPEC file or a folder with one")
        folder, number = _frame_folder(spec.parent, scan)
        try:
            return self._assembled(spec, folder, number)
        except (KeyError, ValueError, StopIteration, IndexError) as error:
            raise RecordingError(
                f"{spec}: scan {number} cannot be read with its frames in {folder}: {error!r}"
            ) from error

    def _assembled(self, spec: Path, folder: Path, number: int) -> RecordedScan:
        entry = _read_spec_scan(spec, number)
        frames = _read_frames(folder)
        rocking = entry.command.split()[1]
        motor = {"th": "Theta", "phi": "Phi", "chi": "Chi"}.get(rocking, rocking)
        n = len(frames)
        if any(len(column) < n for column in entry.columns.values()):
            raise RecordingError(f"{spec}: scan {number} has fewer points than its {n} frames in {folder}")
        scanned = {motor: entry.columns[motor][:n], "Monitor": entry.columns["Monitor"][:n]}
        baseline = {name: entry.motors[name] for name in _MOTORS if name in entry.motors and name != motor}
        good, white = _detector_maps(spec.parent, entry.region, frames.shape[1:])
        return RecordedScan(
            name=f"{spec.stem}_S{number:04d}",
            frames=frames,
            beamline="aps_34idc",
            scanned=scanned,
            baseline=baseline,
            units={**dict.fromkeys(_MOTORS, "deg"), **_UNITS},
            detector=_header(entry.command),
            pixel_mask=good,
            white_field=white,
            times_s=entry.columns["Epoch"][:n],
            frame_sums=entry.columns["ImageTot"][:n].astype(np.int64),
        )


def _spec_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix == ".spec" else None
    return next(iter(sorted(path.rglob("*.spec"))), None) if path.is_dir() else None


def _frame_folder(root: Path, scan: int | None) -> tuple[Path, int]:
    folders = {int(m[1]): p for p in root.rglob("*_S*") if p.is_dir() and (m := re.search(r"_S0*(\d+)$", p.name))}
    if scan is None and len(folders) == 1:
        scan = next(iter(folders))
    if scan not in folders:
        known = ", ".join(map(str, sorted(folders))) or "none"
        raise RecordingError(f"{root}: expected --scan to name a scan with frames, got {scan}; there are: {known}")
    return folders[scan], scan


def _read_frames(folder: Path) -> NDArray[np.uint32]:
    files = sorted(folder.glob("*.tif"), key=lambda p: int(re.search(r"(\d+)$", p.stem)[1]))  # type: ignore[index]
    frames = np.stack([tifffile.imread(file) for file in files])
    if frames.min() < 0:
        raise RecordingError(f"{folder}: expected counts, got values below zero")
    return frames.astype(np.uint32)


def _read_spec_scan(spec: Path, number: int) -> _SpecScan:
    """Read motors and columns of one scan; motor names come from the file's head (#O lines)."""
    with spec.open(errors="replace") as lines:
        names, scan_lines = _split_scan(lines, number)
    if not scan_lines:
        raise RecordingError(f"{spec}: there is no scan {number}")
    values = [float(v) for line in scan_lines if line.startswith("#P") for v in line.split()[1:]]
    labels = next(re.split(r"\s{2,}", line[3:].strip()) for line in scan_lines if line.startswith("#L "))
    rows = [line.split() for line in scan_lines if line.strip() and not line.startswith("#")]
    table = np.array(rows, dtype=float).reshape(len(rows), -1)
    region = next((line.split()[1:5] for line in scan_lines if line.startswith("#UIMR5")), None)
    return _SpecScan(
        command=re.sub(r"^#S \d+\s+", "", scan_lines[0]).strip(),
        motors=dict(zip(names, values, strict=False)),
        columns={label: table[:, k] for k, label in enumerate(labels)},
        region=None if region is None else tuple(map(int, region)),  # type: ignore[arg-type]
    )


def _split_scan(lines: Iterable[str], number: int) -> tuple[list[str], list[str]]:
    """Motor names that held at the scan, and its lines; of scans with the same number, the last."""
    names: list[str] = []
    scan_names: list[str] = []
    scan_lines: list[str] = []
    is_inside = False
    for line in lines:
        if line.startswith("#O"):
            names = [] if line.startswith("#O0") else names
            names = names + re.split(r"\s{2,}", line.split(maxsplit=1)[1].strip())
        if line.startswith(("#S ", "#F ")):
            is_inside = line.startswith("#S ") and line.split()[1] == str(number)
            if is_inside:
                scan_names, scan_lines = names, []
        if is_inside:
            scan_lines.append(line)
    return scan_names, scan_lines


def _header(command: str) -> dict[str, float]:
    seconds = float(command.split()[-1])
    return {"pixel_row_m": PIXEL_SIZE_M, "pixel_col_m": PIXEL_SIZE_M, "count_time_s": seconds}


def _detector_maps(
    root: Path, region: tuple[int, int, int, int] | None, shape: tuple[int, ...]
) -> tuple[NDArray[np.bool_] | None, NDArray[np.float32] | None]:
    """Good pixels (dark <= 1) and white field beside the SPEC file, cut to the scan's region of interest."""
    col, _, row, _ = region or (0, shape[1], 0, shape[0])
    window = (slice(row, row + shape[0]), slice(col, col + shape[1]))
    dark, white = root / "dark.tif", root / "whitefield.tif"
    good = tifffile.imread(dark)[window] <= 1 if dark.exists() else None
    field = tifffile.imread(white)[window].astype(np.float32) if white.exists() else None
    return good, field
