"""Pulses of a motion that goes on by itself, and the acquisition of devices that act at each pulse."""

from __future__ import annotations

import asyncio

from ophyd_async.core import AsyncStatus, DetectorAcquireLogic, DetectorTriggerLogic, Device


class ExternalTriggers(DetectorTriggerLogic):
    """Triggers come from outside, one for each frame; ``n_frames`` is their number."""

    def __init__(self) -> None:
        self.n_frames = 0

    async def prepare_edge(self, num: int, livetime: float) -> None:
        """Note the number of triggers; the exposure is that of the recorded frames."""
        self.n_frames = num


class Motion(Device):
    """Motion of the goniometer; its pulses begin with ``kickoff``, after all devices are armed.

    Parameters
    ----------
    period_s
        Time from pulse to pulse [s].
    """

    def __init__(self, period_s: float, name: str = "motion") -> None:
        self.period_s = period_s
        self.acquisitions: list[PulsedAcquisition] = []
        self._is_moving = asyncio.Event()
        super().__init__(name=name)

    def start(self) -> None:
        """Start the motion, outside a plan."""
        self._is_moving.set()

    @AsyncStatus.wrap
    async def kickoff(self) -> None:
        """Start the motion."""
        self.start()

    @AsyncStatus.wrap
    async def complete(self) -> None:
        """Wait until all devices have taken their pulses."""
        for acquisition in self.acquisitions:
            await acquisition.wait_for_idle()
        self._is_moving.clear()

    async def pulse(self) -> None:
        """Wait for the next pulse."""
        await self._is_moving.wait()
        await asyncio.sleep(self.period_s)


class PulsedAcquisition(DetectorAcquireLogic):
    """Acquisition that calls `begin`, then `act` at each pulse of a motion, then `end`.

    Parameters
    ----------
    triggers
        Holds the number of pulses.
    motion
        Gives the pulses.
    """

    def __init__(self, triggers: ExternalTriggers, motion: Motion) -> None:
        self.triggers = triggers
        self._motion = motion
        self._task: asyncio.Task[None] | None = None
        motion.acquisitions.append(self)

    def begin(self) -> None:
        """Prepare the device."""

    def act(self) -> None:
        """Act at one pulse."""
        raise NotImplementedError

    def end(self) -> None:
        """Finish the acquisition, also one that was stopped early."""

    async def start_acquiring(self) -> None:
        """Prepare the device, and wait for the pulses in a task."""
        self.begin()
        self._task = asyncio.create_task(self._act_at_pulses())

    async def wait_for_idle(self) -> None:
        """Wait for the last pulse."""
        if self._task is not None:
            task, self._task = self._task, None
            await task
            self.end()

    async def ensure_stopped(self) -> None:
        """Stop before the last pulse."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self.end()

    async def _act_at_pulses(self) -> None:
        for _ in range(self.triggers.n_frames):
            await self._motion.pulse()
            self.act()
