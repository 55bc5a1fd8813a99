"""Mirror images: what a network that knows them would answer, and what agreement means."""

from __future__ import annotations

import pytest
import torch

from cdi_stream.networks.mirrors import VIEWS, agreement, is_sure, mirrored_answers
from cdi_stream.networks.torchscript import NetworkContract
from cdi_stream.numerics.fourier import mirror, to_reciprocal, twin
from cdi_stream.training.crystals import CrystalRanges, crystals

RANGES = CrystalRanges(longest_vox=(9.0, 13.0), phase_range_rad=(3.0, 6.0))


@pytest.fixture
def truth():
    return crystals(3, 16, RANGES, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("axes", VIEWS)
@pytest.mark.parametrize("n", [16, 15])
def test_the_mirror_image_has_the_mirrored_diffraction(axes, n, truth):
    crystal = truth[0, :n, :n, :n]
    torch.testing.assert_close(to_reciprocal(mirror(crystal, axes)), mirror(to_reciprocal(crystal), axes))
    assert torch.equal(mirror(mirror(crystal, axes), axes), crystal)


def test_all_views_come_back_the_right_way_round(truth):
    crystal = truth[0]
    asked = []

    def knows_mirrors(magnitude):
        asked.append(magnitude)
        axes = next(view for view in VIEWS if torch.equal(mirror(magnitude, view), asked[0]))
        return mirror(crystal, axes)

    answers = mirrored_answers(knows_mirrors, to_reciprocal(crystal).abs(), 8)
    assert len({one.numpy().tobytes() for one in asked}) == 8
    for answer in answers:
        torch.testing.assert_close(answer, crystal)


def test_agreement_is_1_of_one_crystal_whatever_the_data_cannot_tell_and_less_of_others(truth):
    same = torch.stack([truth[0], twin(truth[0]), 1j * truth[0].roll((1, -2), (0, 2))])
    assert agreement(same) == pytest.approx(1, abs=1e-5)
    assert agreement(truth) < 0.8


def test_a_network_is_sure_where_its_answers_to_mirror_images_are_as_alike_as_its_contract_asks(truth):
    magnitude = to_reciprocal(truth[0]).abs()

    def knows_mirrors(seen):
        return mirror(truth[0], next(view for view in VIEWS if torch.equal(mirror(seen, view), magnitude)))

    others = iter(truth.repeat(2, 1, 1, 1))
    assert is_sure(_network(knows_mirrors, 0.9), magnitude)
    assert not is_sure(_network(lambda seen: next(others), 0.9), magnitude)
    assert not is_sure(_network(lambda seen: pytest.fail("nobody needs its answers"), None), magnitude)


def _network(answer, sure_from):
    class Answering:
        contract = NetworkContract.model_construct(sure_from=sure_from)
        __call__ = staticmethod(answer)

    return Answering()
