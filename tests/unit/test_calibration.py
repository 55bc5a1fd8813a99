"""From which agreement on a network is to be relied on."""

from __future__ import annotations

import json
from itertools import chain

import pytest
import torch
from torch import nn

from cdi_stream.errors import NetworkFileError
from cdi_stream.networks.torchscript import (
    CONTRACT_FILE,
    NetworkContract,
    export,
    load,
    rewrite_contract,
    weights_sha256,
)
from cdi_stream.training import calibration
from cdi_stream.training.calibration import Trial, calibrate, sure_from, trials


class Ball(nn.Module):
    """Answers to everything with the same ball: sure of itself, and wrong about what is strained."""

    def __init__(self) -> None:
        super().__init__()
        self.amplitude = nn.Parameter((_radius() < 3).float())

    def forward(self, magnitude: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        answer = self.amplitude.expand(magnitude.shape[0], 8, 8, 8)
        return answer, torch.zeros_like(answer)


def _radius() -> torch.Tensor:
    axis = torch.arange(8.0) - 4
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(0).sqrt()


@pytest.fixture
def ball(tmp_path):
    network = Ball()
    contract = NetworkContract(
        name="ball",
        version="1",
        input_shape=(16, 16, 16),
        output_shape=(8, 8, 8),
        input_scaling="magnitude, maximum 1",
        oversampling=2.6,
        phase_range_rad=0.0,
        coordinates="lab",
        fourier_sign=1,
        weights_sha256=weights_sha256(network),
        training="none",
    )
    export(network, contract, tmp_path / "ball.pt")
    return tmp_path / "ball.pt"


def _tried(*pairs):
    return [Trial(agreement=agreement, overlap=overlap) for agreement, overlap in pairs]


def test_the_limit_parts_crystals_that_are_right_from_those_that_are_not():
    right = [(0.8 + k / 1000, 0.95) for k in range(100)]
    wrong = [(0.3 + k / 1000, 0.4) for k in range(100)]
    assert sure_from(_tried(*wrong, *right)) == pytest.approx(0.8, abs=0.003)
    assert sure_from(_tried(*right)) == pytest.approx(0.8), "nothing is known below"


def test_a_limit_is_rounded_up_lest_it_admit_what_lies_below():
    close = [(0.9986 + 0.0005 * (k % 4), 0.95) for k in range(160)]
    assert sure_from(_tried(*close, *((0.9984, 0.4),) * 80)) == 0.999


def test_a_network_whose_wrong_answers_agree_as_well_is_never_sure():
    assert sure_from(_tried(*((0.9 + k / 1000, 0.95 if k % 3 else 0.5) for k in range(90)))) is None
    assert sure_from(_tried(*((1.0, 0.95),) * 60, *((1.0, 0.5),) * 60)) is None
    assert sure_from(_tried(*((0.9, 0.95),) * 50)) is None, "too few"


def test_a_limit_that_other_crystals_do_not_confirm_is_none():
    lucky = [(0.9 + k / 1000, 0.95) for k in range(60)]
    unlucky = [(0.9 + k / 1000, 0.95 if k % 5 else 0.5) for k in range(60)]
    assert sure_from(_tried(*chain.from_iterable(zip(lucky, unlucky, strict=True)))) is None
    assert sure_from(_tried(*chain.from_iterable(zip(lucky, lucky, strict=True)))) == 0.9


def test_a_network_that_answers_all_alike_is_never_sure(ball):
    tried = trials(load(ball), 12)
    assert min(one.agreement for one in tried) == pytest.approx(1)
    assert min(one.overlap for one in tried) < 0.6 < max(one.overlap for one in tried)
    assert sure_from(tried) is None


def test_the_limit_is_written_into_the_file_and_its_card_and_the_weights_stay(ball, monkeypatch):
    before = load(ball)
    card = ball.with_suffix(".card.json")
    card.write_text(json.dumps({"network": before.contract.model_dump(), "steps": 3}))
    for name, value in {"RELIABLE_OVERLAP": 0.1, "WINDOW": 4, "LEAST_CRYSTALS": 2}.items():
        monkeypatch.setattr(calibration, name, value)
    calibrate(ball, 10)
    after = load(ball)
    assert after.contract == before.contract.model_copy(update={"sure_from": 1.0})
    assert json.loads(card.read_text()) == {
        "network": json.loads(after.contract.model_dump_json(exclude_none=True)),
        "steps": 3,
    }
    volume = torch.rand(16, 16, 16)
    assert torch.equal(after(volume), before(volume))
    assert [file.name for file in ball.parent.iterdir() if file.suffix == ".part"] == []


def test_other_texts_in_the_file_stay_and_a_file_that_was_replaced_is_not_written_over(ball):
    network = load(ball)
    contract = network.contract.model_dump_json()
    torch.jit.save(torch.jit.load(str(ball)), str(ball), _extra_files={CONTRACT_FILE: contract, "notes/a.txt": "ours"})
    with pytest.raises(NetworkFileError, match="do it again"):
        rewrite_contract(ball, network.contract, network.sha256)
    rewrite_contract(ball, network.contract, load(ball).sha256)
    texts = {"notes/a.txt": "", CONTRACT_FILE: ""}
    torch.jit.load(str(ball), _extra_files=texts)
    assert texts["notes/a.txt"] == b"ours"
    assert b"sure_from" not in texts[CONTRACT_FILE]
    assert load(ball).contract == network.contract


def test_a_network_of_planes_cannot_be_calibrated(ball):
    flat = load(ball).contract.model_copy(update={"input_shape": (16, 16)})
    network = load(ball)
    network.contract = flat
    with pytest.raises(NetworkFileError, match="expected one for volumes"):
        trials(network, 1)
