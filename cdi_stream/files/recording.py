"""A recorded scan, whatever facility it came from, and the project's own HDF5 file for it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import RecordingError
from cdi_stream.messages import RecordedScan

FORMAT = "cdi_stream recorded scan 1"

DETECTOR_HEADER = (
    "pixel_row_m",
    "pixel_col_m",
    "beam_row",
    "beam_col",
    "count_time_s",
    "saturation_counts",
    "photon_energy_ev",
    "distance_m",
)
"""What a detector may say of itself; names as in `RecordedScan.detector`."""

FRAME = "frame"
"""Stands for the motor where none is known: the number of each frame in its series."""

SUM_TOLERANCE = 1e-7
"""Largest relative difference of two sums that count as equal: SPEC prints eight digits."""

_ARRAYS = ("pixel_mask", "white_field", "times_s", "frame_sums")
_MAX_SPREAD = 4
"""Most points per received frame that a series may span; frame numbers that lie further apart are not believed."""

_FEW_POINTS = 1000
"""Number of points that any series may span."""


def scan_header(scan: RecordedScan) -> dict[str, Any]:
    """Return all of a scan but its arrays, as plain values."""
    return {
        "format": FORMAT,
        "name": scan.name,
        "beamline": dict(scan.beamline) if isinstance(scan.beamline, Mapping) else scan.beamline,
        "baseline": dict(scan.baseline),
        "units": dict(scan.units),
        "detector": dict(scan.detector),
        "truth": scan.truth,
        "run_uid": scan.run_uid,
        "scanned": list(scan.scanned),
        "missing": list(scan.missing),
        "frame_files": list(scan.frame_files),
        "notes": list(scan.notes),
        "doubts": list(scan.doubts),
    }


def counts_of_frames(frames: NDArray[Any]) -> NDArray[np.int64]:
    """Sum each of ``(n_frames, rows, cols)``; gaps (the data type's maximum, values below zero) are left out."""
    gap = np.iinfo(frames.dtype).max if frames.dtype.kind in "iu" else np.inf
    sums = [frame[(frame >= 0) & (frame < gap)].sum(dtype=np.float64) for frame in frames]  # exact up to 2^53
    return np.rint(np.array(sums, dtype=np.float64)).astype(np.int64)


def do_sums_agree(measured: NDArray[Any], recorded: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether sums of frames agree with those on record, within the digits that a log file keeps."""
    result: NDArray[np.bool_] = np.isclose(measured, recorded, rtol=SUM_TOLERANCE, atol=0.5)
    return result


def sum_doubts(scan: RecordedScan) -> tuple[str, ...]:
    """Hold the frames that are there against the sums on record; name the first that differs, file and both sums.

    Raises
    ------
    RecordingError
        If there is not one sum a frame.
    """
    if scan.frame_sums is None:
        return ()
    if scan.frame_sums.shape != (len(scan.frames),):
        raise RecordingError(
            f"{scan.name}: expected a sum for each of {len(scan.frames)} frames, got shape {scan.frame_sums.shape}"
        )
    sums = counts_of_frames(scan.frames)
    wrong = np.flatnonzero(~do_sums_agree(sums, scan.frame_sums) & scan.has_frame)
    if not len(wrong):
        return ()
    k = int(wrong[0])
    file = f" ({scan.frame_files[k]})" if k < len(scan.frame_files) else ""
    return (
        f"{len(wrong)} of {int(scan.has_frame.sum())} frames have another sum of counts than the scan has on record: "
        f"frame {k}{file} has {sums[k]}, on record {scan.frame_sums[k]}; frames may be shifted, damaged, or another "
        "scan's",
    )


def write_scan(scan: RecordedScan, path: Path) -> None:
    """Write a recorded scan; frames lie at ``/entry/data/data``, compressed by gzip."""
    with atomic_write(path) as part, h5py.File(part, "w") as file:
        chunks = (1, *scan.frames.shape[1:])
        file.create_dataset("entry/data/data", data=scan.frames, chunks=chunks, compression="gzip", compression_opts=1)
        group = file.create_group("entry/cdi_stream")
        group.attrs["header"] = json.dumps(scan_header(scan))
        for motor, values in scan.scanned.items():
            group[f"scanned/{motor}"] = values
        for key in _ARRAYS:
            if (array := getattr(scan, key)) is not None:
                group[key] = array


def read_scan(path: Path, number: int | None = None) -> RecordedScan:
    """Read a scan written by `write_scan`, or series ``number`` (from 0) of those that ``record`` wrote.

    Raises
    ------
    RecordingError
        If the file is not one of ours, or holds several series and none is chosen.
    """
    try:
        with h5py.File(path, "r") as file:
            entry, group = _place_of(file, path, number)
            header = json.loads(group.attrs["header"])
            if header["format"] != FORMAT:
                raise RecordingError(f"{path}: expected format {FORMAT!r}, got {header['format']!r}")
            order = _order_of(entry, group, path)
            missing = order.missing or tuple(map(int, header.get("missing", ())))
            return RecordedScan(
                name=header["name"],
                frames=order.frames(entry["data/data"][()]),
                beamline=header["beamline"],
                scanned={m: order.track(_track(entry, group, m)) for m in header["scanned"]},
                baseline=header["baseline"],
                units=header["units"],
                detector=header["detector"],
                truth=header["truth"],
                missing=missing,
                frame_files=tuple(map(str, header.get("frame_files", ()))),
                run_uid=header.get("run_uid"),
                notes=tuple(header["notes"]),
                doubts=(*map(str, header.get("doubts", ())), *_unreceived(file, group, len(missing))),
                **{key: group[key][()] for key in _ARRAYS if key in group},
            )
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise RecordingError(f"{path}: expected a scan recorded by cdi-stream, got: {error}") from error


def _place_of(file: h5py.File, path: Path, number: int | None) -> tuple[h5py.Group, h5py.Group]:
    """Entry that holds a series, and the group that describes it."""
    if "header" in file["entry/cdi_stream"].attrs:
        return file["entry"], file["entry/cdi_stream"]
    groups = [(file[entry], name) for entry in file for name in file[entry].get("cdi_stream", ())]
    found = {int(name[7:]): entry for entry, name in groups if name[:7] == "series_"}
    if number is None and len(found) == 1:
        number = next(iter(found))
    if number not in found:
        listed = ", ".join(map(str, sorted(found))) or "none"
        raise RecordingError(f"{path}: expected --scan with one of the recorded series {listed}, got {number}")
    return found[number], found[number][f"cdi_stream/series_{number}"]


def _track(entry: h5py.Group, group: h5py.Group, motor: str) -> NDArray[np.float64]:
    """A motor at each frame that was received; frame numbers where a recording was cut off before it knew motors."""
    if motor == FRAME and f"scanned/{FRAME}" not in group:
        mine = entry["data/series_index"][()] == int(group.name.rpartition("_")[2])
        ids = entry["data/frame_id"][()][mine].astype(float)
        result: NDArray[np.float64] = ids - ids.min(initial=math.inf)
        return result
    angles: NDArray[np.float64] = group[f"scanned/{motor}"][()]
    return angles


def _unreceived(file: h5py.File, group: h5py.Group, n_missing: int) -> tuple[str, ...]:
    """Say so when a series had more frames than were received, beside those that are missing in between."""
    index = group.name.rpartition("series_")[2]
    if "accounting" not in file["entry/cdi_stream"] or not index.isdigit():
        return ()
    account = json.loads(file["entry/cdi_stream/accounting"].asstr()[()])[int(index)]
    expected, received = int(account["expected"]), int(account["received"])
    if expected - received <= n_missing:
        return ()
    return (f"the scan is incomplete: {received} of {expected} frames were received when it was recorded",)


@dataclass(frozen=True, slots=True)
class _Order:
    """Where the frames of a scan lie in a file's stack, and at which points of the scan they were taken.

    ``places`` are indices into the stack, ``ranks`` into the tracks of the motors, both in the order of the points
    ``points``; None: the stack is the scan.
    """

    places: NDArray[np.intp] | None = None
    ranks: NDArray[np.intp] | None = None
    points: NDArray[np.int64] | None = None

    @property
    def missing(self) -> tuple[int, ...]:
        """Points between the first and the last frame that have none."""
        if self.points is None:
            return ()
        return tuple(sorted(set(range(int(self.points[-1]) + 1)) - set(self.points.tolist())))

    def frames(self, stack: NDArray[Any]) -> NDArray[Any]:
        """Frames by point; zeros where one is missing."""
        if self.points is None or not self.missing:
            return stack if self.places is None else stack[self.places]
        frames = np.zeros((int(self.points[-1]) + 1, *stack.shape[1:]), dtype=stack.dtype)
        frames[self.points] = stack[self.places]
        return frames

    def track(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Motor by point; where a frame is missing, on the straight line between its neighbours."""
        if self.points is None or not self.missing:
            return values if self.ranks is None else values[self.ranks]
        return np.interp(np.arange(int(self.points[-1]) + 1), self.points, values[self.ranks])


def _order_of(entry: h5py.Group, group: h5py.Group, path: Path) -> _Order:
    """Order the frames of a recorded series by their numbers, from the first that came."""
    if "series_index" not in entry["data"]:
        return _Order()
    mine = np.flatnonzero(entry["data/series_index"][()] == int(group.name.rpartition("_")[2]))
    ids = entry["data/frame_id"][()][mine].astype(np.int64)
    ranks = np.argsort(ids, kind="stable")
    if not len(ids):
        return _Order(places=mine, ranks=ranks)
    points = ids[ranks] - ids.min()
    if points[-1] >= max(_FEW_POINTS, _MAX_SPREAD * len(points)):
        raise RecordingError(
            f"{path}: expected frames close to one another, got {len(points)} frames with numbers {ids.min()} to "
            f"{ids.max()}: record the scan again"
        )
    return _Order(places=mine[ranks], ranks=ranks, points=points)
