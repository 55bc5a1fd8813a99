"""The lattice of a crystal as maps: displacement, strain and spacing along Q."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.restoration import unwrap_phase

from cdi_stream.errors import GeometryError
from cdi_stream.geometry.affine import AffineMap, Floats
from cdi_stream.messages import Crystal
from cdi_stream.physics.strain import Complex, Mask, level, solid, strain


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Maps of a crystal on its own voxels, counted from its mean lattice; NaN where ``is_solid`` is false.

    Parameters
    ----------
    density
        The crystal less the ramp and the offset of its phase, the shape of ``affine``; zero outside its support.
    is_solid
        Where its amplitude is large enough for a phase, see `solid`.
    affine
        Map of its diffraction; ``affine.q0`` is the mean Q, ``(3,)`` [1/m], lab axes (x, y, z).
    delta_q
        What the mean Q is off the measured map's Q0, ``(3,)`` [1/m].
    displacement_m
        Displacement u along Q = phase/|Q| [m], its mean zero.
    strain
        Qhat.grad(u), positive where the lattice is wider than its mean.
    """

    density: Complex
    is_solid: Mask
    affine: AffineMap
    delta_q: Floats
    displacement_m: Floats
    strain: Floats

    @property
    def voxel_m(self) -> Floats:
        """Lengths of a voxel's edges along the array axes, ``(3,)``."""
        result: Floats = np.linalg.norm(self.affine.br, axis=0)
        return result

    @property
    def mean_spacing_m(self) -> float:
        """Mean spacing of the lattice planes, d = 2 pi/|Q|."""
        return 2 * np.pi / float(np.linalg.norm(self.affine.q0))

    @property
    def spacing_m(self) -> Floats:
        """Spacing of the lattice planes at each voxel, d = 2 pi/|Q| (1 + strain)."""
        return self.mean_spacing_m * (1 + self.strain)


def lattice_of(crystal: Crystal) -> Lattice:
    """Return the lattice of a crystal in any coordinates, on the crystal's own voxels.

    Nothing is resampled: B_r brings all to lab axes.  Where a map on an orthogonal grid is wanted, resample the
    complex crystal before.

    Raises
    ------
    GeometryError
        If Q0 is zero: without a Bragg peak a phase says nothing of a lattice.
    """
    if not crystal.affine.q0.any():
        raise GeometryError("strain: expected the Q of a Bragg peak, got Q0 = 0; take a crystal with its geometry")
    is_solid = solid(crystal.density, crystal.support)
    density, affine = level(crystal.density, is_solid, crystal.affine)
    return Lattice(
        density=density * crystal.support,
        is_solid=is_solid,
        affine=affine,
        delta_q=affine.q0 - crystal.affine.q0,
        displacement_m=displacement(density, is_solid, affine),
        strain=strain(density, is_solid, affine),
    )


def displacement(density: Complex, support: Mask, affine: AffineMap) -> Floats:
    """Displacement along Q = unwrapped phase/|Q| [m], counted from its mean; NaN outside the support.

    Unwrapped by sorting bonds by reliability (Herraez et al. 2002, doi:10.1364/AO.41.007437; scikit-image), within
    the support only.  Parts that do not touch are off by any multiple of 2 pi/|Q|, and about a dislocation no
    choice is right: there trust the strain, which needs no unwrapping.  The mean is weighted with |rho|^2.
    """
    if not support.any():
        return np.full(density.shape, np.nan)
    phase = np.ma.filled(unwrap_phase(np.ma.array(np.angle(density), mask=~support), rng=0).astype(float), np.nan)
    weight = np.abs(density[support]) ** 2 + np.finfo(float).tiny
    phase -= np.average(phase[support], weights=weight)
    return affine.fourier_sign * phase / float(np.linalg.norm(affine.q0))
