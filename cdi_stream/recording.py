"""A recorded scan, whatever facility it came from, and the project's own HDF5 file for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError

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

_ARRAYS = ("pixel_mask", "white_field", "times_s", "frame_sums")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedScan:
    """Frames and motors of one rocking curve, enough to play it again.

    Parameters
    ----------
    frames
        Raw counts ``(n_frames, rows, cols)``, unsigned integers.
    beamline
        Name of the beamline plugin that understands the motors, or the beamline written out; None if unknown.
    scanned
        Motors recorded at every frame, ``(n_frames,)`` each; the first is the one that the plan moves.
    baseline, units
        Motors that stood still, and the unit of every motor by name.
    detector
        Header values as the detector would send them: pixel sizes, beam centre, count time and the like.
    pixel_mask, white_field
        Pixels to use ``(rows, cols)``, and relative response.
    times_s
        When each frame was taken, for playing at the recorded pace.
    truth
        Description of the simulated crystal, if it is one.
    """

    name: str
    frames: NDArray[Any]
    beamline: str | Mapping[str, Any] | None
    scanned: Mapping[str, NDArray[np.float64]]
    baseline: Mapping[str, float]
    units: Mapping[str, str]
    detector: Mapping[str, float] = field(default_factory=dict)
    pixel_mask: NDArray[np.bool_] | None = None
    white_field: NDArray[np.float32] | None = None
    times_s: NDArray[np.float64] | None = None
    frame_sums: NDArray[np.int64] | None = None
    truth: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


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
        "scanned": list(scan.scanned),
        "notes": list(scan.notes),
    }


def write_scan(scan: RecordedScan, path: Path) -> None:
    """Write a recorded scan; frames lie at ``/entry/data/data``, compressed by gzip."""
    with h5py.File(path, "w") as file:
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
            places, ranks = _order_of(entry, group)
            return RecordedScan(
                name=header["name"],
                frames=entry["data/data"][()][places],
                beamline=header["beamline"],
                scanned={motor: _track(entry, group, motor, places, ranks) for motor in header["scanned"]},
                baseline=header["baseline"],
                units=header["units"],
                detector=header["detector"],
                truth=header["truth"],
                notes=tuple(header["notes"]),
                **{key: group[key][()] for key in _ARRAYS if key in group},
            )
    except (OSError, KeyError, TypeError, ValueError) as error:
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


def _track(entry: h5py.Group, group: h5py.Group, motor: str, places: Any, ranks: Any) -> NDArray[np.float64]:
    """A motor at each frame; frame numbers where a recording was cut off before its motors were written."""
    if motor == FRAME and f"scanned/{FRAME}" not in group:
        return entry["data/frame_id"][()][places].astype(float)
    return group[f"scanned/{motor}"][()][ranks]


def _order_of(entry: h5py.Group, group: h5py.Group) -> tuple[Any, Any]:
    """Where the frames of a series lie in the stack, by frame id, and which of the series' frames those are."""
    if "series_index" not in entry["data"]:
        return slice(None), slice(None)
    mine = np.flatnonzero(entry["data/series_index"][()] == int(group.name.rpartition("_")[2]))
    ranks = np.argsort(entry["data/frame_id"][()][mine], kind="stable")
    return mine[ranks], ranks
