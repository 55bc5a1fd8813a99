"""Simulated ophyd devices: motors with units, and the client of the simulated detector."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import zmq
from ophyd.sim import SynAxis
from ophyd.status import DeviceStatus

from sim_beamline.faults.menu import Faults


class Axis(SynAxis):  # type: ignore[misc]
    """A simulated motor with a unit in its description."""

    def __init__(self, *, name: str, unit: str, value: float) -> None:
        super().__init__(name=name, value=value)
        self._unit = unit

    def describe(self) -> OrderedDict[str, Any]:
        """Return the description of the readings, with their unit."""
        return OrderedDict((key, {**entry, "units": self._unit}) for key, entry in super().describe().items())


class DetectorClient:
    """Device for a detector in another process: staging arms it, unstaging disarms it, a trigger takes one frame.

    ``user_data`` is sent in the stream's start message.  ``point`` is the number of the recorded frame for the next
    trigger; it starts at 0 when the detector is staged, and increases by one with each trigger unless a plan sets it.
    ``faults`` spoil the series that are armed next.
    """

    def __init__(self, *, name: str, control_endpoint: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.name = name
        self.parent = None
        self.user_data: Any = None
        self.n_images = 1
        self.faults = Faults()
        self.point = 0
        self._last: dict[str, Any] = {}
        self._control = context.socket(zmq.REQ)
        self._control.setsockopt(zmq.RCVTIMEO, 60_000)  # a detector without a receiver waits: services restart
        self._control.setsockopt(zmq.LINGER, 0)
        self._control.connect(control_endpoint)

    def stage(self) -> list[Any]:
        """Arm a new series."""
        self.point = 0
        request = {"command": "arm", "user_data": self.user_data, "n_images": self.n_images}
        faults = {"faults": self.faults.names, "fault_seed": self.faults.seed} if self.faults.names else {}
        self._last = self._ask(request | faults)
        return [self]

    def unstage(self) -> list[Any]:
        """End the series."""
        self._ask({"command": "disarm"})
        return [self]

    def finish(self) -> None:
        """Tell the faults of the detector that all documents of the run are out."""
        self._ask({"command": "over"})

    def trigger(self) -> DeviceStatus:
        """Take one frame."""
        self._last = self._ask({"command": "trigger", "point": self.point})
        self.point += 1
        status = DeviceStatus(self)
        status.set_finished()
        return status

    def read(self) -> OrderedDict[str, Any]:
        """Return the names of the last frame and its series."""
        return OrderedDict((f"{self.name}_{k}", {"value": v, "timestamp": time.time()}) for k, v in self._last.items())

    def describe(self) -> OrderedDict[str, Any]:
        """Return the description of the readings."""
        entry = {"source": f"SIM:{self.name}", "dtype": "integer", "shape": []}
        return OrderedDict((f"{self.name}_{key}", dict(entry)) for key in self._last)

    def read_configuration(self) -> OrderedDict[str, Any]:
        """Return no readings: the device has no configuration."""
        return OrderedDict()

    def describe_configuration(self) -> OrderedDict[str, Any]:
        """Return no descriptions: the device has no configuration."""
        return OrderedDict()

    def load(self, scan: Path) -> None:
        """Let the detector take the frames of another scan file from now on."""
        self._ask({"command": "load", "scan": str(scan)})

    def close(self) -> None:
        """Close the control socket."""
        self._control.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._control.send_json(request)
        reply = self._control.recv_json()
        assert isinstance(reply, dict)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply
