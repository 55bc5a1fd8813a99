"""Compilation of loops over voxels for the CPU, by numba.

A loop is given its signatures.  numba then compiles it, or reads it from its cache, when the module is imported.
Without signatures numba would compile at the first call, which is not safe if several threads call at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar, cast, overload

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


class Compiler(Protocol):
    """Decorator that compiles a function, bare or with the signatures to compile it for."""

    @overload
    def __call__(self, function: Function, /) -> Function: ...

    @overload
    def __call__(self, signatures: object, /) -> Callable[[Function], Function]: ...


compile_loop: Compiler = cast(
    Compiler,
    partial(
        numba.njit, cache=True, fastmath={"contract", "arcp", "nsz", "reassoc", "afn"}, nogil=True, error_model="numpy"
    ),
)
"""Decorator that compiles a loop; it runs without Python's global lock, and sums may be reordered.

Numbers that are not finite are still treated as IEEE 754 says.
"""
