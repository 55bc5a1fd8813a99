"""Ophyd device of a fly scan: the motor moves at constant speed while the camera takes frames by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ophyd import Component, Device, EpicsMotor
from ophyd.areadetector import EigerDetectorCam
from ophyd.status import DeviceStatus, SubscriptionStatus
from ophyd.utils import OpException

RUN_UP_STEPS = 5
"""Distance [steps] that the motor moves before the first frame and after the last one."""

LIMIT_S = 600.0
"""Longest time [s] for the whole scan, and for the motor's way to its start."""


class FlyScan(Device):  # type: ignore[misc]
    """Flyer of a camera and a motor; `kickoff` starts motor and camera, `complete` waits for the last frame.

    The header of the frames states the motor's positions as the detector's axis ``omega``.  ``cam.stream_hdr_appendix``
    leaves with the header too; `cdi_stream_plugins.bluesky.with_run_uid` writes the uid of the run there.  The camera
    is started by this program when the motor passes the first position, which a beamline does by a signal.

    Parameters
    ----------
    prefix
        Begin of the names of the camera's process variables.
    motor
        Motor that rocks the crystal.
    start, stop, num
        Positions of the first and of the last frame [unit of the motor], and the number of frames.
    frame_time_s
        Time from frame to frame [s].
    """

    cam = Component(EigerDetectorCam, "cam1:")

    def __init__(
        self,
        prefix: str,
        motor: EpicsMotor,
        start: float,
        stop: float,
        num: int,
        frame_time_s: float,
        **keywords: object,
    ) -> None:
        super().__init__(prefix, **keywords)
        self._motor = motor
        self._start, self._stop, self._step = start, stop, (stop - start) / (num - 1)
        self._speed = abs(self._step) / frame_time_s
        self.stage_sigs = {
            "cam.manual_trigger": 0,
            "cam.num_triggers": 1,
            "cam.num_images": num,
            "cam.acquire_time": frame_time_s,
            "cam.acquire_period": frame_time_s,
            "cam.omega_start": start,
            "cam.omega_incr": self._step,
        }
        self._done: DeviceStatus | None = None

    def kickoff(self) -> DeviceStatus:
        """Move to the start, then start the motor, and the camera when the motor passes the first position."""
        begun, self._done = DeviceStatus(self), DeviceStatus(self)
        threading.Thread(target=self._fly, args=(begun, self._done), name="fly scan", daemon=True).start()
        return begun

    def complete(self) -> DeviceStatus:
        """Return the status that is done when the last frame has left."""
        assert self._done is not None
        return self._done

    def describe_collect(self) -> dict[str, dict[str, object]]:
        """Return no description: the frames leave by the detector's stream, with their positions."""
        return {}

    def collect(self) -> Iterator[dict[str, object]]:
        """Yield no event."""
        return iter(())

    def _fly(self, begun: DeviceStatus, done: DeviceStatus) -> None:
        """Body of the thread; an error ends both statuses, so that the plan gets it."""
        try:
            self._motor.move(self._start - RUN_UP_STEPS * self._step, wait=True, timeout=LIMIT_S)
            self._pass_over(begun)
            done.set_finished()
        except (OpException, TimeoutError, RuntimeError) as error:
            for status in (begun, done):
                if not status.done:
                    status.set_exception(error)

    def _pass_over(self, begun: DeviceStatus) -> None:
        """Move at the speed of the scan, and take the frames from the first position on."""
        speed = self._motor.velocity.get()
        self._motor.velocity.put(self._speed, wait=True)
        try:
            arrival = self._motor.move(self._stop + RUN_UP_STEPS * self._step, wait=False)
            begun.set_finished()
            SubscriptionStatus(self._motor.user_readback, self._has_begun, timeout=LIMIT_S).wait()
            self.cam.acquire.put(1, use_complete=True, wait=True, timeout=LIMIT_S)
            arrival.wait(LIMIT_S)
        finally:
            self._motor.velocity.put(speed)

    def _has_begun(self, *, value: float, **_: object) -> bool:
        """Whether the motor has passed the place where the first frame begins."""
        return (value - (self._start - self._step / 2)) * self._step >= 0
