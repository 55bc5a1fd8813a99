"""Views of a stored crystal for the page: slices at any depth, the surface as a mesh, and a small picture."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from cdi_stream.files.result_file import StoredResult, read_result
from cdi_stream.geometry.affine import Floats
from cdi_stream.operators.colours import PHASE_COLOURS
from cdi_stream.physics.lattice import Lattice, lattice_of
from cdi_stream.physics.surface import surface_of

QUANTITIES = {"amplitude": "", "phase": "rad", "displacement": "nm", "strain": ""}
"""Quantities of a slice, with their units; the surface has all but the amplitude."""

AXES = "zyx"
"""Axes of the array of a crystal, in order."""

THUMBNAIL_PIXELS = 96
"""Side of the small picture [pixels]."""

KEPT = 4
"""Number of crystals that stay in memory, about 50 MB each."""

View = tuple[dict[str, object], dict[str, NDArray[np.generic]]]
"""Header and arrays, as `cdi_stream.operators.binary` sends them."""


@dataclass(frozen=True)
class CrystalViews:
    """Views of one crystal.

    A map is sent as ``uint8``: 0 is outside the crystal, 1 to 255 run from ``low`` to ``high`` of the header.  The
    amplitude runs from 0 to 255 and is relative to its maximum.  The phase is relative to its mean.
    """

    stored: StoredResult

    @cached_property
    def lattice(self) -> Lattice | None:
        """Maps of the lattice; None if Q0 is unknown."""
        return lattice_of(self.stored) if self.stored.affine.q0.any() else None

    @cached_property
    def unit_phase(self) -> complex:
        """Factor of modulus 1 that takes the mean phase of the crystal to zero."""
        factor: complex = np.exp(-1j * np.angle(self.stored.density.sum(where=self.stored.support > 0)))
        return factor

    @cached_property
    def maps(self) -> dict[str, Floats]:
        """Maps by quantity, on the voxels of the crystal; NaN outside the crystal."""
        density, inside = self.stored.density, self.stored.support > 0
        amplitude = np.abs(density) / max(float(np.abs(density).max()), 1e-30)
        phase = np.angle(density * self.unit_phase)
        maps = {"amplitude": amplitude, "phase": np.where(inside, phase, np.nan)}
        if self.lattice is not None:
            maps |= {"displacement": self.lattice.displacement_m * 1e9, "strain": self.lattice.strain}
        return maps

    @cached_property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value with a colour of its own, by quantity; 0 is in the middle but for the amplitude."""
        limits = {"amplitude": (0.0, 1.0), "phase": (-np.pi, np.pi)}
        for name in self.maps.keys() - limits.keys():
            values = np.abs(self.maps[name][np.isfinite(self.maps[name])])
            most = max(float(np.percentile(values, 99)), 1e-12) if values.size else 1.0
            limits[name] = (-most, most)
        return limits

    def slice(self, quantity: str, axis: str, index: int | None = None) -> View:
        """Return the slice across an axis at a voxel, by default through the origin N//2.

        Raises
        ------
        ValueError
            If the crystal has no such quantity, or the index lies outside the array.
        """
        if quantity not in self.maps:
            raise ValueError(f"quantity: expected one of {', '.join(self.maps)}, got {quantity!r:.40}")
        number, shape = AXES.index(axis), self.stored.density.shape
        index = shape[number] // 2 if index is None else index
        if not 0 <= index < shape[number]:
            raise ValueError(f"index: expected 0 to {shape[number] - 1} along {axis}, got {index}")
        image = self._in_bytes(quantity, np.take(self.maps[quantity], index, axis=number))
        sides_nm = [1e9 * side for k, side in enumerate(self.stored.voxel_m) if k != number]
        header = {"kind": "slice", "quantity": quantity, "axis": axis, "index": index, "n": shape[number]}
        return header | self._scale(quantity) | {"voxel_nm": sides_nm}, {"slice": image}

    def mesh(self) -> View:
        """Return the surface: ``vertices`` (``uint16``, times ``step_nm``, plus ``origin_nm``, lab axes x, y, z),
        ``normals`` (``int8``, times 1/127), ``triangles``, and the value of each quantity at the vertices.

        Raises
        ------
        CurveError
            If the crystal has no surface.
        ValueError
            If Q0 of the crystal is unknown.
        """
        if self.lattice is None:
            raise ValueError("the crystal has no surface in the laboratory: its Q0 is unknown")
        surface = surface_of(self.lattice)
        vertices_nm = 1e9 * surface.vertices_m
        origin_nm = vertices_nm.min(axis=0)
        step_nm = float((vertices_nm - origin_nm).max()) / 65535
        depth_m = float(np.cbrt(self.stored.affine.voxel_volume_m3))
        values = {
            "phase": self._phase_at(surface.vertices_m - depth_m * surface.normals),
            "displacement": 1e9 * surface.displacement_m,
            "strain": surface.strain,
        }
        arrays = {
            "vertices": np.rint((vertices_nm - origin_nm) / step_nm).astype(np.uint16),
            "normals": np.rint(127 * surface.normals).astype(np.int8),
            "triangles": surface.triangles.astype(np.uint32),
        } | {name: self._in_bytes(name, value) for name, value in values.items()}
        scales = {name: self._scale(name) for name in values}
        return {"kind": "mesh", "origin_nm": origin_nm.tolist(), "step_nm": step_nm, "scales": scales}, arrays

    def thumbnail(self) -> bytes:
        """Return a PNG of the middle slice [y, x]: the colour is the phase, the light the amplitude."""
        middle = self.stored.density.shape[0] // 2
        amplitude, phase = (self.maps[name][middle] for name in ("amplitude", "phase"))
        turn = np.nan_to_num((phase + np.pi) / (2 * np.pi))
        colours = (
            PHASE_COLOURS[np.clip(254 * turn, 0, 254).astype(int)]
            * (np.sqrt(amplitude) * np.isfinite(phase))[..., None]
        )
        picture = Image.fromarray(_cut(colours, amplitude > 0.1)[::-1].astype(np.uint8))  # y points up
        content = BytesIO()
        picture.resize((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.BICUBIC).save(content, "PNG")
        return content.getvalue()

    def _in_bytes(self, quantity: str, values: Floats) -> NDArray[np.uint8]:
        low, high = self.limits[quantity]
        share = np.clip((values - low) / (high - low), 0, 1)
        if quantity == "amplitude":
            return np.asarray(255 * share, dtype=np.uint8)
        return np.where(np.isfinite(share), 1 + 254 * np.nan_to_num(share), 0).astype(np.uint8)

    def _scale(self, quantity: str) -> dict[str, object]:
        low, high = self.limits[quantity]
        return {"low": low, "high": high, "unit": QUANTITIES[quantity]}

    def _phase_at(self, places_m: Floats) -> Floats:
        """Return the phase at places in the laboratory, relative to the mean phase [rad]."""
        density, index = self.stored.density, self.stored.affine.index_at(places_m)
        parts = [map_coordinates(part, index, order=1) for part in (density.real, density.imag)]
        result: Floats = np.angle((parts[0] + 1j * parts[1]) * self.unit_phase)
        return result


class ViewCache:
    """Views of the crystals that were asked for last.  Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, float], CrystalViews] = OrderedDict()

    def of(self, path: Path) -> CrystalViews:
        """Return the views of the crystal in a file; raises `RecordingError` if the file holds none."""
        with self._lock:
            key = (path, path.stat().st_mtime if path.exists() else 0.0)
            if key not in self._kept:
                self._kept[key] = CrystalViews(read_result(path))
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


def _cut(picture: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Return the square about the crystal, with a margin; the whole picture if there is no crystal."""
    places = np.argwhere(inside)
    if not len(places):
        return picture
    low, high = places.min(axis=0), places.max(axis=0) + 1
    side = int((high - low).max() * 1.25) + 2
    middle = (low + high) // 2
    padded = np.pad(picture, ((side, side), (side, side), (0, 0)))
    row, col = middle + side - side // 2
    return padded[row : row + side, col : col + side]
