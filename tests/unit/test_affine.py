"""The map that travels with an array, against the q of each voxel one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.geometry.affine import AffineMap, lab_grid
from cdi_stream.geometry.circles import rotation

REPEATABLE = settings(max_examples=100, deadline=None, derandomize=True, database=None)
BQ = np.array([[2.0, 0.3, -0.4], [-0.5, 1.5, 0.2], [0.1, 0.6, 3.0]]) * 1e6
Q0 = np.array([1e10, -2e10, 1.5e10])
LENGTHS = st.integers(1, 6)
SHAPES = st.tuples(LENGTHS, LENGTHS, LENGTHS)
STARTS = st.tuples(*[st.integers(-5, 5)] * 3)


def affine(shape=(4, 5, 7), bq=BQ) -> AffineMap:
    return AffineMap(
        shape=shape, q0=Q0, bq=bq, sample_to_lab=rotation((0.0, 1.0, 0.0), 0.3), coordinates="detector", fourier_sign=1
    )


def indices(shape) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)


def assert_same_q(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(BQ).max())


@pytest.mark.parametrize(("shape", "origin"), [((4, 6, 8), (2, 3, 4)), ((5, 7, 1), (2, 3, 0))])
def test_the_origin_is_voxel_half_of_n_and_steps_are_columns(shape, origin):
    source = affine(shape)
    np.testing.assert_array_equal(source.q(origin), Q0)
    for axis in range(3):
        assert_same_q(source.q(np.array(origin) + np.eye(3)[axis]) - Q0, BQ[:, axis])


def test_q_is_linear_in_fractional_indices_of_any_shape():
    source = affine()
    index = np.random.default_rng(0).normal(size=(2, 3, 3)) * 10
    assert source.q(index).shape == (2, 3, 3)
    for place in product(range(2), range(3)):
        frame, row, col = index[place] - (2, 2, 3)
        assert_same_q(source.q(index)[place], Q0 + frame * BQ[:, 0] + row * BQ[:, 1] + col * BQ[:, 2])


@given(SHAPES, STARTS, SHAPES)
@REPEATABLE
def test_a_window_leaves_every_voxel_in_its_place(shape, start, window):
    source = affine(shape)
    moved = source.window(start, window)
    assert moved.shape == window
    assert_same_q(moved.q(indices(window)), source.q(indices(window) + start))


@given(SHAPES, STARTS)
@REPEATABLE
def test_a_rolled_array_has_its_voxels_where_they_went(shape, shift):
    source = affine(shape)
    assert_same_q(source.rolled(shift).q(indices(shape)), source.q(indices(shape) - shift))


@given(SHAPES, st.tuples(*[st.integers(1, 3)] * 3))
@REPEATABLE
def test_a_binned_voxel_lies_amid_those_summed_into_it(shape, factors):
    remainder = np.array(factors) - 1
    source = affine(tuple(np.array(shape) * factors + remainder))
    binned = source.binned(factors)
    assert binned.shape == shape
    blocks = indices(shape)[..., None, :] * factors + indices(factors).reshape(-1, 3)
    assert_same_q(binned.q(indices(shape)), source.q(blocks).mean(axis=-2))


@given(SHAPES, STARTS, SHAPES)
@REPEATABLE
def test_a_pad_undoes_a_window(shape, start, window):
    source = affine(shape)
    back = source.window(start, window).window(-np.array(start), shape)
    assert back.shape == shape
    assert_same_q(back.q0, source.q0)
    np.testing.assert_array_equal(back.bq, source.bq)


def test_what_is_not_moved_stays():
    source = affine()
    for moved in (source.window((1, 1, 1), (2, 2, 2)), source.rolled((1, 2, 3)), source.binned((2, 1, 1))):
        np.testing.assert_array_equal(moved.sample_to_lab, source.sample_to_lab)
        assert (moved.coordinates, moved.fourier_sign) == ("detector", 1)


@given(SHAPES)
@REPEATABLE
def test_steps_in_real_space_are_those_of_the_discrete_transform(shape):
    source = affine(shape)
    np.testing.assert_allclose(source.bq.T @ source.br, 2 * np.pi * np.diag(1 / np.array(shape)), atol=1e-9)
    assert source.voxel_volume_m3 == pytest.approx((2 * np.pi) ** 3 / (np.linalg.det(BQ) * np.prod(shape)))


def test_binning_keeps_the_voxel_and_a_smaller_window_enlarges_it():
    source = affine((4, 6, 8))
    np.testing.assert_allclose(source.binned((2, 1, 1)).br, source.br)
    np.testing.assert_allclose(source.window((0, 0, 0), (2, 6, 8)).br, source.br * (2, 1, 1))


def test_handedness_is_the_sign_of_the_volume():
    assert affine().handedness == 1
    assert affine(bq=BQ[:, ::-1]).handedness == -1
    assert affine(bq=BQ * (1, -1, 1)).handedness == -1


def test_the_lab_grid_has_cubic_voxels_along_z_y_x():
    grid = lab_grid(affine(), (8, 10, 13), 5e-9)
    assert (grid.shape, grid.coordinates) == ((8, 10, 13), "lab")
    z, y, x = np.eye(3)[::-1]
    np.testing.assert_allclose(grid.br, np.stack((z, y, x), axis=1) * 5e-9, atol=1e-20)
    assert grid.voxel_volume_m3 == pytest.approx(5e-9**3)
    step = grid.q((4 + 1, 5, 6)) - grid.q((4, 5, 6))
    np.testing.assert_allclose(step, z * 2 * np.pi / (8 * 5e-9), atol=10)


def test_the_lab_grid_stands_on_the_origin_of_its_source():
    source = affine()
    grid = lab_grid(source, (8, 10, 13), 5e-9)
    np.testing.assert_array_equal(grid.q((4, 5, 6)), Q0)
    np.testing.assert_array_equal(grid.sample_to_lab, source.sample_to_lab)
    assert grid.handedness == -1


def test_a_place_in_the_crystal_has_the_index_whose_steps_lead_there():
    source = affine()
    index = np.array([[0.0, 1.5, 6.0], [2.0, 2.0, 3.0]])
    places_m = sum((index[:, [axis]] - (2, 2, 3)[axis]) * source.br[:, axis] for axis in range(3))
    np.testing.assert_allclose(source.index_at(places_m).T, index, atol=1e-9)
