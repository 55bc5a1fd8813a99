"""Choose the detector of a BLISS scan, and read its frames from the files in which they lie."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError
from cdi_stream.files.intensities.limits import require_few
from cdi_stream_plugins.readers.bliss_names import STACKS
from cdi_stream_plugins.readers.bliss_parts import FramePart, n_on_disk, opened, parts_of
from cdi_stream_plugins.readers.bliss_scan import BlissScan
from cdi_stream_plugins.readers.frame_counts import Frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Frames of one detector: its group, shape and type of the frames, and their parts.

    ``parts`` holds only frames that lie on the disk; ``lost`` names the files that cannot be opened.
    """

    group: h5py.Group
    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    parts: tuple[FramePart, ...]
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
            with opened(part.file) as file:
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
    for part in parts_of(frames):
        n = n_on_disk(part)
        lost += [str(part.file)] if n is None else []
        parts += [part.first(n)] if n else []
    if not parts:
        raise _lost(scan, detector, lost or [str(part.file) for part in parts_of(frames)])
    return Stack(group=detector, shape=frames.shape, dtype=frames.dtype, parts=tuple(parts), lost=tuple(lost))


def _lost(scan: BlissScan, detector: h5py.Group, files: list[str]) -> RecordingError:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return RecordingError(
        f"{scan.place}: expected the frames of {detector.name.rpartition('/')[2]} in {files[0]}{more}, got no "
        "such file, or one without frames: copy the folder of the detector's files beside the master file"
    )
