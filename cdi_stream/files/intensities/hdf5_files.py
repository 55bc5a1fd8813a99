"""Read arrays from CXI and other HDF5 files; links to other files are refused.

CXI (Maia, Nature Methods 9, 854 (2012), doi:10.1038/nmeth.2110): intensities lie at ``/entry_1/data_1/data`` or
``/entry_1/instrument_1/detector_1/data``; a mask in the same group has 0 where a pixel is good and bits elsewhere.
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
    """Return a dataset whose values lie in the file itself; None if there is no dataset of that name.

    Parameters
    ----------
    file
        Open HDF5 file.
    name
        Name of the dataset inside the file.
    path
        Path of the file, for error messages.

    Raises
    ------
    IntensitiesError
        If a link or the storage leads to another file, or a chunk is larger than `limits.MAX_VOXELS`.
    """
    dataset = file.get(name)
    if dataset is None and file.get(name, getlink=True) is not None:
        raise IntensitiesError(f"{path}: expected data at /{name}, got a link that leads nowhere: write the data there")
    if not isinstance(dataset, h5py.Dataset):
        return None
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        raise IntensitiesError(
            f"{path}: expected the values of /{name} in the file itself, got a link to another file: "
            "copy the data into one file"
        )
    if dataset.chunks is not None:
        require_few(dataset.chunks, f"{path}: a chunk of /{name}")
    return dataset


def read_cxi(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_] | None, str | None]:
    """Return intensities, mask (true = use) and names of the axes (``y:x``) of a CXI file; None for a missing part.

    Raises
    ------
    IntensitiesError
        If there are no intensities or they lie in another file; broken files raise one of ``limits.UNREADABLE``.
    """
    with h5py.File(path, "r") as file:
        candidates = {place: dataset_of(file, f"{place}/data", path) for place in _PLACES}
        datasets = {place: data for place, data in candidates.items() if data is not None}
        if not datasets:
            raise IntensitiesError(f"{path}: expected intensities at /entry_1/data_1/data as in CXI, got none there")
        place = next((place for place, data in datasets.items() if data.dtype.kind != "c"), next(iter(datasets)))
        dataset = datasets[place]
        require_intensities(dataset.shape, dataset.dtype, f"{path}: /{place}/data")
        if dataset == datasets.get(_IMAGE):
            _require_diffraction(file, path)
        axes = dataset.attrs.get("axes")
        return dataset[()], _mask(file, path, (place, _DETECTOR, _DATA)), axes if isinstance(axes, str) else None


def read_cxi_mask(path: Path) -> NDArray[np.bool_]:
    """Return the mask of a CXI file, true = use; raises as `read_cxi`."""
    with h5py.File(path, "r") as file:
        mask = _mask(file, path, (_DETECTOR, _DATA, _IMAGE))
    if mask is None:
        raise IntensitiesError(f"{path}: expected a mask at /{_DETECTOR}/mask as in CXI, got none there")
    return mask


def _require_diffraction(file: h5py.File, path: Path) -> None:
    """Refuse a CXI image in real space, or with the order of an unshifted transform; raises `IntensitiesError`."""
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
    """Return the first mask among ``places``, true = use (in the file 0 = good); None if there is none."""
    for place in places:
        mask = dataset_of(file, f"{place}/mask", path)
        if mask is not None:
            require_mask(mask.shape, mask.dtype, f"{path}: /{place}/mask")
            return np.asarray(mask[()] == 0)
    return None
