"""Channel Access server of the simulated beamline, on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

from caproto import ChannelData
from caproto.asyncio.server import start_server

from sim_beamline.epics.area_detector import AreaDetector
from sim_beamline.epics.motor import MotorRecord
from sim_beamline.instrument.axis import Axis


class IocServer:
    """Serves motors and detector in a thread, on 127.0.0.1 and the port of ``EPICS_CA_SERVER_PORT``.

    Parameters
    ----------
    prefix
        Begin of all names, such as ``SIM:``; the motors are ``SIM:theta`` and so on.
    axes
        Axes by name.
    detector
        Process variables of the detector.
    backlash
        Backlash correction of the motors by name [unit of the axis].
    """

    def __init__(
        self, prefix: str, axes: Mapping[str, Axis], detector: AreaDetector, backlash: Mapping[str, float]
    ) -> None:
        self._detector = detector
        self._names: dict[str, ChannelData] = dict(detector.channels)
        self._motors = [MotorRecord(f"{prefix}{name}", axis, backlash.get(name, 0.0)) for name, axis in axes.items()]
        for motor in self._motors:
            self._names.update(motor.pvdb)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[object] | None = None
        self._is_changed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="ioc", daemon=True)
        self._thread.start()

    def publish(self) -> None:
        """Write the state of the camera into the process variables; may be called from any thread."""
        if not self._loop.is_closed() and not self._is_changed.is_set():
            self._is_changed.set()
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._publish()))

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(lambda: self._task.cancel() if self._task is not None else None)
        self._thread.join(5)

    async def _publish(self) -> None:
        self._is_changed.clear()
        await self._detector.publish()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(start_server(self._names, interfaces=["127.0.0.1"]))
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()
