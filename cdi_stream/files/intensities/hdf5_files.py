"""Arrays in CXI and other HDF5 files; no link leads to another file.

CXI (Maia 2012, doi:10.1038/nmeth.2110): intensities lie at ``/entry_1/data_1/data`` or
``/entry_1/instrument_1/detector_1/data``; a mask beside them has 0 where a pixel is good and bits elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (its import lets HDF5 read LZ4 and bitshuffle)
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import IntensitiesError
from cdi_stream.files.intensities.limits import require_few, require_intensities, require_mask

_DATA, _DETECTOR, _IMAGE = _PLACES = ("entry_1/data_1", "entry_1/instrument_1/detector_1", "entry_1/image_1")


def dataset_of(file: h5py.File, name: str, path: Path) -> h5py.Dataset | None:
    """Find a dataset whose values lie in this very file; None if there is none of that name.

    Raises
    ------
    IntensitiesError
        If a link or the storage leads to another file, or one chunk is larger than any array may be.
    """
    found = file.get(name)
    if found is None and file.get(name, getlink=True) is not None:
        raise IntensitiesError(f"{path}: expected data at /{name}, got a link that leads nowhere: write the data there")
    if not isinstance(found, h5py.Dataset):
        return None
    if found.file.filename != file.filename or found.external or found.is_virtual:
        raise IntensitiesError(
            f"{path}: expected the values of /{name} in the file itself, got a link to another file: "
            "copy the data into one file"
        )
    if found.chunks is not None:
        require_few(found.chunks, f"{path}: a chunk of /{name}")
    return found


def read_cxi(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_] | None, str | None]:
    """Read intensities, mask (converted: true = use) if there is one, and the names of the axes (``y:x``) if given.

    Raises
    ------
    IntensitiesError
        If there are no intensities or they lie in another file; broken files raise one of ``limits.UNREADABLE``.
    """
    with h5py.File(path, "r") as file:
        datasets = {place: found for place in _PLACES if (found := dataset_of(file, f"{place}/data", path)) is not None}
        if not datasets:
            raise IntensitiesError(f"{path}: expected intensities at /entry_1/data_1/data as in CXI, got none there")
        place = next((place for place, found in datasets.items() if found.dtype.kind != "c"), next(iter(datasets)))
        dataset = datasets[place]
        require_intensities(dataset.shape, dataset.dtype, f"{path}: /{place}/data")
        if dataset == datasets.get(_IMAGE):
            _require_diffraction(file, path)
        axes = dataset.attrs.get("axes")
        return dataset[()], _mask(file, path, (place, _DETECTOR, _DATA)), axes if isinstance(axes, str) else None


def read_cxi_mask(path: Path) -> NDArray[np.bool_]:
    """Read the mask of a CXI file, converted so that true = use; raises as `read_cxi`."""
    with h5py.File(path, "r") as file:
        mask = _mask(file, path, (_DETECTOR, _DATA, _IMAGE))
    if mask is None:
        raise IntensitiesError(f"{path}: expected a mask at /{_DETECTOR}/mask as in CXI, got none there")
    return mask


def _require_diffraction(file: h5py.File, path: Path) -> None:
    """An image of CXI may lie in real space or be shifted; intensities must not."""
    image = file[_IMAGE]
    space, is_shifted = (image[name][()] if name in image else None for name in ("data_space", "is_fft_shifted"))
    if space not in (b"diffraction", "diffraction"):
        raise IntensitiesError(
            f"{path}: expected measured intensities, got an image_1 whose data_space is {space!r}: "
            "give the data, not the reconstruction"
        )
    if is_shifted is not None and np.any(is_shifted):
        raise IntensitiesError(f"{path}: image_1 has is_fft_shifted set: bring its origin to voxel N//2 (fftshift)")


def _mask(file: h5py.File, path: Path, places: Iterable[str]) -> NDArray[np.bool_] | None:
    """First mask found; 0 = good."""
    for place in places:
        mask = dataset_of(file, f"{place}/mask", path)
        if mask is not None:
            require_mask(mask.shape, mask.dtype, f"{path}: /{place}/mask")
            return np.asarray(mask[()] == 0)
    return None
