"""Records of raw Bluesky runs, filled by their documents as these come.

Documents come from outside.  Each field that is used is checked here; other fields are not, so that unusual documents
of other devices stay usable.  A document that cannot be used raises `WireError`, whatever it contains.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.documents.readings import ReadingNames, arrays_in, finite, image_in, numbers_in, series_in, whole
from cdi_stream.errors import WireError

MAX_STOPPED = 50
"""Number of runs with a stop document that are kept."""

MAX_OPEN = 1000
"""Number of runs without a stop document that are kept: other programs may leave their runs open."""

MAX_UID = 200
"""Largest number of characters of a uid, which becomes part of file names and of documents."""

MAX_CLOCK_OFFSET_S = 86_400.0
"""Largest difference [s] between a document's time and this machine's clock; a larger one means a wrong clock."""

NEW_RUN_KINDS = ("start", "descriptor")
"""Kinds of documents by which a run becomes known; only these can push an old run out of a `RunBook`."""

_NEEDED: dict[str, dict[str, type]] = {
    "start": {"uid": str},
    "descriptor": {"uid": str, "run_start": str},
    "event": {"descriptor": str, "data": Mapping},
    "event_page": {"descriptor": str, "seq_num": list, "data": Mapping},
    "stop": {"run_start": str},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Values of an event document that are used.

    Parameters
    ----------
    seq_num
        Sequence number in the stream.
    time_s
        Time in the document [s since the epoch, clock of the sender]; None if missing or impossible.
    received_s
        Time of receipt [s since the epoch, clock of this machine].
    readings, arrays
        Single numbers, and lists of numbers, by data key.
    series
        Ids of the series that the event names.
    image_id
        Id of the image that the event names.
    """

    seq_num: int
    time_s: float | None
    received_s: float
    readings: Mapping[str, float]
    arrays: Mapping[str, tuple[float, ...]]
    series: tuple[str, ...]
    image_id: int | None


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """Documents of one run that were received; a repeated event replaces the earlier one of its sequence number.

    Parameters
    ----------
    uid
        Uid of the run.
    start, stop
        Start and stop document; ``stop`` is None while the run is open.
    received_s, stop_received_s
        Times of receipt of the first document and of the stop document [s since the epoch, clock of this machine].
    events
        By stream and sequence number.
    descriptors
        By uid.
    n_external
        Number of documents that name data in other files (StreamDatum, Datum).
    is_start_received
        Whether the start document was received.  The first document of a publisher is easily lost; the run is then
        known by its descriptors.
    """

    uid: str
    start: Mapping[str, Any]
    received_s: float
    stop: Mapping[str, Any] | None = None
    stop_received_s: float | None = None
    events: dict[str, dict[int, Event]] = field(default_factory=dict)
    descriptors: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    n_external: int = 0
    is_start_received: bool = True

    @property
    def units(self) -> dict[str, str]:
        """Units by data key, as far as the descriptors state them."""
        keys = [item for d in self.descriptors.values() for item in d["data_keys"].items()]
        return {str(name): str(key["units"]) for name, key in keys if isinstance(key, Mapping) and key.get("units")}

    @property
    def readings(self) -> dict[str, float]:
        """Numbers of the whole run by data key: configuration of the devices, overwritten by the newest baseline."""
        readings: dict[str, float] = {}
        for descriptor in self.descriptors.values():
            for device in descriptor["configuration"].values():
                if isinstance(device, Mapping) and isinstance(data := device.get("data"), Mapping):
                    readings.update(numbers_in(data))
        for _, event in sorted(self.events.get("baseline", {}).items()):
            readings.update(event.readings)
        return readings

    @property
    def streams(self) -> Iterator[tuple[str, dict[int, Event]]]:
        """Names and events of the streams, without the baseline; ``primary`` comes first."""
        names = sorted((name for name in self.events if name != "baseline"), key=lambda name: (name != "primary", name))
        return ((name, self.events[name]) for name in names)

    @property
    def is_aborted(self) -> bool:
        """Whether the exit status in the stop document is not ``success``."""
        return self.stop is not None and self.stop.get("exit_status", "success") != "success"

    def last_named_s(self, series: str) -> float:
        """Return the time of receipt of the last event that names a series [s since the epoch]; -inf without one."""
        events = (event for _, stream in self.streams for event in stream.values())
        return max((event.received_s for event in events if series in event.series), default=-np.inf)

    def n_received(self, stream: str, since_s: float) -> int:
        """Return the number of events of a stream that were received since ``since_s`` [s since the epoch]."""
        return sum(event.received_s >= since_s for event in self.events.get(stream, {}).values())

    def n_events_counted(self, stream: str) -> int | None:
        """Return the number of events of a stream that the stop document states; None if it states none."""
        counts = {} if self.stop is None else self.stop["num_events"]
        return whole(counts.get(stream))

    def missing_events(self) -> int:
        """Return the number of events that the stop document counts but that were not received."""
        counts = {} if self.stop is None else self.stop["num_events"]
        return sum(max(0, (whole(n) or 0) - len(self.events.get(stream, {}))) for stream, n in counts.items())


class RunBook:
    """Records of the raw runs whose documents were received; the oldest runs are forgotten.

    ``runs`` holds the records by uid, ``pinned`` the uids of runs that must not be forgotten.  ``orphans`` counts, by
    kind, documents whose run is unknown because its first documents were lost.

    Parameters
    ----------
    wall_clock
        Time [s since the epoch].
    names
        Ends of the data keys that name a series and an image.
    """

    def __init__(self, wall_clock: Callable[[], float], names: ReadingNames | None = None) -> None:
        self.runs: OrderedDict[str, RunRecord] = OrderedDict()
        self.pinned: set[str] = set()
        self.orphans: Counter[str] = Counter()
        self._wall_clock = wall_clock
        self._names = names or ReadingNames()
        self._runs_of_series: dict[str, list[str]] = {}
        self._run_of_descriptor: dict[str, tuple[str, str]] = {}
        self._lags_s: deque[float] = deque(maxlen=500)
        self._offset_s: float | None = 0.0

    @property
    def clock_offset_s(self) -> float:
        """Time [s] to add to the time in a document to have it by the clock of this machine.

        It is the delay between a document's time and its receipt on which most documents agree: documents with a wrong
        time, and documents that came late, for example after a pause of the bus, do not change it.
        """
        if self._offset_s is None:
            self._offset_s = _densest(np.sort(self._lags_s)) if self._lags_s else 0.0
        return self._offset_s

    def newest_open(self) -> str | None:
        """Return the uid of the newest run without a stop document."""
        return next((uid for uid, run in reversed(self.runs.items()) if run.stop is None), None)

    def runs_naming(self, series: str) -> list[RunRecord]:
        """Return the runs whose events name a series, oldest first."""
        return [self.runs[uid] for uid in self._runs_of_series.get(series, ()) if uid in self.runs]

    def on_document(self, name: str, doc: Mapping[str, Any], received_s: float | None = None) -> str | None:
        """Take one document; return the uid of its run, None if the document is left out.

        Documents of this service's own runs, and of unknown runs, are left out.  ``received_s`` is the time of receipt
        [s since the epoch]; None means now.

        Raises
        ------
        WireError
            If the document cannot be used.
        """
        try:
            return self._take(name, doc, self._wall_clock() if received_s is None else received_s)
        except WireError:
            raise
        except Exception as error:  # no document may end the thread that reads the bus
            raise WireError(f"{name} document cannot be used: {error!r:.200}") from error

    def _take(self, name: str, doc: Mapping[str, Any], received_s: float) -> str | None:
        """Check the fields that are needed, and pass the document on by its kind."""
        for key, kind in _NEEDED.get(name, {}).items():
            if not isinstance(doc.get(key), kind):
                raise WireError(f"{name} document: expected {key!r} of type {kind.__name__}, got {doc.get(key)!r:.60}")
        match name:
            case "start":
                return self._start(doc, received_s)
            case "descriptor":
                return self._descriptor(doc, received_s)
            case "event":
                return self._event(doc, received_s)
            case "event_page":
                uids = [self._event(event, received_s) for event in _events_of_page(doc)]
                return uids[-1] if uids else None
            case "stop":
                return self._stop(doc, received_s)
            case "stream_datum" | "datum" | "datum_page" | "stream_resource" | "resource":
                return self._external(name, doc)
        return None

    def _start(self, doc: Mapping[str, Any], received_s: float) -> str | None:
        """Take a start document; runs of this service are left out."""
        if "original_run_uid" in doc or doc.get("analysis_stage") in ("reconstruction", "refinement", "arrays"):
            return None
        if not doc["uid"].isprintable() or not 0 < len(doc["uid"]) <= MAX_UID:
            raise WireError(
                f"start document: expected a uid of at most {MAX_UID} printable letters, got {doc['uid']!r:.60}"
            )
        record = self.runs.get(doc["uid"])
        if record is None:
            self._note_lag(doc, received_s)
            self.runs[doc["uid"]] = RunRecord(uid=doc["uid"], start=dict(doc), received_s=received_s)
            self._forget_old()
        elif not record.is_start_received:  # the start document came late; a repeated one changes nothing
            record.start, record.is_start_received = dict(doc), True
        return str(doc["uid"])

    def _descriptor(self, doc: Mapping[str, Any], received_s: float) -> str | None:
        """Take a descriptor; an unknown run becomes known by it, because its start document may be lost."""
        if doc["run_start"] not in self.runs:
            if _is_own(doc) or not doc["run_start"].isprintable() or len(doc["run_start"]) > MAX_UID:
                return None
            uid = str(doc["run_start"])
            self.runs[uid] = RunRecord(uid=uid, start={"uid": uid}, received_s=received_s, is_start_received=False)
            self._forget_old()
        record = self.runs[doc["run_start"]]
        name = doc.get("name", "primary")
        kept = {key: doc[key] if isinstance(doc.get(key), Mapping) else {} for key in ("data_keys", "configuration")}
        record.descriptors[doc["uid"]] = kept
        self._run_of_descriptor[doc["uid"]] = (record.uid, name if isinstance(name, str) else "primary")
        return record.uid

    def _event(self, doc: Mapping[str, Any], received_s: float) -> str | None:
        """Take an event; an event of an unknown descriptor only counts."""
        if doc["descriptor"] not in self._run_of_descriptor:
            self.orphans["event"] += 1
            return None
        seq_num = whole(doc.get("seq_num"))
        if seq_num is None or seq_num < 0 or isinstance(doc["seq_num"], bool):
            raise WireError(f"event document: expected a seq_num from 0 on, got {doc.get('seq_num')!r:.60}")
        uid, stream = self._run_of_descriptor[doc["descriptor"]]
        self._note_lag(doc, received_s)
        data = doc["data"]
        event = Event(
            seq_num=seq_num,
            time_s=_time_of(doc, received_s),
            received_s=received_s,
            readings=numbers_in(data),
            arrays=arrays_in(data),
            series=series_in(data, self._names),
            image_id=image_in(data, self._names),
        )
        self.runs[uid].events.setdefault(stream, {})[seq_num] = event
        for series in event.series if stream != "baseline" else ():
            named = self._runs_of_series.setdefault(series, [])
            if uid not in named:
                named.append(uid)
        return uid

    def _stop(self, doc: Mapping[str, Any], received_s: float) -> str | None:
        record = self._record(doc["run_start"], "stop")
        if record is None or record.stop is not None:
            return None if record is None else record.uid
        counts = doc.get("num_events")
        record.stop = {**doc, "num_events": counts if isinstance(counts, Mapping) else {}}
        record.stop_received_s = received_s
        self._note_lag(doc, received_s)
        return record.uid

    def _external(self, name: str, doc: Mapping[str, Any]) -> str | None:
        """Count a document that names data in another file, which is not read."""
        descriptor = doc.get("descriptor")
        uid = self._run_of_descriptor.get(descriptor, (None, ""))[0] if isinstance(descriptor, str) else None
        uid = uid or str(doc.get("run_start"))
        if uid in self.runs:
            self.runs[uid].n_external += name in ("stream_datum", "datum")
            return None
        self.orphans[name] += descriptor is not None
        return None

    def _record(self, uid: str, kind: str) -> RunRecord | None:
        if uid not in self.runs:
            self.orphans[kind] += 1
        return self.runs.get(uid)

    def _note_lag(self, doc: Mapping[str, Any], received_s: float) -> None:
        sent_s = _time_of(doc, received_s)
        if sent_s is not None:
            self._lags_s.append(received_s - sent_s)
            self._offset_s = None

    def _forget_old(self) -> None:
        """Forget the oldest runs beyond `MAX_STOPPED` and `MAX_OPEN`, except pinned ones."""
        for is_open, limit in ((False, MAX_STOPPED), (True, MAX_OPEN)):
            of_kind = [uid for uid, run in self.runs.items() if (run.stop is None) == is_open]
            for uid in [uid for uid in of_kind if uid not in self.pinned][: max(0, len(of_kind) - limit)]:
                self._forget(uid)

    def _forget(self, uid: str) -> None:
        for descriptor in self.runs.pop(uid).descriptors:
            self._run_of_descriptor.pop(descriptor, None)
        named = {series: [other for other in uids if other != uid] for series, uids in self._runs_of_series.items()}
        self._runs_of_series = {series: uids for series, uids in named.items() if uids}


def _is_own(descriptor: Mapping[str, Any]) -> bool:
    """Whether a descriptor belongs to a run of this service, by the sources of its data."""
    keys = descriptor.get("data_keys")
    sources = (
        [key.get("source") for key in keys.values() if isinstance(key, Mapping)] if isinstance(keys, Mapping) else []
    )
    return any(isinstance(source, str) and source.startswith("cdi_stream:") for source in sources)


def _densest(ordered: NDArray[np.float64]) -> float:
    """Return the beginning of the shortest interval that holds half of the values; ``ordered`` is ascending."""
    n = len(ordered) // 2 + 1
    widths = ordered[n - 1 :] - ordered[: len(ordered) - n + 1]
    return float(ordered[int(np.argmin(widths))])


def _time_of(doc: Mapping[str, Any], received_s: float) -> float | None:
    """Return the time in a document [s since the epoch]; None if it differs by more than `MAX_CLOCK_OFFSET_S`."""
    sent_s = finite(doc.get("time"))
    return sent_s if sent_s is not None and abs(received_s - sent_s) < MAX_CLOCK_OFFSET_S else None


def _events_of_page(page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of an event page; if a column is too short, its last events lack that reading."""
    columns = {str(key): column for key, column in page["data"].items() if isinstance(column, list)}
    if len(columns) < len(page["data"]):
        raise WireError("event_page document: expected each column of the data to be a list")
    column_of_times = page.get("time")
    times = column_of_times if isinstance(column_of_times, list) else []
    for k, seq_num in enumerate(page["seq_num"]):
        data = {key: column[k] for key, column in columns.items() if k < len(column)}
        yield {
            "descriptor": page["descriptor"],
            "seq_num": seq_num,
            "time": times[k] if k < len(times) else None,
            "data": data,
        }
