"""How far counting noise moves a crystal, against crystals that it did move."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.bootstrap import bootstrap_nmse
from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.measures import nmse
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.recipe import parse_recipe
from tests.bench.crystals import Case, crystal, measured

pytestmark = pytest.mark.usefixtures("one_thread")


def measurement(photons: float, seed: int = 2) -> tuple[Measurement, Batch]:
    """Counts of a crystal, and the crystal itself refined to them in its own support."""
    case = Case(seed=seed, kind="polyhedron", phase_pi=2, n=32, photons=photons)
    truth = to_fourier_order(torch.from_numpy(crystal(case)))
    counts, valid = (to_fourier_order(torch.from_numpy(array)).contiguous() for array in measured(case, crystal(case)))
    data = Measurement(magnitude=counts.sqrt(), magnitude_scale=torch.ones(counts.shape), valid=valid)
    start = Batch(crystal=truth[None], support=(truth.abs() > 0.1)[None])
    return data, run_to_end(parse_recipe("SUPPORT[fixed]+60*ER"), data, start)


@pytest.mark.parametrize("photons", [1e5, 1e6])
def test_it_foretells_how_far_noise_has_moved_a_crystal(photons):
    data, found = measurement(photons)
    truth = to_fourier_order(torch.from_numpy(crystal(Case(seed=2, kind="polyhedron", phase_pi=2, n=32))))
    moved = float(nmse(truth, found.result[0]))
    assert moved / 3 < bootstrap_nmse(data, found) < 3 * moved


def test_it_falls_as_the_counts_grow():
    few, many = (bootstrap_nmse(*measurement(photons)) for photons in (1e5, 1e7))
    assert 20 < few / many < 300


def test_the_same_seed_draws_the_same_counts_and_another_others():
    data, found = measurement(1e6)
    assert (
        bootstrap_nmse(data, found, seed=3)
        == bootstrap_nmse(data, found, seed=3)
        != bootstrap_nmse(data, found, seed=4)
    )


def test_what_masked_voxels_hold_does_not_matter():
    data, found = measurement(1e6)
    valid = data.valid.clone()
    valid[9:12] = False
    one, two = (replace(data, valid=valid, magnitude=torch.where(valid, data.magnitude, x)) for x in (0.0, 1e4))
    assert bootstrap_nmse(one, found) == bootstrap_nmse(two, found)


def test_no_answer_without_time_or_crystal():
    data, found = measurement(1e6)
    assert math.isnan(bootstrap_nmse(data, found, is_over=lambda: True))
    assert math.isnan(bootstrap_nmse(data, replace(found, crystal=torch.zeros_like(found.crystal))))
