"""Record of one raw Bluesky run: the documents that were received."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from cdi_stream.documents.positions import PositionPart
from cdi_stream.documents.readings import numbers_in, whole
from cdi_stream.messages import Document


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
        Number of documents that name data in other files which are not read (images, ophyd's Datum).
    streams_in_files
        Streams with data in other files; such a stream may have no events.
    positions
        Parts of position datasets that were not read so far, with their stream.
    is_start_received
        Whether the start document was received.  The first document of a publisher is easily lost; the run is then
        known by its descriptors.
    is_uid_known
        Whether a document named the uid of the run.  It is unknown while only events came, whose descriptor was lost.
    n_descriptors_lost
        Number of streams whose descriptor was lost and whose name was found by the number of their events.
    """

    uid: str
    start: Document
    received_s: float
    stop: Document | None = None
    stop_received_s: float | None = None
    events: dict[str, dict[int, Event]] = field(default_factory=dict)
    descriptors: dict[str, Document] = field(default_factory=dict)
    n_external: int = 0
    streams_in_files: set[str] = field(default_factory=set)
    positions: list[tuple[str, PositionPart]] = field(default_factory=list)
    is_start_received: bool = True
    is_uid_known: bool = True
    n_descriptors_lost: int = 0

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

    def add_positions(self, stream: str, part: PositionPart, values: Iterable[float]) -> None:
        """Add positions to the events of their points; they are read from a file, and tell no time."""
        if part.is_per_frame:
            stream = f"{stream}, each frame"
        events = self.events.setdefault(stream, {})
        for seq_num, value in enumerate(values, start=part.point):
            event = events.get(seq_num) or Event(
                seq_num=seq_num,
                time_s=None,
                received_s=part.received_s,
                readings={},
                arrays={},
                series=(),
                image_id=None,
            )
            events[seq_num] = replace(event, readings={**event.readings, part.key: value})

    @property
    def names_series(self) -> bool:
        """Whether an event names a series."""
        return any(event.series for _, events in self.streams for event in events.values())

    @property
    def is_aborted(self) -> bool:
        """Whether the exit status in the stop document is not ``success``."""
        return self.stop is not None and self.stop.get("exit_status", "success") != "success"

    def last_seq(self, stream: str) -> int:
        """Return the sequence number of the last event of a stream; 0 without one."""
        return max(self.events.get(stream, {}), default=0)

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
        of_events = {stream: n for stream, n in counts.items() if stream not in self.streams_in_files}
        return sum(max(0, (whole(n) or 0) - len(self.events.get(stream, {}))) for stream, n in of_events.items())
