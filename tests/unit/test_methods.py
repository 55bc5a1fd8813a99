"""Kinds of refinement on one small problem: from nothing, from a crystal, in their time, as the worker calls them."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from cdi_stream.errors import ConfigError, NetworkFileError
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion import methods
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.inversion.methods import METHODS, MethodSettings, Problem, refine
from cdi_stream.messages import Crystal, PhasedVolume, PreparedVolume, Verdict
from cdi_stream.metrics import Metrics
from cdi_stream.networks.packaged import DEFAULT_NETWORK, network_file
from cdi_stream.numerics.fourier import from_fourier_order
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.ranking import metrics_of
from cdi_stream.phasing.starts import autocorrelation_starts, start_from
from tests.bench.crystals import Case, crystal, measured
from tests.builders import A_DAY_S
from tests.measurements import data_of, error, ordered, spent, unlimited

pytestmark = pytest.mark.usefixtures("one_thread")
CASE = Case(seed=2, kind="superellipsoid", phase_pi=1, n=24)
STEP_M = 5e-9
SETTINGS = MethodSettings(
    recipe="SW[every=10,after=20,threshold=0.3,relative=rms,sigma=0.7]+150*HIO+50*ER",
    network_file=DEFAULT_NETWORK,
    network_steps=1,
    network_recipe="SW[every=10,after=0,threshold=0.3,relative=rms,sigma=0.7]+SUPPORT[border]+40*ER",
    starts=4,
    budget_s=60.0,
)
NETWORKS = ("network", "hybrid")


@cache
def volume() -> tuple[PreparedVolume, torch.Tensor]:
    """A simulated measurement with cubic voxels, and its crystal in Fourier order."""
    truth = crystal(CASE)
    counts, valid = measured(CASE, truth)
    affine = AffineMap(
        shape=counts.shape,
        q0=np.array([0.0, 0.0, 2e10]),
        bq=np.fliplr(np.eye(3)) * 2 * math.pi / (CASE.n * STEP_M),
        sample_to_lab=np.eye(3),
        coordinates="detector",
    )
    found = PreparedVolume(
        counts=counts.astype(np.uint32),
        valid_pixels=valid,
        expected_scale=np.ones(counts.shape, dtype=np.float32),
        affine=affine,
        crystal_extent_m=(8 * STEP_M,) * 3,
        oversampling=(3.0, 3.0, 3.0),
    )
    return found, ordered(truth)


def rough() -> Batch:
    """The crystal with noise on it: what a live reconstruction may be."""
    truth = volume()[1]
    noise = torch.randn(truth.shape, dtype=truth.dtype, generator=torch.Generator().manual_seed(0))
    return start_from(truth + 0.3 * noise, truth.abs() > 0.1)


def problem(start: Batch | None = None, **changes: object) -> Problem:
    found, _ = volume()
    return Problem(
        data=data_of(found.counts, found.valid_pixels),
        settings=SETTINGS.model_copy(update=changes),
        deadline=unlimited(),
        volume=found,
        start=start,
    )


def test_the_problem_is_what_the_command_would_make_of_it():
    found, _ = volume()

    class Working:
        counts = torch.from_numpy(found.counts.astype(np.float32))
        expected_scale = torch.ones(found.counts.shape)
        valid_pixels = torch.from_numpy(found.valid_pixels)
        frame_shifts = None

    data = measurement_of(Working)
    torch.testing.assert_close(data.magnitude, problem().data.magnitude)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("has_start", [False, True])
def test_every_method_finds_the_crystal(method, has_start):
    found = METHODS[method](problem(rough() if has_start else None))
    metrics = metrics_of(found, problem().data)
    assert error(found.crystal, volume()[1]) < 0.1
    assert metrics.chi2 < 2 * metrics.chi2_floor
    assert torch.isfinite(torch.view_as_real(found.crystal)).all()
    assert not found.crystal[~found.support].any()
    assert metrics.r_p > 0.7
    assert math.isnan(metrics.free_llk) == (method == "recipe" and has_start), "one crystal alone sees all voxels"
    assert found.effort.starts >= (4 if method == "recipe" and not has_start else 1)
    assert found.effort.cycles > 10
    assert found.effort.recipe


@pytest.mark.parametrize("method", ["recipe", "hybrid"])
def test_a_single_start_sees_all_voxels_and_several_do_not(method):
    assert math.isnan(METHODS[method](problem(starts=1, recipe="20*ER")).free_llk)
    assert METHODS[method](problem(starts=2, recipe="20*ER")).free_llk > 0


@pytest.mark.parametrize("method", ["network", "hybrid"])
def test_a_network_for_planes_is_refused(method):
    with pytest.raises(NetworkFileError, match="expected one for volumes"):
        METHODS[method](problem(network_file=network_file("wu2021-2d")))


@pytest.mark.parametrize("method", ["recipe", "object", "network", "hybrid"])
def test_the_same_seed_gives_the_same_crystal(method):
    start = rough() if method == "object" else None
    one, two = (METHODS[method](problem(start, starts=2, seed=3, recipe="20*HIO+20*ER")) for _ in range(2))
    assert torch.equal(one.crystal, two.crystal)
    assert (one.free_llk, one.effort) == (two.free_llk, two.effort)


@pytest.mark.parametrize("has_start", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_budget_that_is_spent_still_gives_a_crystal(method, has_start):
    asked = itertools.count()
    deadline = Deadline(0.0, begin_s=-1e9, wait_turn=lambda: next(asked))
    found = METHODS[method](replace(problem(rough() if has_start else None, starts=20), deadline=deadline))
    assert torch.isfinite(torch.view_as_real(found.crystal)).all()
    assert next(asked) < 60


def test_starts_that_there_is_no_time_for_are_left_out():
    many = problem(starts=3000)
    found = METHODS["recipe"](replace(many, deadline=spent()))
    assert found.effort.starts < 1000


def test_more_starts_are_compared_side_by_side():
    torch.set_num_threads(2)
    try:
        found = METHODS["recipe"](problem(starts=13))
    finally:
        torch.set_num_threads(1)
    assert found.effort.starts == 13
    assert len(found.finalists) == 10
    assert found.effort.cycles == 13 * 200


@pytest.mark.parametrize("max_voxels", [1, 30_000, 1_000_000])
def test_starts_are_the_same_however_they_are_batched(monkeypatch, max_voxels):
    """Those of Masto et al. have each another threshold."""
    monkeypatch.setitem(methods._MAX_VOXELS, "cpu", max_voxels)
    many = problem(starts=5, recipe="masto2025-reference")
    supports = torch.cat([make().support for make in methods._starts(many)])
    expected = autocorrelation_starts(many.data, range(5)).support
    assert torch.equal(supports, expected)
    assert len(torch.unique(supports.flatten(1).sum(1))) == 5


def test_a_bad_recipe_is_quoted():
    with pytest.raises(ConfigError, match="'9\\*XX'"):
        METHODS["recipe"](problem(recipe="1*ER+9*XX"))


@pytest.mark.parametrize("method", NETWORKS)
def test_a_network_needs_three_axes(method):
    with pytest.raises(ConfigError, match="use auto, recipe or object"):
        METHODS[method](replace(problem(), volume=None))


def live() -> PhasedVolume:
    """What the live path hands on."""
    found, _ = volume()
    start = rough()
    return PhasedVolume(
        volume=found,
        crystal=Crystal(
            density=from_fourier_order(start.crystal[0]).numpy(),
            support=from_fourier_order(start.support[0]).numpy(),
            affine=found.affine,
            metrics=Metrics(),
            verdict=Verdict(grade="doubtful"),
        ),
        doubts=("2 frames are missing",),
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_refines_what_the_live_path_found(method):
    turns = itertools.count()
    settings = SETTINGS.model_copy(update={"budget_s": A_DAY_S, "recipe": "40*ER"})
    found, schedule = refine(method, live(), settings, lambda: next(turns))
    assert found.density.shape == (CASE.n,) * 3
    assert found.affine is live().volume.affine
    assert found.verdict.grade != "good", "frames are missing"
    assert "2 frames are missing" in found.verdict.reasons
    assert schedule
    assert next(turns) > 1
    assert error(ordered(np.array(found.density)), volume()[1]) < 0.1
    if method == "recipe":
        assert schedule == "40*ER"


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_is_stopped_stops(method):
    turns = itertools.count()

    def stop():
        if next(turns) == 2:
            raise InterruptedError

    threads = torch.get_num_threads()
    with pytest.raises(InterruptedError):
        refine(method, live(), SETTINGS.model_copy(update={"network_steps": 5}), stop)
    assert next(turns) == 3
    assert torch.get_num_threads() == threads


def test_the_budget_of_a_worker_is_processor_time(monkeypatch):
    """`Deadline` leaves out the time of waiting for a turn, see its own tests; the clock is the process's own."""
    asked = []

    def deadline(budget_s, clock, wait_turn):
        asked.append((budget_s, clock))
        return unlimited()

    monkeypatch.setattr(methods, "Deadline", deadline)
    refine("recipe", live(), SETTINGS.model_copy(update={"budget_s": 5.0, "recipe": "2*ER"}))
    assert asked == [(5.0, time.process_time)]


def test_a_job_carries_the_settings():
    assert MethodSettings.model_validate_json(SETTINGS.model_dump_json()) == SETTINGS
