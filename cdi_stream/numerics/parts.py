"""Split a loop over an array into parts that run on several threads at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

LEAST_LENGTH = 1 << 19
"""Least length of an array that is split: below, the start of a thread costs more than it saves."""


def in_parts(work: Callable[[int, int], object], length: int, least: int = LEAST_LENGTH) -> None:
    """Call ``work(begin, end)`` on parts that cover ``0`` to ``length``, one for each of torch's threads.

    ``work`` must release Python's global lock, as compiled loops do.  The calling thread does the last part.  Fewer
    than ``least`` items are one part.
    """
    n_parts = min(torch.get_num_threads(), length)
    if n_parts <= 1 or length < least:
        work(0, length)
        return
    bounds = [k * length // n_parts for k in range(n_parts + 1)]
    others = [_pool(n_parts).submit(work, *bounds[k : k + 2]) for k in range(n_parts - 1)]
    try:
        work(*bounds[-2:])
    finally:
        for part in others:
            part.result()


def runs_of(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return begin and end (excluded) of each run of true values of an array ``(n,)``."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


@lru_cache(maxsize=4)
def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Return the threads, which live as long as the process."""
    return ThreadPoolExecutor(n_threads)
