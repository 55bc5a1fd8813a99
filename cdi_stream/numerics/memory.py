"""Memory that the process keeps after it was freed, so that the next array of the same size takes no fresh memory.

The system fills fresh memory with zeros, page by page: this takes as long as a Fourier transform of the array.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

KEPT_BYTES = 512 << 20
"""Largest amount of freed memory that the process keeps [bytes]."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
"""Largest size of an array that comes from kept memory [bytes]; glibc allows no larger value."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory; return whether it can, which only that of Linux (glibc) can."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD))
