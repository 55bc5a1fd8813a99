"""Elementwise kernels against the same sums in numpy; both ways of doing them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.numerics import parts
from cdi_stream.numerics.memory import keep_freed_memory
from cdi_stream.phasing.kernels import Mix, above, clip, mix, modulus, multiply, rescale, sums_inside

REPEATABLE = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SHAPES = st.sampled_from([(5,), (4, 7), (3, 4, 5), (1, 1)])
DTYPES = st.sampled_from([np.complex64, np.complex128])
STARTS, SEEDS = st.integers(1, 3), st.integers(0, 1000)
FACTORS = st.tuples(*[st.floats(-2, 2)] * 2)


def noise(shape, dtype, rng):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)


def tolerance(dtype):
    return 1e-5 if dtype == np.complex64 else 1e-13


@given(shape=SHAPES, n=STARTS, dtype=DTYPES, seed=SEEDS)
@REPEATABLE
def test_rescale_gives_magnitudes_and_keeps_phases_and_what_is_free(shape, n, dtype, seed):
    rng = np.random.default_rng(seed)
    field = noise((n, *shape), dtype, rng)
    target = rng.normal(size=shape).astype(field.real.dtype)
    expected = np.where(target < 0, field, target * field / np.abs(field))
    found = torch.from_numpy(field.copy())
    rescale(found, torch.from_numpy(target))
    assert found.dtype == torch.from_numpy(field).dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance(dtype), atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("value", [0, 1e-38, 1e-30, 1e-20, 1e-12, 1e12, 1e18])
def test_rescale_stays_finite_at_any_magnitude(dtype, value):
    field = torch.full((1, 4, 8), value * (0.6 + 0.8j), dtype=dtype)
    rescale(field, torch.full((4, 8), 7.0, dtype=field.real.dtype))
    assert torch.isfinite(torch.view_as_real(field)).all()
    if value > 1e-16 or value == 0:
        torch.testing.assert_close(field.abs(), torch.full_like(field.real, 7.0 if value else 0))


@given(shape=SHAPES, n=STARTS, dtype=DTYPES, seed=SEEDS)
@REPEATABLE
def test_multiply_is_a_product(shape, n, dtype, seed):
    rng = np.random.default_rng(seed)
    field = noise((n, *shape), dtype, rng)
    factor = rng.normal(size=field.shape).astype(field.real.dtype)
    found = torch.from_numpy(field.copy())
    multiply(found, torch.from_numpy(factor))
    np.testing.assert_allclose(found, field * factor, rtol=tolerance(dtype))


@given(shape=SHAPES, n=STARTS, dtype=DTYPES, seed=SEEDS, inside=FACTORS, outside=FACTORS)
@REPEATABLE
def test_mix_is_a_sum_by_side_of_the_support(shape, n, dtype, seed, inside, outside):
    rng = np.random.default_rng(seed)
    crystal, projected = noise((2, n, *shape), dtype, rng)
    support = rng.random((n, *shape)) < 0.5
    (a, b), (c, d) = inside, outside
    expected = np.where(support, a * crystal + b * projected, c * crystal + d * projected)
    found = torch.from_numpy(crystal.copy())
    mix(found, torch.from_numpy(projected), torch.from_numpy(support), Mix(inside, outside))
    np.testing.assert_allclose(found, expected, rtol=tolerance(dtype), atol=tolerance(dtype))


@pytest.fixture(params=[1, 3])
def n_threads(request, monkeypatch):
    """Each loop in one part, and in three."""
    monkeypatch.setattr(parts, "LEAST_LENGTH", 1)
    monkeypatch.setattr(parts.in_parts, "__defaults__", (1,))
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_sums_and_limits_are_those_of_each_start(n_threads, dtype):
    rng = np.random.default_rng(5)
    crystal, support = noise((2, 5, 6, 7), dtype, rng), rng.random((2, 5, 6, 7)) < 0.4
    values = torch.from_numpy(np.abs(crystal))
    torch.testing.assert_close(modulus(torch.from_numpy(crystal)), values)
    number, total, squares = sums_inside(values, torch.from_numpy(support))
    inside = [np.abs(crystal[k])[support[k]] for k in range(2)]
    np.testing.assert_allclose(number, [len(one) for one in inside])
    np.testing.assert_allclose(total, [one.sum() for one in inside], rtol=1e-5)
    np.testing.assert_allclose(squares, [(one**2).sum() for one in inside], rtol=1e-5)
    flags, counts = above(values, torch.tensor([0.5, 1.5], dtype=values.dtype))
    expected = np.abs(crystal) > np.array([0.5, 1.5])[:, None, None, None]
    np.testing.assert_array_equal(flags, expected)
    np.testing.assert_array_equal(counts, expected.sum(axis=(1, 2, 3)))
    found = torch.from_numpy(crystal.copy())
    clip(found, torch.from_numpy(support), 0.8, 1.1)
    for k, amplitudes in enumerate(inside):
        limited = np.clip(amplitudes, 0.8 * amplitudes.mean(), 1.1 * amplitudes.mean())
        np.testing.assert_allclose(np.abs(found[k].numpy()[support[k]]), limited, rtol=1e-5)
        np.testing.assert_array_equal(found[k].numpy()[~support[k]], crystal[k][~support[k]])
        np.testing.assert_allclose(np.angle(found[k].numpy() * crystal[k].conj())[support[k]], 0, atol=1e-5)


def test_one_factor_multiplies_all_starts(n_threads):
    rng = np.random.default_rng(6)
    field, factor = noise((3, 4, 5), np.complex64, rng), rng.random((1, 4, 5)).astype(np.float32)
    found = torch.from_numpy(field.copy())
    multiply(found, torch.from_numpy(factor))
    np.testing.assert_allclose(found, field * factor, rtol=1e-6)


def test_linux_keeps_freed_memory():
    assert keep_freed_memory() == sys.platform.startswith("linux")


def test_memory_that_is_not_in_rows_is_refused_rather_than_copied():
    field = torch.zeros(2, 4, 6, dtype=torch.complex64).transpose(1, 2)
    with pytest.raises(RuntimeError, match="view"):
        rescale(field, torch.ones(6, 4))


def test_nothing_is_compiled_at_a_call():
    """First calls come from threads, where numba's tables may change while they are read."""
    field, factor = torch.zeros(1, 8, dtype=torch.complex64), torch.ones(1, 8, dtype=torch.float64)
    with pytest.raises(TypeError, match="No matching definition"):
        multiply(field, factor)


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same():
    rng = np.random.default_rng(1)
    crystal, projected = map(torch.from_numpy, noise((2, 3, 4, 5, 6), np.complex64, rng))
    support = torch.from_numpy(rng.random((3, 4, 5, 6)) < 0.5)
    target = torch.from_numpy(rng.normal(size=(4, 5, 6)).astype(np.float32))
    there = [one.cuda() for one in (crystal, projected, support, target)]
    for c, p, s, t in ((crystal, projected, support, target), there):
        rescale(c, t)
        multiply(p, c.abs())
        mix(c, p, s, Mix((0.5, 1), (-2, 0.25)))
    torch.testing.assert_close(there[0].cpu(), crystal)
