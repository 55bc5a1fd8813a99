"""Operations of cycles with a blurred model, against the same sums in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.phasing.blurred import CountsModel, power, scale_to_counts

SHAPE = (3, 4, 5)


def noise(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(2, *SHAPE)) + 1j * rng.normal(size=(2, *SHAPE))).astype(dtype)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_power_is_the_square_of_the_modulus(dtype):
    field = noise(dtype)
    np.testing.assert_allclose(power(torch.from_numpy(field)), np.abs(field) ** 2, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_fields_are_scaled_by_the_root_of_measured_over_expected_counts(dtype):
    rng, field = np.random.default_rng(1), noise(dtype)
    real = field.real.dtype
    magnitude, scale, ground = (rng.uniform(0.1, 2, SHAPE).astype(real) for _ in range(3))
    magnitude[rng.random(SHAPE) < 0.3] = -1  # not measured
    blurred = rng.uniform(-0.5, 2, field.shape).astype(real)  # rounding may give values below zero
    expected = scale * np.maximum(blurred, 0.2 * np.abs(field) ** 2) + ground
    model = CountsModel(
        magnitude=torch.from_numpy(magnitude),
        squared_scale=torch.from_numpy(scale),
        background=torch.from_numpy(ground),
        least=0.2,
    )
    found = torch.from_numpy(field.copy())
    scale_to_counts(found, torch.from_numpy(blurred), model)
    np.testing.assert_allclose(found, field * np.where(magnitude < 0, 1, magnitude / np.sqrt(expected)), rtol=1e-5)
