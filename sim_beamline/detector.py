"""Process of the simulated detector: armed and triggered over a control socket, it streams a scan's frames."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import zmq
from numpy.typing import NDArray

from cdi_stream.files.recording import read_scan
from cdi_stream.messages import RecordedScan
from sim_beamline import wire, wire1


class StreamingDetector:
    """Simulated detector: ``arm`` starts a series, ``trigger`` takes and sends one frame, ``disarm`` ends the series.

    ``load`` replaces the scan whose frames are sent, as if the crystal had changed.
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
        dectris2, dectris1 or array1.  array1 has no series, start or end; its frame number continues from series to
        series.
    """

    def __init__(
        self, scan: RecordedScan, data: zmq.Socket[bytes], codec: str = "bslz4", wire_format: str = "dectris2"
    ) -> None:
        self._scan = scan
        self._has_frame = scan.has_frame
        self._data = data
        self._codec = codec
        self._format = wire_format
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
                self._send_end()
                return {"series_id": self._series}
            case "load":
                return self._load(Path(request["scan"]))
            case other:
                return {"error": f"expected arm, trigger, disarm or load, got {other!r}"}

    def _load(self, path: Path) -> dict[str, Any]:
        """Take the frames of another scan from now on."""
        self._scan = read_scan(path)
        self._has_frame = self._scan.has_frame
        return {}

    def _arm(self, user_data: Any, n_images: int) -> dict[str, Any]:
        self._series += 1
        self._image_id = 0
        self._send_start(user_data, n_images)
        return self._names(-1)

    def _trigger(self, point: int) -> dict[str, Any]:
        image_id = self._image_id
        self._image_id += 1
        if self._has_frame[point]:
            self._send_image(image_id, self._scan.frames[point])
        self._n_taken += 1
        return self._names(image_id)

    def _names(self, image_id: int) -> dict[str, Any]:
        """Return the names of the newest frame in the stream, for the run's events."""
        if self._format == "array1":
            return {"unique_id": self._n_taken - 1}
        return {"series_id": self._series, "image_id": image_id}

    def _send_start(self, user_data: Any, n_images: int) -> None:
        frames, mask = self._scan.frames, self._scan.pixel_mask
        entries: dict[str, Any] = {"series": self._series, "n_images": n_images, "shape": frames.shape[1:]}
        entries |= {"header": self._scan.detector, "mask": mask, "user_data": user_data}
        if self._format == "dectris2":
            self._data.send(wire.start_message(**entries, dtype=frames.dtype.name))
        elif self._format == "dectris1":
            self._data.send_multipart(wire1.start_parts(**entries))

    def _send_image(self, image_id: int, pixels: NDArray[Any]) -> None:
        if self._format == "array1":
            self._data.send_multipart(wire1.array_parts(frame=self._n_taken, pixels=pixels, codec=self._codec))
            return
        entries: dict[str, Any] = {"series": self._series, "image_id": image_id, "pixels": pixels, "codec": self._codec}
        entries |= {"count_time_s": float(self._scan.detector.get("count_time_s", 0.1))}
        if self._format == "dectris2":
            self._data.send(wire.image_message(**entries))
        else:
            self._data.send_multipart(wire1.image_parts(**entries))

    def _send_end(self) -> None:
        if self._format == "dectris2":
            self._data.send(wire.end_message(series=self._series))
        elif self._format == "dectris1":
            self._data.send_multipart(wire1.end_parts(series=self._series))


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
