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


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedScan:
    """Frames and motors of one rocking curve, enough to play it again.

    Parameters
    ----------
    frames
        Raw counts ``(n_frames, rows, cols)``, unsigned integers.
    beamline
        Name of the beamline plugin that understands the motors, or the beamline written out.
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
    beamline: str | Mapping[str, Any]
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


def write_scan(scan: RecordedScan, path: Path) -> None:
    """Write a recorded scan; frames lie at ``/entry/data/data``, compressed by gzip."""
    header = {
        "format": FORMAT,
        "name": scan.name,
        "beamline": scan.beamline if isinstance(scan.beamline, str) else dict(scan.beamline),
        "baseline": dict(scan.baseline),
        "units": dict(scan.units),
        "detector": dict(scan.detector),
        "truth": scan.truth,
        "scanned": list(scan.scanned),
        "notes": list(scan.notes),
    }
    with h5py.File(path, "w") as file:
        chunks = (1, *scan.frames.shape[1:])
        file.create_dataset("entry/data/data", data=scan.frames, chunks=chunks, compression="gzip", compression_opts=1)
        group = file.create_group("entry/cdi_stream")
        group.attrs["header"] = json.dumps(header)
        for motor, values in scan.scanned.items():
            group[f"scanned/{motor}"] = values
        for key in ("pixel_mask", "white_field", "times_s", "frame_sums"):
            if (array := getattr(scan, key)) is not None:
                group[key] = array


def read_scan(path: Path) -> RecordedScan:
    """Read a scan written by `write_scan`.

    Raises
    ------
    RecordingError
        If the file is not one of ours.
    """
    try:
        with h5py.File(path, "r") as file:
            group = file["entry/cdi_stream"]
            header = json.loads(group.attrs["header"])
            if header["format"] != FORMAT:
                raise RecordingError(f"{path}: expected format {FORMAT!r}, got {header['format']!r}")
            optional = {
                key: group[key][()] for key in ("pixel_mask", "white_field", "times_s", "frame_sums") if key in group
            }
            return RecordedScan(
                name=header["name"],
                frames=file["entry/data/data"][()],
                beamline=header["beamline"],
                scanned={motor: group[f"scanned/{motor}"][()] for motor in header["scanned"]},
                baseline=header["baseline"],
                units=header["units"],
                detector=header["detector"],
                truth=header["truth"],
                notes=tuple(header["notes"]),
                **optional,
            )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RecordingError(f"{path}: expected a scan recorded by cdi-stream, got: {error}") from error
