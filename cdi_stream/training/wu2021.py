"""How the two-decoder networks of Wu et al. (2021) are trained here, in three axes and in two.

npj Comput. Mater. 7, 175, doi:10.1038/s41524-021-00644-z, and IUCrJ 8, 12, doi:10.1107/S2052252520013780.  Steps for
epochs: the papers' sets are fixed, ours are drawn anew; the rates and their fall are the papers', except for the small
network.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from cdi_stream.networks import losses
from cdi_stream.networks.wu2021 import plane, small, whole
from cdi_stream.training.crystals import CrystalRanges, drawn_from
from cdi_stream.training.diffraction import measure, scaled
from cdi_stream.training.plan import Plan, Stage
from cdi_stream.training.task import Draw, Task

N_VOXELS = 64
OVERSAMPLING = 2.6
"""Middle of what the training crystals span: 64 voxels over a longest extent of 19 to 29."""
WEAK, STRONG = CrystalRanges(), CrystalRanges(phase_range_rad=(0.0, 2 * math.pi))
SUPERELLIPSOIDS = CrystalRanges(shapes=("superellipsoid",), phase_range_rad=(0.0, 2 * math.pi))


def seen_plane(crystal: Tensor, generator: Generator) -> Draw:
    """Central slices of the diffraction, ``(batch, 64, 64)``, and the projections ``(batch, 32, 32)`` they are of."""
    projection = crystal.sum(1)
    projection = torch.polar(scaled(projection.abs()), projection.angle())
    return measure(projection, generator)


def loss(network: nn.Module, drawn: Draw, stage: Stage) -> Tensor:
    """See `losses.supervised`."""
    magnitude, crystal = drawn
    amplitude, phase = network(magnitude)
    return losses.supervised(amplitude.float(), phase.float(), crystal)


def _laid_out(network: nn.Module) -> nn.Module:
    """In memory as convolutions on a CPU like it."""
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


_ADAM = Stage(steps=10_000, optimizer="adam", rate=0.01, fall="geometric", last=0.95**25)
_SWAPPED = Plan(
    stages=tuple(
        _ADAM.model_copy(update={"rate": 0.01 * 0.95 ** (25 * k), "optimizer": ("adam", "sgd")[k % 2]})
        for k in range(4)
    )
)
"""Adam and SGD in turn, the rate falling by 5 % in each of 100 parts."""

SMALL = Task(
    name="wu2021-small",
    network=lambda: _laid_out(small()),
    crystals=drawn_from(WEAK, N_VOXELS // 2),
    seen=measure,
    loss=loss,
    plan=Plan(stages=(Stage(steps=20_000),)),
    input_shape=(N_VOXELS,) * 3,
    output_shape=(N_VOXELS // 2,) * 3,
    oversampling=OVERSAMPLING,
    phase_range_rad=math.pi,
)
WHOLE = Task(
    name="wu2021",
    network=lambda: _laid_out(whole()),
    crystals=drawn_from(SUPERELLIPSOIDS, N_VOXELS // 2),
    seen=measure,
    loss=loss,
    plan=_SWAPPED,
    input_shape=(N_VOXELS,) * 3,
    output_shape=(N_VOXELS // 2,) * 3,
    oversampling=OVERSAMPLING,
    phase_range_rad=2 * math.pi,
)
PLANE = Task(
    name="wu2021-2d",
    network=plane,
    crystals=drawn_from(SUPERELLIPSOIDS, N_VOXELS // 2),
    seen=seen_plane,
    loss=loss,
    plan=Plan(stages=(Stage(steps=40_000, optimizer="sgd", rate=0.01, fall="geometric", last=0.95**20),), batch=32),
    input_shape=(N_VOXELS,) * 2,
    output_shape=(N_VOXELS // 2,) * 2,
    oversampling=OVERSAMPLING,
    phase_range_rad=2 * math.pi,
)
