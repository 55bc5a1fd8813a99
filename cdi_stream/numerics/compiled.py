"""Compilation of loops over voxels for the CPU, by numba.

A loop is given its signatures.  numba then compiles it, or reads it from its cache, when the module is imported.
Without signatures numba would compile at the first call, which is not safe if several threads call at the same time.
"""

from __future__ import annotations

from functools import partial

import numba

compile_loop = partial(
    numba.njit, cache=True, fastmath={"contract", "arcp", "nsz", "reassoc", "afn"}, nogil=True, error_model="numpy"
)
"""Decorator that compiles a loop; it runs without Python's global lock, and sums may be reordered.

Numbers that are not finite are still treated as IEEE 754 says.
"""
