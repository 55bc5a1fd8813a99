from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.errors import NetworkFileError
from cdi_stream.fourier import twin
from cdi_stream.networks import losses
from cdi_stream.networks.torchscript import export, load, weights_sha256
from cdi_stream.networks.wu2021 import small
from cdi_stream.training.crystals import CrystalRanges, crystals, random_rotations
from cdi_stream.training.diffraction import measure
from cdi_stream.training.wu2021 import contract, draw

RANGES = CrystalRanges(longest_vox=(9.0, 13.0))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


def test_crystals_are_centred_and_as_long_as_asked(generator):
    batch = crystals(8, 32, CrystalRanges(), generator)
    position = torch.arange(32.0) - 16
    mass = batch.abs()
    for axes in ((2, 3), (1, 3), (1, 2)):
        profile = mass.sum(axes)
        centre = (profile * position).sum(-1) / profile.sum(-1)
        assert centre.abs().max() < 0.7
    longest = torch.stack([((mass > 0.5).sum(axes) > 0).sum(-1) for axes in ((2, 3), (1, 3), (1, 2))]).amax(0)
    assert (longest >= 17).all()
    assert (longest <= 30).all()
    assert mass.amax() <= 1.001


def test_phases_span_no_more_than_asked_and_average_to_zero(generator):
    batch = crystals(8, 32, CrystalRanges(phase_range_rad=(1.0, 2.0)), generator)
    for crystal in batch:
        phase = crystal.angle()[crystal.abs() > 0.5]
        assert 0.8 < float(phase.max() - phase.min()) < 2.05
        assert abs(float((crystal.angle() * crystal.abs()).sum() / crystal.abs().sum())) < 0.05


def test_rotations_are_proper(generator):
    rotation = random_rotations(50, generator)
    identity = rotation @ rotation.transpose(1, 2)
    assert torch.allclose(identity, torch.eye(3).expand(50, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(50), atol=1e-5)


def test_the_measured_peak_lies_at_the_origin_and_fits_the_crystal_it_comes_with(generator):
    magnitude, crystal = measure(crystals(6, 16, RANGES, generator), generator, photons=(1e8, 2e8))
    peaks = magnitude.reshape(6, -1).argmax(-1)
    origin = 16 * 32**2 + 16 * 32 + 16
    offsets = torch.stack([(peaks - origin) // 32**2, (peaks - origin) % 32])
    assert (offsets.abs().remainder(31) <= 1).all()
    assert torch.allclose(magnitude.amax((1, 2, 3)), torch.ones(6))
    model = losses.to_reciprocal(losses.pad_to_double(crystal)).abs()
    seen = magnitude > 0
    for index in range(6):
        a, b = model[index][seen[index]], magnitude[index][seen[index]]
        assert np.corrcoef(a, b)[0, 1] > 0.99


def test_the_loss_cannot_tell_a_crystal_from_its_twin_and_knows_a_flip(generator):
    truth = crystals(4, 16, RANGES, generator)
    same = losses.supervised(truth.abs(), truth.angle(), truth)
    other = twin(truth)
    assert torch.allclose(losses.supervised(other.abs(), other.angle(), truth), same, atol=1e-4)
    assert same < 1e-3
    flipped = truth.flip(-1)
    assert losses.supervised(flipped.abs(), flipped.angle(), truth) > 0.05


def test_an_exported_network_answers_as_the_original_and_names_its_weights(tmp_path):
    network = small().eval()
    path = tmp_path / "network.pt"
    export(network, contract(network, "none"), path)
    loaded = load(path)
    magnitude, _ = draw(1, torch.Generator().manual_seed(3))
    with torch.no_grad():
        amplitude, phase = network(magnitude)
    answer = loaded(magnitude[0])
    torch.testing.assert_close(answer, torch.polar(amplitude, phase)[0], rtol=1e-3, atol=1e-4)
    assert loaded.contract.weights_sha256 == weights_sha256(network)
    with pytest.raises(NetworkFileError, match=r"\(64, 64, 64\), got \(8, 8, 8\)"):
        loaded(torch.zeros(8, 8, 8))


def test_files_without_our_contract_are_refused(tmp_path):
    foreign = tmp_path / "foreign.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(foreign))
    with pytest.raises(NetworkFileError, match=r"cdi_stream\.json"):
        load(foreign)
    wrong = tmp_path / "wrong.pt"
    network = small().eval()
    export(network, contract(network, "none").model_copy(update={"fourier_sign": -1}), wrong)
    with pytest.raises(NetworkFileError, match="fourier_sign"):
        load(wrong)
    with pytest.raises(NetworkFileError, match="cdi-stream train"):
        load(tmp_path / "absent.pt")
