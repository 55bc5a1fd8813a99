"""How the two-decoder network of Wu et al. (2021), npj Comput. Mater. 7, 175, is trained here."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from cdi_stream.fourier import FOURIER_SIGN
from cdi_stream.networks import losses
from cdi_stream.networks.torchscript import NetworkContract, weights_sha256
from cdi_stream.networks.wu2021 import small
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import measure
from cdi_stream.training.plan import Plan, Stage
from cdi_stream.training.task import Draw, Task

N_VOXELS = 64
OVERSAMPLING = 2.6
"""Middle of what the training crystals span: 64 voxels over a longest extent of 19 to 29."""


def draw(batch: int, generator: Generator, ranges: CrystalRanges | None = None) -> tuple[Tensor, Tensor]:
    """Magnitudes ``(batch, 64, 64, 64)`` and crystals ``(batch, 32, 32, 32)``."""
    return measure(crystals(batch, N_VOXELS // 2, ranges or CrystalRanges(), generator), generator)


def loss(network: nn.Module, drawn: Draw) -> Tensor:
    """See `losses.supervised`."""
    magnitude, crystal = drawn
    amplitude, phase = network(magnitude)
    return losses.supervised(amplitude.float(), phase.float(), crystal)


def contract(network: nn.Module, training: str) -> NetworkContract:
    """Contract of a network of this size."""
    return NetworkContract(
        name="wu2021_small",
        version="1",
        input_shape=(N_VOXELS,) * 3,
        output_shape=(N_VOXELS // 2,) * 3,
        input_scaling="magnitude, maximum 1",
        oversampling=OVERSAMPLING,
        phase_range_rad=math.pi,
        coordinates="lab",
        fourier_sign=FOURIER_SIGN,
        weights_sha256=weights_sha256(network),
        training=training,
    )


def network() -> nn.Module:
    """Build it, laid out as convolutions on a CPU like it."""
    return small().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


TASK = Task(
    name="wu2021-small",
    network=network,
    draw=draw,
    loss=loss,
    plan=Plan(stages=(Stage(steps=20_000),)),
    contract=contract,
)
