"""Book of the raw Bluesky runs, filled by their documents as these come.

Documents come from outside.  Each field that is used is checked here; other fields are not, so that unusual documents
of other devices stay usable.  A document that cannot be used raises `WireError`, whatever it contains.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.documents.own import is_own_descriptor, is_own_event, is_own_resource, is_own_start, is_own_stop
from cdi_stream.documents.positions import PositionPart, part_of, read_part
from cdi_stream.documents.readings import ReadingNames, arrays_in, finite, image_in, numbers_in, series_in, whole
from cdi_stream.documents.run_record import Event, RunRecord
from cdi_stream.errors import WireError
from cdi_stream.messages import Document

MAX_STOPPED = 50
"""Number of runs with a stop document that are kept."""

MAX_OPEN = 1000
"""Number of runs without a stop document that are kept: other programs may leave their runs open."""

MAX_UNKNOWN = 100
"""Number of runs of which only events came; events of further ones are only counted."""

MAX_RESOURCES = 2000
"""Number of StreamResource documents that are kept."""

MAX_UID = 200
"""Largest number of characters of a uid, which becomes part of file names and of documents."""

MAX_CLOCK_OFFSET_S = 86_400.0
"""Largest difference [s] between a document's time and this machine's clock; a larger one means a wrong clock."""

UNKNOWN = "unknown-"
"""Begin of the uid of a run of which only events came; the uid of their descriptor follows."""

NEW_RUN_KINDS = ("start", "descriptor")
"""Kinds of documents by which a run becomes known; only these can push an old run out of a `RunBook`."""

_NEEDED: dict[str, dict[str, type]] = {
    "start": {"uid": str},
    "descriptor": {"uid": str, "run_start": str},
    "event": {"descriptor": str, "data": Mapping},
    "event_page": {"descriptor": str, "seq_num": list, "data": Mapping},
    "stop": {"run_start": str},
}


class RunBook:
    """Records of the raw runs whose documents were received; the oldest runs are forgotten.

    The first documents of a run may be lost.  Events without a descriptor make a run of their own, with a uid that
    begins with `UNKNOWN`; the stop document, or a late descriptor, tells to which run they belong.

    ``runs`` holds the records by uid, ``pinned`` the uids of runs that must not be forgotten.  ``orphans`` counts, by
    kind, documents of unknown runs that could not be used.

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
        self._later_uids: dict[str, str] = {}
        self._resources: OrderedDict[str, Document] = OrderedDict()
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

    @property
    def uids(self) -> set[str]:
        """Uids of all runs, and the earlier uids of runs whose own uid came later."""
        return {*self.runs, *self._later_uids}

    def uid_now(self, uid: str) -> str:
        """Return the uid of a run that may have had another uid before its own was known."""
        return self._later_uids.get(uid, uid)

    def name_unknown(self, run: RunRecord, uid: str) -> None:
        """Give a run of which only events came the uid by which the detector's ``user_data`` names it."""
        named = self._known_or_new(uid, run.received_s)
        self._move_events(run, named, "primary")
        named.n_descriptors_lost += 1

    def read_positions(self, run: RunRecord) -> str | None:
        """Read the positions that a run's documents name; return why some cannot be read so far, None if all were."""
        left: list[tuple[str, PositionPart]] = []
        problem = None
        for stream, part in run.positions:
            try:
                values = read_part(part)
            except (OSError, KeyError, ValueError) as error:
                values, problem = np.zeros(0), f"{part.path} {part.dataset}: {error!s:.200}"
            run.add_positions(stream, part, values.tolist())
            if len(values) < part.stop - part.first:
                problem = problem or f"{part.path} {part.dataset}: {len(values)} of {part.stop - part.first} positions"
                left.append((stream, part))
        run.positions[:] = left
        return problem

    def runs_naming(self, series: str) -> list[RunRecord]:
        """Return the runs whose events name a series, oldest first."""
        return [self.runs[uid] for uid in self._runs_of_series.get(series, ()) if uid in self.runs]

    def on_document(self, name: str, doc: Document, received_s: float | None = None) -> str | None:
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

    def _take(self, name: str, doc: Document, received_s: float) -> str | None:
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
                return self._external(name, doc, received_s)
        return None

    def _start(self, doc: Document, received_s: float) -> str | None:
        """Take a start document; runs of this service are left out."""
        if is_own_start(doc):
            return None
        if not _is_uid(doc["uid"]):
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

    def _descriptor(self, doc: Document, received_s: float) -> str | None:
        """Take a descriptor; an unknown run becomes known by it, because its start document may be lost."""
        if doc["run_start"] not in self.runs and (is_own_descriptor(doc) or not _is_uid(doc["run_start"])):
            return None
        record = self._known_or_new(doc["run_start"], received_s)
        name = doc["name"] if isinstance(doc.get("name"), str) else "primary"
        if (early := self.runs.get(UNKNOWN + doc["uid"])) is not None:
            self._move_events(early, record, name)
        kept = {key: doc[key] if isinstance(doc.get(key), Mapping) else {} for key in ("data_keys", "configuration")}
        record.descriptors[doc["uid"]] = kept
        self._run_of_descriptor[doc["uid"]] = (record.uid, name)
        return record.uid

    def _event(self, doc: Document, received_s: float) -> str | None:
        """Take an event; an event of an unknown descriptor opens a run of its own."""
        is_known = doc["descriptor"] in self._run_of_descriptor
        if not is_known and is_own_event(doc):
            return None
        seq_num = whole(doc.get("seq_num"))
        if seq_num is None or seq_num < 0 or isinstance(doc["seq_num"], bool):
            raise WireError(f"event document: expected a seq_num from 0 on, got {doc.get('seq_num')!r:.60}")
        if not is_known and len(self._unknown()) >= MAX_UNKNOWN:
            self.orphans["event"] += 1
            return None
        if not is_known:
            self._open_unknown(doc["descriptor"], received_s)
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

    def _stop(self, doc: Document, received_s: float) -> str | None:
        counts = doc["num_events"] if isinstance(doc.get("num_events"), Mapping) else {}
        is_raw = _is_uid(doc["run_start"]) and not is_own_stop(counts)
        streams = self._streams_of_unknown(doc["run_start"], counts) if is_raw else {}
        for stream, early in streams.items():
            run = self._known_or_new(doc["run_start"], early.received_s)
            self._move_events(early, run, stream)
            run.n_descriptors_lost += 1
        record = self.runs.get(doc["run_start"])
        if record is None:
            self.orphans["stop"] += is_raw
            return None
        if record.stop is not None:
            return record.uid
        record.stop = {**doc, "num_events": counts}
        record.stop_received_s = received_s
        self._note_lag(doc, received_s)
        return record.uid

    def _known_or_new(self, uid: str, received_s: float) -> RunRecord:
        """Return the record of a run; without a start document so far, the run becomes known now."""
        if uid not in self.runs:
            self.runs[uid] = RunRecord(uid=uid, start={"uid": uid}, received_s=received_s, is_start_received=False)
            self._forget_old()
        return self.runs[uid]

    def _open_unknown(self, descriptor: str, received_s: float) -> None:
        """Open a run for the events of a descriptor that was not received."""
        if not _is_uid(descriptor):
            raise WireError(f"event document: expected the uid of a descriptor, got {descriptor!r:.60}")
        uid = UNKNOWN + descriptor
        record = RunRecord(uid=uid, start={"uid": uid}, received_s=received_s, is_start_received=False)
        record.is_uid_known = False
        record.descriptors[descriptor] = {"data_keys": {}, "configuration": {}}
        self.runs[uid] = record
        self._run_of_descriptor[descriptor] = (uid, "primary")

    def _streams_of_unknown(self, uid: str, counts: Mapping[str, Any]) -> dict[str, RunRecord]:
        """Return the unknown runs that are streams of run ``uid``, by stream.

        ``counts`` are the numbers of events in its stop document.  A stream whose descriptor was not received is, of
        the unknown runs with at most as many events, the one with the most.
        """
        known = self.runs.get(uid)
        names = set() if known is None else {self._run_of_descriptor.get(d, ("", ""))[1] for d in known.descriptors}
        lost = {name: n for name, value in counts.items() if name not in names and (n := whole(value))}
        unknown = sorted(self._unknown(), key=_n_events, reverse=True)
        streams: dict[str, RunRecord] = {}
        for name, n in sorted(lost.items(), key=lambda item: item[1], reverse=True):
            fitting = next((k for k, record in enumerate(unknown) if _n_events(record) <= n), None)
            if fitting is not None:
                streams[name] = unknown.pop(fitting)
        return streams

    def _unknown(self) -> list[RunRecord]:
        """Return the runs of which only events came."""
        return [record for record in self.runs.values() if not record.is_uid_known]

    def _move_events(self, early: RunRecord, record: RunRecord, stream: str) -> None:
        """Move the events of an unknown run into the run to which they belong."""
        record.events.setdefault(stream, {}).update(early.events.get("primary", {}))
        record.descriptors |= early.descriptors
        self._run_of_descriptor |= dict.fromkeys(early.descriptors, (record.uid, stream))
        self._later_uids[early.uid] = record.uid
        del self.runs[early.uid]
        for series, uids in self._runs_of_series.items():
            own = [record.uid] if early.uid in uids and stream != "baseline" else []
            self._runs_of_series[series] = list(dict.fromkeys([uid for uid in uids if uid != early.uid] + own))

    def _external(self, name: str, doc: Document, received_s: float) -> str | None:
        """Take a document that names data in another file: positions are read later, other data are counted."""
        if name == "stream_resource" and isinstance(doc.get("uid"), str):
            self._resources[doc["uid"]] = doc
            while len(self._resources) > MAX_RESOURCES:
                self._resources.popitem(last=False)
        descriptor = str(doc.get("descriptor"))
        uid, stream = self._run_of_descriptor.get(descriptor, (str(doc.get("run_start")), ""))
        record = self.runs.get(uid)
        resource = self._resources.get(str(doc.get("stream_resource")), {})
        if record is None:
            self.orphans[name] += "descriptor" in doc and not is_own_resource(resource)
            return None
        if name in ("stream_datum", "datum"):
            record.streams_in_files.add(stream)
            data_keys = record.descriptors.get(descriptor, {}).get("data_keys", {})
            part = part_of(resource, doc, data_keys, received_s) if name == "stream_datum" else None
            if part is None:
                record.n_external += 1
            else:
                record.positions.append((stream, part))
        return uid

    def _note_lag(self, doc: Document, received_s: float) -> None:
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
        self._later_uids = {early: later for early, later in self._later_uids.items() if later != uid}
        named = {series: [other for other in uids if other != uid] for series, uids in self._runs_of_series.items()}
        self._runs_of_series = {series: uids for series, uids in named.items() if uids}


def _is_uid(text: str) -> bool:
    """Whether a text can be a uid, which becomes part of file names."""
    return text.isprintable() and 0 < len(text) <= MAX_UID


def _n_events(unknown: RunRecord) -> int:
    """Return the number of events that an unknown run has at least."""
    return unknown.last_seq("primary")


def _densest(ordered: NDArray[np.float64]) -> float:
    """Return the beginning of the shortest interval that holds half of the values; ``ordered`` is ascending."""
    n = len(ordered) // 2 + 1
    widths = ordered[n - 1 :] - ordered[: len(ordered) - n + 1]
    return float(ordered[int(np.argmin(widths))])


def _time_of(doc: Document, received_s: float) -> float | None:
    """Return the time in a document [s since the epoch]; None if it differs by more than `MAX_CLOCK_OFFSET_S`."""
    sent_s = finite(doc.get("time"))
    return sent_s if sent_s is not None and abs(received_s - sent_s) < MAX_CLOCK_OFFSET_S else None


def _events_of_page(page: Document) -> Iterator[dict[str, Any]]:
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
