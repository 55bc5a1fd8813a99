"""Projections of iterative phasing against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cdi_stream.fourier import from_fourier_order, to_fourier_order, to_reciprocal
from cdi_stream.phasing.projections import (
    Measurement,
    direct,
    error_reduction,
    hybrid_input_output,
    project_magnitude,
    reciprocal,
)

SHAPES = [(12,), (8, 9), (6, 7, 8)]


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(shape: tuple[int, ...], seed: int = 3) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=generator(seed))


def measurement(shape: tuple[int, ...], share_valid: float = 0.8) -> Measurement:
    """Magnitudes of some crystal, with uneven gain and holes."""
    gain = 0.5 + torch.rand(shape, dtype=torch.float64, generator=generator(4))
    valid = torch.rand(shape, generator=generator(5)) < share_valid
    return Measurement(magnitude=gain * reciprocal(noise(shape, 6), len(shape)).abs(), gain=gain, valid=valid)


def half(shape: tuple[int, ...]) -> Tensor:
    support = torch.zeros(shape, dtype=torch.bool)
    support[: shape[0] // 2] = True
    return support


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pair_is_the_centred_one_in_fourier_order(shape):
    crystal, n_axes = noise(shape), len(shape)
    centred = to_reciprocal(from_fourier_order(crystal), n_axes)
    torch.testing.assert_close(reciprocal(crystal, n_axes), to_fourier_order(centred))
    torch.testing.assert_close(direct(reciprocal(crystal, n_axes), n_axes), crystal)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_projection_has_the_measured_magnitudes_and_its_own_phases(shape):
    data, crystal = measurement(shape), noise(shape)
    before, after = (reciprocal(c, len(shape)) for c in (crystal, project_magnitude(crystal, data)))
    torch.testing.assert_close((data.gain * after.abs())[data.valid], data.magnitude[data.valid])
    torch.testing.assert_close(torch.sgn(after), torch.sgn(before))


def test_what_was_not_measured_stays():
    data, crystal = measurement((6, 7, 8)), noise((6, 7, 8))
    before, after = reciprocal(crystal, 3), reciprocal(project_magnitude(crystal, data), 3)
    torch.testing.assert_close(after[~data.valid], before[~data.valid])


def test_projecting_twice_is_projecting_once():
    data = measurement((6, 7, 8))
    once = project_magnitude(noise((6, 7, 8)), data)
    torch.testing.assert_close(project_magnitude(once, data), once)


def test_no_other_field_with_the_magnitudes_is_nearer_than_the_projection():
    data, crystal = measurement((6, 7, 8), share_valid=1.1), noise((6, 7, 8))
    distance = (project_magnitude(crystal, data) - crystal).norm()
    angles = 2 * torch.pi * torch.rand((20, 6, 7, 8), dtype=torch.float64, generator=generator())
    others = direct(torch.polar((data.magnitude / data.gain).expand(20, -1, -1, -1), angles), 3)
    assert ((others - crystal).flatten(1).norm(dim=1) > distance).all()


def test_crystals_before_the_last_axes_are_a_batch():
    data, batch = measurement((6, 7, 8)), noise((2, 6, 7, 8))
    torch.testing.assert_close(project_magnitude(batch, data)[1], project_magnitude(batch[1], data))


def test_an_empty_crystal_stays_finite():
    data = measurement((6, 7, 8))
    result = project_magnitude(torch.zeros((6, 7, 8), dtype=torch.complex128), data)
    assert torch.isfinite(torch.view_as_real(result)).all()


def test_error_reduction_is_the_projection_inside_and_zero_outside():
    crystal, projected, support = noise((6, 8)), noise((6, 8), 7), half((6, 8))
    result = error_reduction(crystal, projected, support)
    torch.testing.assert_close(result[support], projected[support])
    assert not result[~support].any()


def test_error_reduction_never_increases_the_misfit():
    shape = (10, 11, 12)
    data, support, crystal = measurement(shape), half(shape), noise(shape) * half(shape)
    errors = []
    for _ in range(40):
        errors.append(float((reciprocal(crystal, 3).abs() - data.magnitude / data.gain)[data.valid].norm()))
        crystal = error_reduction(crystal, project_magnitude(crystal, data), support)
    assert (np.diff(errors) <= 1e-12 * errors[0]).all()
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize("beta", [0.5, 0.9, 1.0])
def test_hybrid_input_output_feeds_back_outside(beta):
    crystal, projected, support = noise((6, 8)), noise((6, 8), 7), half((6, 8))
    expected = np.where(support, projected, crystal.numpy() - beta * projected.numpy())
    np.testing.assert_allclose(hybrid_input_output(crystal, projected, support, beta), expected)


def test_a_solution_is_a_fixed_point_of_both():
    support = half((6, 7, 8))
    crystal = noise((6, 7, 8)) * support
    gain, valid = torch.ones((6, 7, 8), dtype=torch.float64), torch.ones((6, 7, 8), dtype=torch.bool)
    data = Measurement(magnitude=reciprocal(crystal, 3).abs(), gain=gain, valid=valid)
    projected = project_magnitude(crystal, data)
    torch.testing.assert_close(error_reduction(crystal, projected, support), crystal)
    torch.testing.assert_close(hybrid_input_output(crystal, projected, support, 0.9), crystal)
