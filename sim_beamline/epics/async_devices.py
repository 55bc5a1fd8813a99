"""Ophyd-async devices of the simulated beamline: motors, and a camera that is armed, triggered and disarmed."""

from __future__ import annotations

from ophyd_async.core import AsyncStatus, Device, StandardReadable, StandardReadableFormat, wait_for_value
from ophyd_async.epics.core import epics_signal_r, epics_signal_rw, epics_signal_w
from ophyd_async.epics.motor import Motor


class AsyncGoniometer(Device):
    """Motors of sample, detector and energy."""

    def __init__(self, prefix: str, name: str = "") -> None:
        self.theta = Motor(f"{prefix}theta")
        self.chi = Motor(f"{prefix}chi")
        self.phi = Motor(f"{prefix}phi")
        self.delta = Motor(f"{prefix}delta")
        self.gamma = Motor(f"{prefix}gamma")
        self.energy = Motor(f"{prefix}energy")
        super().__init__(name=name)


class AsyncEiger(StandardReadable):
    """Camera that is armed when it is staged, and takes one image at each trigger."""

    def __init__(self, prefix: str, *, n_triggers: int = 100_000, name: str = "") -> None:
        cam = f"{prefix}cam1:"
        self._n_triggers = n_triggers
        self.num_triggers = epics_signal_rw(int, f"{cam}NumTriggers_RBV", f"{cam}NumTriggers")
        self.acquire = epics_signal_w(bool, f"{cam}Acquire")
        self.take = epics_signal_w(bool, f"{cam}Trigger")
        self.header_appendix = epics_signal_rw(str, f"{cam}StreamHdrAppendix")
        self.n_taken = epics_signal_r(int, f"{cam}NumImagesCounter_RBV")
        with self.add_children_as_readables(StandardReadableFormat.CONFIG_SIGNAL):
            self.acquire_time = epics_signal_rw(float, f"{cam}AcquireTime_RBV", f"{cam}AcquireTime")
        with self.add_children_as_readables():
            self.sequence_id = epics_signal_r(int, f"{cam}SequenceId")
            self.total = epics_signal_r(float, f"{prefix}Stats1:Total_RBV")
        super().__init__(name=name)

    @AsyncStatus.wrap
    async def stage(self) -> None:
        """Arm the camera."""
        await self.num_triggers.set(self._n_triggers)
        await self.acquire.set(True)

    @AsyncStatus.wrap
    async def trigger(self) -> None:
        """Take one image; done when the image has left."""
        before = await self.n_taken.get_value()
        await self.take.set(True)
        await wait_for_value(self.n_taken, lambda n: n > before, timeout=30)

    @AsyncStatus.wrap
    async def unstage(self) -> None:
        """End the series."""
        await self.acquire.set(False)
