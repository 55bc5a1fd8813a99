"""Record a network's pass on a GPU once and replay it, so that hundreds of small kernels cost one launch."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

Pass = Callable[[Tensor], tuple[Tensor, Tensor]]
_WARM_UP_PASSES = 3
"""Number of passes before the recording, in which torch chooses its kernels."""


class GraphPass:
    """A network's pass on volumes of one shape, ``(1, ...)``, as a CUDA graph.

    The steps of the pass must not depend on the values of the volume.  Threads run one after the other, since all
    passes share their memory.
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
        """Return amplitude and phase for a volume of this shape, on any device."""
        with self._turn:
            self._volume.copy_(volume)
            self._graph.replay()
            amplitude, phase = self._answer
            return amplitude.clone(), phase.clone()


def _warm_up(forward: Pass, volume: Tensor) -> None:
    """Run passes on a side stream before the recording, as torch requires, so that kernels are chosen."""
    side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(_WARM_UP_PASSES):
            forward(volume)
    torch.cuda.current_stream().wait_stream(side_stream)
