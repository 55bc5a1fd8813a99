"""Parts of a network in bfloat16: the same crystal to the digits that bfloat16 has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cdi_stream.networks.coarse import middle
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.networks.precision import in_bfloat16
from cdi_stream.networks.torchscript import load_trainable


@pytest.fixture(scope="module")
def script() -> torch.jit.ScriptModule:
    return load_trainable(DEFAULT_NETWORK).script


def test_only_the_parts_that_allow_it_change_and_the_network_itself_does_not(script):
    reduced = in_bfloat16(script)
    weights = dict(reduced.named_parameters()) | dict(reduced.named_buffers())
    assert weights["turn"].dtype == torch.float32
    assert {w.dtype for name, w in reduced.named_parameters() if name.startswith("look.")} == {torch.bfloat16}
    assert {w.dtype for w in script.parameters()} == {torch.float32}


def test_the_crystal_of_one_look_is_the_same(script):
    reduced = in_bfloat16(script)
    generator = torch.Generator().manual_seed(2)
    density = torch.complex(*torch.randn((2, 1, 32, 32, 32), generator=generator))
    support = middle(torch.ones(1, 64, 64, 64), 32) > 0
    with torch.inference_mode():
        exact, rounded = (network.look(density, support, density) for network in (script, reduced))
    assert rounded.dtype == exact.dtype == torch.complex64
    assert float((rounded - exact).abs().square().mean() / exact.abs().square().mean()) < 1e-3


def test_a_network_without_such_parts_has_no_other_way():
    assert in_bfloat16(torch.jit.script(nn.Conv3d(1, 1, 3))) is None
