"""Independent starts in parallel: one thread per start, with transforms that use one thread.

Transforms of small arrays that are split among threads wait for one another at every step; on a busy machine the
waiting takes ten times as long as the work.
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
    """Return how many threads may work at the same time: torch's number of threads, outside of `one_thread_each`."""
    return _CALLERS.get() or torch.get_num_threads()


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Let torch use one thread per calling thread; yield the number of threads that should call it."""
    n_parallel, n_threads = n_callers(), torch.get_num_threads()
    token = _CALLERS.set(n_parallel)
    torch.set_num_threads(1)
    try:
        yield n_parallel
    finally:
        torch.set_num_threads(n_threads)
        _CALLERS.reset(token)


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return ``work`` of every item, in the order of the items; as many run at a time as torch has threads.

    The calling thread does its share of the items, so that functions that only this thread may call, such as the check
    of a deadline, are called regularly.  The first exception is raised in the calling thread; items that have not
    started by then are dropped.
    """
    with one_thread_each() as n_threads, ThreadPoolExecutor(max(1, n_threads - 1)) as pool:
        futures = [None if k % n_threads == 0 else pool.submit(work, item) for k, item in enumerate(items)]
        try:
            results = [work(item) for item, future in zip(items, futures, strict=True) if future is None]
            return [results.pop(0) if future is None else future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
