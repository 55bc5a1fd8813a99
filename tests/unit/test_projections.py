"""Projections of iterative phasing against their formulas, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cdi_stream.numerics.fourier import from_fourier_order, to_fourier_order, to_reciprocal
from cdi_stream.phasing.projections import (
    Measurement,
    Projector,
    difference_map,
    direct,
    error_reduction,
    expected_counts,
    hybrid_input_output,
    project_magnitude,
    reciprocal,
    relaxed_reflections,
)

pytestmark = pytest.mark.usefixtures("one_thread")
REPEATABLE = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SHAPES = [(12,), (8, 9), (6, 7, 8)]
SOME = {"shape": st.sampled_from(SHAPES), "beta": st.floats(0.05, 2), "seed": st.integers(0, 1000)}


def noise(shape: tuple[int, ...], seed: int = 3) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def half(shape: tuple[int, ...]) -> Tensor:
    support = torch.zeros(shape, dtype=torch.bool)
    support[: shape[0] // 2] = True
    return support


def blur(shape: tuple[int, ...]) -> Tensor:
    """A coherence kernel over three voxels of each axis, uneven, as the transform that a measurement holds."""
    kernel = torch.zeros(shape, dtype=torch.float64)
    for axis in range(len(shape)):
        for step, weight in ((-1, 0.1), (0, 0.3), (1, 0.2)):
            kernel[tuple(step if k == axis else 0 for k in range(len(shape)))] += weight
    return torch.fft.rfftn(kernel / kernel.sum())


def measurement(crystal: Tensor, seed: int = 4, share_valid: float = 0.8, is_plain: bool = True) -> Measurement:
    """Magnitudes of a crystal, with an uneven magnitude scale and holes."""
    shape = tuple(crystal.shape)
    data = Measurement(
        magnitude=torch.zeros(shape, dtype=torch.float64),
        magnitude_scale=0.5 + random(shape, seed),
        valid=random(shape, seed + 1) < share_valid,
        background=None if is_plain else random(shape, seed + 2),
        coherence=None if is_plain else blur(shape),
    )
    data.magnitude[:] = expected_counts(reciprocal(crystal, len(shape)), data).sqrt()
    return data


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pair_is_the_centred_one_in_fourier_order(shape):
    crystal, n_axes = noise(shape), len(shape)
    centred = to_reciprocal(from_fourier_order(crystal), n_axes)
    torch.testing.assert_close(reciprocal(crystal, n_axes), to_fourier_order(centred))
    torch.testing.assert_close(direct(reciprocal(crystal, n_axes), n_axes), crystal)


@pytest.mark.parametrize("shape", SHAPES)
def test_expected_counts_are_scaled_blurred_intensities_over_a_background(shape):
    field, data = noise(shape), measurement(noise(shape), is_plain=False)
    intensity = np.abs(field.numpy()) ** 2
    blurred = np.zeros(shape)
    for axis in range(len(shape)):
        for step, weight in ((-1, 0.1), (0, 0.3), (1, 0.2)):
            blurred += weight / 0.6 / len(shape) * np.roll(intensity, step, axis)
    expected = data.magnitude_scale.numpy() ** 2 * blurred + data.background.numpy()
    np.testing.assert_allclose(expected_counts(field, data), expected)
    np.testing.assert_allclose(expected_counts(field[None], data)[0], expected)


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_projection_rescales_to_the_measured_and_keeps_its_phases(shape, is_plain):
    data, crystal = measurement(noise(shape, 6), is_plain=is_plain), noise(shape)
    before, after = (reciprocal(c, len(shape)) for c in (crystal, project_magnitude(crystal, data)))
    factor = data.magnitude / expected_counts(before, data).sqrt()
    torch.testing.assert_close(after, before * torch.where(data.valid, factor, 1))
    if is_plain:
        torch.testing.assert_close((data.magnitude_scale * after.abs())[data.valid], data.magnitude[data.valid])


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("junk", [0.0, 1e6, float("nan")])
def test_what_was_not_measured_does_not_matter(is_plain, junk):
    data, crystal = measurement(noise((6, 7, 8), 6), is_plain=is_plain), noise((6, 7, 8))
    expected = project_magnitude(crystal, data)
    data.magnitude[~data.valid] = junk
    torch.testing.assert_close(project_magnitude(crystal, data), expected)


def test_projecting_twice_is_projecting_once():
    data = measurement(noise((6, 7, 8), 6))
    once = project_magnitude(noise((6, 7, 8)), data)
    torch.testing.assert_close(project_magnitude(once, data), once)


def test_no_other_field_with_the_magnitudes_is_nearer_than_the_projection():
    data, crystal = measurement(noise((6, 7, 8), 6), share_valid=1.1), noise((6, 7, 8))
    distance = (project_magnitude(crystal, data) - crystal).norm()
    angles = 2 * torch.pi * random((20, 6, 7, 8), 3)
    others = direct(torch.polar((data.magnitude / data.magnitude_scale).expand(20, -1, -1, -1), angles), 3)
    assert ((others - crystal).flatten(1).norm(dim=1) > distance).all()


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_batch_is_projected_one_by_one_and_its_size_may_change(is_plain):
    data = measurement(noise((6, 7, 8), 6), is_plain=is_plain)
    project = Projector(data)
    for n in (2, 2, 3, 1):
        batch = noise((n, 6, 7, 8), n)
        expected = torch.stack([project_magnitude(one, data) for one in batch])
        torch.testing.assert_close(project(batch), expected)
        torch.testing.assert_close(batch, noise((n, 6, 7, 8), n))


@pytest.mark.parametrize("is_plain", [True, False])
def test_an_empty_crystal_stays_finite(is_plain):
    data = measurement(noise((6, 7, 8), 6), is_plain=is_plain)
    result = project_magnitude(torch.zeros((6, 7, 8), dtype=torch.complex128), data)
    assert torch.isfinite(torch.view_as_real(result)).all()


def test_one_magnitude_scale_for_all_will_do():
    data = measurement(noise((6, 7), 6))
    one = Measurement(magnitude=data.magnitude, magnitude_scale=torch.tensor(2.0), valid=data.valid)
    all_ = Measurement(magnitude=data.magnitude, magnitude_scale=torch.full((6, 7), 2.0), valid=data.valid)
    torch.testing.assert_close(project_magnitude(noise((6, 7)), one), project_magnitude(noise((6, 7)), all_))


def stepped(algorithm: str, crystal: Tensor, data: Measurement, support: Tensor, beta: float) -> Tensor:
    """One cycle of one crystal."""
    batch, mask, project = crystal[None].clone(), support[None], Projector(data)
    match algorithm:
        case "ER":
            error_reduction(batch, project(batch), mask)
        case "HIO":
            hybrid_input_output(batch, project(batch), mask, beta)
        case "RAAR":
            relaxed_reflections(batch, project(batch), mask, beta)
        case "DM":
            difference_map(batch, project, mask, beta)
    return batch[0]


def in_words(algorithm: str, x: Tensor, data: Measurement, support: Tensor, beta: float) -> np.ndarray:
    """The same as operators, each as its source defines it."""

    def p_m(rho):
        return project_magnitude(torch.as_tensor(rho), data).numpy()

    def p_s(rho):
        return np.where(support, rho, 0)

    def r_m(rho):
        return 2 * p_m(rho) - rho

    def r_s(rho):
        return 2 * p_s(rho) - rho

    def f_m(rho):
        return (1 + 1 / beta) * p_m(rho) - rho / beta

    def f_s(rho):
        return (1 - 1 / beta) * p_s(rho) + rho / beta

    rho = x.numpy()
    return {
        "ER": lambda: p_s(p_m(rho)),
        "HIO": lambda: np.where(support, p_m(rho), rho - beta * p_m(rho)),
        "RAAR": lambda: beta / 2 * (r_s(r_m(rho)) + rho) + (1 - beta) * p_m(rho),
        "DM": lambda: rho + beta * (p_s(f_m(rho)) - p_m(f_s(rho))),
    }[algorithm]()


@pytest.mark.parametrize("algorithm", ["ER", "HIO", "RAAR", "DM"])
@given(**SOME, is_plain=st.booleans())
@REPEATABLE
def test_each_algorithm_is_its_operators(algorithm, shape, beta, seed, is_plain):
    data, crystal = measurement(noise(shape, seed), seed, is_plain=is_plain), noise(shape, seed + 1)
    found = stepped(algorithm, crystal, data, half(shape), beta)
    expected = in_words(algorithm, crystal, data, half(shape), beta)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("algorithm", ["ER", "HIO", "RAAR", "DM"])
@given(**SOME, is_plain=st.booleans())
@REPEATABLE
def test_a_solution_is_a_fixed_point(algorithm, shape, beta, seed, is_plain):
    support = half(shape)
    crystal = noise(shape, seed) * support
    data = measurement(crystal, seed, is_plain=is_plain)
    torch.testing.assert_close(stepped(algorithm, crystal, data, support, beta), crystal, rtol=1e-9, atol=1e-9)


@given(**SOME)
@REPEATABLE
def test_the_difference_map_and_raar_at_one_are_hybrid_input_output_at_one(shape, beta, seed):
    data, crystal = measurement(noise(shape, seed), seed), noise(shape, seed + 1)
    args = crystal, data, half(shape)
    expected = stepped("HIO", *args, 1)
    torch.testing.assert_close(stepped("DM", *args, 1), expected)
    torch.testing.assert_close(stepped("DM", *args, 1 + 1e-9), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stepped("RAAR", *args, 1), expected)


def test_error_reduction_never_increases_the_misfit():
    shape = (10, 11, 12)
    data, support, crystal = measurement(noise(shape, 6)), half(shape), noise(shape) * half(shape)
    errors = []
    for _ in range(40):
        errors.append(float((reciprocal(crystal, 3).abs() - data.magnitude / data.magnitude_scale)[data.valid].norm()))
        crystal = stepped("ER", crystal, data, support, 0.9)
    assert (np.diff(errors) <= 1e-12 * errors[0]).all()
    assert errors[-1] < 0.9 * errors[0]
