"""Read scans of APS 34-ID-C: motors and counters from a SPEC file, frames from TIFF files.

``PATH`` is the SPEC file, a folder with a SPEC file, the folder of the scan's images, or the detector's folder;
`aps_layout` finds the files of a scan.  The number at the end of a file's name gives the row of the scan; a row without
a file is a missing frame.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError
from cdi_stream.files.intensities.limits import require_few
from cdi_stream.files.recording import counts_of_frames
from cdi_stream.messages import RecordedScan
from cdi_stream_plugins.readers.aps_layout import ScanPlace, scan_place, spec_files
from cdi_stream_plugins.readers.aps_maps import detector_maps
from cdi_stream_plugins.readers.aps_rows import Placement, place_frames
from cdi_stream_plugins.readers.frame_counts import Frames, as_counts
from cdi_stream_plugins.readers.spec import SpecScan
from cdi_stream_plugins.readers.tiff_frames import numbered_frames, read_frames

PIXEL_SIZE_M = 55e-6
"""Side of a pixel of the Timepix detectors 34idcTIM1 and 34idcTIM2 [m]."""

READOUT_COUNTS = 11_810
"""Largest count of a Timepix pixel in one readout, the end of its counter.

An image may be a sum of readouts; the limit is used only if no voxel of the scan lies above it.
"""

_HEAD = 200_000
_UNITS = {"Energy": "keV", "camdist": "mm"}
_MOTORS = ("Theta", "Chi", "Phi", "Delta", "Gamma", "Energy", "camdist")
_MNEMONICS = {"th": "Theta", "chi": "Chi", "phi": "Phi", "del": "Delta", "gam": "Gamma", "en": "Energy"}
_USES = {
    "Monitor": "the beam is taken to be constant",
    "ImageTot": "frames are not checked against the sums of their counts",
}
"""Optional columns, and the consequence of a missing column."""

_STEP_SCAN = re.compile(r"[ad]\d?scan|lup")


class ApsSpecTiffReader:
    """Reader of scans of 34-ID-C, group ``cdi_stream.reader``; the module describes the files."""

    def can_read(self, path: Path) -> bool:
        """Return whether there is a SPEC file that names a detector of 34-ID-C."""
        return any("34idc" in _head(spec) for spec in spec_files(path))

    def read(self, path: Path, scan: int | str | None) -> RecordedScan:
        """Return one scan: every row of the SPEC file, with its frame if there is one."""
        place = scan_place(path, scan)
        files, notes = numbered_frames(place.folder)
        numbers = np.array(sorted(files))
        raw = read_frames([files[number] for number in numbers])
        counts, limit = as_counts(raw, [str(files[number]) for number in numbers])
        sums: NDArray[np.float64] = np.asarray(np.nansum(raw, axis=(1, 2), dtype=np.float64))
        placement = place_frames(place.entries, numbers, sums)
        place = replace(place, notes=place.notes + notes)
        return _Assembly(place, placement, files, numbers, sums, counts).scan(limit)


@dataclass(frozen=True, slots=True)
class _Assembly:
    """Parts of one scan; ``counts`` holds the frames in the order of ``numbers``, ``sums`` the sums of raw frames."""

    place: ScanPlace
    placement: Placement
    files: Mapping[int, Path]
    numbers: NDArray[np.int64]
    sums: NDArray[np.float64]
    counts: Frames

    def scan(self, limit: float | None) -> RecordedScan:
        """Return the scan of frames, motors and counters; ``limit`` is the largest count of the files' data type."""
        entry, n_rows, first = self.placement.entry, len(self.placement.entry.rows), self.placement.first
        rows = self.numbers - first
        has_row = (rows >= 0) & (rows < n_rows)
        frames = self._frames(rows, has_row)
        scanned, (monitor, _) = _scanned(entry), entry.optional("Monitor")
        good, white = detector_maps(entry, frames.shape[1:])
        choices, is_sure = self._choices(has_row), self.placement.is_certain
        return RecordedScan(
            name=f"{entry.file.stem}_S{entry.number:04d}",
            frames=frames,
            missing=tuple(sorted(set(range(n_rows)) - set(rows.tolist()))),
            frame_files=tuple(str(self.files.get(k + first, "")) for k in range(n_rows)),
            beamline="aps_34idc",
            scanned=scanned if monitor is None else scanned | {"Monitor": monitor},
            baseline={name: value for name, value in entry.motors(_MOTORS).items() if name not in scanned},
            units={**dict.fromkeys(_MOTORS, "deg"), **_UNITS},
            detector=_header(entry, self.counts, limit),
            pixel_mask=good,
            white_field=white,
            times_s=entry.optional("Epoch")[0],
            frame_sums=self._frame_sums(rows, has_row, frames),
            notes=(*self.place.notes, *self._numbering(), *(choices if is_sure else ()), *_lacking_columns(entry)),
            doubts=(
                *_aborted(entry),
                *(() if is_sure else choices),
                *_damaged_columns(entry),
                *_detector_doubts(entry),
            ),
        )

    def _frames(self, rows: NDArray[np.int64], has_row: NDArray[np.bool_]) -> Frames:
        """Return the frames by row; zeros in a row without a frame."""
        shape = (len(self.placement.entry.rows), *self.counts.shape[1:])
        require_few(shape, self.placement.entry.place)
        frames = np.zeros(shape, dtype=self.counts.dtype)
        frames[rows[has_row]] = self.counts[has_row]
        return frames

    def _frame_sums(
        self, rows: NDArray[np.int64], has_row: NDArray[np.bool_], frames: Frames
    ) -> NDArray[np.int64] | None:
        """Return ImageTot of each row without the contribution of detector gaps; None without that column."""
        if self.placement.recorded is None:
            return None
        in_gaps = -counts_of_frames(frames).astype(np.float64)
        in_gaps[rows[has_row]] += self.sums[has_row]
        return np.rint(self.placement.recorded - in_gaps).astype(np.int64)

    def _numbering(self) -> tuple[str, ...]:
        first = self.placement.first
        return (f"frame numbers do not begin at 0: row k of the scan is file number k {first:+d}",) if first else ()

    def _choices(self, has_row: NDArray[np.bool_]) -> tuple[str, ...]:
        """Return the assumptions about names, repeated entries, numbering and surplus frames.

        They are doubts unless all sums agree.
        """
        entry, placement, choices = self.placement.entry, self.placement, self.place.doubts
        if len(self.place.entries) > 1:
            lines = ", ".join(str(spec_entry.line) for spec_entry in self.place.entries)
            choices += (
                f"scan {entry.number} stands in {entry.file} at lines {lines}: that at line {entry.line} is used",
            )
        if placement.first and placement.n_placed < len(entry.rows):
            choices += (f"frame {placement.first} is taken to be the first of {entry.place}",)
        if not has_row.all():
            extra = self.files[int(self.numbers[~has_row][0])]
            choices += (
                f"{int((~has_row).sum())} frames have no row among the {len(entry.rows)} of {entry.place} and are left "
                f"out, the first is {extra}",
            )
        return choices


def _scanned(entry: SpecScan) -> dict[str, NDArray[np.float64]]:
    """Return the positions at each row of the motor in the scan's command, and of all motors that have a column."""
    labels, words = entry.labels(), (*entry.command, "", "")
    candidates = (entry.motor_of(words[1]), _MNEMONICS.get(words[1]), words[1])
    scan_motor = next((name for name in candidates if name in labels), None)
    if scan_motor is None:
        raise RecordingError(
            f"{entry.place} ({' '.join(entry.command)}): expected a scan of a motor that has a column, got "
            f"{words[1]!r}; columns are: {', '.join(labels)}"
        )
    names = [scan_motor, *(name for name in _MOTORS if name in labels and name != scan_motor)]
    return {name: entry.column(name) for name in names}


def _lacking_columns(entry: SpecScan) -> tuple[str, ...]:
    labels = entry.labels()
    return tuple(f"{entry.place} has no column {name}: {use}" for name, use in _USES.items() if name not in labels)


def _damaged_columns(entry: SpecScan) -> tuple[str, ...]:
    problems = {name: entry.optional(name)[1] for name in _USES if name in entry.labels()}
    return tuple(f"{_USES[name]}: {problem}" for name, problem in problems.items() if problem)


def _aborted(entry: SpecScan) -> tuple[str, ...]:
    """Return a doubt if a scan has fewer points than its command planned."""
    words = entry.command
    if not words or not _STEP_SCAN.fullmatch(words[0]) or len(words) < 6 or not words[-2].isdigit():
        return ()
    n_planned, n_rows = int(words[-2]) + 1, len(entry.rows)
    if n_rows >= n_planned:
        return ()
    return (f"the scan is incomplete: {n_rows} of {n_planned} points, it was aborted ({entry.place})",)


def _detector_doubts(entry: SpecScan) -> tuple[str, ...]:
    names = [text.strip(": ") for text in entry.texts("#UIMDET")]
    if not names or names[-1].startswith("34idcTIM"):
        return ()
    return (
        f"detector {names[-1]!r} is unknown: the pixel size of the Timepix, {1e6 * PIXEL_SIZE_M:.0f} um, is assumed",
    )


def _header(entry: SpecScan, counts: Frames, limit: float | None) -> dict[str, float]:
    """Return the detector's header: pixel size, exposure time, and the smallest known limit of counts."""
    header = {"pixel_row_m": PIXEL_SIZE_M, "pixel_col_m": PIXEL_SIZE_M}
    seconds = entry.texts("#T")[:1]
    if seconds and re.fullmatch(r"[\d.]+", seconds[0].split()[0]):
        header["count_time_s"] = float(seconds[0].split()[0])
    largest = int(counts[counts < np.iinfo(counts.dtype).max].max(initial=0))
    limits = [limit] if limit is not None else []
    limits += [float(READOUT_COUNTS)] if largest <= READOUT_COUNTS else []
    return header | ({"saturation_counts": min(limits)} if limits else {})


def _head(spec: Path) -> str:
    with spec.open(errors="replace") as file:
        return file.read(_HEAD)
