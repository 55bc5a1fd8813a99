"""Stream of a simulated detector: its series as messages of DECTRIS stream v1 or v2, or of ``array-1.0``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from sim_beamline import wire, wire1
from sim_beamline.frame_buffer import FrameBuffer

Counts = NDArray[Any]
"""Image of any unsigned data type."""

Damage = Callable[[list[bytes]], list[bytes]]
"""Changes the encoded parts of a message."""

FORMATS = ("dectris2", "dectris1", "array1")
"""Names of the wire formats."""


class FrameStream:
    """Sends series of frames over a socket.

    Parameters
    ----------
    sender
        Socket of the stream, or buffer in front of it.
    wire_format
        One of `FORMATS`.  ``array1`` has no series, start or end; its frame number continues from series to series.
    codec
        Compression of the frames: raw, lz4 or bslz4.
    """

    def __init__(self, sender: zmq.Socket[bytes] | FrameBuffer, wire_format: str, codec: str) -> None:
        self.wire_format = wire_format
        self._sender = sender
        self._codec = codec

    def start(
        self,
        series: int,
        n_images: int,
        pixels: Counts,
        header: Mapping[str, Any],
        mask: NDArray[np.bool_] | None,
        user_data: Any,
    ) -> None:
        """Send the start of a series whose frames have the shape and type of ``pixels``."""
        entries: dict[str, Any] = {"series": series, "n_images": n_images, "shape": pixels.shape, "header": header}
        entries |= {"mask": mask, "user_data": user_data}
        if self.wire_format == "dectris2":
            self._sender.send_multipart([wire.start_message(**entries, dtype=pixels.dtype.name)])
        elif self.wire_format == "dectris1":
            self._sender.send_multipart(wire1.start_parts(**entries))

    def image(
        self,
        series: int,
        image_id: int,
        pixels: Counts,
        count_time_s: float,
        number: int,
        clock_s: float = 0.0,
        damage: Damage = lambda parts: parts,
    ) -> None:
        """Send a frame.

        Parameters
        ----------
        series, image_id, pixels, count_time_s
            Series, number in the series, counts, and exposure [s].
        number
            Number among all frames of the detector, which ``array1`` sends instead of an id.
        clock_s
            Error of the detector's clock [s]; only ``dectris2`` sends times.
        damage
            Changes the encoded parts.
        """
        self._sender.send_multipart(damage(self._image_parts(series, image_id, pixels, count_time_s, number, clock_s)))

    def _image_parts(
        self, series: int, image_id: int, pixels: Counts, count_time_s: float, number: int, clock_s: float
    ) -> list[bytes]:
        if self.wire_format == "array1":
            return wire1.array_parts(frame=number, pixels=pixels, codec=self._codec)
        entries: dict[str, Any] = {"series": series, "image_id": image_id, "pixels": pixels, "codec": self._codec}
        entries |= {"count_time_s": count_time_s}
        if self.wire_format == "dectris2":
            return [wire.image_message(**entries, clock_s=clock_s)]
        return wire1.image_parts(**entries)

    def end(self, series: int) -> None:
        """Send the end of a series."""
        if self.wire_format == "dectris2":
            self._sender.send_multipart([wire.end_message(series=series)])
        elif self.wire_format == "dectris1":
            self._sender.send_multipart(wire1.end_parts(series=series))
