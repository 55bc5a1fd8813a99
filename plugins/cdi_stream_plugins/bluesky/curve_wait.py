"""The wait of a device for the result of its run: which run, which curve, and from where."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from cdi_stream.messages import Document
from cdi_stream_plugins.bluesky.bus_settings import BusSettings, bus_settings, documents_table
from cdi_stream_plugins.bluesky.results import UNITS, ReconstructionResult, ResultListener
from cdi_stream_plugins.bluesky.subscriber import CdiStream

Source = str | Path | CdiStream
"""Place of the results: configuration file of the service, the `CdiStream` that the RunEngine is subscribed to, or the
address of a bus without keys and prefix, with messages in msgpack."""


Reading = Mapping[str, object]
"""Reading or description of a data key, as bluesky takes it."""


class CurveWait:
    """Waits for the curves of the newest run: the n-th call of `next_result` waits for the n-th curve.

    The run is the open one of which `on_document` was told, else the newest one of the `CdiStream`, else the newest one
    on the bus.  Where documents come from Tiled or over STOMP, the bus carries results only; without `on_document` the
    next result counts.
    """

    def __init__(self, source: Source, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._subscriber = source if isinstance(source, CdiStream) else None
        self._listener = ResultListener(_bus_of(source))
        self._n_curves: dict[str | None, int] = {}
        self._open_run: str | None = None
        self._stopped = threading.Event()

    def next_result(self) -> ReconstructionResult:
        """Wait, and return the result; its verdict is ``none`` if the time is over or `stop` was called."""
        self._stopped.clear()
        uid = self._newest_run()
        index = self._n_curves.get(uid, 0)
        result = self._listener.results.wait(uid, index, self.timeout_s, self._stopped.is_set)
        self._n_curves = {uid: index + 1}
        return result

    def on_document(self, name: str, doc: Document) -> None:
        """Note the run that a start document opens, until its stop document."""
        if name == "start":
            self._open_run = str(doc["uid"])
        elif name == "stop" and doc.get("run_start") == self._open_run:
            self._open_run = None

    def stop(self) -> None:
        """End the wait."""
        self._stopped.set()
        self._listener.results.wake()

    def close(self) -> None:
        """Close the connection."""
        self.stop()
        self._listener.close()

    def _newest_run(self) -> str | None:
        if self._open_run is not None:
            return self._open_run
        return self._listener.results.newest_run if self._subscriber is None else self._subscriber.run_uid


def _bus_of(source: Source) -> BusSettings:
    """Return the settings of the bus on which the results of a source appear."""
    if isinstance(source, CdiStream):
        return source.bus
    if isinstance(source, Path) or source.endswith(".toml"):
        return bus_settings(documents_table(source))
    return BusSettings(results=source)


def readings(name: str, result: ReconstructionResult) -> dict[str, str | float]:
    """Return the values of a result by data key: the name of the device, and the name of the field."""
    return {f"{name}_{field}": value for field, value in asdict(result).items()}


def data_keys(name: str) -> dict[str, Reading]:
    """Return the descriptions of the data keys, as ``describe`` of a device gives them."""
    keys: dict[str, Reading] = {}
    for field, value in asdict(ReconstructionResult()).items():
        kind = {"dtype": "string"} if isinstance(value, str) else {"dtype": "number", "dtype_numpy": "<f8"}
        unit = {"units": UNITS[field]} if field in UNITS else {}
        keys[f"{name}_{field}"] = {"source": f"cdi-stream:{field}", "shape": [], **kind, **unit}
    return keys
