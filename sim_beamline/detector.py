"""Process of the simulated detector: armed and triggered over a control socket, it streams a scan's frames."""

from __future__ import annotations

import time
from typing import Any

import zmq

from cdi_stream.messages import RecordedScan
from sim_beamline.frame_stream import FrameStream


class StreamingDetector:
    """Simulated detector: ``arm`` starts a series, ``trigger`` takes and sends one frame, ``disarm`` ends the series.

    A frame that the recording lacks is counted, but not sent.

    Parameters
    ----------
    scan
        Scan whose frames are sent.
    data
        Socket of the stream.
    codec
        Compression of the frames.
    wire_format
        As in `FrameStream`.
    """

    def __init__(
        self, scan: RecordedScan, data: zmq.Socket[bytes], codec: str = "bslz4", wire_format: str = "dectris2"
    ) -> None:
        self._scan = scan
        self._has_frame = scan.has_frame
        self._stream = FrameStream(data, wire_format, codec)
        self._n_taken = 0
        self._series = int(time.time()) % 10**8
        self._image_id = 0

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Execute a control request, ``arm``, ``trigger`` or ``disarm``, and return the reply."""
        match request.get("command"):
            case "arm":
                return self._arm(request.get("user_data"), int(request["n_images"]))
            case "trigger":
                return self._trigger(int(request["point"]))
            case "disarm":
                self._stream.end(self._series)
                return {"series_id": self._series}
            case other:
                return {"error": f"expected arm, trigger or disarm, got {other!r}"}

    def _arm(self, user_data: Any, n_images: int) -> dict[str, Any]:
        self._series += 1
        self._image_id = 0
        scan = self._scan
        self._stream.start(self._series, n_images, scan.frames[0], scan.detector, scan.pixel_mask, user_data)
        return self._names(-1)

    def _trigger(self, point: int) -> dict[str, Any]:
        image_id = self._image_id
        self._image_id += 1
        if self._has_frame[point]:
            count_time_s = float(self._scan.detector.get("count_time_s", 0.1))
            self._stream.image(self._series, image_id, self._scan.frames[point], count_time_s, self._n_taken)
        self._n_taken += 1
        return self._names(image_id)

    def _names(self, image_id: int) -> dict[str, Any]:
        """Return the names of the newest frame in the stream, for the run's events."""
        if self._stream.wire_format == "array1":
            return {"unique_id": self._n_taken - 1}
        return {"series_id": self._series, "image_id": image_id}


def run_detector(
    scan: RecordedScan,
    data_endpoint: str,
    control_endpoint: str,
    socket: str,
    codec: str,
    wire_format: str,
    *,
    does_connect: bool,
) -> None:
    """Run the simulated detector until the request ``exit``.

    Parameters
    ----------
    scan
        Scan whose frames are sent.
    data_endpoint, control_endpoint
        Addresses of the stream and of the control socket.
    socket
        Kind of the stream's socket: push or pub.
    codec, wire_format
        As in `StreamingDetector`.
    does_connect
        Whether the stream's socket connects; else it binds, as a detector does.
    """
    with zmq.Context() as context:
        data = context.socket(zmq.PUSH if socket == "push" else zmq.PUB)
        data.setsockopt(zmq.SNDHWM, 1000)
        (data.connect if does_connect else data.bind)(data_endpoint)
        control = context.socket(zmq.REP)
        control.bind(control_endpoint)
        detector = StreamingDetector(scan, data, codec, wire_format)
        while isinstance(request := control.recv_json(), dict) and request.get("command") != "exit":
            control.send_json(detector.handle(request))
        control.send_json({})
        control.close(1000)
        data.close(10_000)
