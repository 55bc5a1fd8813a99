"""What the autocorrelation says of the size of crystals whose size is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.autocorrelation import (
    autocorrelation,
    box_of,
    intensities,
    island,
    oversampling,
    slant,
    weights,
)
from cdi_stream.phasing.grid_level import level_of
from cdi_stream.phasing.projections import Measurement, reciprocal
from cdi_stream.phasing.pyramid import coarsest_shape
from cdi_stream.phasing.tuning import TUNING

pytestmark = pytest.mark.usefixtures("one_thread")


def block(shape: tuple[int, ...], lengths: tuple[int, ...], shear: int = 0) -> torch.Tensor:
    """A box of ones about the origin; each plane of the first axis is ``shear`` voxels further along the last."""
    crystal = torch.zeros(shape, dtype=torch.complex128)
    for plane in range(lengths[0]):
        crystal[(plane, *(slice(n) for n in lengths[1:-1]), slice(shear * plane, shear * plane + lengths[-1]))] = 1
    return crystal


def measured(crystal: torch.Tensor) -> Measurement:
    magnitude = 100 * reciprocal(crystal, crystal.ndim).abs().float()
    return Measurement(magnitude=magnitude, magnitude_scale=torch.ones_like(magnitude), valid=magnitude >= 0)


@pytest.mark.parametrize(("shape", "size"), [((64, 60), (16, 20)), ((48, 50, 64), (12, 10, 20)), ((63, 49), (21, 12))])
def test_oversampling_of_a_box(shape, size):
    counts = reciprocal(block(shape, size), len(shape)).abs().square() * 1e5
    expected = [n / m for n, m in zip(shape, size, strict=True)]
    np.testing.assert_allclose(oversampling(counts), expected, rtol=0.15)
    np.testing.assert_allclose(oversampling(torch.roll(counts, 7, 0)), oversampling(counts), rtol=1e-12)


@pytest.mark.parametrize("shape", [(40, 48, 36), (50, 44)])
def test_the_box_is_that_of_the_crystal(shape):
    lengths = (10, 12, 8)[: len(shape)]
    box = box_of(measured(to_fourier_order(block(shape, lengths))))
    assert box.extents_vox == pytest.approx(lengths, rel=0.2)
    assert box.slant > 0.99


def test_neither_masked_voxels_nor_what_lies_in_them_change_the_box_much():
    data = measured(block((40, 48, 36), (10, 12, 8)))
    valid = torch.ones_like(data.valid)
    valid[:, 20:22] = False
    junk = torch.where(valid, data.magnitude, 1e4)
    box = box_of(replace(data, magnitude=junk, valid=valid))
    assert box.extents_vox == pytest.approx(box_of(data).extents_vox, rel=0.25)


def test_frames_behind_an_absorber_count_as_much_as_without():
    data = measured(block((40, 48, 36), (10, 12, 8)))
    scale = torch.ones_like(data.magnitude_scale)
    scale[-3:], scale[:4] = 0.01, 0.01  # the middle of the diffraction, in Fourier order
    dimmed = replace(data, magnitude=data.magnitude * scale.sqrt(), magnitude_scale=scale.sqrt())
    assert box_of(dimmed).extents_vox == pytest.approx(box_of(data).extents_vox, rel=0.02)
    assert coarsest_shape(dimmed) == coarsest_shape(data)
    torch.testing.assert_close(intensities(dimmed), intensities(data), rtol=1e-5, atol=0)
    unlit = replace(data, magnitude_scale=torch.where(data.magnitude > 50, data.magnitude_scale, 0.0))
    assert bool((intensities(unlit)[data.magnitude <= 50] == 0).all()), "where nothing is expected, nothing is known"


def test_dimmed_counts_are_noisier():
    rng = np.random.default_rng(3)
    rates = reciprocal(block((40, 48, 36), (10, 12, 8)), 3).abs().square()
    scale = torch.ones_like(rates)
    scale[-3:], scale[:4] = 0.01, 0.01
    counts = torch.from_numpy(rng.poisson((rates * scale * 2e4 / rates.sum()).numpy()).astype(np.float64))
    weight = weights(counts >= 0, scale)
    assert abs(island(counts, weight)).max() < 13
    noise = torch.fft.ifftn(counts * weight).abs()[20, 24, 18] / torch.fft.ifftn(counts * weight).abs()[0, 0, 0]
    assert noise > 1 / math.sqrt(float((counts * weight).sum())), "else the test shows nothing"


def test_the_box_of_nothing_and_of_one_plane_have_a_volume():
    for shape in ((8, 9, 10), (1, 40, 40)):
        zero = torch.zeros(shape)
        assert (
            0 < box_of(Measurement(magnitude=zero, magnitude_scale=zero, valid=zero == 0)).volume_vox <= np.prod(shape)
        )
    plane = box_of(measured(block((1, 40, 40), (1, 10, 8))))
    assert plane.extents_vox == pytest.approx((1, 10, 8), rel=0.2)


def test_a_slant_as_strain_makes_it_leaves_the_limits_as_they_are():
    data = measured(block((40, 40, 96), (6, 10, 20), 1))
    box = box_of(data)
    assert TUNING.slant_of_strain < box.slant < 1
    assert level_of(data).box_share == pytest.approx(np.prod(box.extents_vox) / data.magnitude.numel())
    assert level_of(data).extent_vox == pytest.approx(np.mean(box.extents_vox))


@pytest.mark.parametrize("shear", [1, 2])
def test_shear_makes_the_upright_box_larger_but_neither_the_slanted_one_nor_the_support(shear):
    upright, sheared = (measured(block((40, 40, 96), (12, 10, 12), k)) for k in (0, shear))
    box = box_of(sheared)
    assert np.prod(box.extents_vox) > 1.5 * np.prod(box_of(upright).extents_vox)
    assert box.volume_vox == pytest.approx(box_of(upright).volume_vox, rel=0.35)
    assert level_of(sheared).extent_vox < np.mean(box.extents_vox)
    assert level_of(sheared).box_share < 1.9 * level_of(upright).box_share


def test_slant_of_few_offsets():
    assert slant(np.zeros((1, 3), dtype=np.int64)) == pytest.approx(1)
    line = np.arange(-5, 6)[:, None] * np.array([1, 1, 0])
    c = 10 + 1 / 12
    assert slant(line) == pytest.approx(np.sqrt(c**2 - 10**2) / c)


def test_only_the_island_about_the_origin_counts():
    counts = reciprocal(block((48, 50), (8, 6)), 2).abs().square() * 1e5
    ripple = counts * (1 + 0.5 * torch.cos(2 * torch.pi * torch.arange(50) * 24 / 50))
    assert abs(island(ripple)).max() < 12
    assert len(island(ripple)) == len(island(counts))


@pytest.mark.parametrize("shape", [(16, 18), (15, 13), (8, 9, 10)])
def test_the_autocorrelation_is_that_of_the_crystal(shape):
    rng, size = np.random.default_rng(2), tuple(n // 3 for n in shape)
    crystal = np.zeros(shape, dtype=complex)
    crystal[tuple(slice(n) for n in size)] = rng.normal(size=size) + 1j * rng.normal(size=size)
    two = torch.full(shape, 2.0, dtype=torch.float64)
    field = reciprocal(torch.from_numpy(crystal), len(shape))
    found = autocorrelation(Measurement(magnitude=2 * field.abs(), magnitude_scale=two, valid=two > 0))
    axes = tuple(range(len(shape)))
    expected = [abs(np.vdot(np.roll(crystal, shift, axes), crystal)) for shift in np.ndindex(shape)]
    np.testing.assert_allclose(found, np.reshape(expected, shape) / max(expected), atol=1e-12)


def test_the_autocorrelation_of_nothing_is_nothing():
    zero = torch.zeros(8, 9)
    assert not autocorrelation(Measurement(magnitude=zero, magnitude_scale=zero, valid=zero == 0)).any()


@pytest.mark.gpu
def test_on_a_gpu():
    counts = reciprocal(block((24, 25), (8, 6)), 2).abs().square()
    assert oversampling(counts.cuda()) == pytest.approx(oversampling(counts))
