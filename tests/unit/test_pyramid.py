"""From coarse to fine against plain numpy, for arrays of every form."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from cdi_stream.phasing.convolution import gaussian_transform
from cdi_stream.phasing.projections import Measurement, expected_counts, reciprocal
from cdi_stream.phasing.pyramid import coarsen, coarsest_shape, crop_centre, grid_shapes, resample_crystals
from cdi_stream.phasing.tuning import TUNING

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = [
    (48, 48, 48), (64, 64, 64), (8, 64, 64), (96, 16, 16), (33, 40, 37), (14, 98, 49), (8, 8, 8), (9, 8, 11),
    (64, 64), (33, 37), (8, 8), (200, 9),
]  # fmt: skip


def crystal(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A smooth lump about voxel 0 with a phase, complex128."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")
    radius = sum((x / width) ** 2 for x, width in zip(axes, rng.uniform(0.1, 0.16, len(shape)), strict=True))
    phase = sum(np.cos(2 * np.pi * (x - start)) for x, start in zip(axes, rng.random(len(shape)), strict=True))
    return torch.from_numpy(np.exp(-(radius**2) + 2j * phase))


def measured(shape: tuple[int, ...], background: float = 0.0) -> Measurement:
    magnitude = (reciprocal(crystal(shape), len(shape)).abs().square() * 1e4 + background).sqrt()
    ones = torch.ones_like(magnitude)
    return Measurement(magnitude=magnitude, magnitude_scale=ones, valid=ones.bool())


def cut(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The middle by frequencies: those of the smaller array, for any array in Fourier order."""
    for axis, m in enumerate(shape, array.ndim - len(shape)):
        frequencies = np.rint(np.fft.fftfreq(m) * m).astype(int)
        array = np.take(array, frequencies % array.shape[axis], axis)
    return array


def is_fast(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


@pytest.mark.parametrize("background", [0.0, 5.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_levels_grow_to_the_full_shape(shape, background):
    found = grid_shapes(measured(shape, background))
    assert found[-1] == shape
    assert len(found) < 8
    for small, large in pairwise(found):
        assert all(a <= b for a, b in zip(small, large, strict=True))
        assert small != large
        assert all(b <= max(1.8 * a, a + 4) for a, b in zip(small, large, strict=True))
    for level in found:
        assert all(n == full or (n < full and n % 2 == 0 and is_fast(n)) for n, full in zip(level, shape, strict=True))


@pytest.mark.parametrize("shape", [(n,) * 2 for n in range(2, 130)])
def test_levels_end_for_every_length(shape):
    ones = torch.ones(shape)
    peak = torch.zeros(shape)
    peak[0, 0] = 1
    for magnitude in (ones, peak, 0 * ones):
        data = Measurement(magnitude=magnitude, magnitude_scale=ones, valid=ones.bool())
        assert grid_shapes(data)[-1] == shape
        assert all(small <= full for small, full in zip(coarsest_shape(data), shape, strict=True))


def test_a_big_array_about_a_small_pattern_begins_small():
    assert grid_shapes(measured((64, 64, 64)))[0] == (16, 16, 16)
    narrow = grid_shapes(measured((8, 64, 64)))
    assert all(level[0] == 8 for level in narrow)


@pytest.mark.parametrize("shape", [(48, 40, 64), (60, 72)])
def test_the_coarsest_keeps_its_share_of_the_counts(shape):
    data = measured(shape)
    counts, small = np.fft.fftshift(data.magnitude.numpy() ** 2), coarsest_shape(data)
    for axis, (n, m) in enumerate(zip(shape, small, strict=True)):
        along = counts.sum(tuple(k for k in range(len(shape)) if k != axis))
        kept = along[n // 2 - m // 2 : n // 2 - m // 2 + m].sum()
        assert kept >= (TUNING.kept_counts - 0.001) * along.sum()


def test_masked_voxels_do_not_widen_it():
    data = measured((48, 48, 48))
    data.magnitude[20:28], data.valid[20:28] = 1e4, False
    assert coarsest_shape(data)[0] == 16


@pytest.mark.parametrize(("shape", "small"), [((12, 9, 10), (8, 5, 10)), ((9, 12), (4, 7)), ((8, 8), (8, 8))])
def test_the_middle_is_that_of_the_frequencies(shape, small):
    array = np.random.default_rng(0).random((3, *shape))
    found = crop_centre(torch.from_numpy(array), small)
    np.testing.assert_array_equal(found, cut(array, small))
    assert found.is_contiguous()
    np.testing.assert_array_equal(crop_centre(torch.from_numpy(array[0]), small), cut(array[0], small))


@pytest.mark.parametrize(("old", "new"), [((8, 9, 10), (16, 9, 20)), ((6, 7), (12, 14)), ((8, 8), (8, 16))])
def test_finer_voxels_go_through_the_coarse_ones(old, new):
    batch = torch.randn(2, *old, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    found = resample_crystals(batch, new)
    assert found.shape == (2, *new)
    coarse = found[(slice(None), *(slice(None, None, b // a) for a, b in zip(old, new, strict=True)))]
    torch.testing.assert_close(coarse * (np.prod(new) / np.prod(old)) ** 0.5, batch)
    torch.testing.assert_close(found.abs().square().sum(), batch.abs().square().sum())


@pytest.mark.parametrize(
    ("shape", "other"),
    [((16, 18, 20), (24, 27, 25)), ((17, 15), (40, 16)), ((12, 12), (12, 12)), ((16, 20), (24, 12)), ((9, 8), (10, 9))],
)
def test_a_crystal_comes_back_from_another_grid(shape, other):
    batch = torch.stack([crystal(shape, 1), crystal(shape, 2)])
    smaller = tuple(min(a, b) for a, b in zip(shape, other, strict=True))
    back = resample_crystals(resample_crystals(batch, other), shape)
    assert back.shape == batch.shape
    torch.testing.assert_close(back, resample_crystals(resample_crystals(batch, smaller), shape))
    if smaller == shape:
        torch.testing.assert_close(back, batch)
    assert (back - batch).norm() < 0.1 * batch.norm()


@pytest.mark.parametrize(("shape", "small"), [((16, 18, 15), (8, 12, 10)), ((20, 21), (12, 16))])
def test_a_coarse_measurement_is_that_of_the_coarse_crystal(shape, small):
    rng = np.random.default_rng(4)
    scale, background = (torch.from_numpy(rng.uniform(0.5, 1.5, shape)) for _ in range(2))
    valid, truth = torch.from_numpy(rng.random(shape) < 0.8), crystal(shape)
    data = Measurement(magnitude=scale, magnitude_scale=scale, valid=valid, background=background)
    full = expected_counts(reciprocal(truth, len(shape)), data)
    data = replace(data, magnitude=full.sqrt())
    found = coarsen(data, small)
    assert found.coherence is None
    np.testing.assert_array_equal(found.valid, cut(valid.numpy(), small))
    model = expected_counts(reciprocal(resample_crystals(truth[None], small), len(shape))[0], found)
    torch.testing.assert_close(model.sqrt(), found.magnitude)
    assert coarsen(data, shape) is data


@pytest.mark.parametrize(("shape", "small"), [((32, 36, 30), (24, 24, 20)), ((40, 42), (24, 32))])
def test_a_kernel_has_the_same_width_in_voxels_on_a_coarse_grid(shape, small):
    widths, full = (0.9, 0.4, 0.7)[: len(shape)], torch.ones(shape)
    data = Measurement(
        magnitude=full, magnitude_scale=full, valid=full > 0, coherence=gaussian_transform(full.shape, widths)
    )
    torch.testing.assert_close(
        coarsen(data, small).coherence.real, gaussian_transform(small, widths), atol=0.01, rtol=0
    )
