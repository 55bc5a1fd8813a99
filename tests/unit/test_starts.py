"""Where phasing begins: reproducible, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.numerics.fourier import from_fourier_order, to_fourier_order, twin
from cdi_stream.phasing.autocorrelation import autocorrelation
from cdi_stream.phasing.projections import Measurement, reciprocal
from cdi_stream.phasing.starts import autocorrelation_starts, random_starts, start_from
from cdi_stream.phasing.support import box_support

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = [(9, 11), (16, 16, 16), (8, 12, 15)]


def measured(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Measurement:
    """A small crystal's magnitudes, some of them not valid."""
    generator = torch.Generator().manual_seed(2)
    crystal = torch.zeros(shape, dtype=dtype)
    crystal[tuple(slice(n // 4) for n in shape)] = 1
    scale = 0.5 + torch.rand(shape, generator=generator, dtype=dtype)
    valid = torch.rand(shape, generator=generator) < 0.9
    return Measurement(magnitude=scale * reciprocal(crystal, len(shape)).abs(), magnitude_scale=scale, valid=valid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_starts_have_the_measured_magnitudes_and_any_phase(shape, dtype):
    data = measured(shape, dtype)
    batch = random_starts(data, [3, 4])
    assert batch.crystal.dtype == (torch.complex64 if dtype == torch.float32 else torch.complex128)
    assert (batch.cycle, len(batch)) == (0, 2)
    fields = reciprocal(batch.crystal, len(shape))
    expected = torch.where(data.valid, data.magnitude / data.magnitude_scale, 0).expand_as(fields)
    torch.testing.assert_close(fields.abs(), expected)
    phases = fields[expected > 0.1 * expected.max()].angle()
    assert torch.polar(torch.ones_like(phases), phases).mean().abs() < 4 / len(phases) ** 0.5


def test_a_start_follows_its_seed_and_not_its_company():
    data = measured((8, 12, 15))
    one, company, again = (random_starts(data, seeds) for seeds in ([7], [5, 7, 6], [7]))
    assert torch.equal(one.crystal[0], company.crystal[1])
    assert torch.equal(one.crystal, again.crystal)
    assert not torch.allclose(company.crystal[0], company.crystal[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_support_is_a_box_of_half_the_array_or_what_is_given(shape):
    data = measured(shape)
    batch = random_starts(data, range(3))
    assert torch.equal(batch.support, box_support(shape).expand(3, *shape))
    box = batch.support[0]
    assert torch.equal(to_fourier_order(twin(from_fourier_order(box), len(shape))), box)
    for axis, n in enumerate(shape):
        along = int(box.any(dim=tuple(k for k in range(len(shape)) if k != axis)).sum())
        assert abs(along - n / 2) <= 1
    one, each = data.valid, torch.stack([data.valid, ~data.valid, data.valid])
    assert torch.equal(random_starts(data, range(3), one).support, one.expand(3, *shape))
    assert torch.equal(random_starts(data, range(3), each).support, each)


@pytest.mark.parametrize("shape", SHAPES)
def test_regions_of_the_autocorrelation_shrink_from_start_to_start(shape):
    data = measured(shape)
    batch = autocorrelation_starts(data, [4, 5, 6], thresholds=(0.05, 0.25))
    assert torch.equal(batch.crystal, random_starts(data, [4, 5, 6]).crystal)
    for support, level in zip(batch.support, (0.05, 0.15, 0.25), strict=True):
        assert torch.equal(support, autocorrelation(data) > level)
        assert support[(0,) * len(shape)]
    assert not (batch.support[1:] & ~batch.support[:-1]).any()
    assert torch.equal(autocorrelation_starts(data, [4]).support[0], autocorrelation(data) > 0.05)


def test_a_crystal_that_is_there_begins_inside_its_support():
    rng = np.random.default_rng(1)
    crystal = torch.from_numpy(rng.normal(size=(5, 6)) + 1j * rng.normal(size=(5, 6)))
    support = torch.from_numpy(rng.random((5, 6)) < 0.5)
    batch = start_from(crystal, support)
    assert batch.crystal.shape == (1, 5, 6)
    assert torch.equal(batch.crystal[0], crystal * support)
    assert torch.equal(batch.support[0], support)
