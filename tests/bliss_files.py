"""HDF5 files as BLISS writes them at ID01: a master file, and the files of Lima in a folder beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

N_FRAMES, ROWS, COLS = 20, 24, 32
SHAPE = (N_FRAMES, ROWS, COLS)
ETA = 15.24 + 0.08 * np.arange(N_FRAMES)
MOTORS: dict[str, tuple[float, str]] = {
    "phi": (44.997125, "deg"),
    "nu": (-0.42, "deg"),
    "delta": (37.046, "deg"),
    "mononrj": (9.99999814, "keV"),
    "pix": (52.25, "um"),
}
HEADER: dict[str, float] = {
    "y_pixel_size": 5.5e-5,
    "x_pixel_size": 5.6e-5,
    "beam_center_y": 10.25,
    "beam_center_x": 17.5,
    "distance": 0.5668,
    "saturation_value": 401540,
    "acq_parameters/acq_expo_time": 1,
}
DETECTOR = "mpx1x4"


def peak_frames(shape: tuple[int, int, int] = SHAPE, seed: int = 3) -> NDArray[np.int32]:
    """Return counts of a peak in the middle, of the data type that Lima writes for Maxipix."""
    axes = [np.arange(n) - n // 2 for n in shape]
    f, r, c = np.meshgrid(*axes, indexing="ij")
    return np.random.default_rng(seed).poisson(2000 * np.exp(-(f**2 + r**2 + c**2) / 8)).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class BlissEntry:
    """One scan; ``tracks`` are the motors with a position for each point, ``region`` is (row, col, height, width)."""

    name: str = "20.1"
    title: str = "ascan eta 15.24 16.76 19 1"
    frames: NDArray = field(default_factory=peak_frames)
    detectors: tuple[str, ...] = (DETECTOR,)
    tracks: Mapping[str, NDArray] = field(default_factory=lambda: {"eta": ETA})
    motors: Mapping[str, tuple[float, str]] = field(default_factory=lambda: MOTORS)
    header: Mapping[str, float] = field(default_factory=lambda: HEADER)
    instrument: str = "ESRF-id01"
    region: tuple[int, int, int, int] | None = (2, 3, 20, 25)
    n_planned: int = N_FRAMES
    frames_per_file: int = 1000
    has_ended: bool = True

    @property
    def folder(self) -> str:
        """Folder of Lima's files."""
        return f"scan00{self.name.rpartition('_')[2].removesuffix('.1')}"


def bliss_file(folder: Path, *entries: BlissEntry, name: str = "sample_0001.h5") -> Path:
    """Write a master file with the files of its detectors, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / name, "w") as file:
        file.attrs.update({"NX_class": "NXroot", "creator": "Bliss"})
        for entry in entries or (BlissEntry(),):
            _write_entry(file, entry, folder)
    return folder / name


def lima_files(folder: Path, entry: BlissEntry, detector: str = DETECTOR) -> list[Path]:
    """Write the frames of one detector in files of ``frames_per_file`` frames, and return their paths."""
    (folder / entry.folder).mkdir(exist_ok=True)
    paths = []
    for k in range(0, len(entry.frames), entry.frames_per_file):
        paths.append(folder / entry.folder / f"{detector}_{len(paths):04d}.h5")
        with h5py.File(paths[-1], "w") as file:
            part = entry.frames[k : k + entry.frames_per_file]
            file.create_dataset(_inside(detector), data=part, chunks=(1, *part.shape[1:]), compression="gzip")
    return paths


def _write_entry(file: h5py.File, entry: BlissEntry, folder: Path) -> None:
    scan = file.create_group(entry.name)
    scan.attrs["NX_class"] = "NXentry"
    scan["title"], scan["start_time"] = entry.title, "2023-03-08T03:11:00.332696+01:00"
    if entry.has_ended:
        scan["end_time"] = "2023-03-08T03:12:41.034123+01:00"
    scan["instrument/name"] = entry.instrument
    n = len(entry.frames)
    for motor, track in entry.tracks.items():
        _value(scan, f"instrument/{motor}/value", track, "deg")
        scan[f"instrument/positioners/{motor}"] = h5py.SoftLink(f"/{entry.name}/instrument/{motor}/value")
        scan[f"measurement/{motor}"] = h5py.SoftLink(f"/{entry.name}/instrument/{motor}/value")
    for motor, (value, unit) in entry.motors.items():
        _value(scan, f"instrument/positioners/{motor}", value, unit)
    scan["measurement/epoch"] = 1.6e9 + 2.0 * np.arange(n)
    scan["measurement/mon2"] = 58.6 + 0.1 * (np.arange(n) % 2)
    for detector in entry.detectors:
        _write_detector(scan, entry, detector, folder)


def _write_detector(scan: h5py.Group, entry: BlissEntry, detector: str, folder: Path) -> None:
    group = scan.create_group(f"instrument/{detector}")
    for name, value in entry.header.items():
        group[name] = value
    group["acq_parameters/acq_nb_frames"] = entry.n_planned
    mask = np.zeros(entry.frames.shape[1:], dtype=np.uint8)
    mask[1, 2] = 1
    group["pixel_mask"] = mask
    layout = h5py.VirtualLayout(entry.frames.shape, entry.frames.dtype)
    for k, path in enumerate(lima_files(folder, entry, detector)):
        place = slice(k * entry.frames_per_file, min((k + 1) * entry.frames_per_file, len(entry.frames)))
        shape = (place.stop - place.start, *entry.frames.shape[1:])
        layout[place] = h5py.VirtualSource(str(path.relative_to(folder)), _inside(detector), shape, entry.frames.dtype)
    group.create_virtual_dataset("image", layout)
    group["data"] = h5py.SoftLink("image")
    scan[f"measurement/{detector}"] = h5py.SoftLink(f"{group.name}/image")
    if entry.region is not None:
        row, col, height, width = entry.region
        counter = scan.create_group(f"instrument/{detector}_int")
        sides = {"y": row, "x": col, "height": height, "width": width}
        for side, value in sides.items():
            counter[f"selection/{side}"] = value
        counter["sum"] = entry.frames[:, row : row + height, col : col + width].sum(axis=(1, 2), dtype=float)


def _value(group: h5py.Group, name: str, value: float | NDArray, unit: str) -> None:
    group[name] = value
    group[name].attrs["units"] = unit


def _inside(detector: str) -> str:
    return f"/entry_0000/instrument/{detector}/data"
