"""Training of 3D-CDI-NN of Chan et al., Applied Physics Reviews 8, 021407 (2021), doi:10.1063/5.0031486.

The training has four stages: the shape; the phase, with all other weights fixed; the phase with the encoder;
everything.  The loss is the sum of mean absolute errors of shape, phase and diffraction, relative to the crystal's mean
amplitude and the mean magnitude, so that all terms have weight.  Each crystal is compared with the truth or its twin,
whichever is nearer in shape and phase together, since the data cannot distinguish them.

The lengths of the stages, the weight of the phase, and the share of unstrained crystals (a half in the paper) were
chosen here.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from cdi_stream.networks.chan2021 import Chan2021, small
from cdi_stream.numerics.fourier import twin
from cdi_stream.training.crystals import CrystalRanges, crystal_source
from cdi_stream.training.diffraction import Array, field, measure, scale_to_maximum
from cdi_stream.training.plan import Plan, Stage
from cdi_stream.training.task import Draw, Task

N_VOXELS = 32
"""Side of input and output [voxels]."""

GAP_SHARE = 0.3
"""Share of the patterns with a detector gap."""

RANGES = CrystalRanges(
    longest_vox=(16.0, 26.0), phase_range_rad=(0.0, 2 * math.pi), unstrained_share=0.1, shapes=("polyhedron",)
)


def observe(crystal: Tensor, generator: Generator) -> Draw:
    """Return magnitudes and crystals ``(batch, 32, 32, 32)``, oversampled by 1.2 to 2 only."""
    return measure(crystal, generator, array=Array.SAME, gap_share=GAP_SHARE)


def loss(network: nn.Module, batch: Draw, stage: Stage) -> Tensor:
    """Return the sum of relative mean absolute errors of shape, phase and diffraction, weighed by the stage's terms."""
    magnitude, truth = batch
    amplitude, phase = (part.float() for part in network(magnitude))
    crystal = amplitude * torch.polar(torch.ones_like(phase), phase)  # torch.polar needs amplitudes >= 0
    model, data = (scale_to_maximum(field(part, array=Array.SAME).abs()) for part in (crystal, truth))
    errors = torch.stack([torch.stack(_errors(amplitude, phase, image)) for image in (truth, twin(truth))])
    nearest = errors.sum(1).argmin(0)  # shape and phase together: errors of truth and twin must not be mixed
    shape, turns = errors[nearest, :, torch.arange(len(nearest), device=nearest.device)].T
    diffraction = (model - data).abs().flatten(1).sum(1) / data.flatten(1).sum(1)
    result: Tensor = sum(
        term * error.mean() for term, error in zip(stage.terms, (shape, turns, diffraction), strict=True)
    )
    return result


def _errors(amplitude: Tensor, phase: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the relative errors of amplitude and of phase [turns], each ``(batch,)``.

    The phase is weighed by the crystal's amplitude; its offset and whole turns have no effect.
    """
    shape = truth.abs()
    size = shape.flatten(1).sum(1)
    difference = torch.polar(shape, phase) * truth.conj()
    offset = difference.flatten(1).sum(1).angle().reshape(-1, 1, 1, 1)
    residual = difference * torch.polar(torch.ones_like(offset), -offset)
    residual = torch.where(shape > 1e-3, residual, 1.0)  # the angle of zero has no derivative
    return (
        (amplitude - shape).abs().flatten(1).sum(1) / size,
        (residual.angle().abs() / (2 * math.pi) * shape).flatten(1).sum(1) / size,
    )


TASK = Task(
    name="chan2021",
    network=Chan2021,
    crystals=crystal_source(RANGES, N_VOXELS),
    observe=observe,
    loss=loss,
    plan=Plan(
        stages=(
            Stage(steps=4_000, optimizer="adam", rate=1e-3, trained=("encoder", "amplitude"), terms=(1.0, 0.0, 0.0)),
            Stage(steps=1_000, optimizer="adam", rate=1e-3, trained=("phase",), terms=(0.0, 1.0, 0.0)),
            Stage(steps=15_000, optimizer="adam", rate=1e-3, trained=("encoder", "phase"), terms=(1.0, 4.0, 1.0)),
            Stage(steps=20_000, optimizer="adam", rate=1e-3, terms=(1.0, 4.0, 1.0)),
        ),
        batch=32,
    ),
    input_shape=(N_VOXELS,) * 3,
    output_shape=(N_VOXELS,) * 3,
    oversampling=1.5,
    phase_range_rad=2 * math.pi,
)
SMALL = replace(TASK, name="chan2021-small", network=small, plan=TASK.plan.model_copy(update={"batch": 8}))
