"""Doubt about frames whose pixels were damaged on their way; the streams carry no checksum to rely on."""

from __future__ import annotations

import numpy as np

from cdi_stream.inversion.outliers import Bools

MIN_HOT = 8
"""Number of hot voxels in one frame up to which nothing is said: cosmic rays leave a few.

Simulated scans and 34-ID-C scan 54 have none in most frames; one flipped high bit in a hundred pixels leaves 30."""

RATIO = 10
"""Least ratio of the hot voxels of a damaged frame to those of the median frame."""


def doubt_of_damage(hot: Bools, first_frame: int = 0) -> tuple[str, ...]:
    """Return a doubt if single frames have far more hot voxels than the others; else none.

    Parameters
    ----------
    hot
        Hot voxels ``(n_frames, rows, cols)``.
    first_frame
        Number of the first of these frames in the scan.
    """
    counts = hot.sum(axis=(1, 2))
    odd = np.flatnonzero(counts > max(MIN_HOT, RATIO * float(np.median(counts))))
    if not len(odd):
        return ()
    frames = ", ".join(f"{first_frame + k} ({counts[k]})" for k in odd[:5])
    return (f"hot pixels in single frames, which were masked: {frames}; were the frames damaged on their way?",)
