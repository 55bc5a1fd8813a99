"""Large volumes: starts on a coarse grid, their agreement, and the details on the finest grid."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cdi_stream.inversion.phase_retrieval import FROM_NETWORK, LIVE_EXPLORATION, known_recipe
from cdi_stream.phasing.coarse_to_fine import solve_large
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.grid_level import level_of, refine
from cdi_stream.phasing.judge import LEAST_AGREEMENT, judge
from cdi_stream.phasing.pyramid import coarsest_shape
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.schedules import large_recipe, middle_recipe
from cdi_stream.phasing.starts import start_from
from cdi_stream.phasing.support import Limits
from tests.bench.crystals import Case
from tests.measurements import blurred_of, case_of, error, spent, unlimited

CASE = Case(seed=70_000, kind="polyhedron", phase_pi=3, n=32)
EASY = replace(CASE, seed=70_010)
FEW_CYCLES = parse_recipe("SUPPORT[fixed]+30*ER")


def run(crystal, deadline=None, case=CASE, recipe=FEW_CYCLES, extent=LIVE_EXPLORATION):
    data, _ = case_of(case)
    known = start_from(crystal, crystal.abs() > 0.3)
    return solve_large(data, known, lambda extent_vox: recipe, 1, extent, deadline or unlimited())


def test_a_crystal_on_which_the_starts_agree_is_good():
    _, truth = case_of(EASY)
    found = run(truth, case=EASY)
    assert error(found.crystal, truth) < 0.05
    assert found.metrics.agreement > LEAST_AGREEMENT
    assert found.metrics.starts == 5, "a few are enough to agree"
    assert not found.metrics.is_truncated
    assert not found.crystal[~found.support].any()
    assert judge(found.metrics).grade == "good"


def test_the_finest_grid_adds_the_details_of_the_crystal():
    case = replace(CASE, seed=70_002, kind="superellipsoid", phase_pi=5, n=64)
    data, truth = case_of(case)
    assert max(coarsest_shape(data)) < 64
    found = run(truth.abs().to(truth), case=case)
    assert error(found.crystal, truth) < 0.02, "the coarsest grid alone gives 0.03 to 0.04"


@pytest.mark.parametrize("wrong", ["without phase", pytest.param("another crystal", marks=pytest.mark.slow)])
def test_a_wrong_known_crystal_loses_against_the_random_starts(wrong):
    _, truth = case_of(CASE)
    _, another = case_of(replace(CASE, seed=70_001))
    found = run(another if wrong == "another crystal" else truth.abs().to(truth), recipe=parse_recipe("2*ER"))
    assert error(found.crystal, truth) < 0.1
    assert found.metrics.agreement > LEAST_AGREEMENT
    assert (found.metrics.starts - 1) % 8 == 0, "in whole rounds, however many run side by side"


def test_a_crystal_on_which_the_starts_disagree_is_doubted(monkeypatch):
    """Of the three next to the best of few starts that were hardly refined nobody agrees with anyone."""
    monkeypatch.setattr("cdi_stream.phasing.explore.explore_recipe", lambda *_: parse_recipe("3*ER"))
    _, truth = case_of(CASE)
    found = run(truth)
    assert found.metrics.starts == 1 + 8 + 3 * 16, "all that are allowed"
    assert error(found.crystal, truth) < 0.1, "the known crystal is the best"
    assert found.metrics.agreement < LEAST_AGREEMENT
    assert judge(found.metrics).grade == "doubtful"


def test_a_large_crystal_has_a_loose_end_that_cuts_off_no_strain():
    case = replace(CASE, seed=70_002, kind="superellipsoid", phase_pi=5, n=64)
    data, truth = case_of(case)
    start, level = start_from(truth, truth.abs() > 0.3), level_of(data)
    tight, loose = (refine(level, start, how, unlimited(), Limits()) for how in (known_recipe(12), known_recipe(20)))
    assert error(loose.result[0], truth) < 0.06
    assert error(tight.result[0], truth) > 1.5 * error(loose.result[0], truth)
    assert known_recipe(12) == parse_recipe(FROM_NETWORK)


def test_without_time_the_known_crystal_stays_and_the_time_is_named():
    _, truth = case_of(CASE)
    found = run(truth, spent())
    assert error(found.crystal, truth) < 0.15, "without the details that the coarse grid lacks"
    assert any("time ran out" in reason for reason in judge(found.metrics).reasons)


def test_it_asks_for_its_turn_at_every_cycle():
    turns = []
    _, truth = case_of(CASE)
    run(truth, Deadline(60, clock=lambda: 0.0, wait_turn=lambda: turns.append(1)))
    n_cycles = 255 + FEW_CYCLES.cycles + middle_recipe(14.0).cycles + large_recipe(14.0).cycles
    assert len(turns) > n_cycles, "one round of starts on this thread, the known crystal, and the descent"


@pytest.mark.parametrize(("seconds_left", "has_kernel"), [(40.0, True), (0.05, False)])
def test_partly_coherent_light_is_found_if_there_is_time_for_the_steps_with_it(seconds_left, has_kernel):
    data, truth = blurred_of(replace(EASY, seed=70_043, phase_pi=2), 0.8)
    known = start_from(truth, truth.abs() > 0.3)
    deadline = Deadline(20.0 + seconds_left, clock=lambda: 20.0, begin_s=0.0)
    found = solve_large(data, known, lambda extent_vox: FEW_CYCLES, 1, LIVE_EXPLORATION, deadline)
    if has_kernel:
        assert found.kernel.widths_vox == pytest.approx((0.8,) * 3, rel=0.25)
        assert error(found.crystal, truth) < 0.05
    else:
        assert found.kernel is None


def test_a_single_start_cannot_be_compared():
    small = Case(seed=2, kind="superellipsoid", phase_pi=1, n=24)
    found = run(case_of(small)[1], case=small, extent=replace(LIVE_EXPLORATION, pool=1))
    assert math.isnan(found.metrics.agreement)
    assert any("only one of" in reason for reason in judge(found.metrics).reasons)


def test_the_coarsest_grid_may_be_the_finest(monkeypatch):
    small = Case(seed=2, kind="superellipsoid", phase_pi=1, n=24)
    monkeypatch.setattr("cdi_stream.phasing.coarse_to_fine.grid_shapes", lambda data: (tuple(data.magnitude.shape),))
    assert run(case_of(small)[1], case=small).metrics.agreement == pytest.approx(1, abs=0.05)
