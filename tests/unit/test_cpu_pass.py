"""The number of threads of a network's pass follows from the measured times."""

from __future__ import annotations

import time

import pytest
import torch

from cdi_stream.networks import torchscript
from cdi_stream.networks.cpu_pass import CpuPass, fastest
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.networks.torchscript import load


@pytest.mark.parametrize(("all_threads_s", "n_threads"), [(0.01, 2), (0.05, 1), (0.2, 1)])
def test_a_pass_takes_all_threads_only_where_they_pay(two_threads, all_threads_s, n_threads):
    seen = []

    def forward(volume):
        seen.append(torch.get_num_threads())
        time.sleep(all_threads_s if seen[-1] == 2 else 0.05)
        return volume, volume

    run = CpuPass([forward], fastest([forward], (4, 4, 4)))
    volume = torch.rand((1, 4, 4, 4))
    amplitude, _ = run(volume)
    assert torch.equal(amplitude, volume)
    assert seen[-1] == n_threads
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("fast", [0, 1, 2])
def test_a_pass_goes_the_fastest_way(one_thread, fast):
    def way(k):
        def forward(volume):
            time.sleep(0.01 if k == fast else 0.04)
            return volume + k, volume

        return forward

    ways = [way(k) for k in range(3)]
    run = CpuPass(ways, fastest(ways, (4, 4, 4)))
    amplitude, _ = run(torch.zeros((1, 4, 4, 4)))
    assert (amplitude == fast).all()
    assert run.forward(torch.zeros((1, 4, 4, 4)))[0].max() == fast


def test_a_network_is_measured_once_in_a_process(monkeypatch):
    """A busy machine measures another way as the fastest, and the last digits of the crystal would change."""
    load(DEFAULT_NETWORK)
    monkeypatch.setattr(torchscript, "fastest", lambda *_: pytest.fail("measured before"))
    load(DEFAULT_NETWORK)
