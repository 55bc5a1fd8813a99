"""Run a network's pass on a CPU in the fastest of several ways, with one thread, or with all threads where they pay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cdi_stream.networks.cuda_graph import Pass
from cdi_stream.numerics.workers import one_thread_each

LARGEST_SHARE = 0.7
"""Time of a pass with all threads, over that with one, up to which all threads are taken.

The threads of a pass wait for one another hundreds of times.  Beside other programs a wait may last a time slice: on
two cores the slowest of twenty passes took 1.3 s with two threads, 0.24 s with one.
"""

_WARM_UP_PASSES = 2
_TIMED_PASSES = 2


@dataclass(frozen=True)
class PassChoice:
    """The fastest way of a network's pass.

    Parameters
    ----------
    way
        Index of the way.
    has_one_thread
        Whether the pass takes one thread; otherwise it takes all.
    """

    way: int
    has_one_thread: bool


class CpuPass:
    """A network's pass on one volume, ``(1, ...)``; ``forward`` is the same for several volumes.

    Parameters
    ----------
    ways
        Passes whose answers are equally good.
    choice
        Way and threads to take.
    """

    def __init__(self, ways: Sequence[Pass], choice: PassChoice) -> None:
        self.forward = ways[choice.way]
        self._has_one_thread = choice.has_one_thread

    def __call__(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return amplitude and phase of a volume."""
        if not self._has_one_thread:
            return self.forward(volume)
        with one_thread_each():
            return self.forward(volume)


@torch.inference_mode()
def fastest(ways: Sequence[Pass], shape: tuple[int, ...]) -> PassChoice:
    """Return way and threads with the shortest time for volumes of a shape, by measurement.

    The answers of two ways, such as two precisions, differ in the last digits.
    """
    volume = torch.zeros((1, *shape))
    for forward in ways:
        for _ in range(_WARM_UP_PASSES):
            forward(volume)
    with_all = [_least_s(forward, volume) for forward in ways]
    with one_thread_each() as n_threads:
        with_one = [_least_s(forward, volume) for forward in ways] if n_threads > 1 else with_all
    has_one_thread = n_threads == 1 or min(with_all) > LARGEST_SHARE * min(with_one)
    times_s = with_one if has_one_thread else with_all
    return PassChoice(times_s.index(min(times_s)), has_one_thread)


def _least_s(forward: Pass, volume: Tensor) -> float:
    """Return the shortest time of some passes [s]."""
    times_s = []
    for _ in range(_TIMED_PASSES):
        begin_s = time.perf_counter()
        forward(volume)
        times_s.append(time.perf_counter() - begin_s)
    return min(times_s)
