"""How 3D-CDI-NN of Chan et al. (2021), Appl. Phys. Rev. 8, 021407, doi:10.1063/5.0031486, is trained here.

In four stages: shape, phase with all else fixed, both with the encoder, everything; mean absolute errors of shape,
phase and diffraction, here relative to the crystal's mean shape and the mean magnitude, so that all count.  Each
crystal is compared with the truth or its twin, whichever is nearer in shape and phase together: the data cannot tell
them apart, and the paper's network answers now the one and now the other.  How long each stage is, what the phase's
error weighs, and the share without strain (a half in the paper), are ours.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from cdi_stream.networks.chan2021 import Chan2021, small
from cdi_stream.numerics.fourier import twin
from cdi_stream.training.crystals import CrystalRanges, drawn_from
from cdi_stream.training.diffraction import Array, field, measure, scaled
from cdi_stream.training.plan import Plan, Stage
from cdi_stream.training.task import Draw, Task

N_VOXELS = 32
GAP_SHARE = 0.3
RANGES = CrystalRanges(
    longest_vox=(16.0, 26.0), phase_range_rad=(0.0, 2 * math.pi), unstrained_share=0.1, shapes=("polyhedron",)
)


def seen(crystal: Tensor, generator: Generator) -> Draw:
    """Magnitudes and crystals ``(batch, 32, 32, 32)``: oversampled by 1.2 to 2 only."""
    return measure(crystal, generator, array=Array.SAME, gap_share=GAP_SHARE)


def loss(network: nn.Module, drawn: Draw, stage: Stage) -> Tensor:
    """Relative mean absolute errors of shape, phase [turns] and diffraction, weighed by the stage's terms."""
    magnitude, truth = drawn
    amplitude, phase = (part.float() for part in network(magnitude))
    crystal = amplitude * torch.polar(torch.ones_like(phase), phase)  # amplitudes may be negative here, not in `polar`
    model, data = (scaled(field(one, array=Array.SAME).abs()) for one in (crystal, truth))
    errors = torch.stack([torch.stack(_errors(amplitude, phase, one)) for one in (truth, twin(truth))])
    nearest = errors.sum(1).argmin(0)  # blind to the terms: a shape of the one with a phase of the other is no crystal
    shape, turns = errors[nearest, :, torch.arange(len(nearest), device=nearest.device)].T
    diffraction = (model - data).abs().flatten(1).sum(1) / data.flatten(1).sum(1)
    result: Tensor = sum(
        term * error.mean() for term, error in zip(stage.terms, (shape, turns, diffraction), strict=True)
    )
    return result


def _errors(amplitude: Tensor, phase: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Of shape over the crystal's, and of phase [turns] in its mean, blind to whole turns and offset; ``(batch,)``."""
    shape = truth.abs()
    size = shape.flatten(1).sum(1)
    difference = torch.polar(shape, phase) * truth.conj()
    offset = difference.flatten(1).sum(1).angle().reshape(-1, 1, 1, 1)
    turned = difference * torch.polar(torch.ones_like(offset), -offset)
    turned = torch.where(shape > 1e-3, turned, 1.0)  # the angle of nothing has no derivative
    return (
        (amplitude - shape).abs().flatten(1).sum(1) / size,
        (turned.angle().abs() / (2 * math.pi) * shape).flatten(1).sum(1) / size,
    )


TASK = Task(
    name="chan2021",
    network=Chan2021,
    crystals=drawn_from(RANGES, N_VOXELS),
    seen=seen,
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
