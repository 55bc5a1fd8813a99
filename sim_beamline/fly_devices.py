"""Simulated ophyd-async devices of a fly scan: a detector that streams its frames, a box that captures positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
from numpy.typing import NDArray
from ophyd_async.core import (
    DetectorDataLogic,
    StandardDetector,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
)

from sim_beamline.devices import DetectorClient
from sim_beamline.pulses import ExternalTriggers, Motion, PulsedAcquisition

HDF5 = "application/x-hdf5"


class GrowingFile(Protocol):
    """File that takes one more entry at each pulse."""

    def append(self) -> None:
        """Write the next entry."""


class StreamAcquisition(PulsedAcquisition):
    """Arms the simulated detector, and takes one frame at each pulse."""

    def __init__(self, client: DetectorClient, triggers: ExternalTriggers, motion: Motion) -> None:
        super().__init__(triggers, motion)
        self.client = client
        self.n_written, self._set_written = soft_signal_r_and_setter(int)
        self._n = 0

    def begin(self) -> None:
        """Arm the detector."""
        self.client.n_images = self.triggers.n_frames
        self.client.stage()

    def act(self) -> None:
        """Take a frame."""
        self.client.trigger()
        self._n += 1
        self._set_written(self._n)

    def end(self) -> None:
        """End the series."""
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

    def __init__(self, client: DetectorClient, path: Path, shape: tuple[int, int], motion: Motion, name: str) -> None:
        triggers = ExternalTriggers()
        acquisition = StreamAcquisition(client, triggers, motion)
        self.client = client
        self.add_detector_logics(triggers, acquisition, ImageFile(acquisition, path, shape))
        super().__init__(name=name)


class Capture(PulsedAcquisition):
    """Captures the next positions into the file at each pulse."""

    def __init__(self, file: GrowingFile, triggers: ExternalTriggers, motion: Motion) -> None:
        super().__init__(triggers, motion)
        self._file = file

    def act(self) -> None:
        """Write the next positions."""
        self._file.append()


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
        self, path: Path, positions: Mapping[str, NDArray[np.float64]], motion: Motion, name: str = "box"
    ) -> None:
        triggers = ExternalTriggers()
        file = PositionFile(path, positions)
        self.add_detector_logics(triggers, Capture(file, triggers, motion), file)
        super().__init__(name=name)
