from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.inversion import chain, phase_retrieval
from cdi_stream.inversion.chain import infer_curve, keep_network_crystal, phase_curve, reconstruct
from cdi_stream.inversion.infer import UNREFINED
from cdi_stream.inversion.phase_retrieval import FROM_NETWORK
from cdi_stream.messages import FrameAccount, Verdict
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.judge import LEAST_AGREEMENT
from cdi_stream.phasing.recipe import parse_recipe
from sim_beamline.scan import recorded_scan
from tests.builders import curve_of, settings_for


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


def test_a_curve_that_cannot_be_inverted_fails_in_both_streams_with_its_reason(scan, network):
    empty = replace(curve_of(scan), counts=np.zeros_like(scan.frames))
    results = list(reconstruct(empty, network, settings_for(scan)))
    assert [r.stream for r in results] == ["inference", "reconstruction"]
    assert {r.verdict.grade for r in results} == {"failed"}
    assert "empty" in results[0].verdict.reasons[0]
    assert all(r.crystal is None for r in results)


def test_a_recipe_that_cannot_be_read_is_refused_before_the_first_curve(scan):
    with pytest.raises(ValueError, match=r"recipe '5\*ER\+5\*IHO': .* got '5\*IHO'"):
        settings_for(scan, phase={"recipe": "5*ER+5*IHO"})


def test_a_mask_of_another_shape_fails_with_both_shapes_named(scan, network):
    wrong = replace(curve_of(scan).series, pixel_mask=np.ones((3, 3), dtype=bool))
    first, _ = reconstruct(replace(curve_of(scan), series=wrong), network, settings_for(scan))
    assert "(3, 3)" in first.verdict.reasons[0]


def test_missing_frames_are_invalid_voxels_and_a_doubt_not_a_failure(scan, network):
    complete = curve_of(scan)
    has_frame = np.ones(len(scan.frames), dtype=bool)
    has_frame[[5, 17]] = False
    counts = np.where(has_frame[:, None, None], complete.counts, 0).astype(np.uint32)
    account = FrameAccount(expected=len(counts), received=len(counts) - 2, missing=(5, 17))
    lacking = replace(complete, counts=counts, has_frame=has_frame, account=account)
    _, result = reconstruct(lacking, network, settings_for(scan, phase={"recipe": FROM_NETWORK}))
    assert result.verdict.grade == "doubtful"
    assert "2 of 48 frames missing (5, 17)" in result.verdict.reasons[0]
    assert result.crystal is not None


@pytest.fixture(scope="module")
def searched(scan, network):
    """The reconstruction by a search, and how often it asked for its turn."""
    turns = []
    chain = settings_for(scan)
    result = phase_curve(infer_curve(curve_of(scan), network, chain), chain, lambda: turns.append(1))
    return result, len(turns)


@pytest.mark.parametrize(("settings", "least"), [({"recipe": "7*ER"}, 7), ({"most_voxels": 0}, 600)])
def test_phase_retrieval_waits_its_turn_at_every_cycle(scan, network, settings, least):
    turns = []
    chain = settings_for(scan, phase=settings)
    inferred = infer_curve(curve_of(scan), network, chain)
    result = phase_curve(inferred, chain, wait_turn=lambda: turns.append(1))
    assert len(turns) >= least, "of the thread that waits; the other runs as many"
    assert result.stream == "reconstruction"


def test_without_a_phase_retrieval_the_network_s_crystal_is_the_doubtful_result_and_is_left_to_the_refinement(
    scan, network
):
    settings = settings_for(scan)
    inferred = infer_curve(curve_of(scan), network, settings)
    result = keep_network_crystal(inferred, settings.lab_shape, "no time", is_refined=True)
    assert keep_network_crystal(inferred, settings.lab_shape, "no time", is_refined=False).phased is None
    assert (result.stream, result.verdict.grade) == ("reconstruction", "doubtful")
    assert result.verdict.reasons[:2] == (UNREFINED, "no time")
    assert result.metrics.is_truncated
    assert result.metrics.chi2 == inferred.result.metrics.chi2
    assert result.crystal.density.shape == settings.lab_shape
    for axis in "xyz":
        size, seen = (getattr(r.metrics, f"size_lab_{axis}_nm") for r in (result, inferred.result))
        assert size == pytest.approx(seen, rel=0.15)
    assert len(result.frame_sums) == len(scan.frames)
    on_detector = result.phased.crystal
    assert on_detector.affine == inferred.volume.affine
    assert on_detector.density.shape == on_detector.support.shape == inferred.volume.counts.shape
    assert np.abs(on_detector.density[on_detector.support]).max() > 0


def test_without_a_phase_retrieval_an_answer_that_shows_no_crystal_fails(scan, network):
    settings = settings_for(scan)
    inferred = infer_curve(curve_of(scan), network, settings)
    nothing = replace(inferred.result.crystal, verdict=Verdict(grade="failed", reasons=("empty",)))
    inferred = replace(inferred, result=replace(inferred.result, crystal=nothing))
    result = keep_network_crystal(inferred, settings.lab_shape, "no time", is_refined=True)
    assert (result.stream, result.verdict.grade, result.crystal) == ("reconstruction", "failed", None)
    assert "no time" in result.verdict.reasons
    assert result.phased is None


def test_without_a_phase_retrieval_a_curve_that_cannot_be_inverted_fails_with_its_own_reason(scan, network):
    settings = settings_for(scan)
    inferred = infer_curve(replace(curve_of(scan), counts=np.zeros_like(scan.frames)), network, settings)
    result = keep_network_crystal(inferred, settings.lab_shape, "no time", is_refined=True)
    assert (result.stream, result.verdict.grade) == ("reconstruction", "failed")
    assert "empty" in result.verdict.reasons[0]


def test_a_search_waits_its_turn_at_every_cycle(searched):
    result, n_turns = searched
    assert n_turns >= 300
    assert result.stream == "reconstruction"


def test_a_searching_polish_knows_how_far_other_starts_agree_and_how_fine_it_sees(scan, network, searched):
    searched, _ = searched
    _, by_recipe = reconstruct(curve_of(scan), network, settings_for(scan, phase={"recipe": "30*ER"}))
    assert searched.metrics.agreement > 0.97
    assert 0 < searched.metrics.resolution_m < 50e-9
    assert searched.metrics.bootstrap_nmse < 0.02
    assert searched.verdict.grade == "good"
    assert searched.metrics.chi2 < by_recipe.metrics.chi2
    assert by_recipe.metrics.starts is None


@pytest.fixture
def too_large(scan, monkeypatch):
    """Settings with which the scan is too large for a search."""
    monkeypatch.setattr(chain, "is_sure", lambda *_: pytest.fail("four answers of the network that nobody needs"))
    return settings_for(scan, phase={"most_voxels": 100_000})


def test_a_volume_too_large_for_a_search_is_searched_on_a_coarse_grid(scan, network, too_large):
    _, large = reconstruct(curve_of(scan), network, too_large)
    assert large.metrics.agreement > LEAST_AGREEMENT
    assert large.metrics.starts == 5
    assert large.verdict.grade == "good"


def test_in_a_large_volume_random_starts_win_against_a_wrong_network(scan, network, too_large, monkeypatch):
    """The network's crystal is a cube of ones, and no recipe mends it."""
    begun = chain.starting_point

    def cube(*args):
        start = begun(*args)
        support = torch.zeros_like(start.support)
        support[18:30, 22:34, 26:38] = True
        return replace(start, density=support.to(start.density.dtype), support=support)

    monkeypatch.setattr(chain, "starting_point", cube)
    monkeypatch.setattr(phase_retrieval, "known_recipe", lambda extent_vox: parse_recipe("SUPPORT[fixed]+2*ER"))
    _, found = reconstruct(curve_of(scan), network, too_large)
    assert found.metrics.chi2 < 0.01
    assert found.metrics.agreement > LEAST_AGREEMENT


def test_only_a_network_that_is_sure_limits_the_search(scan, network, monkeypatch):
    known = []

    def noted(*args, **kwargs):
        known.append(kwargs["known"])
        return solve(*args, **kwargs)

    monkeypatch.setattr(phase_retrieval, "solve", noted)
    for sure in (True, False):
        monkeypatch.setattr(chain, "is_sure", lambda *_, sure=sure: sure)
        list(reconstruct(curve_of(scan), network, settings_for(scan, phase={"budget_s": 1e-3})))
    assert [one is not None for one in known] == [True, False]


def test_a_search_that_has_no_time_gives_a_crystal_that_is_not_called_good(scan, network):
    _, cut = reconstruct(curve_of(scan), network, settings_for(scan, phase={"budget_s": 1e-3}))
    assert cut.crystal is not None
    assert cut.verdict.grade != "good"
    assert any("time ran out" in reason for reason in cut.verdict.reasons)
