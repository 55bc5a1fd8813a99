"""Invalid voxels get the mean of their valid neighbours, on the CPU as on other devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion import filling
from cdi_stream.inversion.filling import filled_intensity
from cdi_stream.messages import PreparedVolume, read_only

SHAPE = (7, 9, 8)


@pytest.fixture(params=[0.02, 0.5, 1.0], ids=["few", "half", "all"])
def volume(request):
    rng = np.random.default_rng(3)
    return PreparedVolume(
        counts=read_only(rng.poisson(50, SHAPE).astype(np.uint32)),
        valid_pixels=read_only(rng.random(SHAPE) >= request.param),
        expected_scale=read_only(rng.uniform(0.5, 2, SHAPE).astype(np.float32)),
        affine=AffineMap(shape=SHAPE, q0=np.ones(3), bq=np.eye(3), sample_to_lab=np.eye(3), coordinates="detector"),
        crystal_extent_m=(1e-7, 1e-7, 1e-7),
        oversampling=(3.0, 3.0, 3.0),
    )


def by_hand(volume):
    """Mean over the valid voxels of the 3x3x3 neighbourhood, voxel by voxel."""
    intensity = volume.counts / volume.expected_scale
    expected = np.where(volume.valid_pixels, intensity, 0)
    for place in np.argwhere(~volume.valid_pixels):
        about = tuple(slice(max(k - 1, 0), k + 2) for k in place)
        is_valid = volume.valid_pixels[about]
        expected[tuple(place)] = intensity[about][is_valid].mean() if is_valid.any() else 0
    return expected


@pytest.mark.parametrize("n_threads", [1, 2, 16])
def test_the_compiled_loop_is_the_mean_of_the_neighbours(volume, n_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        np.testing.assert_allclose(filled_intensity(volume), by_hand(volume), rtol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_other_devices_give_the_same(volume):
    np.testing.assert_allclose(filling._on_device(volume, "cpu"), by_hand(volume), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_counts_may_have_any_type(volume, dtype):
    other = replace(volume, counts=read_only(volume.counts.astype(dtype)))
    np.testing.assert_allclose(filled_intensity(other), by_hand(volume), rtol=1e-5)
