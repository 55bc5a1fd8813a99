"""Simulated ophyd-async devices of a fly scan: a detector that streams its frames, a box that captures positions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    StandardDetector,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
)

from sim_beamline.devices import DetectorClient

HDF5 = "application/x-hdf5"


class ExternalTriggers(DetectorTriggerLogic):
    """Triggers come from outside, one for each frame; ``n_frames`` is their number."""

    def __init__(self) -> None:
        self.n_frames = 0

    async def prepare_edge(self, num: int, livetime: float) -> None:
        """Note the number of triggers; the exposure is that of the recorded frames."""
        self.n_frames = num


class StreamAcquisition(DetectorAcquireLogic):
    """Arms the simulated detector, and takes one frame for each trigger of a motion that goes on by itself."""

    def __init__(self, client: DetectorClient, triggers: ExternalTriggers, period_s: float) -> None:
        self.client = client
        self.n_written, self._set_written = soft_signal_r_and_setter(int)
        self._triggers = triggers
        self._period_s = period_s
        self._task: asyncio.Task[None] | None = None
        self._n = 0

    async def start_acquiring(self) -> None:
        """Arm the detector and start the motion."""
        self.client.n_images = self._triggers.n_frames
        self.client.stage()
        self._task = asyncio.create_task(self._take())

    async def _take(self) -> None:
        for _ in range(self._triggers.n_frames):
            await asyncio.sleep(self._period_s)
            self.client.trigger()
            self._n += 1
            self._set_written(self._n)

    async def wait_for_idle(self) -> None:
        """Wait for the last frame, and end the series."""
        if self._task is not None:
            await self._task
            self._task = None
            self.client.unstage()

    async def ensure_stopped(self) -> None:
        """Stop the motion."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self.client.unstage()


@dataclass
class ImageFile(DetectorDataLogic):
    """Names the images of the detector in a file of its own, which only the file writer of the detector has."""

    acquisition: StreamAcquisition
    path: Path
    shape: tuple[int, int]

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        """Return the provider of the documents."""
        images = StreamResourceInfo(
            data_key=datakey_name,
            shape=self.shape,
            chunk_shape=(1, *self.shape),
            dtype_numpy="<u4",
            parameters={"dataset": "/entry/data/data"},
        )
        return StreamResourceDataProvider(f"file://localhost{self.path}", [images], HDF5, self.acquisition.n_written)


class StreamingEiger(StandardDetector):
    """Detector whose frames leave over ZeroMQ, and whose documents name images in a file.

    ``client.user_data`` is sent before the frames; `with_run_uid` writes the uid of the run there.
    """

    def __init__(self, client: DetectorClient, path: Path, shape: tuple[int, int], period_s: float, name: str) -> None:
        triggers = ExternalTriggers()
        acquisition = StreamAcquisition(client, triggers, period_s)
        self.client = client
        self.add_detector_logics(triggers, acquisition, ImageFile(acquisition, path, shape))
        super().__init__(name=name)


class Capture(DetectorAcquireLogic):
    """Captures the next positions into the file, one for each trigger."""

    def __init__(self, file: PositionFile, triggers: ExternalTriggers, period_s: float) -> None:
        self._file = file
        self._triggers = triggers
        self._period_s = period_s
        self._task: asyncio.Task[None] | None = None

    async def start_acquiring(self) -> None:
        """Start the capture."""
        self._task = asyncio.create_task(self._capture())

    async def _capture(self) -> None:
        for _ in range(self._triggers.n_frames):
            await asyncio.sleep(self._period_s)
            self._file.append()

    async def wait_for_idle(self) -> None:
        """Wait for the last position."""
        if self._task is not None:
            await self._task
            self._task = None

    async def ensure_stopped(self) -> None:
        """Stop the capture."""
        if self._task is not None:
            self._task.cancel()
            self._task = None


class PositionFile(DetectorDataLogic):
    """HDF5 file with one dataset for each motor, which readers may open while it grows."""

    def __init__(self, path: Path, positions: Mapping[str, NDArray[np.float64]]) -> None:
        self.n_written, self._set_written = soft_signal_r_and_setter(int)
        self._path = path
        self._positions = positions
        self._file: h5py.File | None = None
        self._n = 0

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        """Create the file, and return the provider of the documents."""
        self._file = h5py.File(self._path, "w", libver="latest")
        for name in self._positions:
            self._file.create_dataset(name, shape=(0,), maxshape=(None,), chunks=(64,), dtype="f8")
        self._file.swmr_mode = True
        infos = [
            StreamResourceInfo(
                data_key=name, shape=(), chunk_shape=(64,), dtype_numpy="<f8", parameters={"dataset": f"/{name}"}
            )
            for name in self._positions
        ]
        return StreamResourceDataProvider(f"file://localhost{self._path}", infos, HDF5, self.n_written)

    def append(self) -> None:
        """Write the next position of each motor."""
        assert self._file is not None
        for name, values in self._positions.items():
            dataset = self._file[name]
            dataset.resize(self._n + 1, axis=0)
            dataset[self._n] = values[self._n]
            dataset.flush()
        self._n += 1
        self._set_written(self._n)

    async def stop(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        """Return the motors."""
        return list(self._positions)


class PositionBox(StandardDetector):
    """Position-capture box as PandA: at each trigger it writes the positions of the motors into a file."""

    def __init__(
        self, path: Path, positions: Mapping[str, NDArray[np.float64]], period_s: float, name: str = "box"
    ) -> None:
        triggers = ExternalTriggers()
        file = PositionFile(path, positions)
        self.add_detector_logics(triggers, Capture(file, triggers, period_s), file)
        super().__init__(name=name)
