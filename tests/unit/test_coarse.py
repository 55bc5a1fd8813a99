"""Projections inside the network, against the project's own transform and what they are for."""

from __future__ import annotations

import pytest
import torch

from cdi_stream.networks.coarse import (
    fourier_upsample,
    grow_support,
    half_box,
    middle,
    patterson,
    raar_cycles,
    scale_to_measured,
)
from cdi_stream.networks.losses import overlaps, pad_to_double
from cdi_stream.numerics.fourier import from_fourier_order, to_fourier_order, to_reciprocal
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import Array, field

pytestmark = pytest.mark.usefixtures("one_thread")


def shifted(array, order):
    return torch.stack([order(one) for one in array])


@pytest.fixture
def truth():
    ranges = CrystalRanges(longest_vox=(9.0, 13.0), phase_range_rad=(2.0, 3.0))
    return pad_to_double(crystals(2, 16, ranges, torch.Generator().manual_seed(4)))


@pytest.fixture
def measured(truth):
    return shifted(to_reciprocal(truth).abs(), to_fourier_order)


def test_the_truth_stays_and_comes_to_the_origin(truth, measured):
    moved = shifted(truth.roll((2, -1, 3), (1, 2, 3)), to_fourier_order)
    support = grow_support(moved.abs() > 0.1)
    found = raar_cycles(moved, support, measured, 5)
    assert overlaps(shifted(found, from_fourier_order), truth)[0].min() > 0.995
    position = torch.fft.fftfreq(32) * 32
    for axes in ((2, 3), (1, 3), (1, 2)):
        mass = found.abs().square().sum(axes)
        assert ((mass * position).sum(1) / mass.sum(1)).abs().max() < 0.3


def test_cycles_come_nearer_to_the_measurement(truth, measured):
    support = shifted((truth.abs() > 0.1).float(), to_fourier_order) > 0.5
    turn = 6.28 * torch.rand(measured.shape, generator=torch.Generator().manual_seed(1))
    begin = torch.fft.fftn(torch.polar(measured, turn), dim=(1, 2, 3), norm="ortho")

    def outside(cycles):
        found = raar_cycles(begin, support, measured, cycles)
        return float((found.abs().square() * ~grow_support(grow_support(support))).sum() / found.abs().square().sum())

    assert outside(60) < 0.3 * outside(0)


def test_the_autocorrelation_is_that_of_the_crystal(truth, measured):
    own = patterson(measured)
    assert torch.allclose(own[:, 0, 0, 0], torch.ones(2, dtype=own.dtype), atol=1e-5)
    density = shifted(truth, to_fourier_order)[0]
    lag = (density.roll((-3, 2, 1), (0, 1, 2)) * density.conj()).sum() / density.abs().square().sum()
    either = [own[0, 3, -2, -1], own[0, -3, 2, 1]]
    squared = [value * value.abs() for value in either]
    assert min(float((value - lag).abs()) for value in squared) < 1e-4


def test_scales_boxes_and_grids(truth, measured):
    scaled = scale_to_measured(7 * truth, measured)
    assert torch.allclose(scaled.abs().square().sum((1, 2, 3)), measured.square().sum((1, 2, 3)), rtol=1e-4)
    assert half_box(measured)[0].sum() == 17**3
    one = torch.zeros(1, 8, 8, 8, dtype=torch.bool)
    one[0, 0, 0, 0] = True
    assert grow_support(one).sum() == 27
    assert middle(torch.arange(8.0).reshape(8, 1, 1).expand(1, 8, 8, 8), 4)[0, :, 0, 0].tolist() == [2, 3, 4, 5]


def test_a_crystal_on_finer_voxels_is_the_same_crystal(truth):
    fine = truth[:, 8:24, 8:24, 8:24]
    inner = field(fine, Array.MIDDLE)
    coarse = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(inner, (1, 2, 3)), dim=(1, 2, 3)), (1, 2, 3))
    again = fourier_upsample(coarse, 32)
    correlation = (again.conj() * fine).sum((1, 2, 3)).abs() / (
        again.abs().square().sum((1, 2, 3)) * fine.abs().square().sum((1, 2, 3))
    ).sqrt()
    assert correlation.min() > 0.98
