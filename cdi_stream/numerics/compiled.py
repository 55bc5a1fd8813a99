"""How loops over voxels are compiled for the CPU.

With signatures given, all is compiled, or read from the cache, when its module is imported: first calls come from
several threads at once, and what numba does at a first call without signatures is not safe then.
"""

from __future__ import annotations

from functools import partial

import numba

compile_loop = partial(
    numba.njit, cache=True, fastmath={"contract", "arcp", "nsz", "reassoc", "afn"}, nogil=True, error_model="numpy"
)
"""Without Python's lock, and free to reorder sums, but for numbers that are not finite."""
