"""One detector series as it comes in: frames into their slots, each accounted for by its index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, SeriesId, SeriesStart


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLimits:
    """How large a series may grow; images beyond are refused and counted as bad."""

    max_images: int = 20_000
    max_bytes: int = 8 << 30


class Series:
    """Frames of one series, slot by image id; the volume grows when the header promised too few.

    Times are monotonic seconds; ``wall_s`` is the epoch time of the first message.  Slots count from ``first_id``,
    which is above 0 for streams that number frames across series.
    """

    def __init__(self, start: SeriesStart, limits: SeriesLimits, now_s: float, wall_s: float) -> None:
        self.start = start
        self.wall_s = wall_s
        self.last_s = now_s
        self.last_frame_s = now_s
        self.first_id = 0
        self.ended_s: float | None = None
        self.duplicate = self.late = self.bad = 0
        self.sentinel = 2**32 - 1
        self._limits = limits
        self._volume: NDArray[np.uint32] | None = None
        self._has = np.zeros(0, dtype=bool)
        self._exposure_s = np.zeros(0)
        self._n_received = 0

    @property
    def id(self) -> SeriesId:
        """The detector's own name of the series."""
        return self.start.series

    @property
    def n_received(self) -> int:
        """Distinct frames received."""
        return self._n_received

    @property
    def n_slots(self) -> int:
        """Highest frame id received, and one."""
        return int(self.image_ids[-1]) + 1 if self._n_received else 0

    @property
    def capacity(self) -> int:
        """Images of this size that the limits allow."""
        n_bytes = 4 if self._volume is None else 4 * int(np.prod(self._volume.shape[1:]))
        return min(self._limits.max_images, self._limits.max_bytes // max(n_bytes, 1))

    @property
    def image_ids(self) -> NDArray[np.intp]:
        """Ids of the frames received, ascending."""
        return np.flatnonzero(self._has)

    def add(self, frame: DetectorFrame, now_s: float) -> None:
        """Copy a frame into its slot; a repeat only counts, a misfit counts as bad.

        Raises
        ------
        WireError
            If the frame does not fit the series.
        """
        self.last_s = now_s
        slot, pixels = frame.image_id - self.first_id, frame.pixels
        try:
            self._check(slot, pixels)
        except WireError:
            self.bad += 1
            raise
        if slot >= len(self._has):
            self._grow(slot + 1, 4 * pixels.size)
        if self._has[slot]:
            self.duplicate += 1
            return
        if self._volume is None:
            self._allocate(pixels)
        assert self._volume is not None
        # Signed detectors mark gaps by values below zero, unsigned ones by the largest.
        self._volume[slot] = pixels if pixels.dtype.kind == "u" else np.where(pixels < 0, self.sentinel, pixels)
        self._exposure_s[slot] = np.nan if frame.exposure_s is None else frame.exposure_s
        self._has[slot] = True
        self._n_received += 1
        self.late += self.ended_s is not None
        self.last_frame_s = now_s

    def end(self, now_s: float) -> None:
        """Note the end of the series; a second one changes nothing."""
        self.last_s = now_s
        if self.ended_s is None:
            self.ended_s = now_s

    def take(self, image_ids: NDArray[np.intp]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """Return volume and presence in the order of ``image_ids``; -1 or an absent frame gives zeros.

        The volume is handed over without a copy when the order is that of the slots; without any frame it is
        one pixel wide.
        """
        if self._volume is None:
            return np.zeros((len(image_ids), 1, 1), np.uint32), np.zeros(len(image_ids), bool)
        n = len(image_ids)
        if n <= len(self._volume) and np.array_equal(image_ids, np.arange(n)):
            return self._volume[:n], self._has[:n].copy()
        known = (image_ids >= 0) & (image_ids < len(self._has))
        present = np.zeros(n, dtype=bool)
        present[known] = self._has[image_ids[known]]
        volume = np.zeros((n, *self._volume.shape[1:]), np.uint32)
        volume[present] = self._volume[image_ids[present]]
        return volume, present

    def exposures_s(self, image_ids: NDArray[np.intp]) -> NDArray[np.float64] | None:
        """Exposure of each frame asked for, NaN where there is none; None if the wire tells nothing."""
        known = np.isin(image_ids, self.image_ids)
        exposures = np.full(len(image_ids), np.nan)
        exposures[known] = self._exposure_s[image_ids[known]]
        return exposures if np.isfinite(exposures).any() else None

    def _check(self, slot: int, pixels: NDArray[Any]) -> None:
        where = f"series {self.id}, frame {slot}"
        if pixels.dtype.kind not in "ui" or pixels.dtype.itemsize > 4:
            raise WireError(f"series {self.id}: expected integers of 32 bits at most, got {pixels.dtype}")
        if pixels.ndim != 2 or 0 in pixels.shape:
            raise WireError(f"{where}: expected an image, got {pixels.shape}")
        if self._volume is not None and pixels.shape != self._volume.shape[1:]:
            raise WireError(f"{where}: expected {self._volume.shape[1:]} pixels as before, got {pixels.shape}")
        if not 0 <= slot < self._limits.max_images or (slot + 1) * pixels.size * 4 > self._limits.max_bytes:
            raise WireError(f"{where} is beyond the limits of a series")

    def _allocate(self, pixels: NDArray[Any]) -> None:
        self.sentinel = int(np.iinfo(pixels.dtype).max)
        self._volume = np.zeros((len(self._has), *pixels.shape), dtype=np.uint32)

    def _grow(self, n_images: int, bytes_per_image: int) -> None:
        """Make room for ``n_images``: as announced at first, then by doubling, never beyond the limits."""
        largest = min(self._limits.max_images, self._limits.max_bytes // bytes_per_image)
        target = min(max(n_images, self.start.n_images or 0, 2 * len(self._has)), largest)
        if self._volume is not None:
            volume = np.zeros((target, *self._volume.shape[1:]), dtype=np.uint32)
            volume[: len(self._volume)] = self._volume
            self._volume = volume
        more = target - len(self._has)
        self._has = np.concatenate((self._has, np.zeros(more, dtype=bool)))
        self._exposure_s = np.concatenate((self._exposure_s, np.full(more, np.nan)))
