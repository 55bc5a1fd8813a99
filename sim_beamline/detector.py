"""The detector's process: armed and triggered over a control socket, it streams a recorded scan's frames."""

from __future__ import annotations

import time
from typing import Any

import zmq

from cdi_stream.recording import RecordedScan
from sim_beamline import wire


class StreamingDetector:
    """One detector: a series begins with `arm` and ends with `disarm`; each `trigger` sends one frame."""

    def __init__(self, scan: RecordedScan, data: zmq.Socket[bytes], codec: str = "bslz4") -> None:
        self._scan = scan
        self._data = data
        self._codec = codec
        self._series = int(time.time()) % 10**8
        self._image_id = 0

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one control request: ``arm``, ``trigger`` or ``disarm``."""
        match request.get("command"):
            case "arm":
                return self._arm(request.get("user_data"), int(request["n_images"]))
            case "trigger":
                return self._trigger(int(request["point"]))
            case "disarm":
                self._data.send(wire.end_message(series=self._series))
                return {"series_id": self._series}
            case other:
                return {"error": f"expected arm, trigger or disarm, got {other!r}"}

    def _arm(self, user_data: Any, n_images: int) -> dict[str, Any]:
        self._series += 1
        self._image_id = 0
        frames = self._scan.frames
        self._data.send(
            wire.start_message(
                series=self._series,
                n_images=n_images,
                shape=frames.shape[1:],
                header=self._scan.detector,
                mask=self._scan.pixel_mask,
                user_data=user_data,
                dtype=frames.dtype.name,
            )
        )
        return {"series_id": self._series}

    def _trigger(self, point: int) -> dict[str, Any]:
        pixels = self._scan.frames[point]
        count_time_s = float(self._scan.detector.get("count_time_s", 0.1))
        image_id = self._image_id
        self._image_id += 1
        self._data.send(
            wire.image_message(
                series=self._series, image_id=image_id, pixels=pixels, count_time_s=count_time_s, codec=self._codec
            )
        )
        return {"series_id": self._series, "image_id": image_id}


def run_detector(
    scan: RecordedScan, data_endpoint: str, control_endpoint: str, socket: str, codec: str, *, does_connect: bool
) -> None:
    """Serve until told to exit; the data socket binds, as a detector's does, unless the other end does."""
    with zmq.Context() as context:
        data = context.socket(zmq.PUSH if socket == "push" else zmq.PUB)
        data.setsockopt(zmq.SNDHWM, 1000)
        (data.connect if does_connect else data.bind)(data_endpoint)
        control = context.socket(zmq.REP)
        control.bind(control_endpoint)
        detector = StreamingDetector(scan, data, codec)
        while isinstance(request := control.recv_json(), dict) and request.get("command") != "exit":
            control.send_json(detector.handle(request))
        control.send_json({})
        control.close(1000)
        data.close(10_000)
