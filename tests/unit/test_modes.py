"""Modes against numpy's singular values, the mean, and how far runs differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.errors import InputError
from cdi_stream.phasing import modes as module
from cdi_stream.phasing.modes import mean_crystal, modes, spread

REPEATABLE = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SHAPES = st.sampled_from([(5, 6), (4, 5, 3)])


pytestmark = pytest.mark.usefixtures("one_thread")


def noise(n: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn((n, *shape), dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def weighing(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 2, n)


@given(n=st.integers(1, 5), shape=SHAPES, seed=st.integers(0, 1000), weighted=st.booleans())
@REPEATABLE
def test_modes_are_the_singular_values_and_vectors(n, shape, seed, weighted):
    crystals = noise(n, shape, seed)
    weights = weighing(n, seed) if weighted else np.ones(n)
    found = modes(crystals, torch.from_numpy(weights) if weighted else None)
    rows = np.sqrt(weights / weights.sum())[:, None] * crystals.flatten(1).numpy()
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(found.shares, values**2 / (values**2).sum(), atol=1e-10)
    overlaps = np.abs(vectors.conj() @ found.modes.flatten(1).numpy().T)
    np.testing.assert_allclose(overlaps, np.diag(values), atol=1e-8)
    mean = (weights[:, None] * crystals.flatten(1).numpy()).sum(0) / weights.sum()
    factors = vectors.conj() @ mean / values  # of the mean in modes, up to a phase
    np.testing.assert_allclose(np.abs(factors) @ found.modes.flatten(1).numpy(), mean, atol=1e-8)


@given(n=st.integers(1, 5), shape=SHAPES, seed=st.integers(0, 1000))
@REPEATABLE
def test_the_mean_and_the_spread_are_as_defined(n, shape, seed):
    crystals, weights = noise(n, shape, seed), weighing(n, seed)
    mean = np.average(crystals.numpy(), axis=0, weights=weights)
    np.testing.assert_allclose(mean_crystal(crystals, list(weights)), mean, atol=1e-12)
    norms = [np.linalg.norm(one) * np.linalg.norm(mean) for one in crystals.numpy()]
    each = [abs(np.vdot(one, mean)) / norm for one, norm in zip(crystals.numpy(), norms, strict=True)]
    assert spread(crystals, list(weights)) == pytest.approx(1 - np.average(each, weights=weights), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_identical_runs_have_one_mode_which_is_the_crystal(dtype):
    crystal = noise(1, (6, 7, 5)).to(dtype)
    runs = crystal.expand(4, -1, -1, -1)
    found = modes(runs, (1.0, 2.0, 0.0, 1.0))
    torch.testing.assert_close(found.modes[0], crystal[0])
    assert found.modes.dtype == dtype
    assert found.shares[0] == pytest.approx(1)
    assert spread(runs) == pytest.approx(0, abs=1e-7)


def test_one_wrong_run_is_the_second_mode():
    crystals = noise(2, (12, 13), 5)
    runs = torch.cat((crystals[:1].expand(3, -1, -1), crystals[1:]))
    found = modes(runs)
    assert found.shares.sum() == pytest.approx(1)
    assert found.shares[2:].sum() == pytest.approx(0, abs=1e-12)
    assert found.shares[1] == pytest.approx(1 / 4, abs=0.1)
    assert spread(runs) > 0.1


def test_large_arrays_are_summed_in_blocks(monkeypatch):
    crystals = noise(3, (6, 7))
    whole = modes(crystals)
    monkeypatch.setattr(module, "_BLOCK", 5)
    torch.testing.assert_close(modes(crystals).modes, whole.modes)


def test_crystals_of_zeros_share_nothing():
    empty = torch.zeros((2, 4, 4), dtype=torch.complex64)
    assert not modes(empty).shares.any()
    assert not modes(empty).modes.any()
    assert spread(empty) == 1


@pytest.mark.parametrize("weights", [[1.0], [1.0, -0.1], [0.0, 0.0], [1.0, np.nan]])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(InputError, match="expected 2 numbers >= 0, one per crystal"):
        modes(noise(2, (4, 4)), weights)
