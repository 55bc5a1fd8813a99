"""Ophyd device whose trigger waits for the reconstruction of the run, so that a plan can decide by it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from cdi_stream.messages import Document
from cdi_stream_plugins.bluesky.curve_wait import CurveWait, Reading, Source, data_keys, readings
from cdi_stream_plugins.bluesky.results import ReconstructionResult

if TYPE_CHECKING:
    from ophyd.status import DeviceStatus


class Reconstruction:
    """Readable device: `trigger` waits for the next curve of the run, `read` gives its verdict and numbers.

    A result comes while the run is open, a few seconds after the last frame of the curve.  The readings are
    ``NAME_verdict``, ``NAME_chi2``, ``NAME_r_p``, ``NAME_size_x_nm`` (``y``, ``z``), ``NAME_strain_low``,
    ``NAME_strain_high``, ``NAME_uid``, ``NAME_path``, ``NAME_seconds`` and ``NAME_reasons``.  If no result comes in
    time the verdict is ``none``; no error is raised.

    Parameters
    ----------
    name
        Name of the device.
    source
        The `CdiStream` that the RunEngine is subscribed to, or the configuration file of the service, or the address of
        the document bus on which the service publishes (out side of the proxy, ``documents.subscribe``); with an
        address alone, messages have no prefix, are packed by msgpack, and need no keys.
    timeout_s
        Longest time to wait for a curve [s].

    Attributes
    ----------
    result
        Newest result.

    Examples
    --------
    >>> crystal = Reconstruction("crystal", "tcp://127.0.0.1:5578")  # doctest: +SKIP
    >>> RE(rocking_curve(eiger, theta, -0.3, 0.3, 61, reconstruction=crystal))  # doctest: +SKIP
    """

    parent = None

    def __init__(self, name: str, source: Source, timeout_s: float = 60.0) -> None:
        self.name = name
        self.result = ReconstructionResult()
        self._time_s = time.time()
        self._wait = CurveWait(source, timeout_s)

    @property
    def hints(self) -> dict[str, list[str]]:
        """Fields that bluesky shows in tables and plots."""
        return {"fields": [f"{self.name}_{field}" for field in ("verdict", "chi2")]}

    def trigger(self) -> DeviceStatus:
        """Wait for the next curve in a thread; the status is done when the result is there or the time is over."""
        from ophyd.status import DeviceStatus  # a profile of ophyd-async may not have it

        status = DeviceStatus(self)

        def wait() -> None:
            """Wait for the next result, and finish the status."""
            self.result, self._time_s = self._wait.next_result(), time.time()
            status.set_finished()

        threading.Thread(target=wait, name=f"{self.name} waits", daemon=True).start()
        return status

    def on_document(self, name: str, doc: Document) -> None:
        """Note the open run, whose crystal `trigger` waits for; `rocking_curve` subscribes this for its own run.

        A plan of another kind needs it if the documents reach the service from Tiled or over STOMP:
        ``RE.subscribe(crystal.on_document)``.
        """
        self._wait.on_document(name, doc)

    def read(self) -> OrderedDict[str, Reading]:
        """Return the readings of the newest result."""
        values = readings(self.name, self.result)
        return OrderedDict((key, {"value": value, "timestamp": self._time_s}) for key, value in values.items())

    def describe(self) -> OrderedDict[str, Reading]:
        """Return the descriptions of the readings, with units."""
        return OrderedDict(data_keys(self.name))

    def read_configuration(self) -> OrderedDict[str, Reading]:
        """Return the longest time to wait [s]."""
        return OrderedDict({f"{self.name}_timeout_s": {"value": self._wait.timeout_s, "timestamp": time.time()}})

    def describe_configuration(self) -> OrderedDict[str, Reading]:
        """Return the description of the configuration."""
        key = {"source": "cdi-stream:timeout_s", "dtype": "number", "shape": [], "units": "s"}
        return OrderedDict({f"{self.name}_timeout_s": key})

    def stop(self, *, success: bool = False) -> None:
        """End the wait, as the RunEngine does when a plan is aborted."""
        self._wait.stop()

    def close(self) -> None:
        """Close the connection to the bus."""
        self._wait.close()
