"""Steps of the preparation that need a frame and its neighbours only: each is done once, while later frames come.

All results are the same whether the frames are taken at once or one after the other, in any order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdi_stream.errors import CurveError
from cdi_stream.inversion.extent import CrystalOffsets
from cdi_stream.inversion.filling import FilledFrames
from cdi_stream.inversion.hot import POINT_FLOOR
from cdi_stream.inversion.outliers import REACH, mark_outliers
from cdi_stream.inversion.survey import Survey, Surveyor
from cdi_stream.inversion.window import Window
from cdi_stream.messages import RockingCurve
from cdi_stream.numerics.parts import runs_of

Bools = NDArray[np.bool_]
Counts = NDArray[np.uint32]


class WindowWork:
    """Work on the frames of one window of a curve.

    ``counts`` and ``valid`` have the shape of the window; both are zero where no frame is, and change when frames are
    added.  Valid voxels are the voxels of good pixels that are not saturated; ``n_saturated`` is the number of
    saturated voxels of good pixels.  ``filled`` keeps filled intensities, ``crystal`` the autocorrelation's offsets.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.counts = np.zeros(window.shape, np.uint32)
        self.valid = np.zeros(window.shape, bool)
        self.n_saturated = 0
        self.filled, self.crystal = FilledFrames(), CrystalOffsets()
        self._surveyor = Surveyor(window.shape)
        self._points = np.zeros(window.shape, bool)
        self._came, self._is_marked = np.zeros(window.shape[0], bool), np.zeros(window.shape[0], bool)

    def add(self, counts: Counts, has_frame: Bools) -> None:
        """Take the frames of a curve ``(n_frames, rows, cols)`` that are new: those of ``has_frame`` not taken yet."""
        (frames, rows, cols), (to_frames, to_rows, to_cols) = self.window.slices(counts.shape)
        is_new = np.zeros(len(self._came), bool)
        is_new[to_frames] = has_frame[frames] & ~self._came[to_frames]
        for begin, end in runs_of(is_new):
            first = self.window.start[0]
            self.counts[begin:end, to_rows, to_cols] = counts[begin + first : end + first, rows, cols]
            part = self.counts[begin:end]
            is_saturated = (part >= self.window.limit) & self.window.good
            self.valid[begin:end] = self.window.good & ~is_saturated
            self.n_saturated += int(np.count_nonzero(is_saturated))
            self._surveyor.add(part, self.valid[begin:end], begin)
            self._came[begin:end] = True

    def survey(self) -> Survey:
        """Return the survey of the valid voxels so far, with the outliers among them."""
        seen = self._surveyor.survey()
        for begin, end in runs_of(~self._is_marked):
            mark_outliers(seen.values, POINT_FLOOR, self._points, begin, end)
        has_neighbours = ndimage.minimum_filter1d(self._came.view(np.uint8), 2 * REACH[3] + 1, mode="nearest")
        self._is_marked = has_neighbours.astype(bool)
        return replace(seen, points=self._points)


class _Source:
    """Places of a curve's frames in the detector's series, with the data type and the shape of the images."""

    def __init__(self, curve: RockingCurve) -> None:
        self._layout = curve.sentinel, curve.counts.shape
        self._image_ids = curve.image_ids

    def continues(self, before: _Source, came: Bools) -> bool:
        """Whether the frames ``came`` are the same as ``before``."""
        if self._layout != before._layout or self._image_ids is None or before._image_ids is None:
            return False
        return np.array_equal(self._image_ids[came], before._image_ids[came])


class FrameWork:
    """Work on the frames of one curve, of which more come.

    ``n_again`` counts how often work was given up and done again, because later frames moved the Bragg peak or showed
    that pixels must not be used, or because documents changed the order of the frames.
    """

    def __init__(self) -> None:
        self.n_again = 0
        self._source: _Source | None = None
        self._top = self._bottom = np.zeros((0, 0), np.uint32)
        self._came = np.zeros(0, bool)
        self._here: WindowWork | None = None

    def extremes(self, curve: RockingCurve) -> tuple[Counts, Counts]:
        """Return the largest and smallest count of every pixel over the frames of a curve; `CurveError` if none came.

        The arrays change with the next call.
        """
        if not curve.has_frame.any():
            raise CurveError("expected frames, got none: check the detector's stream")
        self._follow(curve)
        for begin, end in runs_of(curve.has_frame & ~self._came):
            np.maximum(self._top, curve.counts[begin:end].max(axis=0), out=self._top)
            np.minimum(self._bottom, curve.counts[begin:end].min(axis=0), out=self._bottom)
        self._came |= curve.has_frame
        return self._top, self._bottom

    def _follow(self, curve: RockingCurve) -> None:
        """Give up all work unless the frames that came before are in the same places of the curve."""
        source = _Source(curve)
        if self._source is not None and source.continues(self._source, self._came):
            return
        self.n_again += self._here is not None
        self._source, self._here = source, None
        self._came = np.zeros(len(curve.has_frame), bool)
        self._top = np.zeros(curve.counts.shape[1:], np.uint32)
        self._bottom = np.full(curve.counts.shape[1:], np.iinfo(np.uint32).max, np.uint32)

    def in_window(self, window: Window) -> WindowWork:
        """Return the work on a window of the curve: what is done so far if the window is the one before, else none."""
        if self._here is None or not self._here.window.is_same(window):
            self.n_again += self._here is not None
            self._here = WindowWork(window)
        return self._here

    def give_up(self) -> None:
        """Give up all work, and the memory it takes."""
        self._source = self._here = None

    @property
    def filled(self) -> FilledFrames:
        """Filled intensities of the present window; empty before the first window."""
        return FilledFrames() if self._here is None else self._here.filled
