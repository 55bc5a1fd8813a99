"""Stream of a detector through the faults of the menu: what the faults leave of each message is sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_beamline.faults.fault import Sending
from sim_beamline.faults.menu import Faults
from sim_beamline.frame_stream import Counts, FrameStream


class SpoiledStream:
    """Sends the messages of a detector through the faults of the present series.

    ``pixels`` (an image of the series' shape and type), ``header`` and ``mask`` may be set before a series begins.

    Parameters
    ----------
    stream
        Encodes and sends.
    pixels, header, mask
        Content of the start messages, as in `FrameStream.start`.
    """

    def __init__(
        self, stream: FrameStream, pixels: Counts, header: Mapping[str, Any], mask: NDArray[np.bool_] | None
    ) -> None:
        self.pixels = pixels
        self.header = header
        self.mask = mask
        self._stream = stream
        self._faults = Faults().on_frames()

    @property
    def wire_format(self) -> str:
        """Name of the wire format."""
        return self._stream.wire_format

    def begin(self, faults: Faults) -> None:
        """Take the faults of the next series."""
        self._faults = faults.on_frames()

    def pass_on(self, message: Sending) -> None:
        """Send a message, or what the faults of the series leave of it."""
        for out in self._faults(message):
            time.sleep(out.delay_s)
            self._send(out)

    def _send(self, message: Sending) -> None:
        match message.kind:
            case "start":
                self._stream.start(
                    message.series, message.n_images, self.pixels, self.header, self.mask, message.user_data
                )
            case "image" if message.pixels is not None:
                names = message.series, message.image_id, message.pixels
                count_time_s = float(self.header.get("count_time_s", 0.1))
                self._stream.image(*names, count_time_s, message.number, message.clock_s, message.damage)
            case "end":
                self._stream.end(message.series)
