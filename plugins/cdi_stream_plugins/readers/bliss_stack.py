"""Find the frames of a BLISS scan, and read them from the files in which they lie.

The frames are a virtual dataset over the detector's own files.  HDF5 gives zeros, without an error, where such a file
is lost or still shorter than planned.  Therefore each file is opened here, and frames that it lacks are missing frames.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the decompressors of the detectors' files
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError
from cdi_stream.files.intensities.limits import require_few
from cdi_stream_plugins.readers.bliss_names import STACKS
from cdi_stream_plugins.readers.bliss_scan import BlissScan
from cdi_stream_plugins.readers.frame_counts import Frames

Slices = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Part of a stack of frames in one dataset of one file: its selection there, and its place in the stack."""

    file: Path
    dataset: str
    source: Slices
    place: Slices

    def first(self, n: int) -> Part:
        """Return the part of the first ``n`` frames only."""
        frames = self.place[0]
        stop = frames.start + max(n, 0)
        source = slice(self.source[0].start, self.source[0].start + max(n, 0))
        return replace(self, source=(source, *self.source[1:]), place=(slice(frames.start, stop), *self.place[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Frames of one detector: its group, shape and type of the frames, and their parts.

    ``parts`` holds only frames that lie on the disk; ``lost`` names the files that cannot be opened.
    """

    group: h5py.Group
    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    parts: tuple[Part, ...]
    lost: tuple[str, ...]

    @property
    def detector(self) -> str:
        """Name of the detector."""
        return str(self.group.name.rpartition("/")[2])

    def has_frame(self, n_frames: int) -> NDArray[np.bool_]:
        """Return which of ``n_frames`` frames lie on the disk, with all their pixels."""
        covered = np.zeros(max(n_frames, self.shape[0]), dtype=np.int64)
        for part in self.parts:
            covered[part.place[0]] += math.prod(pixels.stop - pixels.start for pixels in part.place[1:])
        complete: NDArray[np.bool_] = covered[:n_frames] >= math.prod(self.shape[1:])
        return complete

    def read(self, n_frames: int, place: str) -> Frames:
        """Return the first ``n_frames`` frames in the file's data type, zeros where a frame is missing.

        Raises
        ------
        IntensitiesError
            If there are too many voxels; ``place`` names the scan.
        """
        shape = (n_frames, *self.shape[1:])
        require_few(shape, place)
        frames = np.zeros(shape, dtype=self.dtype)
        for part in self.parts:
            wanted = part.first(min(part.place[0].stop, n_frames) - part.place[0].start)
            with _opened(part.file) as file:
                if wanted.place[0].stop > wanted.place[0].start:
                    file[part.dataset].read_direct(frames, wanted.source, wanted.place)
        return frames


def find_stack(scan: BlissScan, known: Collection[str]) -> tuple[Stack, tuple[str, ...]]:
    """Return the frames of the scan's detector, and notes on other detectors.

    Parameters
    ----------
    scan
        Scan, which may name its detector.
    known
        Detectors of Bragg peaks by name: if several detectors have frames, the only one of these is taken.

    Raises
    ------
    RecordingError
        If there is no detector with frames, if it cannot be told which one is meant, or if none of its frames lies on
        the disk.
    """
    instrument = scan.group.get("instrument")
    names = list(instrument) if isinstance(instrument, h5py.Group) else []
    datasets = {name: stack for name in names if (stack := _dataset_of(instrument[name])) is not None}
    name = _choice(scan, list(datasets), known)
    stack = _survey(scan, instrument[name], datasets[name])
    other = [detector for detector in datasets if detector != name]
    note = f"detector {name} is read; there is also {', '.join(other)} (--scan {scan.name}/{{}})"
    return stack, (note.format(other[0]),) if other else ()


def _choice(scan: BlissScan, names: list[str], known: Collection[str]) -> str:
    candidates = [scan.detector] if scan.detector else names if len(names) == 1 else [n for n in names if n in known]
    if len(candidates) == 1 and candidates[0] in names:
        return str(candidates[0])
    if not names:
        raise RecordingError(
            f"{scan.place}: expected frames (n, rows, cols) in instrument/DETECTOR/{STACKS[0]}, got none: "
            "the scan took no images, or is still open"
        )
    asked = f"no frames of {scan.detector}" if scan.detector else "several"
    raise RecordingError(
        f"{scan.place}: expected one detector, got {asked}; there are: {', '.join(names)}. Give --scan "
        f"{scan.name}/{names[0]}"
    )


def _dataset_of(detector: h5py.Group) -> h5py.Dataset | h5py.ExternalLink | None:
    """Return the frames of a detector's group, or the link to them if its file is lost; None if there are none."""
    if not isinstance(detector, h5py.Group):
        return None
    for name in STACKS:
        link = detector.get(name, getlink=True)
        item = None if link is None else detector.get(name)
        if isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype.kind in "iuf":
            return item
        if item is None and isinstance(link, h5py.ExternalLink):
            return link
    return None


def _survey(scan: BlissScan, detector: h5py.Group, frames: h5py.Dataset | h5py.ExternalLink) -> Stack:
    """Return the parts of a stack that lie on the disk; raises `RecordingError` if there are none."""
    if isinstance(frames, h5py.ExternalLink):
        raise _lost(scan, detector, [frames.filename])
    parts, lost = [], []
    for part in _parts(frames):
        n = _n_on_disk(part)
        lost += [str(part.file)] if n is None else []
        parts += [part.first(n)] if n else []
    if not parts:
        raise _lost(scan, detector, lost or [str(part.file) for part in _parts(frames)])
    return Stack(group=detector, shape=frames.shape, dtype=frames.dtype, parts=tuple(parts), lost=tuple(lost))


def _lost(scan: BlissScan, detector: h5py.Group, files: list[str]) -> RecordingError:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return RecordingError(
        f"{scan.place}: expected the frames of {detector.name.rpartition('/')[2]} in {files[0]}{more}, got no "
        "such file, or one without frames: copy the folder of the detector's files beside the master file"
    )


def _parts(frames: h5py.Dataset) -> list[Part]:
    """Return the parts of a dataset; one that is not virtual has a single part, itself."""
    file = Path(frames.file.filename)
    if not frames.is_virtual:
        everything = tuple(slice(0, n) for n in frames.shape)
        return [Part(file=file, dataset=frames.name, source=everything, place=everything)]
    return [_source_part(frames, *source) for source in frames.virtual_sources()]


def _source_part(
    frames: h5py.Dataset, place: h5py.h5s.SpaceID, file_name: str, dataset: str, source: h5py.h5s.SpaceID
) -> Part:
    """Return the part of a virtual dataset that one of its sources holds.

    The arguments behind the first are the fields of h5py's `VDSmap`.
    """
    target = _box(place, frames)
    is_whole = source.get_select_type() == h5py.h5s.SEL_ALL  # its shape is not stored then
    whole = tuple(slice(0, side.stop - side.start) for side in target)
    return Part(
        file=_source_file(Path(frames.file.filename), file_name),
        dataset=dataset,
        source=whole if is_whole else _box(source, frames),
        place=target,
    )


def _source_file(master: Path, name: str) -> Path:
    """Return the file of a virtual dataset's source; names are relative to the master file."""
    moved = master.parent / Path(name).name
    return (
        master if name == "." else next((p for p in (master.parent / name, moved) if p.is_file()), master.parent / name)
    )


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


def _n_on_disk(part: Part) -> int | None:
    """Return how many frames of a part its file holds; None if the file or its dataset cannot be opened."""
    try:
        with _opened(part.file) as file:
            dataset = file.get(part.dataset)
            if not isinstance(dataset, h5py.Dataset) or dataset.ndim != len(part.source):
                return None
            if any(n < box.stop for n, box in zip(dataset.shape[1:], part.source[1:], strict=True)):
                return None
            return int(np.clip(dataset.shape[0] - part.source[0].start, 0, part.source[0].stop - part.source[0].start))
    except OSError:
        return None


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading without a lock, so that a running scan can go on writing."""
    with h5py.File(path, "r", locking=False) as file:
        yield file
