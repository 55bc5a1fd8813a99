"""Boxes of an array: the smallest box that holds what is true."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bounding_box(inside: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the smallest box that contains all true voxels, as slices; an empty box if no voxel is true."""
    axes = range(inside.ndim)
    reached = [np.flatnonzero(inside.any(axis=tuple(k for k in axes if k != axis))) for axis in axes]
    if not len(reached[0]):
        return (slice(0, 0),) * inside.ndim
    return tuple(slice(int(along[0]), int(along[-1]) + 1) for along in reached)
