"""Read scans of BLISS, the control system of ESRF: an HDF5 master file, and the detectors' files beside it.

``PATH`` is the master file of a dataset, or the file of a proposal or collection that links to such files.  ``--scan``
is 20 or 20.1, and 20.1/mpx1x4 where a scan has several detectors.  `bliss_names` holds the names in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError
from cdi_stream.files.intensities.limits import UNREADABLE
from cdi_stream.messages import RecordedScan
from cdi_stream_plugins.readers.bliss_header import detector_header, frame_sums, pixel_mask
from cdi_stream_plugins.readers.bliss_motors import Motors, motors_of
from cdi_stream_plugins.readers.bliss_names import BEAMLINES, N_PLANNED, BlissBeamline, Sensor
from cdi_stream_plugins.readers.bliss_scan import (
    BlissScan,
    find_scan,
    is_scan_name,
    number_of,
    of_length,
    text_of,
    track_of,
)
from cdi_stream_plugins.readers.bliss_stack import Stack, find_stack
from cdi_stream_plugins.readers.frame_counts import Frames, as_counts


class BlissReader:
    """Reader of BLISS files, group ``cdi_stream.reader``; the module describes the files."""

    def can_read(self, path: Path) -> bool:
        """Return whether the file is HDF5 with groups that are named like scans of BLISS."""
        if not (path.is_file() and h5py.is_hdf5(path)):
            return False
        with h5py.File(path, "r", locking=False) as file:
            return any(map(is_scan_name, file))

    def read(self, path: Path, scan: int | str | None) -> RecordedScan:
        """Return one scan: every point that it reached, with its frame if there is one."""
        try:
            with h5py.File(path, "r", locking=False) as file:
                return _recorded(find_scan(file, path, scan))
        except UNREADABLE as error:
            raise RecordingError(
                f"{path}: expected a file of BLISS, got a broken one ({error}): copy it again"
            ) from error


def _recorded(scan: BlissScan) -> RecordedScan:
    """Return a scan with its frames, which are read after all checks of sizes and files."""
    name = text_of(scan.group, "instrument/name")
    beamline = next((known for known in BEAMLINES if known.instrument == name.lower()), None)
    detectors: Mapping[str, Sensor | None] = {} if beamline is None else beamline.detectors
    motors = motors_of(scan, beamline)
    stack, stack_notes = find_stack(scan, detectors)
    raw = stack.read(motors.n_points, scan.place)
    has_frame = stack.has_frame(motors.n_points)
    counts, limit = _counts(scan, raw, has_frame)
    mask, mask_doubts = pixel_mask(stack, detectors.get(stack.detector))
    sums, sum_notes = frame_sums(scan, stack, raw, counts)
    largest = int(counts.max(where=counts < np.iinfo(counts.dtype).max, initial=0))
    header, header_notes = detector_header(scan, stack, largest, limit)
    return RecordedScan(
        name=f"{scan.path.stem}_{scan.name}",
        frames=counts,
        beamline=None if beamline is None else beamline.plugin,
        scanned=motors.scanned,
        baseline=motors.baseline,
        units=motors.units,
        detector=header,
        pixel_mask=mask,
        times_s=_times_s(scan, motors.n_points),
        frame_sums=sums,
        missing=tuple(np.flatnonzero(~has_frame).tolist()),
        notes=(*_beamline_note(name, beamline), *motors.notes, *stack_notes, *sum_notes, *header_notes),
        doubts=(*_end_doubts(scan, stack, motors), *mask_doubts),
    )


def _counts(scan: BlissScan, raw: Frames, has_frame: NDArray[np.bool_]) -> tuple[Frames, float | None]:
    """Return frames as counts with gaps, zeros where a frame is missing, and the limit of the files' data type."""
    points = np.flatnonzero(has_frame)
    names = [f"{scan.place}: frame {k}" for k in points]
    if len(points) == len(raw):
        return as_counts(raw, names)
    counts, limit = as_counts(raw[points], names)
    frames = np.zeros(raw.shape, dtype=counts.dtype)
    frames[points] = counts
    return frames, limit


def _times_s(scan: BlissScan, n_points: int) -> NDArray[np.float64] | None:
    """Return when each point was measured [s]; None if a time is missing."""
    measured = scan.group.get("measurement")
    epochs = track_of(measured, "epoch") if isinstance(measured, h5py.Group) else None
    times = None if epochs is None else of_length(epochs, n_points)
    return times if times is not None and np.isfinite(times).all() else None


def _beamline_note(name: str, beamline: BlissBeamline | None) -> tuple[str, ...]:
    if beamline is not None:
        return ()
    known = ", ".join(known.instrument for known in BEAMLINES)
    return (f"instrument {name!r} is none of {known}: give the geometry by --config",)


def _end_doubts(scan: BlissScan, stack: Stack, motors: Motors) -> tuple[str, ...]:
    """Return doubts about a scan that is open or was aborted, and about frames and files that do not fit."""
    n_planned, n, n_frames = number_of(stack.group, N_PLANNED) or 0, motors.n_points, stack.shape[0]
    doubts: tuple[str, ...] = ()
    if not text_of(scan.group, "end_time"):
        doubts += ("the scan has no end time: it is still open, or BLISS was stopped",)
    if n < n_planned:
        doubts += (f"the scan is incomplete: {n} of {n_planned:.0f} points, it was aborted or is still open",)
    if n < n_frames and stack.has_frame(n_frames)[n:].any():
        doubts += (f"{int(stack.has_frame(n_frames)[n:].sum())} frames have no position of a motor and are left out",)
    if stack.lost:
        doubts += (f"{len(stack.lost)} files of the detector cannot be opened, the first is {stack.lost[0]}",)
    return doubts
