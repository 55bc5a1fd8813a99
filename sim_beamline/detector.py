"""Process of the simulated detector: armed and triggered over a control socket, it streams a scan's frames."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import zmq

from cdi_stream.files.recording import read_scan
from cdi_stream.messages import RecordedScan
from sim_beamline.faults.fault import Sending
from sim_beamline.faults.menu import Faults
from sim_beamline.frame_stream import FrameStream
from sim_beamline.spoiled_stream import SpoiledStream


class StreamingDetector:
    """Simulated detector: ``arm`` starts a series, ``trigger`` takes and sends one frame, ``disarm`` ends the series.

    A frame that the recording lacks is counted, but not sent.  The request ``arm`` may name faults of the menu
    (`sim_beamline.faults.menu`) for its series; ``over`` then tells the faults that the run's documents are out.
    The request ``load`` replaces the scan whose frames are sent, as if the crystal had changed.

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
    first_series
        Id of the first series; by default made of the time, so that no other series has it.
    """

    def __init__(
        self,
        scan: RecordedScan,
        data: zmq.Socket[bytes],
        codec: str = "bslz4",
        wire_format: str = "dectris2",
        first_series: int | None = None,
    ) -> None:
        self._scan = scan
        self._has_frame = scan.has_frame
        stream = FrameStream(data, wire_format, codec)
        self._stream = SpoiledStream(stream, scan.frames[0], scan.detector, scan.pixel_mask)
        self._n_taken = 0
        self._series = int(time.time()) % 10**8 if first_series is None else first_series - 1
        self._image_id = 0
        self._is_armed = False

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Execute a control request, ``arm``, ``trigger``, ``disarm``, ``over`` or ``load``, and return the reply."""
        match request.get("command"):
            case "arm":
                return self._arm(request)
            case "trigger" if self._is_armed:
                return self._trigger(int(request["point"]))
            case "disarm":
                self._stream.pass_on(Sending(kind="end", series=self._series))
                return {"series_id": self._series}
            case "over":
                self._stream.pass_on(Sending(kind="over", series=self._series))
                return {}
            case "load":
                return self._load(Path(request["scan"]))
            case other:
                return {"error": f"expected arm, then trigger, disarm, over or load, got {other!r}"}

    def _load(self, path: Path) -> dict[str, Any]:
        """Take the frames of another scan from now on."""
        scan = self._scan = read_scan(path)
        self._has_frame = scan.has_frame
        self._stream.pixels, self._stream.header, self._stream.mask = scan.frames[0], scan.detector, scan.pixel_mask
        return {}

    def _arm(self, request: dict[str, Any]) -> dict[str, Any]:
        self._series += 1
        self._image_id = 0
        self._is_armed = True
        n_images, names = int(request["n_images"]), tuple(request.get("faults", ()))
        self._stream.begin(Faults(names=names, seed=request.get("fault_seed", 0), n_points=n_images))
        user_data = request.get("user_data")
        self._stream.pass_on(Sending(kind="start", series=self._series, n_images=n_images, user_data=user_data))
        return self._names(-1)

    def _trigger(self, point: int) -> dict[str, Any]:
        image_id, number = self._image_id, self._n_taken
        self._image_id += 1
        self._n_taken += 1
        if self._has_frame[point]:
            self._stream.pass_on(
                Sending(
                    kind="image",
                    series=self._series,
                    image_id=image_id,
                    number=number,
                    pixels=self._scan.frames[point],
                )
            )
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
    first_series: int | None = None,
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
    codec, wire_format, first_series
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
        detector = StreamingDetector(scan, data, codec, wire_format, first_series)
        while isinstance(request := control.recv_json(), dict) and request.get("command") != "exit":
            control.send_json(detector.handle(request))
        control.send_json({})
        control.close(1000)
        data.close(10_000)
