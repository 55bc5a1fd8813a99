"""A crystal from a single start against others, and the best of these in its stead."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cdi_stream.inversion.phase_retrieval import FROM_NETWORK, LIVE_SEARCH, large_volume_recipe
from cdi_stream.phasing.cross_check import cross_check
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.grid_level import level_of, refine
from cdi_stream.phasing.judge import LEAST_AGREEMENT, judge
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.starts import start_from
from cdi_stream.phasing.support import Limits
from tests.bench.crystals import Case
from tests.measurements import blurred_of, case_of, error, spent, unlimited

CASE = Case(seed=70_000, kind="polyhedron", phase_pi=3, n=32)
FIXED = "SUPPORT[fixed]+{}*ER"


def run(crystal, cycles, deadline=None, case=CASE):
    data, _ = case_of(case)
    start = start_from(crystal, crystal.abs() > 0.3)
    return cross_check(
        data,
        start,
        lambda extent: parse_recipe(FIXED.format(cycles)),
        1,
        LIVE_SEARCH.exploration,
        deadline or unlimited(),
    )


def test_what_others_agree_with_stays():
    easy = replace(CASE, seed=70_010)  # of twelve seeds about seven are found by the first eight random starts
    _, truth = case_of(easy)
    found = run(truth, 30, case=easy)
    assert found.metrics.agreement > LEAST_AGREEMENT
    assert found.metrics.starts == 9, "a few are enough to agree"
    assert found.metrics.is_truncated == 0
    assert bool((found.support == (truth.abs() > 0.3)).all()), "the support of its own start"
    assert judge(found.metrics).grade == "good"


@pytest.mark.parametrize("wrong", ["without phase", pytest.param("another crystal", marks=pytest.mark.slow)])
def test_where_others_know_better_theirs_is_taken(wrong):
    """Another crystal goes the same way as a crystal without its phase, which is the harder of the two to tell."""
    _, truth = case_of(CASE)
    _, another = case_of(replace(CASE, seed=70_001))
    found = run(another if wrong == "another crystal" else truth.abs().to(truth), 2)
    assert error(found.crystal, truth) < 0.1
    assert found.metrics.agreement > LEAST_AGREEMENT
    n_random = found.metrics.starts - 1
    assert n_random >= 16, "more were asked"
    assert n_random % 8 == 0, "in whole rounds, however many run side by side"


def test_where_others_know_no_better_the_crystal_stays_and_is_doubted(monkeypatch):
    """Of the three next to the best of few starts that were hardly refined nobody agrees with anyone."""
    monkeypatch.setattr("cdi_stream.phasing.explore.explore_recipe", lambda *_: parse_recipe("3*ER"))
    _, truth = case_of(CASE)
    found = run(truth, 30)
    assert error(found.crystal, truth) < 0.1
    assert found.metrics.agreement < LEAST_AGREEMENT
    assert judge(found.metrics).grade == "doubtful"


def test_a_large_crystal_has_a_loose_end_that_cuts_off_no_strain():
    case = replace(CASE, seed=70_002, kind="superellipsoid", phase_pi=5, n=64)
    data, truth = case_of(case)
    start, level = start_from(truth, truth.abs() > 0.3), level_of(data)
    tight, loose = (
        refine(level, start, how, unlimited(), Limits()) for how in (large_volume_recipe(12), large_volume_recipe(20))
    )
    assert error(loose.result[0], truth) < 0.06
    assert error(tight.result[0], truth) > 1.5 * error(loose.result[0], truth)
    assert large_volume_recipe(12) == parse_recipe(FROM_NETWORK)


def test_without_time_the_crystal_stays_and_the_time_is_named():
    _, truth = case_of(CASE)
    found = run(truth, 30, spent())
    assert error(found.crystal, truth) < 0.1
    assert any("time ran out" in reason for reason in judge(found.metrics).reasons)


def test_it_asks_for_its_turn_at_every_cycle():
    turns = []
    _, truth = case_of(CASE)
    run(truth, 30, Deadline(60, clock=lambda: 0.0, wait_turn=lambda: turns.append(1)))
    assert len(turns) > 450 + 30, "one round of starts on this thread, and the recipe"


@pytest.mark.parametrize(("cycles", "has_time"), [(30, True), (4000, False)])
def test_partly_coherent_light_is_found_if_there_is_time_for_the_cycles_with_it(cycles, has_time):
    data, truth = blurred_of(replace(CASE, seed=70_010, phase_pi=2), 0.8)
    start = start_from(truth, truth.abs() > 0.3)
    at_third = Deadline(60.0, clock=lambda: 20.0, begin_s=0.0)
    recipe = parse_recipe(FIXED.format(cycles))
    found = cross_check(data, start, lambda extent: recipe, 1, LIVE_SEARCH.exploration, at_third)
    if has_time:
        assert found.kernel.widths_vox == pytest.approx((0.8,) * 3, rel=0.25)
        assert error(found.crystal, truth) < 0.05
    else:
        assert found.kernel is None


def test_without_others_there_is_nothing_to_compare_with():
    data, truth = case_of(Case(seed=2, kind="superellipsoid", phase_pi=1, n=24))
    alone = replace(LIVE_SEARCH.exploration, pool=1)
    found = cross_check(
        data,
        start_from(truth, truth.abs() > 0.3),
        lambda extent: parse_recipe(FIXED.format(10)),
        1,
        alone,
        unlimited(),
    )
    assert math.isnan(found.metrics.agreement)
    assert any("only one of" in reason for reason in judge(found.metrics).reasons)


def test_a_coarsest_grid_that_is_the_finest_will_do(monkeypatch):
    data, truth = case_of(Case(seed=2, kind="superellipsoid", phase_pi=1, n=24))
    monkeypatch.setattr("cdi_stream.phasing.cross_check.coarsest_shape", lambda data: tuple(data.magnitude.shape))
    start = start_from(truth, truth.abs() > 0.3)
    found = cross_check(
        data, start, lambda extent: parse_recipe(FIXED.format(10)), 1, LIVE_SEARCH.exploration, unlimited()
    )
    assert found.metrics.agreement == pytest.approx(1, abs=0.05)
