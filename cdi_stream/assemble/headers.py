"""Header of the newest series, which stands in for the header of a series whose start message is lost.

A detector keeps its pixel size, distance and mask from scan to scan.  The goniometer's start and increment, the number
of images and the ``user_data`` belong to one series and are not taken over.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cdi_stream.assemble.incoming import Incoming
from cdi_stream.messages import Box, DetectorFrame, SeriesStart


class Headers:
    """Newest header of a detector; it outlives the process where there is a folder for it.

    Parameters
    ----------
    roi
        Region that the decoder cuts from each frame.
    incoming
        Folder of the open series; None keeps the header in memory only.
    """

    def __init__(self, roi: Box | None, incoming: Incoming | None) -> None:
        self._roi = roi
        self._incoming = incoming
        self._newest = None if incoming is None else incoming.header()

    def note(self, start: SeriesStart) -> None:
        """Note the header of a series that begins."""
        is_new = self._newest is None or not _is_same(start, self._newest)
        self._newest = start
        if is_new and self._incoming is not None:
            self._incoming.save_header(start)

    def header_for(self, frame: DetectorFrame) -> SeriesStart:
        """Return the header for the series of a frame: that of the newest series with such frames, or an empty one."""
        assert frame.series is not None
        if self._newest is None or not self._fits(frame):
            return SeriesStart(series=frame.series, roi=self._roi)
        return replace(self._newest, series=frame.series, n_images=None, goniometer={}, user_data=None, roi=self._roi)

    def doubt(self, frame: DetectorFrame) -> str:
        """Return the doubt about the header of a frame's series."""
        known = f"the header of series {self._newest.series} is used" if self._newest and self._fits(frame) else ""
        return f"the start of series {frame.series} was not received: {known or 'its header is unknown'}"

    def _fits(self, frame: DetectorFrame) -> bool:
        """Return whether a frame has the shape that the newest header announces."""
        shape = None if self._newest is None else self._newest.image_shape
        if self._roi is not None:
            shape = (self._roi[1] - self._roi[0], self._roi[3] - self._roi[2])
        return shape == frame.pixels.shape


def _is_same(one: SeriesStart, other: SeriesStart) -> bool:
    """Return whether two headers describe the same detector in the same place."""
    masks = one.pixel_mask, other.pixel_mask
    if (masks[0] is None) != (masks[1] is None):
        return False
    has_same_mask = masks[0] is None or masks[1] is None or np.array_equal(masks[0], masks[1])
    return has_same_mask and _of_detector(one) == _of_detector(other)


def _of_detector(start: SeriesStart) -> SeriesStart:
    """Return a header without the values that belong to one series, and without the mask."""
    return replace(start, series=0, n_images=None, goniometer={}, user_data=None, pixel_mask=None)
