"""Numbers of a crystal whose size and strain are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.geometry.affine import AffineMap, lab_grid
from cdi_stream.inversion.describe import box_vox, describe
from cdi_stream.numerics.fourier import to_reciprocal

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


@pytest.mark.parametrize("value", [2e-3, -2e-3, 5e-5])
def test_an_even_stretch_is_no_strain_but_another_spacing(value):
    numbers = describe(displaced(value * along(Q0)), SUPPORT, lab_map())
    assert numbers["d_spacing_m"] == pytest.approx(spacing(Q0 * (1 - value)))
    np.testing.assert_allclose([numbers["strain_low"], numbers["strain_high"]], 0, atol=1e-9)


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
    numbers = describe(displaced(slope * x**2 / 2, q0), SUPPORT, lab_map(q0))
    end = 6.5 * VOXEL_M * slope  # at the border the bond to the neighbour inside counts
    np.testing.assert_allclose([numbers["strain_low"], numbers["strain_high"]], [-end, end], rtol=1e-3)
    assert numbers["d_spacing_m"] == pytest.approx(spacing(q0))


def test_what_lies_outside_the_support_or_is_nearly_empty_does_not_matter():
    density = displaced(2e-3 * along(Q0) ** 2 / (50 * VOXEL_M))
    random = np.random.default_rng(0)
    noise = random.normal(size=SHAPE) + 1j * random.normal(size=SHAPE)
    expected = describe(density, SUPPORT, lab_map())
    for spoilt, support in ((density + noise * ~SUPPORT, SUPPORT), (density + 0.05 * noise * ~SUPPORT, SUPPORT | True)):
        found = describe(spoilt, support, lab_map())
        for key in ("d_spacing_m", "strain_low", "strain_high"):
            assert found[key] == pytest.approx(expected[key], rel=1e-6)


def test_an_empty_support_has_no_strain():
    nothing = np.zeros(SHAPE, dtype=bool)
    numbers = describe(np.zeros(SHAPE, np.complex64), nothing, lab_map())
    assert numbers["support_volume_nm3"] == numbers["strain_low"] == numbers["strain_high"] == 0
    assert all(np.isfinite(list(numbers.values())))
