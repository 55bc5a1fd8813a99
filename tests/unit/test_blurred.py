"""Operations of cycles with a blurred model, against the same sums in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.phasing.blurred import FAINTEST, CountsModel, power, scale_to_counts, slope_by_intensity

SHAPE = (3, 4, 5)


def noise(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(2, *SHAPE)) + 1j * rng.normal(size=(2, *SHAPE))).astype(dtype)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_power_is_the_square_of_the_modulus(dtype):
    field = noise(dtype)
    np.testing.assert_allclose(power(torch.from_numpy(field)), np.abs(field) ** 2, rtol=1e-5)


def model_of(real, seed=1):
    """Counts with holes, scale and background, each of one shape."""
    rng = np.random.default_rng(seed)
    magnitude, scale, ground = (rng.uniform(0.1, 2, SHAPE).astype(real) for _ in range(3))
    magnitude[rng.random(SHAPE) < 0.3] = -1  # not measured
    blurred = rng.uniform(-0.5, 2, (2, *SHAPE)).astype(real)  # rounding may give values below zero
    counts, factor, beside = map(torch.from_numpy, (magnitude, scale, ground))
    model = CountsModel(magnitude=counts, squared_scale=factor, background=beside, least=0.2)
    return model, magnitude, scale, ground, blurred


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_fields_are_scaled_by_the_root_of_measured_over_expected_counts(dtype):
    field = noise(dtype)
    model, magnitude, scale, ground, blurred = model_of(field.real.dtype)
    expected = scale * np.maximum(blurred, 0.2 * np.abs(field) ** 2) + ground
    found = torch.from_numpy(field.copy())
    scale_to_counts(found, torch.from_numpy(blurred), model)
    np.testing.assert_allclose(found, field * np.where(magnitude < 0, 1, magnitude / np.sqrt(expected)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_the_slope_is_that_of_the_amplitude_loss_by_the_intensity(dtype):
    field = noise(dtype)
    model, magnitude, scale, ground, blurred = model_of(field.real.dtype)
    for array in (field, blurred, ground):
        array[..., 0, 0, 0] = 0  # a voxel without any expected counts
    expected = scale * np.maximum(blurred, 0.2 * np.abs(field) ** 2) + ground
    slope = scale * (1 - magnitude / np.sqrt(np.maximum(expected, FAINTEST)))
    found = torch.from_numpy(blurred.copy())
    slope_by_intensity(torch.from_numpy(field), found, model)
    np.testing.assert_allclose(
        found, np.where((magnitude < 0) | (expected <= FAINTEST), 0, slope), rtol=1e-4, atol=1e-5
    )
