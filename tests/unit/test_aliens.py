"""Peaks of other grains on the diffraction of a crystal: found by what no crystal explains, and left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.inversion.phase_retrieval import LIVE_EXPLORATION, known_recipe
from cdi_stream.phasing.aliens import find_aliens
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.auto_settings import AutoSettings
from cdi_stream.phasing.coarse_to_fine import solve_large
from cdi_stream.phasing.explore import Exploration
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.pyramid import coarsen, resample_crystals
from cdi_stream.phasing.ranking import metrics_of
from cdi_stream.phasing.starts import start_from
from tests.bench import zoo
from tests.bench.crystals import Case
from tests.measurements import case_of, data_of, error, ordered, unlimited

CASE = Case(seed=3, kind="polyhedron", phase_pi=2, n=48)
PLACE = (14, 34, 10)
"""Voxel of the alien peak in Fourier order: 14, -14 and 10 voxels from the Bragg peak, on the crystal's diffraction."""
FEW = AutoSettings(
    explorations=(Exploration(starts_a_round=8, least_rounds=2, most_rounds=2, pool=12),), attempts=1, is_thorough=False
)


def peak():
    """Return an alien peak whose sum is 1, Gaussian, 1.4 voxels rms."""
    squares = sum(
        torch.minimum((x - at) % 48, (at - x) % 48).square()
        for x, at in zip(torch.meshgrid(*3 * (torch.arange(48),), indexing="ij"), PLACE, strict=True)
    )
    result = torch.exp(-squares / 4)
    return result / result.sum()


def with_alien(share=0.02):
    """Return the measurement with an alien peak of this share of the counts, and the crystal."""
    data, truth = case_of(CASE)
    counts = data.magnitude.square()
    alien = np.random.default_rng(1).poisson((share * counts.sum() * peak()).numpy())
    return replace(data, magnitude=(counts + torch.from_numpy(alien)).sqrt().float()), truth


def test_the_peak_that_right_crystals_leave_is_found_where_it_is():
    data, truth = with_alien()
    aliens = find_aliens(truth[None], data, data)
    assert peak()[~aliens].sum() < 0.001
    assert aliens.sum() < 3000
    clean, _ = case_of(CASE)
    assert find_aliens(truth[None], clean, clean) is None


def test_a_peak_that_one_start_explains_is_not_alien():
    data, truth = with_alien()
    field = torch.fft.ifftn(truth, norm="ortho")
    field *= data.magnitude / field.abs().clamp_min(1e-12)
    explained = torch.fft.fftn(field, norm="ortho")
    assert find_aliens(torch.stack((truth, truth)), data, data) is not None
    assert find_aliens(torch.stack((truth, explained)), data, data) is None


def test_what_a_wrong_crystal_leaves_is_not_alien():
    data, truth = case_of(CASE)
    for wrong in (truth.abs().to(truth), torch.roll(truth, 3, 0) * (1 + torch.roll(truth, 2, 1).abs())):
        assert find_aliens(wrong[None], data, data) is None


def test_most_of_the_counts_are_no_alien_peak():
    data, truth = with_alien(share=0.5)
    assert find_aliens(truth[None], data, data) is None


def test_a_peak_at_the_border_of_the_coarse_grid_is_left_out_as_a_whole():
    data, truth = with_alien()
    coarse = coarsen(data, (30, 30, 24))
    aliens = find_aliens(resample_crystals(truth[None], (30, 30, 24)), coarse, data)
    assert peak()[~aliens].sum() < 0.01


@pytest.mark.parametrize("effect", ["alien", "none"])
def test_a_search_leaves_alien_peaks_out(effect):
    sample = replace(zoo.sample(300_096), effect=effect)
    truth = zoo.crystal(sample)
    data = data_of(*zoo.measure(sample, truth))
    found = solve(data, 1, unlimited(), FEW)
    metrics = metrics_of(found, data)
    assert error(found.crystal, ordered(truth)) < 0.03, "with the voxels of the alien peak 0.04"
    assert judge(metrics).grade == "good"
    assert (found.aliens is None) == (metrics.alien_voxels is None) == (effect == "none")
    if effect == "alien":
        assert metrics.alien_voxels == found.aliens.sum()
        assert not found.model_of(data).valid[found.aliens].any()


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_a_large_volume_leaves_alien_peaks_out(share):
    data, truth = with_alien(share)
    known = start_from(truth.abs().to(truth), truth.abs() > 0.3)
    found = solve_large(data, known, known_recipe, 1, LIVE_EXPLORATION, unlimited())
    assert error(found.crystal, truth) < 0.07
    assert (found.metrics.alien_voxels is None) == (not share)
