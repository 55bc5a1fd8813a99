"""Training of the two-decoder networks of Wu et al. (2021), in three axes and in two.

Sources: Wu et al., npj Computational Materials 7, 175 (2021), doi:10.1038/s41524-021-00644-z, and Wu et al., IUCrJ 8,
12 (2021), doi:10.1107/S2052252520013780.  The papers train in epochs on fixed sets; here every step draws new crystals.
The learning rates and their fall are taken from the papers, except for the small network.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from cdi_stream.networks import losses
from cdi_stream.networks.wu2021 import plane, small, whole
from cdi_stream.training.crystals import CrystalRanges, crystal_source
from cdi_stream.training.diffraction import measure, scale_to_maximum
from cdi_stream.training.plan import Plan, Stage
from cdi_stream.training.task import Draw, Task

N_VOXELS = 64
OVERSAMPLING = 2.6
"""Typical oversampling of the training crystals: 64 voxels over a longest extent of 19 to 29 voxels."""
WEAK, STRONG = CrystalRanges(), CrystalRanges(phase_range_rad=(0.0, 2 * math.pi))
SUPERELLIPSOIDS = CrystalRanges(shapes=("superellipsoid",), phase_range_rad=(0.0, 2 * math.pi))


def observe_plane(crystal: Tensor, generator: Generator) -> Draw:
    """Return central slices of the diffraction ``(batch, 64, 64)``, and projected crystals ``(batch, 32, 32)``."""
    projection = crystal.sum(1)
    projection = torch.polar(scale_to_maximum(projection.abs()), projection.angle())
    return measure(projection, generator)


def loss(network: nn.Module, batch: Draw, stage: Stage) -> Tensor:
    """Return `losses.supervised_loss` of a batch."""
    magnitude, crystal = batch
    amplitude, phase = network(magnitude)
    return losses.supervised_loss(amplitude.float(), phase.float(), crystal)


def _channels_last(network: nn.Module) -> nn.Module:
    """Return the network in the memory format in which convolutions on a CPU are fast."""
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


_ADAM = Stage(steps=10_000, optimizer="adam", rate=0.01, fall="geometric", last=0.95**25)
_ALTERNATING = Plan(
    stages=tuple(
        _ADAM.model_copy(update={"rate": 0.01 * 0.95 ** (25 * k), "optimizer": ("adam", "sgd")[k % 2]})
        for k in range(4)
    )
)
"""Plan of the papers: Adam and SGD alternate, and the rate falls by 5 % in each of 100 parts."""

SMALL = Task(
    name="wu2021-small",
    network=lambda: _channels_last(small()),
    crystals=crystal_source(WEAK, N_VOXELS // 2),
    observe=measure,
    loss=loss,
    plan=Plan(stages=(Stage(steps=20_000),)),
    input_shape=(N_VOXELS,) * 3,
    output_shape=(N_VOXELS // 2,) * 3,
    oversampling=OVERSAMPLING,
    phase_range_rad=math.pi,
)
WHOLE = Task(
    name="wu2021",
    network=lambda: _channels_last(whole()),
    crystals=crystal_source(SUPERELLIPSOIDS, N_VOXELS // 2),
    observe=measure,
    loss=loss,
    plan=_ALTERNATING,
    input_shape=(N_VOXELS,) * 3,
    output_shape=(N_VOXELS // 2,) * 3,
    oversampling=OVERSAMPLING,
    phase_range_rad=2 * math.pi,
)
PLANE = Task(
    name="wu2021-2d",
    network=plane,
    crystals=crystal_source(SUPERELLIPSOIDS, N_VOXELS // 2),
    observe=observe_plane,
    loss=loss,
    plan=Plan(stages=(Stage(steps=40_000, optimizer="sgd", rate=0.01, fall="geometric", last=0.95**20),), batch=32),
    input_shape=(N_VOXELS,) * 2,
    output_shape=(N_VOXELS // 2,) * 2,
    oversampling=OVERSAMPLING,
    phase_range_rad=2 * math.pi,
)
