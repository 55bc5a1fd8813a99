"""Weights changed until the network's crystal explains the measurement."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from cdi_stream.networks.chan2021 import Chan2021
from cdi_stream.networks.losses import pad_to_double
from cdi_stream.networks.unsupervised import SPAN, UnsupervisedSchedule, beta_1, refine_weights
from cdi_stream.networks.wu2021 import small
from cdi_stream.numerics.fourier import to_reciprocal

N = 16


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return small((4, 6), (4,)).eval()


@pytest.fixture(scope="module")
def magnitude():
    """Of a small box with a bent phase."""
    x = torch.linspace(-1, 1, N // 2)
    amplitude = torch.zeros(N // 2, N // 2, N // 2)
    amplitude[2:6, 2:5, 1:6] = 1.0
    crystal = torch.polar(amplitude, 0.5 * x[:, None, None] ** 2 + 0.3 * x[None, :, None] + 0 * amplitude)
    found = to_reciprocal(pad_to_double(crystal)).abs()
    return found / found.max()


EVERYWHERE = torch.ones(N, N, N, dtype=torch.bool)


def refined(network, magnitude, valid=EVERYWHERE, **schedule):
    how = {"steps": 30, "adam_rate": 0.003} | schedule
    return refine_weights(copy.deepcopy(network), magnitude, valid, UnsupervisedSchedule(**how))


def equation_8(progress):
    """Wu 2021: a_0 k/lambda (n/lambda)^(k-1) exp(-(n/lambda)^k) + a_1, from 10^4 at n = 0; k = 1, lambda = 0.5."""
    k, scale, a_1 = 1, 0.5, 1.0
    n = SPAN * progress
    a_0 = (1e4 - a_1) * scale / k
    return a_0 * k / scale * (n / scale if k > 1 else 1.0) ** (k - 1) * math.exp(-((n / scale) ** k)) + a_1


@pytest.mark.parametrize("progress", [0.0, 0.01, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_the_weight_of_the_correlation_is_that_of_the_paper(progress):
    assert beta_1(progress) == pytest.approx(equation_8(progress), rel=1e-12)


def test_the_weight_falls_from_ten_thousand_to_about_one():
    weights = [beta_1(k / 100) for k in range(101)]
    assert weights[0] == pytest.approx(1e4)
    assert 1.0 <= weights[-1] < 2.0
    assert (np.diff(weights) < 0).all()


def misfit_of(crystal, magnitude, valid):
    """chi2 over the known voxels, with numpy's own transform."""
    full = np.zeros((N, N, N), dtype=complex)
    quarter = N // 4
    full[(slice(quarter, -quarter),) * 3] = crystal
    model = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(full), norm="ortho")))[valid]
    data = magnitude[valid]
    scale = (model * data).sum() / (model**2).sum()
    return ((scale * model - data) ** 2).sum() / (data**2).sum(), np.corrcoef(model, data)[0, 1]


def test_the_misfit_falls(network, magnitude):
    first = refined(network, magnitude, steps=1)
    best = refined(network, magnitude, steps=60)
    assert best.chi2 < 0.6 * first.chi2
    assert best.correlation > first.correlation
    assert best.steps == 60


def test_the_numbers_are_those_of_the_crystal_that_is_returned(network, magnitude):
    best = refined(network, magnitude)
    assert best.crystal.shape == (N // 2,) * 3
    assert best.crystal.dtype == torch.complex64
    assert not best.crystal.requires_grad
    misfit, correlation = misfit_of(best.crystal.numpy(), magnitude.numpy(), EVERYWHERE.numpy())
    assert best.chi2 == pytest.approx(misfit, rel=1e-3)
    assert best.correlation == pytest.approx(correlation, rel=1e-3)


def test_the_best_crystal_is_returned_not_the_last(network, magnitude):
    """With far too high a rate it becomes worse at once."""
    first = refined(network, magnitude, steps=1)
    assert refined(network, magnitude, steps=20, adam_rate=5.0).chi2 <= first.chi2


def test_voxels_that_are_not_known_do_not_matter(network, magnitude):
    valid = EVERYWHERE.clone()
    valid[3:6, :, 10:12] = False
    rubbish = torch.where(valid, magnitude, 7.0)
    known = refined(network, torch.where(valid, magnitude, 0.0), valid)
    other = refined(network, rubbish, valid)
    assert other.chi2 == pytest.approx(known.chi2, rel=1e-5)
    torch.testing.assert_close(other.crystal, known.crystal)
    misfit, _ = misfit_of(known.crystal.numpy(), magnitude.numpy(), valid.numpy())
    assert known.chi2 == pytest.approx(misfit, rel=1e-3)


def test_the_same_start_gives_the_same_result(network, magnitude):
    one, other = refined(network, magnitude), refined(network, magnitude)
    assert one.chi2 == other.chi2
    torch.testing.assert_close(one.crystal, other.crystal, rtol=0, atol=0)


def test_the_optimisers_take_turns(network, magnitude, monkeypatch):
    made = []
    for name in ("Adam", "SGD"):
        original = getattr(torch.optim, name)

        def make(parameters, lr, name=name, original=original):
            made.append((name, lr))
            return original(parameters, lr=lr)

        monkeypatch.setattr(torch.optim, name, make)
    refined(network, magnitude, steps=7, change_every=2, adam_rate=0.01, sgd_rate=0.1, decay=0.5)
    assert made == [("Adam", 0.01), ("SGD", 0.05), ("Adam", 0.0025), ("SGD", 0.0125)]


def test_a_network_may_answer_on_as_many_voxels_as_it_sees(magnitude):
    torch.manual_seed(0)
    best = refine_weights(Chan2021((4, 6)), magnitude, EVERYWHERE, UnsupervisedSchedule(steps=3))
    assert best.crystal.shape == magnitude.shape
    assert best.of_steps == 3


def test_where_time_will_end_it_the_weight_falls_with_time(network, magnitude):
    clock, losses = iter([0.0, 0.5, 1.0]), []
    refine_weights(
        copy.deepcopy(network),
        magnitude,
        EVERYWHERE,
        UnsupervisedSchedule(steps=100_000),
        is_over=lambda: len(losses) == 3,
        watch=lambda *terms: losses.append(terms),
        passed=lambda: next(clock),
    )
    for (_, loss, misfit, correlation), progress in zip(losses, (0.0, 0.5, 1.0), strict=True):
        weight = beta_1(progress)
        assert loss == pytest.approx((weight * (1 - correlation) + misfit) / (weight + 1), rel=1e-3)


def test_a_turn_is_waited_for_before_every_step(network, magnitude):
    turns = []
    refine_weights(
        copy.deepcopy(network), magnitude, EVERYWHERE, UnsupervisedSchedule(steps=5), lambda: turns.append(1)
    )
    assert len(turns) == 5


def test_waiting_may_end_the_refinement(network, magnitude):
    turns = []

    def wait():
        turns.append(1)
        if len(turns) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine_weights(copy.deepcopy(network), magnitude, EVERYWHERE, UnsupervisedSchedule(steps=9), wait)
    assert len(turns) == 3
