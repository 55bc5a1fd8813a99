"""Files of crystals simulated atom by atom, and training on them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Generator, Tensor

from cdi_stream.errors import ConfigError
from cdi_stream.training.atoms import (
    LATTICE_A,
    N_VOXELS,
    POTENTIAL,
    VOXEL_A,
    crystal_of,
    fields_of,
    lammps_version,
    simulated,
)
from cdi_stream.training.crystals import resampled
from cdi_stream.training.drawing import uniform
from cdi_stream.training.shapes import random_rotations
from cdi_stream.training.task import Task

REFLECTIONS: Final = ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (2, 0, 0), (0, 2, 0), (0, 0, 2))
"""Of each crystal; the twins of these come with the rotations."""
SCALES: Final = (0.9, 1.15)
"""Crystals are drawn up to so many times smaller, at the voxels that there are."""
UNSTRAINED_SHARE: Final = 0.5
"""As Chan et al. (2021): each crystal with its strain, and without."""
HELD_OUT_SHARE: Final = 0.1
MOST_CRYSTALS: Final = 10_000
"""Of a set, which is held in memory: 5 GB."""

_SHAPES = {
    "crystal": ((N_VOXELS,) * 3, np.complex64),
    "density": ((N_VOXELS,) * 3, np.float32),
    "displacement_a": ((3, *(N_VOXELS,) * 3), np.float32),
}


def write_set(file: Path, count: int, seed: int) -> None:
    """Write crystals to a file until it has ``count``; each is of a seed of its own, so it goes on where it stopped.

    ``crystal`` is turned at random, ``density`` and ``displacement_a`` are those of `fields_of`.

    Raises
    ------
    ConfigError
        If the file cannot be written, or holds crystals of another seed; or without LAMMPS.
    """
    lammps = lammps_version()
    with _opened(file) as out:
        if "seed" not in out.attrs:
            out.attrs.update(seed=seed, voxel_a=VOXEL_A, potential=POTENTIAL, lammps=lammps)
            for name, (shape, dtype) in _SHAPES.items():
                out.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
        if out.attrs["seed"] != seed:
            raise ConfigError(f"{file}: expected crystals of seed {seed}, got seed {out.attrs['seed']}")
        for k in range(min(len(out[name]) for name in _SHAPES), count):
            rng = np.random.default_rng((seed, k))
            atoms = simulated(rng)
            crystal = crystal_of(atoms, Rotation.random(rng=rng).as_matrix())
            for name, values in zip(_SHAPES, (crystal, *fields_of(atoms)), strict=True):
                out[name].resize(k + 1, axis=0)
                out[name][k] = values
            out.flush()


def _opened(file: Path) -> h5py.File:
    try:
        return h5py.File(file, "a")
    except OSError as error:
        raise ConfigError(
            f"{file}: expected an HDF5 file of crystals, or none yet in a folder that is: {error}"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomSet:
    """Relaxed crystals, of which many more are made: other rotations, scales, reflections, and without strain.

    ``density`` is ``(count, 32, 32, 32)``, ``displacement_a`` ``(count, 3, 32, 32, 32)`` [angstrom], see `fields_of`.
    """

    density: Tensor
    displacement_a: Tensor
    described: str

    @classmethod
    def read(cls, file: Path) -> AtomSet:
        """Read what `write_set` wrote.

        Raises
        ------
        ConfigError
            If the file does not hold such crystals.
        """
        try:
            with h5py.File(file) as stored:
                for name, (shape, dtype) in _SHAPES.items():
                    found = stored[name]
                    if found.shape[1:] != shape or found.dtype != dtype or not 0 < len(found) <= MOST_CRYSTALS:
                        raise ConfigError(
                            f"{file}, {name}: expected 1 to {MOST_CRYSTALS} crystals {shape} of {np.dtype(dtype)}, got "
                            f"{found.shape} of {found.dtype}; cdi-stream atoms makes them"
                        )
                density, displacement_a = (torch.from_numpy(stored[name][:]) for name in ("density", "displacement_a"))
        except (OSError, KeyError) as error:
            raise ConfigError(f"{file}: expected crystals of cdi-stream atoms: {error}") from error
        name = hashlib.sha256(density.numpy().tobytes() + displacement_a.numpy().tobytes()).hexdigest()[:12]
        described = f"made of {len(density)} of gold relaxed atom by atom (sha256 {name})"
        return cls(density=density, displacement_a=displacement_a, described=described)

    def part(self, begin: float, end: float) -> AtomSet:
        """Those between these shares of the set."""
        chosen = slice(round(begin * len(self.density)), round(end * len(self.density)))
        return replace(self, density=self.density[chosen], displacement_a=self.displacement_a[chosen])

    def crystals(self, batch: int, generator: Generator) -> Tensor:
        """Draw complex crystals ``(batch, 32, 32, 32)``, zero mean phase, centre of mass at voxel 16."""
        device = generator.device
        chosen = torch.randint(len(self.density), (batch,), generator=generator, device=device).to(self.density.device)
        density, displacement_a = self.density[chosen].to(device), self.displacement_a[chosen].to(device)
        bragg = 2 * math.pi / LATTICE_A * torch.tensor(REFLECTIONS, dtype=torch.float32, device=device)
        bragg = bragg[torch.randint(len(bragg), (batch,), generator=generator, device=device)]
        is_strained = uniform((batch, 1), (0.0, 1.0), generator) >= UNSTRAINED_SHARE
        phase = torch.einsum("bi,bizyx->bzyx", bragg * is_strained, displacement_a)
        volumes = torch.stack((density, density * phase), dim=1)
        rotation, shrink = random_rotations(batch, generator), uniform((batch,), SCALES, generator)
        density, moment = resampled(volumes, rotation, shrink, torch.zeros(batch, 3, device=device)).unbind(1)
        phase = moment / density.clamp_min(1e-6)
        mean = moment.sum((1, 2, 3), keepdim=True) / density.sum((1, 2, 3), keepdim=True)
        return torch.polar(density / density.amax((1, 2, 3), keepdim=True), phase - mean)


def on_set(task: Task, atoms: AtomSet) -> Task:
    """The same training on these crystals; the last tenth of them is held out.

    Raises
    ------
    ConfigError
        If that leaves none.
    """
    known, held_out = atoms.part(0, 1 - HELD_OUT_SHARE), atoms.part(1 - HELD_OUT_SHARE, 1)
    if not (len(known.density) and len(held_out.density)):
        raise ConfigError(f"expected ten crystals or more to train on, got {len(atoms.density)}")
    return replace(task, crystals=known.crystals, held_out=held_out.crystals, data=atoms.described)
