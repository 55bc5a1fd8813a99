"""A pass recorded once on a GPU and then replayed: hundreds of small kernels cost one launch."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

Pass = Callable[[Tensor], tuple[Tensor, Tensor]]
_WARM_UP_PASSES = 3


class Recorded:
    """A pass on volumes of one shape, ``(1, ...)``, as a CUDA graph.

    The pass has to be the same work whatever the volume holds.  Threads take turns: all passes share their memory.
    """

    @torch.no_grad()
    def __init__(self, forward: Pass, shape: tuple[int, ...], device: str) -> None:
        self._turn = Lock()
        self._volume = torch.zeros((1, *shape), device=device)
        _warm_up(forward, self._volume)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._answer = forward(self._volume)

    def __call__(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Answer to a volume of this shape, from wherever it lies."""
        with self._turn:
            self._volume.copy_(volume)
            self._graph.replay()
            amplitude, phase = self._answer
            return amplitude.clone(), phase.clone()


def _warm_up(forward: Pass, volume: Tensor) -> None:
    """Let plans be made and kernels be chosen, on a stream beside the one that is recorded, as torch asks for."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_WARM_UP_PASSES):
            forward(volume)
    torch.cuda.current_stream().wait_stream(beside)
