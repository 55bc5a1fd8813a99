"""The brightest place of a pattern is that of the filter of three voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cdi_stream.inversion.brightest import brightest_place


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize("shape", [(9, 14), (7, 10, 13), (16, 3, 40)])
@pytest.mark.parametrize("seed", range(4))
def test_the_neighbourhood_with_the_largest_sum_is_found(shape, wraps, seed):
    rng = np.random.default_rng(seed)
    values = rng.exponential(3, shape).astype(np.float32)
    values[rng.random(shape) < 0.1] = -1
    values[tuple(rng.integers(0, 2, len(shape)))] = 40  # near an edge, where an array wraps or ends
    suspects = rng.random(shape) < 0.05
    usable = np.where(suspects | (values < 0), 0, values).astype(float)
    means = ndimage.uniform_filter(usable, 3, mode="wrap" if wraps else "constant")
    assert brightest_place(values, suspects, wraps=wraps) == np.argmax(means)


def test_without_any_intensity_it_is_the_first_voxel():
    nothing = np.full((4, 5, 6), -1, np.float32)
    assert brightest_place(nothing, np.zeros(nothing.shape, bool), wraps=False) == 0
