"""Training of the unrolled network: from random starts to the crystal."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from cdi_stream.networks import losses
from cdi_stream.networks.unrolled import Unrolled
from cdi_stream.numerics.fourier import to_crystal
from cdi_stream.training.crystals import CrystalRanges, crystal_source
from cdi_stream.training.diffraction import Array, field, measure
from cdi_stream.training.plan import Plan, Stage
from cdi_stream.training.task import Draw, Task

N_VOXELS = 64
N_COARSE = N_VOXELS // 2
RANGES = CrystalRanges(
    longest_vox=(17.0, 29.0),
    phase_range_rad=(0.5 * math.pi, 5 * math.pi),
    correlation=(0.5, 1.3),
    shapes=("polyhedron", "polyhedron", "superellipsoid", "wulff", "winterbottom"),
)


def observe(crystal: Tensor, generator: Generator) -> Draw:
    """Return magnitudes ``(batch, 64, 64, 64)``, crystals ``(batch, 32, 32, 32)`` on the coarse grid, and start phases.

    Only the middle of the diffraction is simulated, since the network uses no more.
    """
    magnitude, crystal = measure(crystal, generator, (1e5, 1e8), Array.MIDDLE)
    turn = 2 * math.pi * torch.rand(magnitude.shape, generator=generator, device=generator.device)
    return losses.pad_to_double(magnitude), to_crystal(field(crystal, Array.MIDDLE)), turn


def loss(network: nn.Module, batch: Draw, stage: Stage) -> Tensor:
    """Return the mean mismatch of the crystal after every round with the truth; later rounds weigh more.

    The mismatch is `losses.mismatch_anywhere`: up to shift and twin.
    """
    assert isinstance(network, Unrolled)
    magnitude, truth, turn = batch
    terms = [losses.mismatch_anywhere(answer, truth).mean() for answer in network.answers(magnitude, turn)]
    weights = torch.arange(1.0, len(terms) + 1, device=truth.device)
    return (weights * torch.stack(terms)).sum() / weights.sum()


TASK = Task(
    name="unrolled",
    network=Unrolled,
    crystals=crystal_source(RANGES, N_COARSE),
    observe=observe,
    loss=loss,
    plan=Plan(stages=(Stage(steps=20_000, rate=2e-3),)),
    input_shape=(N_VOXELS,) * 3,
    output_shape=(N_VOXELS // 2,) * 3,
    oversampling=2.6,
    phase_range_rad=5 * math.pi,
)
