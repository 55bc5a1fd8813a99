"""Find the files in which a stack of frames lies, and how many of its frames they hold.

The frames of a scan are a virtual dataset over the detector's own files.  HDF5 gives zeros, without an error, where
such a file is lost or still shorter than planned.  Therefore each file is opened here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the decompressors of the detectors' files
import numpy as np

from cdi_stream.errors import RecordingError

Slices = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePart:
    """Part of a stack of frames in one dataset of one file: its selection there, and its place in the stack."""

    file: Path
    dataset: str
    source: Slices
    place: Slices

    def first(self, n: int) -> FramePart:
        """Return the part of the first ``n`` frames only."""
        frames = self.place[0]
        stop = frames.start + max(n, 0)
        source = slice(self.source[0].start, self.source[0].start + max(n, 0))
        return replace(self, source=(source, *self.source[1:]), place=(slice(frames.start, stop), *self.place[1:]))


def parts_of(frames: h5py.Dataset) -> list[FramePart]:
    """Return the parts of a dataset; one that is not virtual has a single part, itself."""
    file = Path(frames.file.filename)
    if not frames.is_virtual:
        everything = tuple(slice(0, n) for n in frames.shape)
        return [FramePart(file=file, dataset=frames.name, source=everything, place=everything)]
    return [_source_part(frames, *source) for source in frames.virtual_sources()]


def _source_part(
    frames: h5py.Dataset, place: h5py.h5s.SpaceID, file_name: str, dataset: str, source: h5py.h5s.SpaceID
) -> FramePart:
    """Return the part of a virtual dataset that one of its sources holds.

    The arguments behind the first are the fields of h5py's `VDSmap`.
    """
    target = _box(place, frames)
    is_whole = source.get_select_type() == h5py.h5s.SEL_ALL  # its shape is not stored then
    whole = tuple(slice(0, side.stop - side.start) for side in target)
    return FramePart(
        file=_source_file(Path(frames.file.filename), file_name),
        dataset=dataset,
        source=whole if is_whole else _box(source, frames),
        place=target,
    )


def _source_file(master: Path, name: str) -> Path:
    """Return the file of a virtual dataset's source; names are relative to the master file."""
    if name == ".":
        return master
    beside, moved = master.parent / name, master.parent / Path(name).name
    return moved if moved.is_file() and not beside.is_file() else beside


def _box(space: h5py.h5s.SpaceID, frames: h5py.Dataset) -> Slices:
    """Return a selection as slices; raises `RecordingError` if it is not one block."""
    starts, ends = space.get_select_bounds()
    box = tuple(slice(int(start), int(end) + 1) for start, end in zip(starts, ends, strict=True))
    if len(box) != 3 or math.prod(s.stop - s.start for s in box) != space.get_select_npoints():
        raise RecordingError(
            f"{frames.file.filename}: {frames.name}: expected a virtual dataset of whole blocks of frames, got a "
            "selection with steps or of other dimensions: save the frames as a plain dataset"
        )
    return box


def n_on_disk(part: FramePart) -> int | None:
    """Return how many frames of a part its file holds; None if the file or its dataset cannot be opened."""
    try:
        with opened(part.file) as file:
            dataset = file.get(part.dataset)
            if not isinstance(dataset, h5py.Dataset) or dataset.ndim != len(part.source):
                return None
            if any(n < box.stop for n, box in zip(dataset.shape[1:], part.source[1:], strict=True)):
                return None
            return int(np.clip(dataset.shape[0] - part.source[0].start, 0, part.source[0].stop - part.source[0].start))
    except OSError:
        return None


def opened(path: Path) -> h5py.File:
    """Return a file open for reading, without a lock, so that a running scan can go on writing."""
    return h5py.File(path, "r", locking=False)
