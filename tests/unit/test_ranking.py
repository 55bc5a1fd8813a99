"""Which start is believed: scores and likelihoods against plain numpy, and what the winner has never seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.autocorrelation import box_of
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.projections import Measurement, reciprocal
from cdi_stream.phasing.ranking import Candidates, Effort, conclude, hold_out, metrics_of, rank_candidates, score_batch
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.starts import start_from
from cdi_stream.phasing.support import grow

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (20, 24, 22)
EFFORT = Effort(starts=3, cycles=30, recipe="30*ER")


def truth() -> torch.Tensor:
    """A block with a phase, in Fourier order."""
    crystal = torch.zeros(SHAPE, dtype=torch.complex64)
    crystal[:6, :7, :5] = torch.polar(torch.ones(6, 7, 5), torch.linspace(0, 2, 7)[:, None].expand(6, 7, 5))
    return crystal


def measured(photons: float = 3e5, seed: int = 0) -> Measurement:
    intensity = reciprocal(truth(), 3).abs().square().numpy().astype(float)
    counts = np.random.default_rng(seed).poisson(intensity * photons / intensity.sum()).astype(np.float32)
    valid = torch.ones(SHAPE, dtype=torch.bool)
    valid[:, 9] = False
    return Measurement(magnitude=torch.from_numpy(np.sqrt(counts)), magnitude_scale=torch.ones(SHAPE), valid=valid)


def fitted(data: Measurement, *n_grown: int) -> Batch:
    """The truth in its support, and in looser ones, brought to the data by error reduction."""
    supports = torch.stack([grow(truth() != 0, n) for n in n_grown])
    start = Batch(crystal=truth().expand(len(n_grown), *SHAPE).clone(), support=supports)
    return run_to_end(parse_recipe("SW[off]+60*ER"), data, start)


def others(batch: Batch) -> Candidates:
    return Candidates(crystal=batch.result, support=batch.support, score=torch.zeros(len(batch)))


def concluded(data: Measurement, held: torch.Tensor, pool: Candidates):
    return conclude(data, held, pool, EFFORT, Deadline(math.inf))


def test_the_score_is_the_cross_validated_misfit():
    data = measured()
    batch = fitted(data, 0, 2)
    found = score_batch(data, batch)
    for index, score in enumerate(sorted(found.score.tolist())):
        support, crystal = batch.support[index].numpy(), batch.crystal[index].numpy()
        model = np.abs(np.fft.ifftn(crystal * support, norm="ortho"))[data.valid]
        measured_magnitude = data.magnitude[data.valid].numpy()
        (_,), (residual,), *_ = np.linalg.lstsq(model[:, None], measured_magnitude, rcond=None)
        freedom = 2 * support.sum() / data.valid.numpy().sum()
        assert score == pytest.approx(residual / (measured_magnitude**2).sum() / (1 - freedom) ** 2, rel=1e-4)


def test_the_right_support_is_preferred_to_a_loose_one_that_fits_better():
    data = measured()
    loose_first = fitted(data, 3, 0)
    misfits = [score_batch(data, loose_first.select([k])).score for k in range(2)]
    found = score_batch(data, loose_first)
    chi2 = [m * (1 - 2 * s.double().mean() / data.valid.double().mean()).square() for m, s in
            zip(misfits, loose_first.support, strict=True)]  # fmt: skip
    assert chi2[0] < chi2[1], "the loose one fits better"
    assert torch.equal(found.support[0], truth() != 0)
    assert found.score[0] < found.score[1]


def test_an_empty_or_too_large_support_comes_last():
    data = measured()
    batch = fitted(data, 0, 4)
    nothing = Batch(crystal=torch.zeros_like(batch.crystal[:1]), support=torch.zeros_like(batch.support[:1]))
    whole = Batch(
        crystal=torch.cat((nothing.crystal, batch.crystal)), support=torch.cat((nothing.support, batch.support))
    )
    found = score_batch(data, whole, largest=0.1)
    assert found.score.isfinite().tolist() == [True, False, False]
    assert torch.equal(found.support[0], truth() != 0)


def test_candidates_are_joined_in_order():
    data = measured()
    one, two = (score_batch(data, fitted(data, *grown)) for grown in ((0, 2), (1, 3)))
    both = one.merge(two)
    assert both.score.tolist() == sorted([*one.score.tolist(), *two.score.tolist()])
    assert torch.equal(both.crystal[0], one.crystal[0])
    assert torch.equal(both.best(1).append(both.without_first(1)).score, both.score)
    assert one.merge(None) is one


def test_held_out_voxels_were_valid_and_depend_on_the_seed_alone():
    data = measured()
    seen, held = hold_out(data, 3)
    assert 0.02 < held.float().mean() < 0.08
    assert not (held & ~data.valid).any()
    assert torch.equal(seen.valid, data.valid & ~held)
    assert torch.equal(held, hold_out(data, 3)[1])
    assert not torch.equal(held, hold_out(data, 4)[1])


def test_held_out_voxels_are_never_fitted():
    data = measured()
    seen, held = hold_out(data, 3)
    other = Measurement(
        magnitude=torch.where(held, 1e3, seen.magnitude), magnitude_scale=torch.ones(SHAPE), valid=seen.valid
    )
    one, two = (fitted(which, 0, 1) for which in (seen, other))
    assert torch.equal(one.crystal, two.crystal)
    assert torch.equal(score_batch(seen, one).score, score_batch(other, two).score)


def test_candidates_are_ranked_by_the_likelihood_of_what_they_never_saw():
    data = measured()
    seen, held = hold_out(data, 3)
    pool = others(fitted(seen, 4, 0, 2))
    found = rank_candidates(pool, data, held)
    counts, llk = data.magnitude.square().double().numpy(), []
    for crystal in found.crystal:
        expected = np.abs(np.fft.ifftn(crystal.numpy(), norm="ortho")) ** 2
        inside, outside = held.numpy(), (data.valid & ~held).numpy()
        expected = np.maximum(expected * counts[outside].sum() / expected[outside].sum(), 1e-6)
        n, mean = counts[inside], expected[inside]
        llk.append(np.mean(mean - n + n * np.log(np.maximum(n, 1e-300) / mean)))
    assert llk == sorted(llk)
    assert torch.equal(found.support[0], truth() != 0)
    assert concluded(data, held, found).free_llk == pytest.approx(llk[0], rel=1e-4)


def test_the_first_wins_the_others_are_laid_on_it_and_it_sees_what_was_held_out():
    data = measured()
    seen, held = hold_out(data, 3)
    batch = fitted(seen, 0, 1, 2)
    batch.crystal[1] = torch.roll(1j * batch.crystal[1], (3, -2, 1), (0, 1, 2))
    batch.support[1] = torch.roll(batch.support[1], (3, -2, 1), (0, 1, 2))
    pool = others(batch)
    found = concluded(data, held, pool)
    assert torch.equal(found.finalists[0], pool.crystal[0])
    assert torch.equal(found.support, pool.support[0])
    assert len(found.finalists) == 3
    assert len(found.correlations) == 2
    for crystal, correlation in zip(found.finalists[1:], found.correlations, strict=True):
        overlap = torch.vdot(found.finalists[0].flatten(), crystal.flatten()) / crystal.norm() / pool.crystal[0].norm()
        assert overlap.real == pytest.approx(correlation, abs=1e-4)
        assert correlation > 0.98

    def residual(crystal):
        return (reciprocal(crystal, 3).abs() - data.magnitude)[held].norm()

    assert residual(found.crystal) < residual(pool.crystal[0])
    assert (found.effort.starts, found.effort.cycles) == (3, 40)
    metrics = metrics_of(found, data)
    assert metrics.agreement == pytest.approx(sum(found.correlations) / 2)
    assert metrics.support_fraction == pytest.approx(6 * 7 * 5 / math.prod(SHAPE))
    assert metrics.support_over_box == pytest.approx(6 * 7 * 5 / box_of(data).volume_vox)
    assert (metrics.starts, metrics.cycles) == (3, 40)
    assert metrics.free_llk == pytest.approx(metrics.free_llk_floor, rel=0.3)


def test_one_start_agrees_with_nobody():
    data = measured()
    seen, held = hold_out(data, 3)
    metrics = metrics_of(concluded(data, held, others(fitted(seen, 0))), data)
    assert math.isnan(metrics.agreement)
    assert math.isfinite(metrics.chi2)


def test_a_deadline_that_is_over_still_gives_the_first():
    data = measured()
    seen, held = hold_out(data, 3)
    pool = others(fitted(seen, 0, 1))
    found = conclude(data, held, pool, EFFORT, Deadline(0.0, begin_s=-1e9))
    assert found.effort.cycles == 31
    assert (found.crystal - pool.crystal[0]).norm() < 0.2 * found.crystal.norm()


def test_nothing_valid_breaks_nothing():
    zero = torch.zeros(SHAPE)
    data = Measurement(magnitude=zero, magnitude_scale=zero + 1, valid=zero.bool())
    seen, held = hold_out(data, 3)
    start = start_from(to_fourier_order(truth()), truth() != 0)
    found = concluded(data, held, rank_candidates(score_batch(seen, start), data, held))
    assert torch.isfinite(torch.view_as_real(found.crystal)).all()
    assert math.isnan(found.free_llk)
