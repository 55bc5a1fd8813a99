"""How the project's own network is trained: from whatever random starts reach, to the crystal they came from."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from cdi_stream.networks import losses
from cdi_stream.networks.unrolled import Unrolled
from cdi_stream.numerics.fourier import to_crystal
from cdi_stream.training.crystals import CrystalRanges, drawn_from
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


def seen(crystal: Tensor, generator: Generator) -> Draw:
    """Magnitudes ``(batch, 64, 64, 64)``, crystals ``(batch, 32, 32, 32)`` on the coarse grid, phases of the starts.

    Only the middle of the diffraction is simulated, the network looks at no more.
    """
    magnitude, crystal = measure(crystal, generator, (1e5, 1e8), Array.MIDDLE)
    turn = 2 * math.pi * torch.rand(magnitude.shape, generator=generator, device=generator.device)
    return losses.pad_to_double(magnitude), to_crystal(field(crystal, Array.MIDDLE)), turn


def loss(network: nn.Module, drawn: Draw, stage: Stage) -> Tensor:
    """Mismatch of every look's answer with the crystal or its twin, wherever it lies, the later ones more."""
    assert isinstance(network, Unrolled)
    magnitude, truth, turn = drawn
    terms = [losses.mismatch_anywhere(answer, truth).mean() for answer in network.answers(magnitude, turn)]
    weights = torch.arange(1.0, len(terms) + 1, device=truth.device)
    return (weights * torch.stack(terms)).sum() / weights.sum()


TASK = Task(
    name="unrolled",
    network=Unrolled,
    crystals=drawn_from(RANGES, N_COARSE),
    seen=seen,
    loss=loss,
    plan=Plan(stages=(Stage(steps=20_000, rate=2e-3),)),
    input_shape=(N_VOXELS,) * 3,
    output_shape=(N_VOXELS // 2,) * 3,
    oversampling=2.6,
    phase_range_rad=5 * math.pi,
)
