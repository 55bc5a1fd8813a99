from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.errors import NetworkFileError
from cdi_stream.networks import losses
from cdi_stream.networks.packaged import network_file, packaged_networks
from cdi_stream.networks.torchscript import export, load, load_trainable, round_to_half, weights_sha256
from cdi_stream.networks.wu2021 import small
from cdi_stream.numerics.fourier import twin
from cdi_stream.training import chan2021
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import draw_counts, field, measure
from cdi_stream.training.fields import FIELDS
from cdi_stream.training.plan import Stage
from cdi_stream.training.run import TASKS
from cdi_stream.training.shapes import SHAPES, positions, random_rotations
from cdi_stream.training.trainer import HELD_OUT_SEED, seed_of
from cdi_stream.training.wu2021 import SMALL

RANGES = CrystalRanges(longest_vox=(9.0, 13.0))
LOPSIDED = CrystalRanges(longest_vox=(16.0, 20.0), phase_range_rad=(3.0, 4.0), shapes=("polyhedron",))


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


def test_a_detector_gap_is_a_slab_off_the_peak_and_the_rest_is_as_it_was():
    seeds = [torch.Generator().manual_seed(5) for _ in range(2)]
    plain, gapped = (
        measure(crystals(20, 16, RANGES, seed), seed, photons=(1e9, 2e9), gap_share=share)[0]
        for seed, share in zip(seeds, (0.0, 0.5), strict=True)
    )
    lost = (gapped == 0) & (plain > 0)
    share = lost.flatten(1).float().mean(1)
    assert 4 <= (share > 0).sum() <= 16
    assert share.max() < 0.12
    assert not lost[:, 15:18, 15:18, 15:18].any()
    assert torch.equal(torch.where(lost, plain, gapped), plain)
    voxels = lost[int(share.argmax())].nonzero().float()
    thickness = torch.linalg.svdvals(voxels - voxels.mean(0))[-1] / len(voxels) ** 0.5
    assert thickness < 1, "rms distance from a plane [voxels]"


def test_the_loss_cannot_tell_a_crystal_from_its_twin_and_knows_a_flip(generator):
    truth = crystals(4, 16, RANGES, generator)
    same = losses.supervised_loss(truth.abs(), truth.angle(), truth)
    other = twin(truth)
    assert torch.allclose(losses.supervised_loss(other.abs(), other.angle(), truth), same, atol=1e-4)
    assert same < 1e-3
    flipped = truth.flip(-1)
    assert losses.supervised_loss(flipped.abs(), flipped.angle(), truth) > 0.05


def test_a_crystal_anywhere_matches_itself_and_its_twin(generator):
    truth = crystals(4, 16, CrystalRanges(longest_vox=(9.0, 13.0), phase_range_rad=(2.0, 3.0)), generator)
    for same in (truth, twin(truth), truth.roll((2, -3, 1), (1, 2, 3)) * 1j, 0.3 * truth):
        assert losses.mismatch_anywhere(same, truth).abs().max() < 1e-5
    assert losses.mismatch_anywhere(truth.abs().to(truth.dtype), truth).min() > 0.01
    assert losses.mismatch_anywhere(truth.flip(-1), truth).min() > 0.05


def test_an_exported_network_answers_as_the_original_and_names_its_weights(tmp_path):
    network = round_to_half(small()).eval()
    path = tmp_path / "network.pt"
    export(network, SMALL.contract(network, "none"), path)
    loaded = load(path)
    magnitude, _ = SMALL.draw(1, torch.Generator().manual_seed(3))
    with torch.no_grad():
        amplitude, phase = network(magnitude)
    answer = loaded(magnitude[0])
    torch.testing.assert_close(answer, torch.polar(amplitude, phase)[0], rtol=1e-3, atol=1e-4)
    assert path.stat().st_size < 2.3 * sum(weight.numel() for weight in network.parameters()), "at half precision"
    assert loaded.contract.weights_sha256 == weights_sha256(network)
    with pytest.raises(NetworkFileError, match=r"\(64, 64, 64\), got \(8, 8, 8\)"):
        loaded(torch.zeros(8, 8, 8))


@pytest.mark.parametrize("name", packaged_networks())
def test_packaged_networks_answer_alike_in_python_and_in_torchscript_alone_and_in_a_batch(name):
    """As served, `unrolled` is another: rounding errors grow over 90 cycles, until they choose another answer."""
    task, file = TASKS[name], network_file(name)
    script, served = load_trainable(file), load(file)
    network = task.wrap_for_export(task.network())
    network.load_state_dict(script.script.state_dict())
    magnitudes = torch.rand((2, *task.input_shape), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected, found = (torch.polar(*(part.float() for part in one(magnitudes))) for one in (network.eval(), script))
    answers = {"script": found, "served in a batch": served.batch(magnitudes), "served": served(magnitudes[0])[None]}
    for way, answer in answers.items():
        if not (name == "unrolled" and way.startswith("served")):
            assert (answer - expected[: len(answer)]).abs().max() < 1e-5 * expected.abs().max(), way
        assert answer.shape[1:] == task.output_shape


def test_files_without_our_contract_are_refused(tmp_path):
    foreign = tmp_path / "foreign.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(foreign))
    with pytest.raises(NetworkFileError, match=r"cdi_stream\.json"):
        load(foreign)
    wrong = tmp_path / "wrong.pt"
    network = small().eval()
    export(network, SMALL.contract(network, "none").model_copy(update={"fourier_sign": -1}), wrong)
    with pytest.raises(NetworkFileError, match="fourier_sign"):
        load(wrong)
    with pytest.raises(NetworkFileError, match="cdi-stream train"):
        load(tmp_path / "absent.pt")


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_convex_enough_and_lie_within_their_axes(shape, generator):
    semi_axes = torch.tensor([[10.0, 7.0, 5.0], [6.0, 6.0, 6.0]])
    depth = SHAPES[shape](semi_axes, 32, generator)
    inside = depth > 0
    assert depth.shape == (2, 32**3)
    reach = torch.where(inside[..., None], positions(32, depth.device).abs(), 0.0).amax(1)
    assert (reach <= semi_axes * 3**0.5 + 1e-4).all()
    assert (inside.sum(1) > 30).all()
    assert (inside[:, positions(32, depth.device).abs().sum(1) == 0]).all(), "the centre is inside"


def test_wulff_crystals_have_the_symmetry_of_the_cube(generator):
    depth = SHAPES["wulff"](torch.full((3, 3), 9.0), 33, generator).reshape(3, 33, 33, 33)
    for other in (depth.flip(1), depth.transpose(1, 2), depth.transpose(2, 3)):
        torch.testing.assert_close(other, depth)
    cut = SHAPES["winterbottom"](torch.full((3, 3), 9.0), 33, generator).reshape(3, 33, 33, 33)
    assert ((cut > 0) != (cut.flip(1, 2, 3) > 0)).flatten(1).any(1).all(), "a substrate takes their centre away"


@pytest.mark.parametrize("field_name", FIELDS)
def test_fields_are_smooth_on_their_length(field_name, generator):
    phase = FIELDS[field_name](torch.full((4,), 6.0), 24, generator)
    steps = (phase[:, 1:] - phase[:, :-1]).flatten(1).abs().amax(1)
    assert (steps < 0.5 * (phase.flatten(1).amax(1) - phase.flatten(1).amin(1))).all()
    assert len({float(one.sum()) for one in phase}) == 4


def test_each_crystal_of_a_batch_is_drawn_in_a_way_of_its_own(generator):
    ranges = CrystalRanges(shapes=tuple(SHAPES), fields=tuple(FIELDS), unstrained_share=0.5)
    batch = crystals(16, 16, ranges, generator)
    spans = [float(one.angle()[one.abs() > 0.5].abs().max()) for one in batch]
    assert 2 <= sum(span < 1e-3 for span in spans) <= 14, "about half are without strain"


def test_a_projection_is_what_the_central_slice_shows(generator):
    crystal = crystals(3, 16, CrystalRanges(longest_vox=(9.0, 13.0)), generator)
    of_volume = field(crystal)[:, 16]
    of_projection = field(crystal.sum(1))
    torch.testing.assert_close(of_volume * 32**0.5, of_projection, rtol=1e-4, atol=1e-3)
    counts, shown = draw_counts(crystal.sum(1), generator, (1e7, 2e7))
    assert counts.shape == (3, 32, 32)
    for model, measured in zip(field(shown).abs(), counts.sqrt(), strict=True):
        assert np.corrcoef(model[measured > 0], measured[measured > 0])[0, 1] > 0.99


def test_incoherence_is_blind_to_sign_offset_and_wraps_and_0_at_best(generator):
    phase = 7 * torch.rand(2, 8, 8, 8, generator=generator)
    weight = torch.rand(2, 8, 8, 8, generator=generator)
    for same in (phase, -phase, phase + 1.3, phase + 2 * torch.pi * torch.round(phase)):
        assert losses.incoherence(same, phase, weight).abs().max() < 1e-5
    mixed = torch.where(torch.rand(2, 8, 8, 8, generator=generator) < 0.5, phase, -phase)
    assert losses.incoherence(mixed, phase, weight).min() > 0.1


def test_an_amplitude_below_zero_is_drawn_where_the_diffraction_says(generator):
    """As it is while it is trained; the derivative of `torch.polar` takes amplitudes for positive."""
    magnitude, truth = chan2021.TASK.draw(1, generator)
    stage = Stage(steps=1, terms=(0.0, 0.0, 1.0))
    amplitude, phase = (truth.abs() - 0.3).double().requires_grad_(), torch.full_like(truth.abs(), 0.4).double()

    def loss(of):
        return chan2021.loss(lambda _: (of, phase), (magnitude, truth), stage)

    loss(amplitude).backward()
    step = 3e-4 * torch.sign(amplitude.grad) * (amplitude < 0)
    with torch.no_grad():
        slope = (loss(amplitude + step) - loss(amplitude - step)) / 2
    assert slope.item() == pytest.approx((step * amplitude.grad).sum().item(), rel=0.1)


def test_a_shape_of_the_truth_with_a_phase_of_the_twin_is_no_answer(generator):
    magnitude, truth = chan2021.observe(crystals(1, 32, LOPSIDED, generator), generator)

    def loss(shape, phase, terms):
        answer = shape.abs(), phase.angle()
        return float(chan2021.loss(lambda _: answer, (magnitude, truth), Stage(steps=1, terms=terms)))

    other = twin(truth)
    for terms in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        assert max(loss(truth, truth, terms), loss(other, other, terms)) < 1e-3
    assert max(loss(shape, phase, (0.0, 1.0, 0.0)) for shape, phase in ((truth, other), (other, truth))) > 0.02


def test_the_diffraction_is_that_of_the_crystal_not_of_what_was_seen_of_it(generator):
    magnitude, truth = chan2021.TASK.draw(2, generator)
    answer, stage = (truth.abs(), truth.angle()), Stage(steps=1, terms=(0.0, 0.0, 1.0))
    assert chan2021.loss(lambda _: answer, (0 * magnitude, truth), stage) < 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2**20, 2**28, 2**40])
def test_no_training_reaches_the_seeds_of_the_held_out(seed):
    steps = [0, 1, 1999, 10**6]
    seeds = [seed_of(seed, step) for step in steps]
    assert len(set(seeds)) == len(steps)
    assert max(seeds) < HELD_OUT_SEED < HELD_OUT_SEED + 10**6 < 2**32, "what a generator of a CPU knows of a seed"
    assert seed_of(seed, 1) == (seed_of(seed, 0) + 1) % HELD_OUT_SEED


def test_seeds_give_crystals_of_their_own():
    drawn = [
        torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
        for seed in (seed_of(1, 0), seed_of(2, 0), seed_of(1, 1), HELD_OUT_SEED, HELD_OUT_SEED + 1)
    ]
    assert len({tuple(numbers) for numbers in drawn}) == 5


QUICK = ("wu2021-2d", "chan2021-small")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TASKS],
)
def test_every_network_can_be_trained_and_exported(name, tmp_path):
    task = TASKS[name]
    network = task.network()
    drawn = task.draw(1, torch.Generator().manual_seed(1))
    assert drawn[0].shape == (1, *task.input_shape)
    loss = task.loss(network, drawn, task.plan.stages[-1])
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())
    export(task.wrap_for_export(network), task.contract(network, "none"), tmp_path / "network.pt")
    answer = load(tmp_path / "network.pt")(drawn[0][0])
    assert answer.shape == task.output_shape
    assert torch.isfinite(torch.view_as_real(answer)).all()
