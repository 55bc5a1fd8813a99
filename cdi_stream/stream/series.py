"""Frames of one detector series in memory, each in the slot of its image id, with the account of the frames."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, SeriesId, SeriesStart, read_only
from cdi_stream.stream.frame_log import Decode, FrameLog
from cdi_stream.stream.volumes import Shape3, new_volume

logger = logging.getLogger(__name__)

MAJORITY_FRAMES = 3
"""Number of frames of one layout after which a frame of another layout is bad; before, the majority decides."""

HEADER_VOTES = 2
"""Number of frames that the layout in the header counts as in the majority: most headers are right, some are not."""

SLOT_RECORD = np.dtype([("has", "u1"), ("exposure_s", "<f8"), ("received_s", "<f8")])
"""Record of a slot: whether its frame came, exposure [s] (NaN: unknown), time of receipt [s since the epoch]."""

UNNAMED = "unnamed "
"""Begin of the id that this service gives to a series whose frames name none."""

Layout = tuple[tuple[int, int], str]
"""Shape of the image and name of its data type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLimits:
    """Largest number of images and largest memory [bytes] of a series; images beyond are counted as bad."""

    max_images: int = 20_000
    max_bytes: int = 8 << 30


class Series:
    """Frames of one series by image id; the volume grows if more frames come than the header announced.

    A detector that is triggered once a point may send one series of one image for each point.  ``parts`` are the ids of
    such series that form this one, each with its slot; it is empty for a series that has all images itself.

    ``start``, ``wall_s``, ``first_id`` and ``parts`` may be set after construction.  ``wall_s`` is the time of the
    first message [s since the epoch]; ``last_s``, ``last_frame_s`` and ``ended_s`` are monotonic times [s].
    ``first_id`` is the image id of slot 0, above 0 for streams that number frames across series.  ``duplicate``,
    ``late`` and ``bad`` count frames, ``contradictory`` the duplicates whose counts differ from the first
    image.  ``layout`` is that of the frames, None before the first.

    Parameters
    ----------
    start
        Start message of the series.
    limits
        Largest size of the series.
    now_s, wall_s
        Time of the first message: monotonic [s], and seconds since the epoch.
    log
        Keeps each frame on disk too.
    has_room
        Tells whether the memory of all series may grow by a number of bytes.
    new_volume
        Returns memory ``(n_frames, rows, cols)`` of undefined content for the frames.
    """

    def __init__(
        self,
        start: SeriesStart,
        limits: SeriesLimits,
        now_s: float,
        wall_s: float,
        log: FrameLog | None = None,
        has_room: Callable[[int], bool] = lambda _: True,
        new_volume: Callable[[Shape3], NDArray[np.uint32]] = new_volume,
    ) -> None:
        self.start = start
        self.wall_s = wall_s
        self.last_s = now_s
        self.last_frame_s = now_s
        self.first_id = 0
        self.parts: dict[SeriesId, int] = {}
        self.ended_s: float | None = None
        self.duplicate = self.late = self.bad = 0
        self.contradictory = 0
        self.layout: Layout | None = None
        self._to_wall_s = wall_s - now_s
        self._limits = limits
        self._log = log
        self._volume: NDArray[np.uint32] = np.zeros((0, 1, 1), np.uint32)
        self._account: NDArray[Any] = np.zeros(0, SLOT_RECORD)
        self._has_room = has_room
        self._new_volume = new_volume
        self._n_received = 0
        self._odd: dict[Layout, list[tuple[DetectorFrame, float]]] = {}

    @property
    def id(self) -> SeriesId:
        """Id of the series, given by the detector."""
        return self.start.series

    @property
    def sentinel(self) -> int:
        """Largest value of the frames' data type, which marks gaps."""
        return 2**32 - 1 if self.layout is None else int(np.iinfo(self.layout[1]).max)

    @property
    def n_received(self) -> int:
        """Number of frames received, duplicates not counted."""
        return self._n_received

    @property
    def n_slots(self) -> int:
        """Number of slots up to the highest image id received."""
        return int(self.image_ids[-1]) + 1 if self._n_received else 0

    @property
    def n_bytes(self) -> int:
        """Memory of the frames received [bytes]; a slot without a frame takes no memory."""
        return self._n_received * self._n_image_bytes

    @property
    def capacity(self) -> int:
        """Number of images of this size that the limits allow."""
        return min(self._limits.max_images, self._limits.max_bytes // max(self._n_image_bytes, 1))

    @property
    def _n_image_bytes(self) -> int:
        result: int = 4 * self._volume.shape[1] * self._volume.shape[2]
        return result

    @property
    def image_ids(self) -> NDArray[np.intp]:
        """Slots of the frames received, ascending."""
        return np.flatnonzero(self._account["has"])

    def add(self, frame: DetectorFrame, now_s: float) -> None:
        """Copy a frame into its slot; a duplicate is only counted.

        Raises
        ------
        WireError
            If the frame does not fit the series; it is counted as bad.
        """
        self.last_s = now_s
        try:
            self._check(self._slot_of(frame), frame.pixels)
            if self._fits(frame, now_s):
                self._put(frame, now_s)
        except WireError:
            self.bad += 1
            raise

    @property
    def has_single_images(self) -> bool:
        """Whether header and frames so far agree that each series has one image."""
        return self.start.n_images == 1 and self.n_slots <= max(len(self.parts), 1)

    def add_part(self, series: SeriesId) -> None:
        """Add a series of one image, whose frame gets the next slot."""
        if not self.parts:
            self.parts[self.id] = 0
        self.parts[series] = len(self.parts)

    def _slot_of(self, frame: DetectorFrame) -> int:
        if self.parts and frame.series is not None:
            return self.parts[frame.series]
        return frame.image_id - self.first_id

    def end(self, now_s: float) -> None:
        """Note the end of the series at ``now_s`` (monotonic) [s]; a second end changes nothing."""
        self.last_s = now_s
        if self.ended_s is None:
            self.ended_s = now_s

    def take(self, image_ids: NDArray[np.intp]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """Return the frames in the order of ``image_ids``, and whether each of them was received.

        Parameters
        ----------
        image_ids
            Slots ``(n,)``; -1 stands for no frame.

        Returns
        -------
        counts
            ``(n, rows, cols)``, zeros where there is no frame, ``(n, 1, 1)`` if the series has no frame at all.  It
            shares the memory of the series if ``image_ids`` are 0, 1, 2 and so on.
        has_frame
            ``(n,)``, true where the frame was received.
        """
        volume, n = self._volume, len(image_ids)
        if not self._n_received:
            return np.zeros((n, 1, 1), np.uint32), np.zeros(n, bool)
        has = self._account["has"].astype(bool)
        if n <= len(volume) and np.array_equal(image_ids, np.arange(n)):
            volume[:n][~has[:n]] = 0  # the memory may hold counts of an earlier series
            return volume[:n], has[:n]
        known = (image_ids >= 0) & (image_ids < len(has))
        present = np.zeros(n, dtype=bool)
        present[known] = has[image_ids[known]]
        taken = np.zeros((n, *volume.shape[1:]), np.uint32)
        taken[present] = volume[image_ids[present]]
        return taken, present

    def frames_so_far(self) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """Return the memory of the frames ``(n_slots, rows, cols)``, read-only, and which slots have a frame now.

        A frame that was received does not change any more, and the memory is not used again while it is held.
        """
        return read_only(self._volume), self._account["has"].astype(bool)

    def exposures_s(self, image_ids: NDArray[np.intp]) -> NDArray[np.float64] | None:
        """Return the exposure of each frame [s], NaN where unknown; None if it is unknown for all of them."""
        exposures = self._of_frames("exposure_s", image_ids)
        return exposures if np.isfinite(exposures).any() else None

    def received_s(self, image_ids: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the time of receipt of each frame [s since the epoch], NaN where there is no frame."""
        return self._of_frames("received_s", image_ids)

    def restore(self, log: FrameLog, decode: Decode) -> None:
        """Add the frames that an earlier process wrote to ``log``; later frames are appended to the same log.

        The time of the last message is that of the last frame in the log, so that a restart prolongs no waiting time.
        """
        now_s = self.last_s
        for frame, received_s in log.frames(decode):
            try:
                self.add(frame, received_s - self._to_wall_s)
            except WireError as error:
                logger.warning("a frame in the log does not fit its series and is left out: %s", error)
        self.last_s = self.last_frame_s = min(self.last_s, now_s)  # the wall clock may have been set back
        self._log = log

    def close(self) -> None:
        """Close the log; later frames are not written to disk."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _of_frames(self, name: str, image_ids: NDArray[np.intp]) -> NDArray[np.float64]:
        known = np.isin(image_ids, self.image_ids)
        values = np.full(len(image_ids), np.nan)
        values[known] = self._account[name][image_ids[known]]
        return values

    def _check(self, slot: int, pixels: NDArray[Any]) -> None:
        where = f"series {self.id}, frame {slot}"
        if pixels.dtype.kind not in "ui" or pixels.dtype.itemsize > 4:
            raise WireError(f"series {self.id}: expected integers of 32 bits at most, got {pixels.dtype}")
        if pixels.ndim != 2 or 0 in pixels.shape:
            raise WireError(f"{where}: expected an image, got {pixels.shape}")
        if not 0 <= slot < self._limits.max_images or (slot + 1) * pixels.size * 4 > self._limits.max_bytes:
            raise WireError(
                f"{where} is beyond the limits of a series: expected at most {self._limits.max_images} images and "
                f"{self._limits.max_bytes} bytes; see detector.max_images and detector.max_series_bytes"
            )

    def _fits(self, frame: DetectorFrame, now_s: float) -> bool:
        """Whether a frame has the layout of the series, which the majority of the first frames decides.

        Frames of another layout are kept until the majority is clear; then either they or the frames before are bad.

        Raises
        ------
        WireError
            If the frame has another layout than the majority.
        """
        layout: Layout = (frame.pixels.shape, frame.pixels.dtype.newbyteorder("=").name)
        if self.layout in (None, layout):
            self.layout = layout
            return True
        assert self.layout is not None
        (shape, dtype), (got_shape, got_dtype) = self.layout, layout
        texts = (f"{shape} pixels as before, got {got_shape}", f"{dtype} as before, got {got_dtype}")
        error = WireError(f"series {self.id}, frame {frame.image_id}: expected {texts[shape == got_shape]}")
        odd = self._odd.setdefault(layout, [])
        if self._n_received >= MAJORITY_FRAMES or len(self._odd) > MAJORITY_FRAMES or len(odd) >= MAJORITY_FRAMES:
            raise error
        odd.append((_copy(frame), now_s))
        if len(odd) + self._bonus(layout) <= self._n_received + self._bonus(self.layout):
            raise error
        self._change_to(layout)
        return False

    def _bonus(self, layout: Layout) -> int:
        """Return `HEADER_VOTES` if the header announces a layout, else 0."""
        header = self.start
        cut = None if header.roi is None else (header.roi[1] - header.roi[0], header.roi[3] - header.roi[2])
        is_announced = (cut or header.image_shape) == layout[0] and header.image_dtype in (None, layout[1])
        return HEADER_VOTES if is_announced else 0

    def _change_to(self, layout: Layout) -> None:
        """Change the layout of the series: the frames before count as bad, those of the new layout are added."""
        frames = self._odd.pop(layout)
        self.bad += self._n_received - (len(frames) - 1)  # each of these but the newest was counted as bad
        self._volume, self._account = np.zeros((0, 1, 1), np.uint32), np.zeros(0, SLOT_RECORD)
        if self._log is not None:
            self._log.clear()
        self._n_received, self.layout = 0, layout
        for frame, now_s in frames:
            self._put(frame, now_s)

    def _put(self, frame: DetectorFrame, now_s: float) -> None:
        """Copy a frame that fits into its slot, and into the log."""
        slot, pixels = self._slot_of(frame), frame.pixels
        if slot >= len(self._account):
            self._grow(slot + 1, pixels.shape)
        # Signed detectors mark gaps by values below zero, unsigned ones by the largest.
        counts = pixels if pixels.dtype.kind == "u" else np.where(pixels < 0, self.sentinel, pixels)
        if self._account[slot]["has"]:
            self.duplicate += 1
            self.contradictory += not np.array_equal(self._volume[slot], counts)
            return
        if not self._has_room(4 * pixels.size):
            raise WireError(
                f"series {self.id}: no room for more frames: the open series together need more memory than they may "
                "take; see detector.max_series_bytes"
            )
        self._volume[slot] = counts
        received_s = now_s + self._to_wall_s
        self._account[slot] = (1, np.nan if frame.exposure_s is None else frame.exposure_s, received_s)
        self._keep(frame, received_s)
        self._n_received += 1
        self.late += self.ended_s is not None
        self.last_frame_s = now_s

    def _keep(self, frame: DetectorFrame, received_s: float) -> None:
        """Write a frame to the log; if the disk is full, the log is closed and the series goes on in memory."""
        if self._log is None:
            return
        try:
            self._log.append(frame, received_s)
        except OSError as error:
            logger.warning("series %s: frames are kept in memory only, a restart would lose them: %s", self.id, error)
            self.close()

    def _grow(self, n_images: int, shape: tuple[int, int]) -> None:
        """Add slots: at least ``n_images``, all images announced, or twice the slots so far.

        A slot takes no memory before its frame comes.
        """
        largest = min(self._limits.max_images, self._limits.max_bytes // (4 * shape[0] * shape[1]))
        n_slots = min(max(n_images, self.start.n_images or 0, 2 * len(self._account)), largest)
        try:
            volume = self._new_volume((n_slots, *shape))
        except MemoryError as error:
            raise WireError(
                f"series {self.id}: no memory for {n_slots} images of {shape} pixels; "
                "lower detector.max_series_bytes or cut the images with detector.roi"
            ) from error
        account = np.zeros(n_slots, SLOT_RECORD)
        account[: len(self._account)] = self._account
        for slot in self.image_ids:
            volume[slot] = self._volume[slot]
        self._volume, self._account = volume, account


def _copy(frame: DetectorFrame) -> DetectorFrame:
    """Return a copy of a frame that does not share memory with the wire message."""
    return replace(frame, pixels=frame.pixels.copy(), wire=tuple(bytes(part) for part in frame.wire))
