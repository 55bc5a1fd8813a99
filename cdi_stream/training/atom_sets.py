"""Write and read files of crystals simulated atom by atom, and train networks on them."""

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
    simulate_crystal,
)
from cdi_stream.training.crystals import rotate_and_shrink
from cdi_stream.training.drawing import uniform
from cdi_stream.training.shapes import random_rotations
from cdi_stream.training.task import Task

REFLECTIONS: Final = ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (2, 0, 0), (0, 2, 0), (0, 0, 2))
"""Reflections (h, k, l) for which crystals are drawn; the opposite reflections follow from the rotations."""

SCALES: Final = (0.9, 1.15)
"""Smallest and largest factor by which a crystal is shrunk."""

UNSTRAINED_SHARE: Final = 0.5
"""Share of crystals without strain; Chan et al. (2021) use each crystal with and without its strain."""

HELD_OUT_SHARE: Final = 0.1
"""Share of a set that is held out for validation."""

MOST_CRYSTALS: Final = 10_000
"""Largest number of crystals of a set, which is held in memory: 5 GB."""

_SHAPES = {
    "crystal": ((N_VOXELS,) * 3, np.complex64),
    "density": ((N_VOXELS,) * 3, np.float32),
    "displacement_a": ((3, *(N_VOXELS,) * 3), np.float32),
}


def write_set(file: Path, count: int, seed: int) -> None:
    """Write crystals to a file until it holds ``count``; an existing file is continued.

    ``crystal`` has a random orientation; ``density`` and ``displacement_a`` come from `fields_of`.

    Parameters
    ----------
    file
        HDF5 file.
    count
        Number of crystals.
    seed
        Seed of the set; each crystal has its own seed, made of it and of the crystal's number.

    Raises
    ------
    ConfigError
        If the file cannot be written or holds crystals of another seed, or if LAMMPS is not installed.
    """
    lammps = lammps_version()
    with _opened(file) as target:
        if "seed" not in target.attrs:
            target.attrs.update(seed=seed, voxel_a=VOXEL_A, potential=POTENTIAL, lammps=lammps)
            for name, (shape, dtype) in _SHAPES.items():
                target.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
        if target.attrs["seed"] != seed:
            raise ConfigError(
                f"{file}: expected crystals of seed {seed}, got seed {target.attrs['seed']}; "
                "take that seed or another file"
            )
        for k in range(min(len(target[name]) for name in _SHAPES), count):
            rng = np.random.default_rng((seed, k))
            atoms = simulate_crystal(rng)
            crystal = crystal_of(atoms, Rotation.random(rng=rng).as_matrix())
            for name, values in zip(_SHAPES, (crystal, *fields_of(atoms)), strict=True):
                target[name].resize(k + 1, axis=0)
                target[name][k] = values
            target.flush()


def _opened(file: Path) -> h5py.File:
    try:
        return h5py.File(file, "a")
    except OSError as error:
        raise ConfigError(
            f"{file}: expected an HDF5 file of crystals, or an existing folder for a new file, got: {error}"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomSet:
    """Relaxed crystals, from which training draws crystals of other rotations, scales, reflections and strain.

    ``density`` is ``(count, 32, 32, 32)``, ``displacement_a`` ``(count, 3, 32, 32, 32)`` [angstrom], see `fields_of`;
    ``description`` is a sentence for the model card.
    """

    density: Tensor
    displacement_a: Tensor
    description: str

    @classmethod
    def read(cls, file: Path) -> AtomSet:
        """Return the set in a file of `write_set`.

        Raises
        ------
        ConfigError
            If the file does not hold crystals of the expected shapes.
        """
        try:
            with h5py.File(file) as source:
                for name, (shape, dtype) in _SHAPES.items():
                    data = source[name]
                    if data.shape[1:] != shape or data.dtype != dtype or not 0 < len(data) <= MOST_CRYSTALS:
                        raise ConfigError(
                            f"{file}, {name}: expected 1 to {MOST_CRYSTALS} crystals {shape} of {np.dtype(dtype)}, got "
                            f"{data.shape} of {data.dtype}; cdi-stream atoms makes them"
                        )
                density, displacement_a = (torch.from_numpy(source[name][:]) for name in ("density", "displacement_a"))
        except (OSError, KeyError) as error:
            raise ConfigError(f"{file}: expected crystals of cdi-stream atoms, got: {error}") from error
        name = hashlib.sha256(density.numpy().tobytes() + displacement_a.numpy().tobytes()).hexdigest()[:12]
        description = f"made of {len(density)} of gold relaxed atom by atom (sha256 {name})"
        return cls(density=density, displacement_a=displacement_a, description=description)

    def part(self, begin: float, end: float) -> AtomSet:
        """Return the crystals between two shares of the set, each from 0 to 1."""
        rows = slice(round(begin * len(self.density)), round(end * len(self.density)))
        return replace(self, density=self.density[rows], displacement_a=self.displacement_a[rows])

    def crystals(self, batch: int, generator: Generator) -> Tensor:
        """Return random complex crystals ``(batch, 32, 32, 32)`` of zero mean phase, centre of mass at voxel 16."""
        device = generator.device
        rows = torch.randint(len(self.density), (batch,), generator=generator, device=device).to(self.density.device)
        density, displacement_a = self.density[rows].to(device), self.displacement_a[rows].to(device)
        bragg = 2 * math.pi / LATTICE_A * torch.tensor(REFLECTIONS, dtype=torch.float32, device=device)
        bragg = bragg[torch.randint(len(bragg), (batch,), generator=generator, device=device)]
        is_strained = uniform((batch, 1), (0.0, 1.0), generator) >= UNSTRAINED_SHARE
        phase = torch.einsum("bi,bizyx->bzyx", bragg * is_strained, displacement_a)
        volumes = torch.stack((density, density * phase), dim=1)
        rotation, shrink = random_rotations(batch, generator), uniform((batch,), SCALES, generator)
        density, moment = rotate_and_shrink(volumes, rotation, shrink, torch.zeros(batch, 3, device=device)).unbind(1)
        phase = moment / density.clamp_min(1e-6)
        mean = moment.sum((1, 2, 3), keepdim=True) / density.sum((1, 2, 3), keepdim=True)
        return torch.polar(density / density.amax((1, 2, 3), keepdim=True), phase - mean)


def train_on_atoms(task: Task, atoms: AtomSet) -> Task:
    """Return a training on a set of crystals, of which the last tenth is held out.

    Raises
    ------
    ConfigError
        If the set has fewer crystals than needed for both parts.
    """
    training_part, held_out_part = atoms.part(0, 1 - HELD_OUT_SHARE), atoms.part(1 - HELD_OUT_SHARE, 1)
    if not (len(training_part.density) and len(held_out_part.density)):
        raise ConfigError(
            f"expected ten crystals or more to train on, got {len(atoms.density)}; make more by cdi-stream atoms"
        )
    return replace(task, crystals=training_part.crystals, held_out=held_out_part.crystals, data=atoms.description)
