"""Read header and pixel mask of a detector in a BLISS file, and the sums of counts that Lima recorded."""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.files.recording import counts_of_frames
from cdi_stream.inversion.units import INSIDE, factor
from cdi_stream_plugins.readers.bliss_names import ENERGY, HEADER, HeaderValue, Sensor
from cdi_stream_plugins.readers.bliss_scan import BlissScan, number_of, of_length, track_of, unit_of
from cdi_stream_plugins.readers.bliss_stack import Stack
from cdi_stream_plugins.readers.frame_counts import Frames

_SATURATION = "saturation_counts"


def detector_header(
    scan: BlissScan, stack: Stack, largest: int, limit: float | None
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the detector's header, and notes on values that cannot be used.

    Parameters
    ----------
    scan, stack
        Scan and its detector.
    largest
        Largest count of the frames; a saturation value below it is not used.
    limit
        Largest value of the files' data type, None if the frames' type states it.
    """
    values = {entry.key: value for entry in HEADER if (value := _value(stack.group, entry)) is not None}
    energy = number_of(scan.group, ENERGY)
    values |= {"photon_energy_ev": energy} if energy is not None and energy > 0 else {}
    notes = tuple(
        f"the detector's {entry.dataset} is {number}, which is not used"
        for entry in HEADER
        if entry.key not in values and (number := number_of(stack.group, entry.dataset)) is not None
    )
    stated = values.pop(_SATURATION, None)
    if stated is not None and largest > stated:
        notes += (f"the detector's saturation value {stated:.0f} is not used: frames have counts up to {largest}",)
    limits = [value for value in (stated, limit) if value is not None and largest <= value]
    return values | ({_SATURATION: min(limits)} if limits else {}), notes


def pixel_mask(stack: Stack, sensor: Sensor | None) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """Return the pixels to use ``(rows, cols)``, None if nothing is known, and a doubt about a mask that does not fit.

    The file's mask is 0 where a pixel is good, as in NeXus; the gaps of a known sensor are added.
    """
    mask = np.ones(stack.shape[1:], dtype=bool)
    item = stack.group.get("pixel_mask")
    is_mask = isinstance(item, h5py.Dataset) and item.dtype.kind in "biu"
    does_fit = is_mask and item.shape == mask.shape
    if does_fit:
        mask &= item[()] == 0
    if sensor is not None and sensor.shape == mask.shape:
        mask[slice(*sensor.gap_rows)] = False
        mask[:, slice(*sensor.gap_cols)] = False
    doubts = () if does_fit or not is_mask else (f"the pixel mask {item.shape} does not fit the frames: left out",)
    return (None if mask.all() else mask), doubts


def frame_sums(
    scan: BlissScan, stack: Stack, raw: Frames, counts: Frames
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the counts of each frame by the largest region that Lima summed, None without one, and a note on why.

    The region may be smaller than the frame: what lies outside is added from the frames.

    Parameters
    ----------
    scan, stack
        Scan and its detector.
    raw, counts
        Frames as in the file, and as counts with gaps.
    """
    region = _largest_region(scan, stack)
    if region is None:
        return None, ("no region of the frames has its sum of counts on record: frames are not checked",)
    name, rows, cols = region
    track = track_of(scan.group["instrument"], f"{name}/sum")
    recorded = np.full(len(raw), np.nan) if track is None else of_length(track, len(raw))
    if not np.isfinite(recorded).all():
        return None, (f"counter {name} has no value at some points: frames are not checked",)
    inside = np.array([frame[rows, cols].sum(dtype=np.float64) for frame in raw])
    return np.rint(recorded - inside).astype(np.int64) + counts_of_frames(counts), ()


def _largest_region(scan: BlissScan, stack: Stack) -> tuple[str, slice, slice] | None:
    """Return name, rows and columns of the largest rectangle whose sum Lima recorded."""
    regions: list[tuple[int, str, slice, slice]] = []
    instrument = scan.group["instrument"]
    for name in instrument:
        if not name.startswith(f"{stack.detector}_") or track_of(instrument, f"{name}/sum") is None:
            continue
        sides = [number_of(instrument, f"{name}/selection/{side}") for side in ("y", "x", "height", "width")]
        row, col, height, width = (-1 if side is None else int(side) for side in sides)
        is_inside = min(row, col) >= 0 and row + height <= stack.shape[1] and col + width <= stack.shape[2]
        if is_inside and min(height, width) > 0:
            regions.append((height * width, name, slice(row, row + height), slice(col, col + width)))
    return max(regions, key=lambda region: region[0])[1:] if regions else None


def _value(detector: h5py.Group, entry: HeaderValue) -> float | None:
    """Return a value of the header in the project's unit; None if it is missing or cannot be true."""
    value = number_of(detector, entry.dataset)
    if value is None or (entry.is_positive and value <= 0):
        return None
    if entry.kind is None:
        return value
    scale = factor(unit_of(detector, entry.dataset) or INSIDE[entry.kind], entry.kind)
    return None if scale is None else value * scale
