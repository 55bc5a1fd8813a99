"""Numbers of a crystal whose size and strain are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.affine import AffineMap, lab_grid
from cdi_stream.fourier import to_reciprocal
from cdi_stream.live.describe import box_vox, describe, strain

SHAPE = (20, 22, 24)
BLOCK = (slice(6, 15), slice(7, 14), slice(4, 19))
VOXEL_M = 8e-9
Q0 = np.array([0.9e10, -2.1e10, 1.3e10])
SUPPORT = np.zeros(SHAPE, dtype=bool)
SUPPORT[BLOCK] = True


def lab_map(q0: np.ndarray = Q0) -> AffineMap:
    origin = AffineMap(shape=(1, 1, 1), q0=q0, bq=np.eye(3), sample_to_lab=np.eye(3), coordinates="detector")
    return lab_grid(origin, SHAPE, VOXEL_M)


def places() -> np.ndarray:
    """Position of every voxel in lab axes (x, y, z) [m]."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) - np.array(SHAPE) // 2
    return index[..., ::-1] * VOXEL_M


def displaced(displacement_m: np.ndarray, q0: np.ndarray = Q0) -> np.ndarray:
    """The block with the phase +Q.u of a displacement along Q."""
    return SUPPORT * np.exp(1j * np.linalg.norm(q0) * displacement_m)


def along(q0: np.ndarray) -> np.ndarray:
    return places() @ q0 / np.linalg.norm(q0)


def spacing(q: np.ndarray) -> float:
    return 2 * np.pi / float(np.linalg.norm(q))


def test_the_box_counts_voxels_above_the_threshold_on_each_axis():
    amplitude = np.zeros((9, 10, 11), np.float32)
    amplitude[2, 3, 4] = 1
    np.testing.assert_array_equal(box_vox(amplitude), [1, 1, 1])
    amplitude[4, 3, 9] = 0.31
    amplitude[8, 9, 10] = 0.29
    np.testing.assert_array_equal(box_vox(amplitude), [3, 1, 6])
    np.testing.assert_array_equal(box_vox(amplitude, threshold=0.2), [7, 7, 7])
    np.testing.assert_array_equal(box_vox(np.zeros((3, 3, 3), np.float32)), [0, 0, 0])


def test_an_unstrained_block_has_its_size_and_spacing():
    numbers = describe(SUPPORT * np.complex64(0.7j), SUPPORT, lab_map())
    assert numbers["voxel_size_m"] == pytest.approx(VOXEL_M)
    sizes = [numbers[f"size_lab_{axis}_nm"] for axis in "zyx"]
    np.testing.assert_allclose(sizes, np.array([9, 7, 15]) * 8)
    assert numbers["support_volume_nm3"] == pytest.approx(9 * 7 * 15 * 8**3)
    assert numbers["d_spacing_m"] == pytest.approx(spacing(Q0))
    assert numbers["strain_low"] == pytest.approx(0, abs=1e-9)
    assert numbers["strain_high"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("q0", [*np.diag([2e10, -2e10, 2e10]), Q0, -Q0], ids=["x", "-y", "z", "skew", "-skew"])
@pytest.mark.parametrize("value", [2e-3, -2e-3, 5e-5])
def test_an_even_stretch_is_the_strain_and_a_larger_spacing(q0, value):
    density = displaced(value * along(q0), q0)
    mean, low, high = strain(density, SUPPORT, q0, VOXEL_M)
    assert mean == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose([low, high], 0, atol=1e-9)
    assert describe(density, SUPPORT, lab_map(q0))["d_spacing_m"] == pytest.approx(spacing(q0) * (1 + value))


def test_the_spacing_is_where_the_diffraction_went():
    affine = lab_map()
    steps = np.array([1, -2, 1])
    ramp = np.exp(2j * np.pi * (places()[..., ::-1] / VOXEL_M @ (steps / SHAPE)))
    density = SUPPORT * ramp
    diffraction = to_reciprocal(torch.from_numpy(density)).abs().numpy()
    peak = affine.q(np.unravel_index(np.argmax(diffraction), SHAPE))
    assert spacing(peak) > spacing(Q0) * 1.0005
    assert describe(density, SUPPORT, affine)["d_spacing_m"] == pytest.approx(spacing(peak), rel=2e-5)


def test_a_strain_that_grows_along_q_is_told_by_its_ends():
    q0 = np.array([2.5e10, 0.0, 0.0])
    slope = 1e-3 / (7 * VOXEL_M)
    centre = (4 + 18) / 2 - 24 // 2
    x = places()[..., 0] - centre * VOXEL_M
    mean, low, high = strain(displaced(slope * x**2 / 2, q0), SUPPORT, q0, VOXEL_M)
    inside = np.arange(-6, 7) * VOXEL_M * slope
    assert mean == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose([low, high], [inside.min(), inside.max()], rtol=1e-3)


def test_a_displacement_that_varies_across_q_only_is_no_strain():
    across = np.cross(Q0, (0.0, 0.0, 1.0))
    found = strain(displaced(2e-3 * along(across)), SUPPORT, Q0, VOXEL_M)
    np.testing.assert_allclose(found, 0, atol=1e-8)


def test_the_phase_may_wrap_many_times():
    q0 = np.array([0.0, 0.0, 2.5e10])
    density = displaced(5e-3 * along(q0), q0)
    assert np.ptp(5e-3 * along(q0)[SUPPORT]) * 2.5e10 > 2 * np.pi
    assert strain(density, SUPPORT, q0, VOXEL_M)[0] == pytest.approx(5e-3, rel=1e-6)


@pytest.mark.parametrize("share_of_half_turn", [0.45, 0.55, 0.95])
def test_neighbours_may_differ_by_up_to_half_a_turn(share_of_half_turn):
    q0 = np.array([0.0, 0.0, 2.5e10])
    value = share_of_half_turn * np.pi / (2.5e10 * VOXEL_M)
    density = displaced(value * along(q0), q0)
    assert strain(density, SUPPORT, q0, VOXEL_M)[0] == pytest.approx(value, rel=1e-6)


def test_what_lies_outside_the_support_does_not_matter():
    density = displaced(2e-3 * along(Q0))
    random = np.random.default_rng(0)
    spoilt = np.where(SUPPORT, density, random.normal(size=SHAPE) + 1j * random.normal(size=SHAPE))
    assert strain(spoilt, SUPPORT, Q0, VOXEL_M) == strain(density, SUPPORT, Q0, VOXEL_M)


def test_an_empty_support_has_no_strain():
    nothing = np.zeros(SHAPE, dtype=bool)
    assert strain(np.zeros(SHAPE, np.complex64), nothing, Q0, VOXEL_M) == (0, 0, 0)
    numbers = describe(np.zeros(SHAPE, np.complex64), nothing, lab_map())
    assert numbers["support_volume_nm3"] == 0
    assert all(np.isfinite(list(numbers.values())))
