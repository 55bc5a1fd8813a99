"""Positions in files that StreamDatum documents name, as fly scans write them.

A StreamResource names a dataset, its StreamDatums tell which part of the dataset belongs to which points of a stream.
Datasets with one number for each frame are positions; they are read as they grow, and become events of the stream.
Images are not read: frames come from the detector.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.documents.readings import whole
from cdi_stream.messages import Document

logger = logging.getLogger(__name__)

HDF5 = "application/x-hdf5"
"""Media type of the files that can be read."""

MAX_POINTS = 1_000_000
"""Largest number of points in one StreamDatum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionPart:
    """Part of a dataset with the positions of one data key.

    Parameters
    ----------
    path, dataset
        HDF5 file, and place of the dataset in it.
    key
        Data key.
    first, stop
        First element of the part, and the element behind its last one.
    point
        Number of the first point in its stream, from 1.
    is_per_frame
        Whether an event of the stream has several frames, so that points are not events.
    received_s
        Time of receipt of the StreamDatum [s since the epoch].
    """

    path: Path
    dataset: str
    key: str
    first: int
    stop: int
    point: int
    is_per_frame: bool
    received_s: float


def part_of(resource: Document, datum: Document, data_keys: Document, received_s: float) -> PositionPart | None:
    """Return the part of the positions that a StreamDatum names; None if its dataset holds no positions.

    Parameters
    ----------
    resource, datum
        StreamResource and StreamDatum.
    data_keys
        Data keys of the descriptor.
    received_s
        Time of receipt [s since the epoch].
    """
    key = resource.get("data_key")
    data_key = data_keys.get(str(key))
    shape = data_key.get("shape") if isinstance(data_key, Mapping) else None
    path, dataset = _path_of(resource.get("uri")), _dataset_of(resource)
    if resource.get("mimetype") != HDF5 or path is None or dataset is None or not isinstance(shape, list):
        return None
    n_frames = whole(shape[0]) if len(shape) == 1 else (1 if not shape else None)  # frames of an event
    indices, points = _range_of(datum.get("indices")), _range_of(datum.get("seq_nums"))
    if indices is None or not n_frames or n_frames < 1 or (indices[1] - indices[0]) * n_frames > MAX_POINTS:
        return None
    first_event = points[0] if points is not None and points[0] > 0 else indices[0] + 1
    return PositionPart(
        path=path,
        dataset=dataset,
        key=str(key),
        first=indices[0] * n_frames,
        stop=indices[1] * n_frames,
        point=(first_event - 1) * n_frames + 1,
        is_per_frame=n_frames > 1,
        received_s=received_s,
    )


def read_part(part: PositionPart) -> NDArray[np.float64]:
    """Return the positions of a part, ``(n,)``, as far as the file has them.

    Raises
    ------
    OSError, KeyError, ValueError
        If file or dataset cannot be read, or the dataset has no numbers in one column.
    """
    with _open(part.path) as file:
        dataset = file[part.dataset]
        if (
            not isinstance(dataset, h5py.Dataset)
            or dataset.dtype.kind not in "uif"
            or math.prod(dataset.shape[1:]) != 1
        ):
            raise ValueError(f"{part.path}: expected numbers, one a frame, at {part.dataset}, got {dataset!r:.80}")
        return np.asarray(dataset[part.first : part.stop], dtype=np.float64).reshape(-1)


def _open(path: Path) -> h5py.File:
    """Open a file, also one that another process writes at the moment; older files know no such reading."""
    try:
        return h5py.File(path, "r", swmr=True, locking=False)
    except (OSError, ValueError):
        return h5py.File(path, "r", locking=False)


def _path_of(uri: object) -> Path | None:
    """Return the path of a file on this machine, or on a file system that it shares; None for other addresses."""
    if not isinstance(uri, str):
        return None
    address = urlsplit(uri)
    return Path(unquote(address.path)) if address.scheme == "file" and address.path.startswith("/") else None


def _dataset_of(resource: Document) -> str | None:
    parameters = resource.get("parameters")
    dataset = parameters.get("dataset") if isinstance(parameters, Mapping) else None
    return dataset if isinstance(dataset, str) and dataset else None


def _range_of(value: object) -> tuple[int, int] | None:
    """Return a range of indices as (start, stop); None if it is none."""
    if not isinstance(value, Mapping):
        return None
    start, stop = whole(value.get("start")), whole(value.get("stop"))
    return (start, stop) if start is not None and stop is not None and 0 <= start <= stop else None
