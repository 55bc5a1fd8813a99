"""Training of the network of Masto et al. (2025), arXiv:2507.06644, on phases of strongly strained crystals."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Generator, Tensor, nn

from cdi_stream.networks import losses
from cdi_stream.networks.masto2025 import FieldPhase, Masto2025, compress_intensity, small
from cdi_stream.training.crystals import CrystalRanges, crystal_source
from cdi_stream.training.diffraction import field, measure
from cdi_stream.training.plan import Plan, Stage
from cdi_stream.training.task import Draw, Task

N_VOXELS = 64
RANGES = CrystalRanges(
    longest_vox=(14.0, 29.0),
    phase_range_rad=(2 * math.pi, 5 * math.pi),
    shapes=("wulff", "winterbottom", "polyhedron"),
    fields=("gaussian", "cosine", "correlated"),
)
"""Strongly strained crystals, with which the paper trains."""

PHOTONS = (1e5, 1e7)
"""Smallest and largest number of photons of a simulated pattern."""

ALL_STRAINS = replace(RANGES, phase_range_rad=(0.0, 5 * math.pi))
"""Crystals of weak and strong strain; a small network needs the weakly strained crystals in its training."""


def volumes(crystal: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return magnitudes ``(batch, 64, 64, 64)`` and crystals ``(batch, 32, 32, 32)``."""
    return measure(crystal, generator, PHOTONS)


def observe(crystal: Tensor, generator: Generator) -> Draw:
    """Return magnitudes and phases [rad] of the field, both ``(batch, 64, 64, 64)``."""
    magnitude, crystal = volumes(crystal, generator)
    return magnitude, field(crystal).angle()


def loss(network: nn.Module, batch: Draw, stage: Stage) -> Tensor:
    """Return the mean of `losses.incoherence`, weighed by the logarithm of the intensities."""
    magnitude, phase = batch
    return losses.incoherence(network(magnitude).float(), phase, compress_intensity(magnitude)).mean()


TASK = Task(
    name="masto2025",
    network=Masto2025,
    crystals=crystal_source(RANGES, N_VOXELS // 2),
    observe=observe,
    loss=loss,
    plan=Plan(stages=(Stage(steps=60_000, optimizer="adam", rate=1e-4),)),
    input_shape=(N_VOXELS,) * 3,
    output_shape=(N_VOXELS // 2,) * 3,
    oversampling=2.6,
    phase_range_rad=5 * math.pi,
    wrap_for_export=FieldPhase,
)
SMALL = replace(
    TASK,
    name="masto2025-small",
    network=small,
    crystals=crystal_source(ALL_STRAINS, N_VOXELS // 2),
    plan=Plan(stages=(Stage(steps=20_000, rate=1.5e-3),), batch=8),
)
