"""From files to intensities and to reconstructions."""

from __future__ import annotations

from pathlib import Path

import h5py

from cdi_stream.errors import RecordingError
from cdi_stream.files.intensities.objects import LabObject
from cdi_stream.files.intensities.read import read_intensities
from cdi_stream.files.intensities.volume import Intensities
from cdi_stream.files.plot import LAB_AXES
from cdi_stream.files.result_file import StoredResult, read_result
from cdi_stream.interface.object_file import metrics_from, read_object
from cdi_stream.interface.reconstruction import Reconstruction
from cdi_stream.messages import Verdict


def read(path: str | Path, scan: int | str | None = None) -> Intensities:
    """Return the intensities of a file, with their mask and, where it is known, their geometry.

    Hot voxels, gaps, saturated voxels and islands of other grains are masked; no count is changed.

    Parameters
    ----------
    path
        File of 2D or 3D intensities: npy, npz (``data``, optional ``mask``), CXI, TIFF, or a recorded scan of
        cdi-stream.  Or a folder: of numbered TIFF files, or of a facility's scan that an installed reader knows.
    scan
        Number of the scan, for files and folders that hold several, or its name, such as ``"20.1"`` of BLISS.

    Raises
    ------
    IntensitiesError, RecordingError
        If the file cannot be read, or holds nothing to phase.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import cdi_stream as cdi
    >>> crystal = np.zeros((16, 16, 16))
    >>> crystal[5:11, 6:10, 6:11] = 1
    >>> counts = np.round(np.abs(np.fft.fftshift(np.fft.fftn(crystal))) ** 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "counts.npy", counts.astype(np.uint32))
    ...     intensities = cdi.read(Path(folder) / "counts.npy")
    >>> intensities.counts.shape, intensities.peak, intensities.affine is None
    ((16, 16, 16), (8, 8, 8), True)
    """
    return read_intensities(Path(path), scan=scan)


def load_result(path: str | Path) -> Reconstruction:
    """Return the reconstruction in a result file.

    Parameters
    ----------
    path
        Result file of the service (HDF5), its export as CXI, an object of the command ``phase`` (npz), or a file that
        `cdi_stream.Reconstruction.save` wrote.  An object of the command ``phase`` has no metrics, and its verdict is
        ``unknown``: the command prints them.

    Raises
    ------
    RecordingError
        If the file is no result of cdi-stream, or its curve gave no crystal.
    """
    path = Path(path)
    if not path.is_file():
        state = "a folder" if path.is_dir() else "no such file"
        raise RecordingError(f"{path}: expected a result file, got {state}: give the path of an h5, cxi or npz file")
    if not h5py.is_hdf5(path):
        return Reconstruction(**read_object(path))
    return _reconstruction_of(read_result(path))


def _reconstruction_of(result: StoredResult) -> Reconstruction:
    """Return a stored result as a reconstruction, whose object is the crystal in lab coordinates."""
    numbers = result.numbers
    lab = LabObject(density=result.density, support=result.support.astype(bool), affine=result.affine)
    return Reconstruction(
        object=lab.density,
        support=lab.support,
        metrics=metrics_from(numbers),
        verdict=Verdict(
            grade=str(numbers["verdict"]),
            reasons=tuple(filter(None, str(numbers["reasons"]).split(" | "))),
            crystal=str(numbers.get("verdict_crystal", "")),
            join=str(numbers.get("verdict_join", "")),
        ),
        affine=lab.affine,
        lab=lab,
        axes=LAB_AXES,
    )
