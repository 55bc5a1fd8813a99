"""Networks of the papers: shapes, sizes, scales, and the same numbers out of TorchScript."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cdi_stream.networks import wu2021
from cdi_stream.networks.blocks import Fold, compress_magnitude
from cdi_stream.networks.chan2021 import Chan2021
from cdi_stream.networks.masto2025 import Masto2025
from cdi_stream.networks.packaged import network_file
from cdi_stream.networks.torchscript import load
from cdi_stream.networks.unrolled import Unrolled

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "3D folded": (lambda: wu2021.TwoDecoders((4, 6, 8), (6, 4), is_folded=True), (16, 16, 16), (8, 8, 8)),
    "3D": (lambda: wu2021.TwoDecoders((4, 6, 8), (4,)), (16, 16, 16), (8, 8, 8)),
    "2D": (lambda: wu2021.TwoDecoders((4, 6, 8), (4,), n_axes=2), (16, 16), (8, 8)),
    "2D folded": (lambda: wu2021.TwoDecoders((4, 6), (4,), n_axes=2, is_folded=True), (16, 16), (8, 8)),
    "chan2021": (lambda: Chan2021((4, 6)), (16, 16, 16), (16, 16, 16)),
    "chan2021 folded": (lambda: Chan2021((8, 12), is_folded=True), (16, 16, 16), (16, 16, 16)),
    "masto2025": (lambda: Masto2025((6, 8, 12)), (16, 16, 16), (16, 16, 16)),
    "unrolled": (lambda: Unrolled(rounds=2, cycles=2, widths=(4, 6, 8)), (64, 64, 64), (32, 32, 32)),
}


@pytest.fixture(params=SMALL)
def case(request):
    torch.manual_seed(1)
    make, shape, answered = SMALL[request.param]
    return make().eval(), torch.rand(2, *shape), answered


def answers(network: nn.Module, volume: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        answer = network(volume)
    return answer if isinstance(answer, tuple) else (answer,)


def test_shapes_and_batches(case):
    network, volume, answered = case
    both = answers(network, volume)
    assert all(answer.shape == (2, *answered) for answer in both)
    for k in range(2):
        for alone, together in zip(answers(network, volume[k : k + 1]), both, strict=True):
            torch.testing.assert_close(alone[0], together[k], rtol=1e-3, atol=1e-4)


def test_torchscript_answers_the_same(case, tmp_path):
    network, volume, _ = case
    torch.jit.save(torch.jit.script(network), tmp_path / "network.pt")
    script = torch.jit.load(tmp_path / "network.pt")
    for ours, theirs in zip(answers(network, volume), answers(script, volume), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_every_weight_can_learn(case):
    network, volume, _ = case
    answer = network.train()(volume)
    (sum(part.square().sum() for part in answer) if isinstance(answer, tuple) else answer.square().sum()).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize(
    ("make", "millions"),
    [
        (wu2021.small, 2.07),
        (wu2021.whole, 4.7),
        (wu2021.plane, 1.9),
        (Chan2021, 3.5),
        (Masto2025, 4.26),
        (Unrolled, 0.80),
    ],
)
def test_sizes(make, millions):
    n = sum(weight.numel() for weight in make().parameters())
    assert n / 1e6 == pytest.approx(millions, rel=0.05)


def test_ranges_of_the_answers():
    torch.manual_seed(1)
    amplitude, _ = answers(SMALL["3D"][0]().eval(), torch.rand(1, 16, 16, 16))
    assert 0 < amplitude.min() <= amplitude.max() < 1
    shape, phase = answers(Chan2021((4, 6)).eval(), torch.rand(1, 16, 16, 16))
    assert shape.min() >= 0
    assert phase.min() >= -math.pi - 1e-6


def test_chan2021_begins_flat_and_is_rectified_but_for_a_leak_while_it_is_trained():
    torch.manual_seed(1)
    network, volume = Chan2021(is_folded=True).eval(), torch.rand(1, 32, 32, 32)
    amplitude, phase = answers(network, volume)
    assert amplitude.mean() == pytest.approx(0.1, abs=0.05)
    assert phase.abs().mean() < 0.5
    nn.init.constant_(next(part for part in reversed(network.amplitude) if isinstance(part, nn.Conv3d)).bias, -1.0)
    assert not answers(network, volume)[0].any()
    assert answers(network.train(), volume)[0].mean() == pytest.approx(-0.01, abs=0.002)


def test_what_passes_the_bottom_of_masto2025_does_not_fade():
    torch.manual_seed(1)
    network, seen = Masto2025((12, 24, 48, 96)).eval(), {}
    for name in ("bottom", "merged"):
        part = network.bottom if name == "bottom" else network.merged[-1]
        part.register_forward_hook(lambda module, given, found, name=name: seen.update({name: float(found.std())}))
    answers(network, torch.rand(1, 64, 64, 64))
    assert all(0.1 < spread < 10 for spread in seen.values()), seen


def test_folding_keeps_every_voxel_once():
    volume = torch.arange(4**3).reshape(1, 1, 4, 4, 4)
    folded = Fold()(volume)
    assert folded.shape == (1, 8, 2, 2, 2)
    assert sorted(folded.flatten().tolist()) == list(range(64))
    assert folded[0, :, 0, 0, 0].tolist() == [0, 1, 4, 5, 16, 17, 20, 21]


def test_compression_keeps_the_ends_and_lifts_the_fringes():
    seen = compress_magnitude(torch.tensor([0.0, 0.01, 1.0]))
    assert seen.tolist() == pytest.approx([0.0, math.log(4) / math.log(301), 1.0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU with CUDA here")
@pytest.mark.parametrize("name", ["wu2021-small", "masto2025-small"])
def test_on_a_gpu_a_recorded_pass_answers_as_on_the_cpu_whatever_was_asked_before(name):
    on_gpu, on_cpu = (load(network_file(name), device) for device in ("cuda", "cpu"))
    for volume in torch.rand(3, 64, 64, 64):
        expected = on_cpu(volume)
        assert (on_gpu(volume).cpu() - expected).abs().max() < 1e-3 * expected.abs().max()
