"""How the network of Masto et al. (2025) is trained here: phases of the diffraction of strongly strained crystals."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Generator, Tensor, nn

from cdi_stream.networks import losses
from cdi_stream.networks.masto2025 import FieldPhase, Masto2025, log_scaled, small
from cdi_stream.training.crystals import CrystalRanges, drawn_from
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


PHOTONS = (1e5, 1e7)
ALL = replace(RANGES, phase_range_rad=(0.0, 5 * math.pi))
"""With the weakly strained ones, from which a small network learns the rest."""


def volumes(crystal: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Magnitudes ``(batch, 64, 64, 64)`` and crystals ``(batch, 32, 32, 32)``."""
    return measure(crystal, generator, PHOTONS)


def seen(crystal: Tensor, generator: Generator) -> Draw:
    """Magnitudes, and phases [rad] of the field, ``(batch, 64, 64, 64)``."""
    magnitude, crystal = volumes(crystal, generator)
    return magnitude, field(crystal).angle()


def loss(network: nn.Module, drawn: Draw, stage: Stage) -> Tensor:
    """See `losses.incoherence`."""
    magnitude, phase = drawn
    return losses.incoherence(network(magnitude).float(), phase, log_scaled(magnitude)).mean()


TASK = Task(
    name="masto2025",
    network=Masto2025,
    crystals=drawn_from(RANGES, N_VOXELS // 2),
    seen=seen,
    loss=loss,
    plan=Plan(stages=(Stage(steps=60_000, optimizer="adam", rate=1e-4),)),
    input_shape=(N_VOXELS,) * 3,
    output_shape=(N_VOXELS // 2,) * 3,
    oversampling=2.6,
    phase_range_rad=5 * math.pi,
    exported=FieldPhase,
)
SMALL = replace(
    TASK,
    name="masto2025-small",
    network=small,
    crystals=drawn_from(ALL, N_VOXELS // 2),
    plan=Plan(stages=(Stage(steps=20_000, rate=1.5e-3),), batch=8),
)
