"""What networks are measured by: right answers score nothing, baselines answer what they know."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cdi_stream.files.intensities.window import WorkingVolume
from cdi_stream.interface.phase_counts import prepared
from cdi_stream.inversion.chain import starting_point
from cdi_stream.inversion.infer import crystal_of
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.networks.masto2025 import Masto2025
from cdi_stream.networks.packaged import network_file
from cdi_stream.networks.torchscript import export, load, round_to_half
from cdi_stream.numerics.fourier import to_crystal, to_fourier_order, to_reciprocal, twin
from cdi_stream.phasing.quality import misfit
from cdi_stream.phasing.starts import start_from
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import measure
from cdi_stream.training.run import TASKS
from tests.bench.networks import baselines
from tests.bench.networks.baselines import Nearest, key_of
from tests.bench.networks.papers import figures, phase_network
from tests.bench.networks.real import _by_blocks

pytestmark = pytest.mark.usefixtures("one_thread")
RANGES = CrystalRanges(longest_vox=(9.0, 13.0), phase_range_rad=(2.0, 3.0))


def drawn(batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return measure(crystals(batch, 16, RANGES, generator), generator, (1e7, 1e8))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture
def known():
    return drawn(6, generator())


def test_the_truth_its_twin_and_another_phase_score_nothing(known):
    magnitude, truth = (part[:1] for part in known)
    for same in (truth, twin(truth), 1j * truth, torch.roll(truth, (1, -1), (1, 2))):
        line = figures(same, truth, magnitude)
        wrong = {key: value for key, value in line.items() if key != "r_p" and value > 1e-3}
        assert wrong == {}
        assert line["r_p"] == pytest.approx(1, abs=1e-5)
    line = figures(known[1][1:2], truth, magnitude)
    assert min(line[key] for key in ("chi2", "chi2_amplitude", "mae_phase_turns", "wca", "s1_loss")) > 0.01


def test_phases_count_within_half_a_turn(known):
    magnitude, truth = (part[:1] for part in known)
    for scale in (1.0, 1.0j):
        line = figures(scale * torch.polar(truth.abs(), truth.angle() + 0.2), truth * scale, magnitude)
        assert max(line["chi2_phase"], line["mae_phase_turns"]) < 1e-4


def test_a_network_for_phases_of_the_diffraction_is_measured_by_these(tmp_path):
    network, volume = Masto2025((6, 8, 12)).eval(), torch.rand(1, 64, 64, 64)
    task = TASKS["masto2025"]
    export(
        task.wrap_for_export(round_to_half(network)),
        task.contract(round_to_half(network), "none"),
        tmp_path / "network.pt",
    )
    with torch.inference_mode():
        expected = round_to_half(network)(volume)
    torch.testing.assert_close(phase_network(tmp_path / "network.pt")(volume), expected, rtol=1e-4, atol=1e-4)


def test_other_networks_have_no_phases_of_the_diffraction():
    assert phase_network(network_file("wu2021-2d")) is None


def test_a_volume_fed_by_blocks_keeps_its_places():
    """The network's crystal is the truth: what comes of it on the measured voxels explains them."""
    truth = torch.nn.functional.pad(
        crystals(1, 32, replace(RANGES, longest_vox=(14.0, 16.0)), generator())[0], [16] * 6
    )
    field = to_reciprocal(truth)
    shift = [32 - int(k) for k in torch.unravel_index(field.abs().argmax(), field.shape)]
    field = torch.roll(field, shift, (0, 1, 2))
    counts = (1e6 * field.abs().square() / field.abs().square().sum()).numpy()
    one = torch.ones(counts.shape)
    working = WorkingVolume(counts=torch.from_numpy(counts), valid_pixels=one > 0, expected_scale=one, affine=None)
    volume = prepared(working)
    middle = to_crystal(field)[16:48, 16:48, 16:48].to(torch.complex64)
    contract = SimpleNamespace(input_shape=(32, 32, 32), oversampling=1.5)
    lab = _by_blocks(volume, SimpleNamespace(contract=contract))
    start = starting_point(crystal_of(middle, lab), volume, "cpu")
    found = start_from(to_fourier_order(start.density), to_fourier_order(start.support))
    assert misfit(found.result[0], measurement_of(volume))["chi2"] < 0.02


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
