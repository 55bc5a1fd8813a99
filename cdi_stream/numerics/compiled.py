"""How loops over voxels are compiled for the CPU.

With signatures given, all is compiled, or read from the cache, when its module is imported: first calls come from
several threads at once, and what numba does at a first call without signatures is not safe then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar, cast, overload

import numba

Function = TypeVar("Function", bound=Callable[..., object])


class Compiler(Protocol):
    """Decorator that compiles a function, bare or with the signatures to compile it for."""

    @overload
    def __call__(self, function: Function, /) -> Function: ...

    @overload
    def __call__(self, signatures: Sequence[object], /) -> Callable[[Function], Function]: ...


compiled: Compiler = cast(
    Compiler,
    partial(
        numba.njit, cache=True, fastmath={"contract", "arcp", "nsz", "reassoc", "afn"}, nogil=True, error_model="numpy"
    ),
)
"""Without Python's lock, and free to reorder sums, but for numbers that are not finite."""
