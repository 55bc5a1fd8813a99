"""Which frames of a window have other valid voxels, or another scale, than before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


class FrameInputs:
    """Valid voxels and expected scale of the frames of one window at the last call of `changes`.

    A factor that is common to the scale of all frames does not count: with each new frame the mean of a monitor
    changes, and with it the scale of every frame.  ``factor`` is the scale of one frame, always the same frame.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._valid = np.zeros((0, 0, 0), bool)
        self._relative = np.zeros(0, np.float32)
        self._reference = 0

    def changes(self, valid: Bools, scale: Floats) -> Bools:
        """Return the frames ``(n_frames,)`` that differ from the last call; at the first call all frames.

        Parameters
        ----------
        valid, scale
            Valid voxels and expected scale ``(n_frames, rows, cols)``; the scale of the pixels, relative to that of
            their frame, is the same at each call.
        """
        by_frame, is_new = scale[:, 0, 0], valid.shape != self._valid.shape
        if is_new:
            self._reference = int(np.argmax(valid.any(axis=(1, 2)) & (by_frame > 0)))
        factor = float(by_frame[self._reference])
        self.factor = factor if factor > 0 else 1.0
        relative = by_frame / np.float32(self.factor)
        changed: Bools = np.ones(len(valid), bool)
        if not is_new:
            is_other_scale = ~np.isclose(relative, self._relative, rtol=1e-5, atol=0)
            changed = (valid != self._valid).any(axis=(1, 2)) | is_other_scale
            relative = np.where(changed, relative, self._relative)  # else small changes could add up
        self._valid, self._relative = valid.copy(), relative
        return changed
