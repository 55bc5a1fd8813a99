"""Compilation of loops over voxels for the CPU, by numba.

A loop that is called from outside is given its signatures.  numba then compiles it, or reads it from its cache, when
the module is imported.  Without signatures numba would compile at the first call, which is not safe if several threads
call at the same time; a loop without signatures is called by other loops only.
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


input_volume = partial(numba.types.Array, ndim=3, layout="C", readonly=True)
"""Type of a volume of a given number type that a loop only reads."""

compile_loop: Compiler = cast(
    Compiler,
    partial(
        numba.njit, cache=True, fastmath={"contract", "arcp", "nsz", "reassoc", "afn"}, nogil=True, error_model="numpy"
    ),
)
"""Decorator that compiles a loop; it runs without Python's global lock, and sums may be reordered.

Numbers that are not finite are still treated as IEEE 754 says.
"""
