"""Process variables of the camera, by the names of areaDetector's ADEiger and of its statistics plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import numpy as np
from caproto import ChannelData
from numpy.typing import NDArray

from sim_beamline.epics.channels import Hook, Written, reading, setting
from sim_beamline.frame_buffer import FrameBuffer
from sim_beamline.instrument.sensor import MASKED
from sim_beamline.simplon.camera import Camera

SETTINGS = {
    "NumImages": "nimages",
    "NumTriggers": "ntrigger",
    "AcquireTime": "count_time",
    "AcquirePeriod": "frame_time",
    "PhotonEnergy": "photon_energy",
    "OmegaStart": "omega_start",
    "OmegaIncr": "omega_increment",
    "StreamHdrAppendix": "header_appendix",
    "StreamImgAppendix": "image_appendix",
    "Faults": "faults",
    "FaultPoints": "fault_points",
}
"""Settings of the camera by the names of their process variables."""

STATES = ("Idle", "Acquire", "Readout", "Correct", "Saving", "Aborting", "Error", "Waiting", "Initializing")
"""States of an areaDetector driver."""

_NO_YES = ("No", "Yes")
_OFF_ON = ("Disable", "Enable")
_TRIGGER_MODES = ("Internal Series", "Internal Enable", "External Series", "External Enable")
_FIXED_CHOICES = {
    "TriggerMode": _TRIGGER_MODES,
    "ManualTrigger": _NO_YES,
    "ImageMode": ("Single", "Multiple", "Continuous"),
    "ArrayCallbacks": _OFF_ON,
    "StreamEnable": _NO_YES,
    "ShutterMode": ("None", "EPICS", "Detector"),
    "DataType": ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64"),
}


class AreaDetector:
    """Process variables of a camera; `channels` holds them by their full names.

    With ``ManualTrigger`` the start of an acquisition arms the camera, and each put to ``Trigger`` takes the images of
    one trigger; otherwise the start takes all images.  A put to ``Trigger``, or to ``Acquire`` without
    ``ManualTrigger``, completes after the last image.

    Parameters
    ----------
    prefix
        Begin of the names, such as ``SIM:eiger:``.
    camera
        Camera.
    fixed
        Numbers of the detector that do not change, by the names of their process variables.
    buffer
        Buffer of the frames, which counts those that were dropped.
    """

    def __init__(self, prefix: str, camera: Camera, fixed: dict[str, float], buffer: FrameBuffer) -> None:
        self._camera = camera
        self._buffer = buffer
        self._cam, self._stats = f"{prefix}cam1:", f"{prefix}Stats1:"
        self.channels: dict[str, ChannelData] = {}
        rows, cols = camera.instrument.shape
        self._settings(asdict(camera.settings))
        self._command("Acquire", ("Done", "Acquire"), self._acquire)
        self._command("Trigger", ("Done", "Trigger"), self._trigger)
        sizes = {"MaxSizeX": cols, "MaxSizeY": rows, "ArraySizeX": cols, "ArraySizeY": rows, "ArraySizeZ": 0}
        whole = {**sizes, "ArraySize": 4 * rows * cols, "NumImagesCounter": 0, "NumExposures": 1, "StreamDropped": 0}
        for name, value in {**whole, **fixed}.items():
            self.channels[f"{self._cam}{name}_RBV"] = reading(value)
        for name in ("BeamX", "BeamY", "DetDist", "Wavelength", "ThresholdEnergy", "NumExposures"):
            self._pair(name, float(fixed.get(name, 1)))
        self._pair("ArrayCounter", 0)
        self.channels[f"{self._cam}DetectorState_RBV"] = reading("Idle", STATES)
        self.channels[f"{self._cam}Armed"] = reading("No", _NO_YES)
        self.channels[f"{self._cam}SequenceId"] = reading(0)
        texts = {"Manufacturer": "cdi-stream", "Model": "Simulated Eiger", "PortName": "EIG", "StreamState": "ready"}
        for name, text in texts.items():
            self.channels[f"{self._cam}{name}_RBV"] = reading(text)
        self.channels[f"{self._stats}UniqueId_RBV"] = reading(0)
        for name in ("Total", "MaxValue", "CentroidX", "CentroidY", "Monitor"):
            self.channels[f"{self._stats}{name}_RBV"] = reading(0.0)

    async def publish(self) -> None:
        """Write the state of the camera into the process variables; the counters come last."""
        state, settings = self._camera.state, asdict(self._camera.settings)
        for name, own in SETTINGS.items():
            await self._write(f"{name}_RBV", settings[own])
        if state.last is not None:
            for name, value in _statistics(state.last.counts).items():
                await self.channels[f"{self._stats}{name}_RBV"].write(value)
            await self.channels[f"{self._stats}Monitor_RBV"].write(state.last.monitor)
        await self.channels[f"{self._stats}UniqueId_RBV"].write(state.n_in_series)
        is_armed = state.state != "idle"
        await self._write("SequenceId", state.series)
        await self._write("StreamDropped_RBV", self._buffer.n_dropped)
        await self._write("NumImagesCounter_RBV", state.n_in_series)
        await self._write("ArrayCounter_RBV", state.n_images)
        await self._write("DetectorState_RBV", {"idle": 0, "ready": 7, "acquire": 1}[state.state])
        await self._write("Armed", int(is_armed))
        await self._write("Acquire_RBV", int(is_armed))
        await self._write("Acquire", int(is_armed))

    def _settings(self, values: dict[str, object]) -> None:
        for name, own in SETTINGS.items():
            self._pair(name, values[own], self._put(own, type(values[own])))
        for name, choices in _FIXED_CHOICES.items():
            default = {"ManualTrigger": "Yes", "StreamEnable": "Yes", "DataType": "UInt32"}.get(name, choices[0])
            self._pair(name, default, choices=choices)

    def _pair(self, name: str, value: object, hook: Hook | None = None, choices: tuple[str, ...] | None = None) -> None:
        """Add a setting and its readback."""
        readback = reading(value, choices)

        async def take(new: Written) -> None:
            """Give the value to the camera, then to the readback."""
            if hook is not None:
                await hook(new)
            await readback.write(new, verify_value=False)

        self.channels[f"{self._cam}{name}"] = setting(value, take, choices)
        self.channels[f"{self._cam}{name}_RBV"] = readback

    def _command(self, name: str, choices: tuple[str, str], act: Callable[[bool], Awaitable[None]]) -> None:
        async def take(value: Written) -> None:
            """Execute the command."""
            await act(value in (1, choices[1]))
            await self.publish()

        self.channels[f"{self._cam}{name}"] = setting(choices[0], take, choices)
        self.channels[f"{self._cam}{name}_RBV"] = reading(choices[0], choices)

    def _put(self, own: str, kind: type) -> Hook:
        async def put(value: Written) -> None:
            """Change a setting of the camera; a value that the camera refuses is refused."""
            self._camera.put(own, _text(value) if kind is str else kind(np.ravel(value)[0]))

        return put

    async def _acquire(self, is_start: bool) -> None:
        if not is_start:
            await asyncio.to_thread(self._camera.disarm)
            return
        self._camera.arm()
        if self.channels[f"{self._cam}ManualTrigger"].value not in (1, "Yes"):
            await self.publish()
            for _ in range(self._camera.settings.ntrigger):
                await self._trigger(True)

    async def _trigger(self, is_on: bool) -> None:
        if is_on:
            await asyncio.to_thread(self._camera.trigger)

    async def _write(self, name: str, value: object) -> None:
        channel = self.channels[self._cam + name]
        await channel.write(value, verify_value=False)


def _text(value: Written) -> str:
    """Return a text from characters as Channel Access brings them."""
    if isinstance(value, str):
        return value
    raw = value if isinstance(value, bytes) else bytes(int(v) & 0xFF for v in np.ravel(value))
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _statistics(counts: NDArray[np.uint32]) -> dict[str, float]:
    """Return total, maximum and centroid of a frame, without pixels that have no reading."""
    used = np.where(counts == MASKED, 0, counts).astype(np.float64)
    total = float(used.sum())
    rows, cols = (np.arange(n) for n in used.shape)
    weight = max(total, 1.0)
    return {
        "Total": total,
        "MaxValue": float(used.max()),
        "CentroidX": float(used.sum(0) @ cols) / weight,
        "CentroidY": float(used.sum(1) @ rows) / weight,
    }
