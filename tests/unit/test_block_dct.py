"""Down-sampling by block-wise cosine transforms, against its definition and against binning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cdi_stream.networks.block_dct import downsample

pytestmark = pytest.mark.usefixtures("one_thread")


def by_definition(block: np.ndarray, m: int) -> np.ndarray:
    """The mean and the lowest m - 1 cosines of n values, evaluated where the first of each n / m values is."""
    n = len(block)
    places = (np.arange(n) + 0.5) / n
    fewer = places[:: n // m]
    found = np.full(m, block.mean())
    for k in range(1, m):
        weight = 2 * (block * np.cos(math.pi * k * places)).mean()
        found += weight * np.cos(math.pi * k * fewer)
    return found


@pytest.mark.parametrize(("factor", "block"), [(2, 8), (2, 4), (4, 8), (1, 4)])
def test_each_block_keeps_its_lowest_cosines(factor, block):
    line = np.random.default_rng(1).normal(size=3 * block)
    expected = np.concatenate([by_definition(part, block // factor) for part in line.reshape(3, block)])
    np.testing.assert_allclose(downsample(torch.from_numpy(line), factor, block), expected, atol=1e-12)


def test_axes_are_independent_and_a_constant_stays():
    one, two, three = (torch.from_numpy(np.random.default_rng(k).normal(size=8 * (k + 1))) for k in range(3))
    volume = one[:, None, None] * two[:, None] * three
    expected = downsample(one)[:, None, None] * downsample(two)[:, None] * downsample(three)
    torch.testing.assert_close(downsample(volume), expected)
    assert downsample(torch.full((16, 8, 24), 3.0)).shape == (8, 4, 12)
    torch.testing.assert_close(downsample(torch.full((16, 8, 24), 3.0)), torch.full((8, 4, 12), 3.0))


def test_a_smooth_peak_keeps_its_shape():
    peak = torch.exp(-(((torch.arange(64, dtype=torch.float64) - 32) / 10) ** 2))
    assert (downsample(peak) - peak[::2]).abs().max() < 0.03
    assert int(downsample(peak).argmax()) == 16, "the origin stays where it is"


@pytest.mark.parametrize(("shape", "factor"), [((12, 16), 2), ((16, 16), 3)])
def test_what_blocks_do_not_fill_is_refused(shape, factor):
    with pytest.raises(ValueError, match="blocks of 8 voxels"):
        downsample(torch.zeros(shape), factor)
