"""The affine map of an array's voxels to reciprocal space: q(i) = Q_0 + B_q (i - N//2).

A crop, pad, bin or resampling of an array goes with a new map, so that the position of every voxel stays known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdi_stream.geometry.circles import FOURIER_SIGN

Floats = NDArray[np.float64]
Shape = tuple[int, int, int]
Coordinates = Literal["detector", "sample", "lab"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineMap:
    """Affine map from the voxels of a reciprocal-space array to momentum transfer.

    Parameters
    ----------
    shape
        Shape of the array.
    q0
        Q at the origin voxel N//2, ``(3,)`` [1/m], lab axes (x, y, z).
    bq
        Steps of q along the three array axes as columns, ``(3, 3)`` [1/m], lab axes.
    sample_to_lab
        Rotation S with v_lab = S v_sample at the reference frame, ``(3, 3)``.
    coordinates
        Axes of the array: detector [frame, row, col], lab [z, y, x] or sample [z, y, x].
    fourier_sign
        Sign of the exponent in F(q) = sum rho exp(sign i q.r).
    """

    shape: Shape
    q0: Floats
    bq: Floats
    sample_to_lab: Floats
    coordinates: Coordinates
    fourier_sign: int = FOURIER_SIGN

    def q(self, index: ArrayLike) -> Floats:
        """Return q ``(..., 3)`` [1/m] at voxel indices ``(..., 3)``, which may be fractional."""
        offset = np.asarray(index, dtype=float) - np.array(self.shape) // 2
        result: Floats = self.q0 + offset @ self.bq.T
        return result

    @property
    def br(self) -> Floats:
        """Steps of r along the axes of the Fourier-transformed array as columns, ``(3, 3)`` [m]."""
        result: Floats = 2 * np.pi * np.linalg.inv(self.bq).T / np.array(self.shape)
        return result

    def index_at(self, places_m: Floats) -> Floats:
        """Return the indices, ``(3, n)`` with fractions, of places in the crystal ``(n, 3)`` [m]; r = 0 is at N//2."""
        index: Floats = np.linalg.solve(self.br, places_m.T) + (np.array(self.shape) // 2)[:, None]
        return index

    @property
    def voxel_volume_m3(self) -> float:
        """Volume of a real-space voxel [m^3]."""
        return float(abs(np.linalg.det(self.br)))

    @property
    def handedness(self) -> int:
        """Sign of det B_q; -1 means that the array axes are a left-handed frame."""
        return 1 if np.linalg.det(self.bq) > 0 else -1

    def window(self, start: ArrayLike, shape: Shape) -> AffineMap:
        """Return the map of ``array[start:start+shape]``; a negative start or a larger shape is a pad."""
        return self._moved(np.asarray(start) + np.array(shape) // 2, shape, np.ones(3))

    def rolled(self, shift: ArrayLike) -> AffineMap:
        """Return the map of ``np.roll(array, shift)`` near the origin voxel."""
        return self._moved(np.array(self.shape) // 2 - np.asarray(shift), self.shape, np.ones(3))

    def binned(self, factors: ArrayLike) -> AffineMap:
        """Return the map of the array summed over blocks of ``factors`` voxels; a remainder at the end is dropped."""
        factors = np.asarray(factors)
        shape: Shape = tuple(int(n) for n in np.array(self.shape) // factors)  # type: ignore[assignment]
        return self._moved(factors * (np.array(shape) // 2) + (factors - 1) / 2, shape, factors)

    def of_crystal(self, shape: Shape) -> AffineMap:
        """Return the map of a crystal that is cut out, or padded, to ``shape``: its voxels stay as large."""
        return self._moved(np.array(self.shape) // 2, shape, np.array(self.shape) / np.array(shape))

    def _moved(self, origin: Floats, shape: Shape, scale: Floats) -> AffineMap:
        return AffineMap(
            shape=shape,
            q0=self.q(origin),
            bq=self.bq * scale,
            sample_to_lab=self.sample_to_lab,
            coordinates=self.coordinates,
            fourier_sign=self.fourier_sign,
        )


def lab_grid(source: AffineMap, shape: Shape, voxel_size_m: float) -> AffineMap:
    """Return an orthogonal lab grid [z, y, x] with cubic real-space voxels and the Q_0 of ``source``.

    Parameters
    ----------
    source
        Map whose Q_0 and sample rotation are kept.
    shape
        Shape of the grid.
    voxel_size_m
        Side of a real-space voxel [m].
    """
    steps = 2 * np.pi / (np.array(shape) * voxel_size_m)
    columns = np.eye(3)[:, ::-1] * steps  # array axes z, y, x in vectors (x, y, z)
    return AffineMap(shape=shape, q0=source.q0, bq=columns, sample_to_lab=source.sample_to_lab, coordinates="lab")
