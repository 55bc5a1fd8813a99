"""Maps of the crystal lattice along Q: displacement, strain and spacing of the lattice planes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import unwrap_phase

from cdi_stream.errors import GeometryError
from cdi_stream.geometry.affine import AffineMap, Floats
from cdi_stream.numerics.boxes import bounding_box
from cdi_stream.physics.strain import Complex, Mask, remove_phase_ramp, significant_voxels, strain


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Maps on the voxels of a crystal, relative to its mean lattice; NaN where ``is_significant`` is false.

    Parameters
    ----------
    density
        The crystal without the ramp and the offset of its phase, ``(*shape)``; zero outside its support.
    is_significant
        Voxels whose amplitude is large enough for their phase to mean something, see `significant_voxels`.
    affine
        Map from voxels to lab coordinates; ``affine.q0`` is the mean Q, ``(3,)`` [1/m], lab axes (x, y, z).
    delta_q
        Difference of the mean Q to the Q0 of the measurement, ``(3,)`` [1/m].
    displacement_m
        Displacement u along Q, phase / |Q| [m]; its mean is zero.
    strain
        Strain along Q, Qhat.grad(u); positive where the lattice is wider than its mean.
    """

    density: Complex
    is_significant: Mask
    affine: AffineMap
    delta_q: Floats
    displacement_m: Floats
    strain: Floats

    @property
    def voxel_m(self) -> Floats:
        """Lengths of the edges of a voxel along the array axes, ``(3,)`` [m]."""
        result: Floats = np.linalg.norm(self.affine.br, axis=0)
        return result

    @property
    def mean_spacing_m(self) -> float:
        """Mean spacing of the lattice planes, d = 2 pi / |Q| [m]."""
        return 2 * np.pi / float(np.linalg.norm(self.affine.q0))

    @property
    def spacing_m(self) -> Floats:
        """Spacing of the lattice planes at each voxel, d = 2 pi / |Q| (1 + strain) [m]."""
        return self.mean_spacing_m * (1 + self.strain)


class DensityOnGrid(Protocol):
    """Crystal, or anything else with its arrays and its map."""

    @property
    def density(self) -> Complex:
        """Complex density, ``(*shape)``."""

    @property
    def support(self) -> Mask | NDArray[np.uint8]:
        """The support: true inside the crystal, outside of which the density is zero, ``(*shape)``."""

    @property
    def affine(self) -> AffineMap:
        """Map of the diffraction."""


def lattice_of(crystal: DensityOnGrid) -> Lattice:
    """Return the lattice maps of a crystal, on the voxels of the crystal.

    The voxels may be in any coordinates: B_r converts to lab axes, and no array is resampled.  For maps on an
    orthogonal grid, resample the complex crystal before.

    Raises
    ------
    GeometryError
        If Q0 is zero: without a Bragg peak the phase does not describe a lattice.
    """
    if not crystal.affine.q0.any():
        raise GeometryError("lattice: expected the Q0 of a Bragg peak, got Q0 = 0; give a crystal with its geometry")
    support = crystal.support.astype(bool)
    is_significant = significant_voxels(crystal.density, support)
    density, affine = remove_phase_ramp(crystal.density, is_significant, crystal.affine)
    return Lattice(
        density=density * support,
        is_significant=is_significant,
        affine=affine,
        delta_q=affine.q0 - crystal.affine.q0,
        displacement_m=displacement(density, is_significant, affine),
        strain=strain(density, is_significant, affine),
    )


def displacement(density: Complex, support: Mask, affine: AffineMap) -> Floats:
    """Return the displacement along Q, unwrapped phase / |Q| [m], relative to its mean; NaN outside the support.

    The phase is unwrapped inside the support, in the order of the reliability of neighbouring voxels: Herraez et al.
    (2002), Appl. Opt. 41, 7437, doi:10.1364/AO.41.007437, in scikit-image.  Between parts of the support that do not
    touch, the displacement is ambiguous by multiples of 2 pi / |Q|.  Around a dislocation no unwrapped phase is right;
    use the strain there, which needs no unwrapping.  The mean is weighted with |rho|^2.
    """
    phase, box = np.full(density.shape, np.nan), bounding_box(support)
    if not support.any():
        return phase
    masked = np.ma.array(np.angle(density[box]), mask=~support[box])
    phase[box] = np.ma.filled(unwrap_phase(masked, rng=0).astype(float), np.nan)
    weight = np.abs(density[support]) ** 2 + np.finfo(float).tiny
    phase -= np.average(phase[support], weights=weight)
    return affine.fourier_sign * phase / float(np.linalg.norm(affine.q0))
