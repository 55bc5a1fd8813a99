"""Export a result file for other programs: CXI for silx, PyNX and cdiutils, VTI for ParaView.

In both formats arrays stay ``[z, y, x]`` in lab axes, and r = 0 stays at voxel N//2.  CXI holds the complex crystal
with its own phase, and the meaning of the phase under ``/entry_1/cdi_stream``.  VTI holds real fields: lengths are in
nanometres, and the phase is relative to its mean in the support.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement

import h5py
import numpy as np

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import ConfigError
from cdi_stream.files.result_file import StoredResult, lattice_maps, read_result
from cdi_stream.geometry.affine import Floats

_AXES = ("z", "y", "x")
_MAP = ("coordinates", "fourier_sign", "handedness", "q0_lab_inv_m", "bq_lab_inv_m", "sample_to_lab")
_MAP_MEANING = (
    "Diffraction of the crystal: q(i) = q0 + bq (i - N//2) for voxel i in [z, y, x]; vectors are (x, y, z) in lab "
    "axes, z along the beam, y up, x outboard, unless the beamline names its own. F(q) = sum rho exp(fourier_sign * 1j "
    "* q.r): with +1, a displacement u has the phase +q0.u, and programs that take numpy's fft for this sum hold the "
    "complex conjugate. v_lab = sample_to_lab v_sample."
)


def export_result(source: Path, target: Path) -> None:
    """Write the crystal of a result file as CXI 1.4 (``.cxi``) or VTK ImageData (``.vti``), by the target's suffix.

    The target gets its name only when it is complete; an existing file is replaced.

    Raises
    ------
    ConfigError
        If the target has another suffix.
    RecordingError
        If the source is no result file of cdi-stream, or its curve gave no crystal.
    """
    write = _WRITERS.get(target.suffix.lower())
    if write is None:
        raise ConfigError(
            f"{target}: expected a name that ends in .cxi or .vti, got {target.suffix!r}: "
            "choose .cxi for silx, PyNX or cdiutils, .vti for ParaView"
        )
    result = read_result(source)
    with atomic_write(target) as part:
        write(result, part)


def _write_cxi(result: StoredResult, path: Path) -> None:
    """Write CXI 1.4, with NeXus attributes by which a viewer finds the crystal."""
    numbers = result.numbers
    with h5py.File(path, "w") as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry_1"})
        file["cxi_version"], file["number_of_entries"] = 140, 1
        entry = _group(file, "entry_1", "NXentry", default="data_1")
        file["entry_last"] = h5py.SoftLink(entry.name)  # the entry that PyNX reads
        entry["title"] = f"series {numbers['series']}, curve {numbers['curve_index']}: {numbers['verdict']}"
        entry["program_name"] = f"cdi-stream {version('cdi-stream')}"
        image = _add_image(entry, result)
        _add_process(image, numbers)
        plot = _group(entry, "data_1", "NXdata", signal="data", axes=_AXES, title=entry["title"][()])
        for name in ("data", *_AXES):
            plot[name] = h5py.SoftLink(f"{image.name}/{name}")
        meaning = _group(entry, "cdi_stream", "NXcollection")
        meaning["description"] = _MAP_MEANING
        lattice = _group(entry, "lattice", "NXdata", signal="strain", axes=_AXES)
        for name, values in lattice_maps(result).items():
            lattice.create_dataset(name, data=values.astype("<f4"), compression="gzip", shuffle=True)
            lattice[name].attrs["units"] = "nm" if name.endswith("_nm") else ""
        for name in _AXES:
            lattice[name] = h5py.SoftLink(f"{image.name}/{name}")
        for name in _MAP:
            meaning[name] = numbers[name]


def _add_image(entry: h5py.Group, result: StoredResult) -> h5py.Group:
    """Add ``image_1``: the crystal, its support and its place in the lab, in metres."""
    image = _group(entry, "image_1", "NXdata", signal="data", axes=_AXES)
    # The CXI document has one bit, 0x10000, for the support; PyNX and cdiutils write and expect 1 and 0.
    for name, array in {"data": result.density, "mask": result.support}.items():
        image.create_dataset(name, data=array, compression="gzip", shuffle=True)
    image["support"] = h5py.SoftLink(f"{image.name}/mask")
    image["data_type"], image["data_space"] = "electron density", "real"
    image["dimensionality"], image["is_fft_shifted"] = 3, 0
    for name, lengths in {"image_size": result.voxel_m * result.density.shape, "voxel_size": result.voxel_m}.items():
        image[name] = lengths
        # The order of "width, height and depth" is ambiguous; PyNX and cdiutils use the order of the array's axes.
        image[name].attrs.update({"units": "m", "order": ":".join(_AXES)})
    for axis, n, step in zip(_AXES, result.density.shape, result.voxel_m, strict=True):
        image[axis] = (np.arange(n) - n // 2) * step
        image[axis].attrs["units"] = "m"
    return image


def _add_process(image: h5py.Group, numbers: Mapping[str, Any]) -> None:
    """Add ``process_1``: the program, and all metrics of the crystal; ``version`` is that of the exporting program."""
    process = _group(image, "process_1", "NXprocess")
    process["program"], process["version"] = "cdi-stream", version("cdi-stream")
    process["comments"] = f"{numbers['verdict']}: {numbers['reasons']}"
    results = _group(process, "results", "NXcollection")
    for name in numbers.keys() - {*_MAP, "affine"}:
        results[name] = numbers[name]


def _group(parent: h5py.Group, name: str, nx_class: str, **attributes: Any) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update({"NX_class": nx_class, **attributes})
    return group


def _write_vti(result: StoredResult, path: Path) -> None:
    """Write VTK XML ImageData with base64 data, which any XML parser can read; VTK's order is x, y, z."""
    counts, spacing_nm = np.array(result.density.shape[::-1]), result.voxel_m[::-1] * 1e9
    extent = " ".join(f"0 {n - 1}" for n in counts)
    place = {"WholeExtent": extent, "Origin": _words(-spacing_nm * (counts // 2)), "Spacing": _words(spacing_nm)}
    root = Element("VTKFile", type="ImageData", version="1.0", byte_order="LittleEndian", header_type="UInt64")
    piece = SubElement(SubElement(root, "ImageData", place), "Piece", Extent=extent)
    points = SubElement(piece, "PointData", Scalars="amplitude")
    for name, array in _pictures(result).items():
        vtk_type = "UInt8" if array.dtype == np.uint8 else "Float32"
        SubElement(points, "DataArray", type=vtk_type, Name=name, format="binary").text = _encoded(array)
    ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _pictures(result: StoredResult) -> dict[str, np.ndarray]:
    """Return the fields by name: amplitude, wrapped phase (0 outside the support), support, and maps of the lattice.

    There are no maps without Q_0.
    """
    inside = result.support > 0
    # The global phase is arbitrary; relative to the mean, few voxels are near a wrap.
    mean = result.density[inside].sum(dtype=np.complex128)
    phase = np.where(inside, np.angle(result.density * mean.conj()), 0.0)
    pictures = {"amplitude": np.abs(result.density).astype("<f4"), "phase_rad": phase.astype("<f4")}
    pictures |= {name: values.astype("<f4") for name, values in lattice_maps(result).items()}
    return pictures | {"support": inside.astype(np.uint8)}


def _words(numbers: Floats) -> str:
    return " ".join(repr(float(number)) for number in numbers)


def _encoded(array: np.ndarray) -> str:
    """Return the number of bytes and the bytes in base64; C order of ``[z, y, x]`` is VTK's order, x fastest."""
    data = array.tobytes()
    return base64.b64encode(struct.pack("<Q", len(data)) + data).decode()


_WRITERS: dict[str, Callable[[StoredResult, Path], None]] = {".cxi": _write_cxi, ".vti": _write_vti}
