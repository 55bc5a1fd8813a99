"""What networks are measured by: right answers score nothing, baselines answer what they know."""

from __future__ import annotations

import pytest
import torch

from cdi_stream.fourier import twin
from cdi_stream.networks.torchscript import load
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import measure
from cdi_stream.training.run import TASKS
from tests.bench.networks import baselines
from tests.bench.networks.baselines import Nearest, key_of
from tests.bench.networks.papers import figures

pytestmark = pytest.mark.usefixtures("one_thread")
RANGES = CrystalRanges(longest_vox=(9.0, 13.0), phase_range_rad=(2.0, 3.0))


def drawn(batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return measure(crystals(batch, 16, RANGES, generator), generator, (1e7, 1e8))


@pytest.fixture
def known():
    return drawn(6, torch.Generator().manual_seed(1))


def test_the_truth_its_twin_and_another_phase_score_nothing(known):
    magnitude, truth = (part[:1] for part in known)
    for same in (truth, twin(truth), 1j * truth):
        line = figures(same, truth, magnitude)
        wrong = {key: value for key, value in line.items() if key != "r_p" and value > 1e-3}
        assert wrong == {}
        assert line["r_p"] == pytest.approx(1, abs=1e-5)
    line = figures(known[1][1:2], truth, magnitude)
    assert min(line[key] for key in ("chi2", "chi2_amplitude", "mae_phase_turns", "wca", "s1_loss")) > 0.01


def test_what_is_known_is_found_again(known):
    magnitude, truth = known
    nearest = Nearest(magnitude, truth)
    amplitude, phase = nearest(magnitude)
    torch.testing.assert_close(torch.polar(amplitude, phase), truth, rtol=1e-4, atol=1e-5)
    assert key_of(magnitude).norm(dim=1).tolist() == pytest.approx([1.0] * 6, abs=1e-5)


@pytest.mark.parametrize("kind", ["nearest", "mean"])
def test_baselines_are_files_like_any_network(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "N_KNOWN", 20)
    asked = []

    def draw(batch, generator):
        asked.append(batch)
        return TASKS["wu2021-2d"].draw(batch, generator)

    for _ in range(2):
        file = baselines.written(kind, TASKS["wu2021-2d"], draw, tmp_path)
    assert asked == [20], "made once"
    answer = load(file)(torch.rand(64, 64))
    assert answer.shape == (32, 32)
    assert 0.5 < answer.abs().max() <= 1.01
