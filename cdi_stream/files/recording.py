"""Write and read recorded scans in the project's HDF5 format, and check their frames against sums of counts."""

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
"""Name and version of the file format, stored in the header."""

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
"""Names of the detector's header values in `RecordedScan.detector`."""

FRAME = "frame"
"""Name of the scanned quantity where no motor is known: the number of each frame in its series."""

SUM_TOLERANCE = 1e-7
"""Largest relative difference of two sums of counts that count as equal; SPEC prints eight digits."""

_ARRAYS = ("pixel_mask", "white_field", "times_s", "frame_sums")
_MAX_SPREAD = 4
"""Largest number of points for each received frame of a series; frame numbers with wider gaps are refused."""

_FEW_POINTS = 1000
"""Number of points up to which `_MAX_SPREAD` does not apply."""


def scan_header(scan: RecordedScan) -> dict[str, Any]:
    """Return the values of a scan without its arrays, as plain values."""
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
    """Return the sum of counts of each frame ``(n_frames, rows, cols)`` without gaps.

    Gaps are voxels at the data type's maximum or below zero.
    """
    gap = np.iinfo(frames.dtype).max if frames.dtype.kind in "iu" else np.inf
    sums = [frame[(frame >= 0) & (frame < gap)].sum(dtype=np.float64) for frame in frames]  # exact up to 2^53
    return np.rint(np.array(sums, dtype=np.float64)).astype(np.int64)


def do_sums_agree(measured: NDArray[Any], recorded: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which sums of counts agree with the recorded sums, within the digits of a log file."""
    result: NDArray[np.bool_] = np.isclose(measured, recorded, rtol=SUM_TOLERANCE, atol=0.5)
    return result


def sum_doubts(scan: RecordedScan) -> tuple[str, ...]:
    """Return a doubt if frames differ from the sums of counts on record; it names the first such frame.

    Raises
    ------
    RecordingError
        If the number of sums is not the number of frames.
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
    """Write a recorded scan; its frames are at ``/entry/data/data``, compressed by gzip."""
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


def read_scan(path: Path, number: int | str | None = None) -> RecordedScan:
    """Return a scan written by `write_scan`, or series ``number`` (from 0) of a file written by ``record``.

    Raises
    ------
    RecordingError
        If the file has another format, or holds several series and ``number`` names none.
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


def _place_of(file: h5py.File, path: Path, number: int | str | None) -> tuple[h5py.Group, h5py.Group]:
    """Return the entry that holds a series, and the group that describes it."""
    if "header" in file["entry/cdi_stream"].attrs:
        return file["entry"], file["entry/cdi_stream"]
    groups = [(file[entry], name) for entry in file for name in file[entry].get("cdi_stream", ())]
    series = {int(name[7:]): entry for entry, name in groups if name[:7] == "series_"}
    if number is None and len(series) == 1:
        number = next(iter(series))
    if not isinstance(number, int) or number not in series:
        numbers = ", ".join(map(str, sorted(series))) or "none"
        raise RecordingError(f"{path}: expected --scan with one of the recorded series {numbers}, got {number}")
    return series[number], series[number][f"cdi_stream/series_{number}"]


def _track(entry: h5py.Group, group: h5py.Group, motor: str) -> NDArray[np.float64]:
    """Return a motor at each received frame; frame numbers where a recording ended before motors were known."""
    if motor == FRAME and f"scanned/{FRAME}" not in group:
        is_own = entry["data/series_index"][()] == int(group.name.rpartition("_")[2])
        ids = entry["data/frame_id"][()][is_own].astype(float)
        result: NDArray[np.float64] = ids - ids.min(initial=math.inf)
        return result
    angles: NDArray[np.float64] = group[f"scanned/{motor}"][()]
    return angles


def _unreceived(file: h5py.File, group: h5py.Group, n_missing: int) -> tuple[str, ...]:
    """Return a doubt if a series had more frames than were received, besides the missing frames in between."""
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
    """Assignment of a file's stack of frames to the points of a scan.

    ``places`` are indices into the stack, ``ranks`` into the tracks of the motors, both in the order of ``points``.
    None: the stack is already in the order of the scan.
    """

    places: NDArray[np.intp] | None = None
    ranks: NDArray[np.intp] | None = None
    points: NDArray[np.int64] | None = None

    @property
    def missing(self) -> tuple[int, ...]:
        """Points between the first and the last frame that have no frame."""
        if self.points is None:
            return ()
        return tuple(sorted(set(range(int(self.points[-1]) + 1)) - set(self.points.tolist())))

    def frames(self, stack: NDArray[Any]) -> NDArray[Any]:
        """Return the frames by point; zeros where a frame is missing."""
        if self.points is None or not self.missing:
            return stack if self.places is None else stack[self.places]
        frames = np.zeros((int(self.points[-1]) + 1, *stack.shape[1:]), dtype=stack.dtype)
        frames[self.points] = stack[self.places]
        return frames

    def track(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a motor by point, interpolated linearly where a frame is missing."""
        if self.points is None or not self.missing:
            return values if self.ranks is None else values[self.ranks]
        return np.interp(np.arange(int(self.points[-1]) + 1), self.points, values[self.ranks])


def _order_of(entry: h5py.Group, group: h5py.Group, path: Path) -> _Order:
    """Return the order of a recorded series' frames by their numbers; the first received number is point 0."""
    if "series_index" not in entry["data"]:
        return _Order()
    places = np.flatnonzero(entry["data/series_index"][()] == int(group.name.rpartition("_")[2]))
    ids = entry["data/frame_id"][()][places].astype(np.int64)
    ranks = np.argsort(ids, kind="stable")
    if not len(ids):
        return _Order(places=places, ranks=ranks)
    points = ids[ranks] - ids.min()
    if points[-1] >= max(_FEW_POINTS, _MAX_SPREAD * len(points)):
        raise RecordingError(
            f"{path}: expected frames close to one another, got {len(points)} frames with numbers {ids.min()} to "
            f"{ids.max()}: record the scan again"
        )
    return _Order(places=places[ranks], ranks=ranks, points=points)
