"""The middle of the counts as the origin of a search: what a shift does to a measurement and to its crystal."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.middle import Middle, middle_of, origin_for
from cdi_stream.phasing.projections import modelled_magnitude
from cdi_stream.phasing.pyramid import coarsest_shape
from cdi_stream.phasing.ranking import metrics_of
from cdi_stream.phasing.starts import start_from
from tests.bench.crystals import Case
from tests.measurements import case_of, error, unlimited
from tests.unit.test_auto import QUICK

CASE = Case(seed=2, kind="polyhedron", phase_pi=1, n=32)
SHIFT = (5, -3, 0)


def beside(shift=SHIFT):
    """Return a measurement whose counts lie beside the origin, and the crystal that has them: with a phase ramp."""
    data, truth = case_of(CASE)
    shifted = Middle(tuple(-s for s in shift))
    return shifted.at_origin(data), shifted.with_ramp(start_from(truth, truth.abs() > 0.1)).crystal[0]


def test_the_middle_of_counts_that_were_shifted_is_their_shift():
    clean, _ = case_of(CASE)
    at_first = middle_of(clean)
    assert max(map(abs, at_first.shift)) <= 1
    data, _ = beside()
    expected = [a + b for a, b in zip(at_first.shift, SHIFT, strict=True)]
    assert max(abs(a - b) for a, b in zip(middle_of(data).shift, expected, strict=True)) <= 1
    background = replace(data, magnitude=(data.magnitude.square() + 2.0).sqrt())
    assert max(abs(a - b) for a, b in zip(middle_of(background).shift, middle_of(data).shift, strict=True)) <= 1


def test_the_origin_moves_only_where_the_grid_becomes_smaller():
    clean, _ = case_of(CASE)
    assert origin_for(clean).is_origin
    data, _ = beside()
    assert origin_for(data) == middle_of(data)
    assert math.prod(coarsest_shape(middle_of(data).at_origin(data))) < 0.85 * math.prod(coarsest_shape(data))


def test_no_counts_have_no_middle():
    data, _ = case_of(CASE)
    assert origin_for(replace(data, magnitude=torch.zeros_like(data.magnitude))).is_origin


def test_a_crystal_with_the_ramp_explains_the_shifted_counts():
    data, truth = case_of(CASE)
    shifted, crystal = beside()
    direct = torch.roll(modelled_magnitude(truth, data), SHIFT, (0, 1, 2))
    assert modelled_magnitude(crystal, shifted) == pytest.approx(direct, abs=1e-3 * float(direct.max()))
    back = Middle(tuple(-s for s in SHIFT)).without_ramp(crystal)
    assert back.real == pytest.approx(torch.where(truth.abs() > 0.1, truth, 0).real, abs=1e-5)


def test_a_shift_brings_all_parts_of_a_measurement_along_and_back():
    data, _ = case_of(CASE)
    place, frames = torch.rand(32, 32, 32), torch.arange(32.0)
    data = replace(data, magnitude_scale=place, background=2 * place, valid=place > 0.2, frame_shifts=frames)
    middle = Middle(SHIFT)
    shifted = middle.at_origin(data)
    assert shifted.magnitude[0, 0, 0] == data.magnitude[SHIFT]
    assert torch.equal(shifted.background, 2 * shifted.magnitude_scale)
    assert torch.equal(shifted.valid, shifted.magnitude_scale > 0.2)
    assert shifted.frame_shifts[0] == SHIFT[0]
    assert torch.equal(middle.back(shifted.frame_shifts), frames)
    assert torch.equal(middle.back(shifted.valid), data.valid)


def test_a_search_finds_the_crystal_of_counts_beside_the_origin():
    data, truth = beside()
    found = solve(data, 1, unlimited(), QUICK)
    assert error(found.crystal, truth) < 0.1
    assert metrics_of(found, data).r_p > 0.97
    assert error(found.finalists[1], truth) < 0.2
