"""Trends of a series of one crystal: one event a scan, live for plots and as a run of its own for the archive."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp

from cdi_stream.messages import Document
from cdi_stream_plugins.bluesky.curve_wait import Reading, data_keys, readings
from cdi_stream_plugins.bluesky.results import ReconstructionResult
from cdi_stream_plugins.bluesky.run_uid import Plan

PLAN_NAME = "follow_crystal trends"
"""``plan_name`` in the start document of the run that holds the trends of a series."""

INDEX = "series_index"
"""Data key of the number of a scan in its series, from 0; start documents have the same key."""

HINTED = ("chi2", "size_x_nm", "size_y_nm", "size_z_nm", "strain_low", "strain_high")
"""Readings that bluesky's best-effort callback plots over the scans of a series."""

Subscriber = Callable[[str, Document], object]
"""Callback of bluesky, such as `bluesky.callbacks.LivePlot`."""


class SeriesTrends:
    """Callback of the RunEngine that makes one run of the readings of a whole series, while the series goes on.

    Subscribe it to the RunEngine, and bluesky's callbacks (`LivePlot`, `LiveTable`) to it.  Their x axis is
    ``series_index``.  `rows` holds the readings of the series so far.

    Parameters
    ----------
    name
        Name of the device `Reconstruction`.
    subscribers
        Callbacks that get the documents of the series.

    Examples
    --------
    >>> RE.subscribe(SeriesTrends("crystal", LivePlot("crystal_strain_high", "series_index")))  # doctest: +SKIP
    """

    def __init__(self, name: str, *subscribers: Subscriber) -> None:
        self.rows: list[dict[str, object]] = []
        self._name = name
        self._subscribers = subscribers
        self._index_of_run: dict[str, int] = {}
        self._run_of_descriptor: dict[str, str] = {}
        self._run = self._descriptor = ""

    def __call__(self, name: str, doc: Document) -> None:
        """Take one document of the RunEngine; documents of runs outside a series are left out."""
        match name:
            case "start" if isinstance(doc.get(INDEX), int):
                self._index_of_run = {doc["uid"]: doc[INDEX]}
                if doc[INDEX] == 0:
                    self._begin(doc)
            case "descriptor" if doc.get("run_start") in self._index_of_run and self._has_crystal(doc):
                self._run_of_descriptor = {doc["uid"]: doc["run_start"]}
                if not self._descriptor:
                    self._describe(doc)
            case "event" if doc.get("descriptor") in self._run_of_descriptor:
                self._add(self._run_of_descriptor[doc["descriptor"]], doc["data"])

    def close(self) -> None:
        """End the series for the subscribers; the next series ends the one before by itself."""
        if self._run:
            self._emit("stop", {"run_start": self._run, "exit_status": "success"})
        self._run = self._descriptor = ""

    def _has_crystal(self, descriptor: Document) -> bool:
        return f"{self._name}_verdict" in descriptor["data_keys"]

    def _begin(self, first: Document) -> None:
        """Begin a series; ``first`` is the start document of its first run."""
        self.close()
        self.rows = []
        known = {key: first[key] for key in ("scan_id", "plan_type") if key in first}
        self._run = self._emit("start", {**known, **_metadata(self._name, first["uid"])})

    def _describe(self, raw: Document) -> None:
        keys = {**raw["data_keys"], INDEX: _INDEX_KEY}
        self._descriptor = self._emit("descriptor", {"run_start": self._run, "name": "primary", "data_keys": keys})

    def _add(self, raw_uid: str, data: Mapping[str, object]) -> None:
        row = {INDEX: self._index_of_run[raw_uid], **data}
        self.rows.append(row)
        stamps = dict.fromkeys(row, time.time())
        event = {"descriptor": self._descriptor, "seq_num": len(self.rows), "data": row, "timestamps": stamps}
        self._emit("event", {**event, "filled": {}})

    def _emit(self, name: str, content: Mapping[str, object]) -> str:
        """Give a document to the subscribers; return its uid."""
        doc = {"uid": str(uuid.uuid4()), "time": time.time(), **content}
        for subscriber in self._subscribers:
            subscriber(name, doc)
        return str(doc["uid"])


class _Row:
    """Readable device whose readings are one scan of a series: the scan that `take` was given."""

    parent = None

    def __init__(self, name: str) -> None:
        self.name = name
        self._values: dict[str, str | float] = {}

    def take(self, index: int, result: ReconstructionResult) -> None:
        """Take the result of the scan of a number, from 0."""
        self._values = {INDEX: index, **readings(self.name, result)}

    @property
    def hints(self) -> dict[str, list[str]]:
        """Fields that bluesky shows in tables and plots."""
        return {"fields": [f"{self.name}_{field}" for field in HINTED]}

    def read(self) -> dict[str, Reading]:
        """Return the readings of the scan."""
        return {key: {"value": value, "timestamp": time.time()} for key, value in self._values.items()}

    def describe(self) -> dict[str, Reading]:
        """Return the descriptions of the readings, with units."""
        return {INDEX: _INDEX_KEY, **data_keys(self.name)}

    def read_configuration(self) -> dict[str, Reading]:
        """Return no readings: a scan has no configuration."""
        return {}

    def describe_configuration(self) -> dict[str, Reading]:
        """Return no descriptions: a scan has no configuration."""
        return {}


def trends_run(name: str, series_uid: str, results: Sequence[ReconstructionResult]) -> Plan:
    """Write the results of a series as one run, one event a scan, without moving anything.

    Parameters
    ----------
    name
        Name of the device `Reconstruction`; it begins the names of the readings.
    series_uid
        Uid of the first run of the series.
    results
        Results in the order of the scans.
    """

    def rows() -> Plan:
        """Write one event for each scan."""
        row = _Row(name)
        for index, result in enumerate(results):
            row.take(index, result)
            yield from bps.trigger_and_read([row], name="primary")

    yield from bpp.run_wrapper(rows(), md={**_metadata(name, series_uid), "num_points": len(results)})


_INDEX_KEY: Reading = {
    "source": f"cdi-stream:{INDEX}",
    "dtype": "integer",
    "dtype_numpy": "<i8",
    "shape": [],
}


def _metadata(name: str, series_uid: str) -> dict[str, object]:
    return {
        "plan_name": PLAN_NAME,
        "series_uid": series_uid,
        "detectors": [name],
        "motors": [INDEX],
        "hints": {"dimensions": [([INDEX], "primary")]},
    }
