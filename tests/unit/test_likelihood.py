"""Losses against their formulas in numpy, gradients against differences and against autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from cdi_stream.phasing.descent import descent_of
from cdi_stream.phasing.likelihood import crystal_gradient, field_gradient, loss
from cdi_stream.phasing.projections import Measurement, Projector, expected_counts, reciprocal

SHAPES = [(11,), (8, 9), (6, 7, 8)]
KINDS = ["amplitude", "poisson"]


pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crystals(shape: tuple[int, ...], n: int = 2) -> Tensor:
    return torch.randn((n, *shape), dtype=torch.complex128, generator=generator(3))


def measurement(shape: tuple[int, ...], is_plain: bool) -> Measurement:
    """Counts with zeros, an uneven magnitude scale and holes; unless plain, kernel, background and uneven frames."""
    uniform = [torch.rand(shape, dtype=torch.float64, generator=generator(seed)) for seed in (4, 5, 6, 7)]
    data = Measurement(
        magnitude=torch.poisson(3 * uniform[0], generator=generator(8)).sqrt(),
        magnitude_scale=0.5 + uniform[1],
        valid=uniform[2] < 0.8,
    )
    if is_plain:
        return data
    kernel = uniform[3] / uniform[3].sum()
    shifts = 0.2 * torch.randn(shape[0], dtype=torch.float64, generator=generator(9))
    return replace(data, coherence=torch.fft.rfftn(kernel), background=0.1 + uniform[0], frame_shifts=shifts)


CASES = [
    pytest.param(kind, shape, is_plain, id=f"{kind}-{len(shape)}D-{'plain' if is_plain else 'blurred'}")
    for kind in KINDS
    for shape in SHAPES
    for is_plain in (True, False)
]


@pytest.mark.parametrize(("kind", "shape", "is_plain"), CASES)
def test_the_gradient_is_that_of_autograd(kind, shape, is_plain):
    data = measurement(shape, is_plain)
    crystal = crystals(shape).requires_grad_(True)
    (expected,) = torch.autograd.grad(loss(reciprocal(crystal, len(shape)), data, kind).sum(), crystal)
    torch.testing.assert_close(crystal_gradient(crystal.detach(), data, kind), expected)


@pytest.mark.parametrize(("kind", "shape", "is_plain"), CASES)
def test_the_gradient_is_the_difference_of_losses(kind, shape, is_plain):
    data = measurement(shape, is_plain)
    field = reciprocal(crystals(shape), len(shape))
    gradient, direction = field_gradient(field, data, kind), reciprocal(crystals(shape).roll(1, 1), len(shape))
    step = 1e-6
    difference = (loss(field + step * direction, data, kind) - loss(field - step * direction, data, kind)) / (2 * step)
    slope = (gradient.conj() * direction).real.flatten(1).sum(1)
    torch.testing.assert_close(difference, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", ["uneven", "blurred", "blurred with shifts"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_of_descent_is_the_gradient_over_twice_the_largest_squared_scale(shape, model):
    data = measurement(shape, is_plain=model == "uneven")
    if model == "blurred":
        data = replace(data, frame_shifts=None)
    crystal = crystals(shape)
    strongest = data.magnitude_scale[data.valid].square().max()
    expected = crystal - crystal_gradient(crystal, data) / (2 * strongest)
    torch.testing.assert_close(descent_of(data, Projector(data))(crystal), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_losses_are_sums_over_valid_voxels(shape):
    data = measurement(shape, is_plain=False)
    field = reciprocal(crystals(shape), len(shape))
    expected = expected_counts(field, data)[:, data.valid].numpy()
    counts = data.magnitude[data.valid].square().round().numpy()
    amplitude = ((np.sqrt(expected) - np.sqrt(counts)) ** 2).sum(1)
    best = stats.poisson.logpmf(counts, np.maximum(counts, 1e-300))
    deviance = (best - stats.poisson.logpmf(counts, expected)).sum(1)
    np.testing.assert_allclose(loss(field, data).numpy(), amplitude)
    np.testing.assert_allclose(loss(field, data, "poisson").numpy(), deviance, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_model_costs_nothing_and_pulls_nowhere(kind):
    field = reciprocal(crystals((6, 7)), 2)[:1]
    data = measurement((6, 7), is_plain=False)
    data = replace(data, magnitude=expected_counts(field, data)[0].sqrt())
    assert float(loss(field, data, kind)) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(field_gradient(field, data, kind), torch.zeros_like(field))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_measured_does_not_matter(kind):
    data = measurement((6, 7), is_plain=True)
    field = reciprocal(crystals((6, 7)), 2)
    other = replace(data, magnitude=torch.where(data.valid, data.magnitude, 1e6))
    torch.testing.assert_close(loss(field, other, kind), loss(field, data, kind))
    assert not field_gradient(field, other, kind)[:, ~data.valid].any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_field_stays_finite(kind):
    data = measurement((6, 7), is_plain=True)
    field = torch.zeros((1, 6, 7), dtype=torch.complex128)
    assert torch.isfinite(loss(field, data, kind)).all()
    assert torch.isfinite(torch.view_as_real(field_gradient(field, data, kind))).all()
