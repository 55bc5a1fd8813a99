"""What the document bus tells of Bluesky runs, kept by run and by sequence number."""

from __future__ import annotations

import math
import numbers
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from event_model import unpack_event_page

from cdi_stream.errors import WireError

MAX_RUNS = 50

_NEEDED: dict[str, dict[str, type]] = {
    "start": {"uid": str},
    "descriptor": {"uid": str, "run_start": str},
    "event": {"descriptor": str, "seq_num": int, "data": Mapping},
    "stop": {"run_start": str},
}

_OPTIONAL: dict[str, dict[str, Any]] = {
    "start": {"time": (int, float), "scan_id": int, "data_groups": (list, tuple), "num_points": int},
    "descriptor": {"name": str, "data_keys": Mapping, "configuration": Mapping},
    "stop": {"time": (int, float), "num_events": Mapping},
}


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """Documents of one run as far as they have come; an event replaces an earlier one of its number."""

    uid: str
    start: Mapping[str, Any]
    stop: Mapping[str, Any] | None = None
    events: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)
    descriptors: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def units(self) -> dict[str, str]:
        """Units by data key, where the descriptors state them."""
        keys = [item for d in self.descriptors.values() for item in d.get("data_keys", {}).items()]
        return {name: key["units"] for name, key in keys if key.get("units")}

    @property
    def readings(self) -> dict[str, float]:
        """Numbers that hold for the whole run: device configuration, then the newest baseline."""
        found: dict[str, float] = {}
        for descriptor in self.descriptors.values():
            for device in descriptor.get("configuration", {}).values():
                found.update(numbers_in(device.get("data") or {}))
        for event in self.events.get("baseline", {}).values():
            found.update(numbers_in(event["data"]))
        return found

    def missing_events(self) -> int:
        """Events that the stop document counts and the bus did not bring; 0 while the run is open."""
        if self.stop is None:
            return 0
        counted = self.stop.get("num_events", {})
        return sum(max(0, n - len(self.events.get(stream, {}))) for stream, n in counted.items())


class RunBook:
    """Collects documents; the oldest runs are forgotten beyond `MAX_RUNS`."""

    def __init__(self) -> None:
        self.runs: OrderedDict[str, RunRecord] = OrderedDict()
        self.run_of_series: dict[Any, str] = {}
        self._run_of_descriptor: dict[str, tuple[str, str]] = {}

    def newest_open(self) -> str | None:
        """Uid of the newest run without a stop document."""
        return next((uid for uid, run in reversed(self.runs.items()) if run.stop is None), None)

    def on_document(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document; those of runs that were not seen to start, and our own, are left out.

        Raises
        ------
        WireError
            If the document lacks what its kind must have.
        """
        for key, kind in _NEEDED.get(name, {}).items():
            if not isinstance(doc.get(key), kind):
                raise WireError(f"{name} document: expected {key!r} of type {kind.__name__}, got {doc.get(key)!r:.60}")
        doc = _cleaned(name, doc)
        match name:
            case "start":
                self._start(doc)
            case "descriptor" if doc.get("run_start") in self.runs:
                record = self.runs[doc["run_start"]]
                record.descriptors[doc["uid"]] = doc
                self._run_of_descriptor[doc["uid"]] = (record.uid, doc.get("name", "primary"))
            case "event" if doc.get("descriptor") in self._run_of_descriptor:
                uid, stream = self._run_of_descriptor[doc["descriptor"]]
                self.runs[uid].events.setdefault(stream, {})[doc["seq_num"]] = doc
                if stream != "baseline":
                    self.run_of_series.update(dict.fromkeys(series_values(doc["data"]), uid))
            case "event_page":
                for event in _unpacked(doc):
                    self.on_document("event", event)
            case "stop" if doc.get("run_start") in self.runs:
                self.runs[doc["run_start"]].stop = doc

    def _start(self, doc: Mapping[str, Any]) -> None:
        if "original_run_uid" in doc or doc.get("analysis_stage") in ("reconstruction", "refinement"):
            return
        self.runs[doc["uid"]] = RunRecord(uid=doc["uid"], start=doc)
        while len(self.runs) > MAX_RUNS:
            over = (uid for uid, run in self.runs.items() if run.stop is not None)
            old = self.runs.pop(next(over, next(iter(self.runs))))
            for uid in old.descriptors:
                self._run_of_descriptor.pop(uid, None)
            self.run_of_series = {s: uid for s, uid in self.run_of_series.items() if uid != old.uid}


def series_values(data: Mapping[str, Any]) -> list[int | str]:
    """Series ids in the data of an event: readings whose names end so."""
    named = (value for key, value in data.items() if key.endswith(("series_id", "series")))
    return [value for value in named if isinstance(value, int | str)]


def _unpacked(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    try:
        return list(unpack_event_page(dict(page)))  # type: ignore[arg-type]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise WireError(f"event_page document cannot be unpacked: {error!r}") from error


def numbers_in(data: Mapping[str, Any]) -> dict[str, float]:
    """Readings that are numbers; NaN is one, so that a motor without a value is told by name later."""
    found = {key: _number(value) for key, value in data.items()}
    return {key: value for key, value in found.items() if value is not None}


def finite(value: Any) -> float | None:
    """Return a finite number, or None."""
    number = _number(value)
    return number if number is not None and math.isfinite(number) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _cleaned(name: str, doc: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out of a document what is not what its key says: nobody checks what comes on the bus."""
    kept = {key: value for key, value in doc.items() if isinstance(value, _OPTIONAL.get(name, {}).get(key, object))}
    if "data_groups" in kept:
        kept["data_groups"] = [group for group in kept["data_groups"] if isinstance(group, str)]
    if "num_events" in kept:
        kept["num_events"] = {k: n for k, n in kept["num_events"].items() if isinstance(n, int)}
    for key in ("data_keys", "configuration"):
        if key in kept:
            kept[key] = {str(k): v for k, v in kept[key].items() if isinstance(v, Mapping)}
    return kept
