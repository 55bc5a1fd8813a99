"""A chiral crystal with a known displacement: the truth with which a reconstruction is compared.

Positions are in sample axes (x, y, z) [m]; sample axes are lab axes when every sample circle is at zero.  Neither shape
nor displacement equals its mirror image, its inversion or its negative, so that a flipped or conjugated reconstruction,
or one with a wrong sign, differs from the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Normals and relative distances of the facets, irregular so that the shape has no improper symmetry.
_FACETS: tuple[tuple[float, float, float, float], ...] = (
    (1.0, 0.0, 0.1, 0.50),
    (-1.0, 0.2, 0.0, 0.46),
    (0.1, 1.0, 0.0, 0.40),
    (0.0, -1.0, 0.3, 0.36),
    (0.2, 0.0, 1.0, 0.33),
    (0.0, 0.1, -1.0, 0.27),
    (1.0, 1.0, 0.4, 0.46),
    (-1.0, 0.6, 1.0, 0.38),
    (0.4, -1.0, 1.0, 0.36),
    (0.9, -0.8, -1.0, 0.40),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChiralCrystal:
    """Shape, size and displacement of the simulated crystal.

    Parameters
    ----------
    size_m
        Length that scales the distances of the facets, about the length of the crystal [m].
    q_bragg
        Momentum transfer Q of the reflection in sample axes [1/m].
    phase_range_rad
        Range of Q.u over the crystal [rad].
    edge_m
        Width of the soft surface [m].
    """

    size_m: float
    q_bragg: tuple[float, float, float]
    phase_range_rad: float = 2.8
    edge_m: float = 2e-9

    def density(self, r: Floats) -> Floats:
        """Return the density, 1 inside and 0 outside, at positions ``(..., 3)`` [m]."""
        depth = np.full(r.shape[:-1], np.inf)
        for nx, ny, nz, distance in _FACETS:
            normal = np.array([nx, ny, nz]) / np.linalg.norm([nx, ny, nz])
            depth = np.minimum(depth, distance * self.size_m - r @ normal)
        return 0.5 * (1 + np.tanh(2 * depth / self.edge_m))

    def displacement(self, r: Floats) -> Floats:
        """Return the displacement u ``(..., 3)`` [m] along Q at positions ``(..., 3)`` [m]."""
        x, y, z = np.moveaxis(r / (0.5 * self.size_m), -1, 0)
        bump = np.exp(-((x - 0.45) ** 2 + (y + 0.25) ** 2 + (z - 0.2) ** 2) / 0.18)
        field = 0.45 * x * y + 0.5 * y * z - 0.35 * x * z + 0.4 * x**3 - 0.3 * z**2 + 0.9 * bump
        q = np.array(self.q_bragg)
        result: Floats = (self.phase_range_rad / 1.62 * field / np.linalg.norm(q))[..., None] * q / np.linalg.norm(q)
        return result

    def complex_density(self, r: Floats) -> Complex:
        """Return rho exp(+i Q.u) at positions ``(..., 3)`` [m], the crystal of a perfect reconstruction."""
        result: Complex = self.density(r) * np.exp(1j * self.displacement(r) @ np.array(self.q_bragg))
        return result
