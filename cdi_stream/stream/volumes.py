"""Memory for the frames of a series, used again for the next series.

The kernel clears fresh memory page by page when it is first written, which takes about as long as the decompression of
the frames.  Memory that was used before costs nothing.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
from numpy.typing import NDArray

Shape3 = tuple[int, int, int]


def new_volume(shape: Shape3) -> NDArray[np.uint32]:
    """Return a volume ``(n_frames, rows, cols)`` of undefined content, which takes no memory before it is written."""
    return np.empty(shape, np.uint32)


class VolumePool:
    """Gives out volumes, and keeps the memory of one that nobody uses any more; safe to use from several threads.

    Parameters
    ----------
    max_idle_bytes
        Largest memory that is kept [bytes].
    """

    def __init__(self, max_idle_bytes: int) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._idle: list[NDArray[np.uint32]] = []

    def volume(self, shape: Shape3) -> NDArray[np.uint32]:
        """Return a volume ``(n_frames, rows, cols)`` of undefined content: it may hold the counts of an earlier one.

        Raises
        ------
        MemoryError
            If there is not enough memory.
        """
        n = math.prod(shape)
        block = self._idle.pop() if self._idle else None
        if block is None or block.size < n:
            del block
            block = new_volume((n, 1, 1)).reshape(-1)
        # NumPy lets views of a volume hold the first array over a memoryview, so that its end is the end of all views.
        volume = np.frombuffer(block.data, np.uint32, count=n).reshape(shape)
        assert volume.base is not None
        weakref.finalize(volume.base, self._keep, block).atexit = False
        return volume

    def _keep(self, block: NDArray[np.uint32]) -> None:
        if block.nbytes <= self._max_idle_bytes:
            self._idle[:] = [block]
