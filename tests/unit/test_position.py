"""Crystals between voxels, and back on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.phasing.align import align
from cdi_stream.phasing.position import shift_crystal, shift_to_even_amplitude
from tests.bench.crystals import Case, crystal

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 8)])
def test_whole_voxels_are_a_roll_and_no_move_changes_intensities(shape):
    rng = np.random.default_rng(1)
    start = torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape))
    whole = torch.tensor([2.0, -3.0, 1.0][: len(shape)])
    axes = tuple(range(len(shape)))
    torch.testing.assert_close(
        shift_crystal(start, whole), torch.roll(start, (2, -3, 1)[: len(shape)], axes), atol=1e-5, rtol=0
    )
    between = shift_crystal(start, whole + 0.37)
    torch.testing.assert_close(torch.fft.fftn(between).abs(), torch.fft.fftn(start).abs(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [(0.3, 0.3, 0.3), (-0.45, 0.2, 0.1)])
@pytest.mark.parametrize("kind", ["polyhedron", "superellipsoid"])
def test_a_crystal_between_voxels_is_brought_back(kind, shift):
    truth = torch.from_numpy(crystal(Case(seed=5, kind=kind, phase_pi=3, n=48)))
    found = shift_to_even_amplitude(shift_crystal(truth, torch.tensor(shift)))
    rest = align(truth, found, ("same",)).shift_vox
    assert max(abs(one - round(one)) for one in rest) < 0.1
    asked = []
    shift_to_even_amplitude(shift_crystal(truth, torch.tensor(shift)), lambda: not asked.append(1))
    assert len(asked) == 1, "without time the first step is the last"
    assert shift_to_even_amplitude(torch.zeros(8, 8, 8, dtype=torch.complex64)).isfinite().all()
