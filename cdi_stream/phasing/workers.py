"""Independent starts side by side: one thread each, with one-threaded transforms.

Small transforms split among threads wait for one another at every step; on a busy machine that costs ten times the
work itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


_CALLERS: ContextVar[int | None] = ContextVar("callers", default=None)


def n_callers() -> int:
    """How many may work side by side: torch's threads, or inside `one_thread_each` what they were before."""
    return _CALLERS.get() or torch.get_num_threads()


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Let torch use one thread a caller; yields how many callers there should be."""
    n_parallel, n_threads = n_callers(), torch.get_num_threads()
    token = _CALLERS.set(n_parallel)
    torch.set_num_threads(1)
    try:
        yield n_parallel
    finally:
        torch.set_num_threads(n_threads)
        _CALLERS.reset(token)


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Do ``work`` on every item, as many at a time as torch has threads; results are in the order of the items.

    The caller does its part: what may only be called from its own thread is called often enough.  The first exception
    reaches it; what has not begun by then never does.
    """
    with one_thread_each() as n_threads, ThreadPoolExecutor(max(1, n_threads - 1)) as pool:
        begun = [None if k % n_threads == 0 else pool.submit(work, item) for k, item in enumerate(items)]
        try:
            own = [work(item) for item, future in zip(items, begun, strict=True) if future is None]
            return [own.pop(0) if future is None else future.result() for future in begun]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
