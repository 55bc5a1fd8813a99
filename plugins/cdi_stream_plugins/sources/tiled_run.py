"""Documents of one run, made of what a Tiled server holds of it; each document is handed on once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cdi_stream.errors import WireError
from cdi_stream.messages import Document
from cdi_stream_plugins.sources.carrier import HandOn

_STREAM_NODE_ONLY = {"_config_updates"}
"""Keys of a stream's metadata in Tiled that are not part of a descriptor."""


@dataclass
class _Stream:
    """Descriptors of a stream that were handed on, sequence number and time [s] of its events, points in its files."""

    descriptors: list[dict[str, object]] = field(default_factory=list)
    seen: set[tuple[int, float]] = field(default_factory=set)
    n_in_files: dict[str, int] = field(default_factory=dict)


class TiledRun:
    """Documents of one run: start, descriptors, events and stop, each handed on once, in this order.

    The same metadata and rows may be given again and again, as happens after a lost connection.  An event is known by
    its sequence number and its time, because a RunEngine that goes back to a checkpoint uses sequence numbers again.

    Parameters
    ----------
    start
        Start document.
    hand_on
        Called with name and content of each new document.
    """

    def __init__(self, start: Document, hand_on: HandOn) -> None:
        self.uid = str(start["uid"])
        self._hand_on = hand_on
        self._streams: dict[str, _Stream] = {}
        self._is_stopped = False
        hand_on("start", start)

    def descriptors(self, stream: str, metadata: Document) -> None:
        """Hand on the descriptors in the metadata of a stream: the first one, and one for each new configuration."""
        known = self._streams.setdefault(stream, _Stream())
        for doc in _descriptors_in(metadata, stream, self.uid)[len(known.descriptors) :]:
            known.descriptors.append(doc)
            self._hand_on("descriptor", doc)

    def n_events(self, stream: str) -> int:
        """Return the number of events of a stream that were handed on."""
        return len(self._streams[stream].seen)

    def n_points(self, stream: str) -> int:
        """Return the number of sequence numbers of these events, as ``num_events`` in a stop document counts."""
        return len({seq_num for seq_num, _ in self._streams[stream].seen})

    def new_rows(self, stream: str, rows: Iterable[Document]) -> list[Document]:
        """Return the rows of a stream's table whose events were not handed on yet, each once.

        Raises
        ------
        WireError
            If a row has no sequence number or no time.
        """
        rows_by_event = {_event_of(row): row for row in rows}
        return [row for event, row in rows_by_event.items() if event not in self._streams[stream].seen]

    def array_keys(self, stream: str, row: Document) -> list[str]:
        """Return the data keys of arrays that Tiled stores outside the table: long ones, and arrays of text."""
        keys = self._data_keys(stream).items()
        arrays = [key for key, data_key in keys if data_key.get("dtype") == "array" and "external" not in data_key]
        return [key for key in arrays if key not in row]

    def events(self, stream: str, rows: Sequence[Document]) -> None:
        """Hand on the events of rows, if they are new."""
        for row in self.new_rows(stream, rows) if not self._is_stopped else ():
            self._streams[stream].seen.add(_event_of(row))
            self._hand_on("event", self._event(stream, row))

    def files(self, stream: str, key: str, node: Document) -> bool:
        """Hand on a StreamResource and StreamDatums for the points in files that a node of a data key names.

        Returns whether the values of the data key lie in files.  ``node`` holds the ``data_sources`` of Tiled.
        """
        data_key, sources = self._data_keys(stream).get(key, {}), node.get("data_sources")
        if "external" not in data_key or not sources or self._is_stopped:
            return False
        n_in_files, uid = self._streams[stream].n_in_files, f"{self.uid}/{stream}/{key}"
        if key not in n_in_files:
            n_in_files[key] = 0
            self._hand_on("stream_resource", {"uid": uid, "run_start": self.uid, **_resource(key, sources[0])})
        first, stop = n_in_files[key], _n_points(sources[0], data_key)
        if stop > first:
            n_in_files[key] = stop
            datum = {
                "uid": f"{uid}/{first}",
                "stream_resource": uid,
                "descriptor": self._streams[stream].descriptors[-1]["uid"],
                "indices": {"start": first, "stop": stop},
                "seq_nums": {"start": first + 1, "stop": stop + 1},
            }
            self._hand_on("stream_datum", datum)
        return True

    def stop(self, stop: Document) -> None:
        """Hand on the stop document; later events are left out."""
        self._is_stopped = True
        self._hand_on("stop", stop)

    def _event(self, stream: str, row: Document) -> Document:
        """Return the event of a row; its uid is made up, because Tiled keeps none."""
        descriptors = self._streams[stream].descriptors
        older = [doc for doc in descriptors if isinstance(doc.get("time"), float) and doc["time"] <= row["time"]]
        descriptor = (older or descriptors)[-1 if older else 0]["uid"]
        keys = [key for key in self._data_keys(stream) if key in row]
        return {
            "uid": f"{descriptor}/{row['seq_num']}",
            "descriptor": descriptor,
            "seq_num": row["seq_num"],
            "time": row["time"],
            "data": {key: row[key] for key in keys},
            "timestamps": {key: row[f"ts_{key}"] for key in keys if f"ts_{key}" in row},
            "filled": {},
        }

    def _data_keys(self, stream: str) -> Mapping[str, Document]:
        keys = self._streams[stream].descriptors[0].get("data_keys")
        return keys if isinstance(keys, Mapping) else {}


def _resource(key: str, source: Document) -> dict[str, object]:
    """Return what a StreamResource says of the files of a data key: media type, parameters, address of the first."""
    uris = [asset["data_uri"] for asset in source.get("assets") or ()]
    return {
        "data_key": key,
        "mimetype": source["mimetype"],
        "parameters": source["parameters"],
        "uri": uris[0] if uris else "",
    }


def _n_points(source: Document, data_key: Document) -> int:
    """Return the number of points in the files of a data key: Tiled stacks them, or joins them along the first axis."""
    shape, of_point = source["structure"]["shape"], list(data_key.get("shape") or [])
    is_stacked = not of_point or len(shape) == len(of_point) + 1
    return int(shape[0] if is_stacked else shape[0] // max(of_point[0] or 1, 1))


def _event_of(row: Document) -> tuple[int, float]:
    """Return sequence number and time [s] of a row."""
    seq_num, time_s = row.get("seq_num"), row.get("time")
    if not isinstance(seq_num, int) or not isinstance(time_s, int | float):
        raise WireError(f"expected a Tiled table with seq_num and time, got {seq_num!r:.40} and {time_s!r:.40}")
    return seq_num, float(time_s)


def _descriptors_in(metadata: Document, stream: str, run: str) -> list[dict[str, object]]:
    """Return the descriptors of a stream, oldest first; later ones differ in uid, time and configuration."""
    first = {key: value for key, value in metadata.items() if key not in _STREAM_NODE_ONLY}
    documents: list[dict[str, object]] = [{**first, "name": stream, "run_start": run}]
    for update in metadata.get("_config_updates") or ():
        before = documents[-1].get("configuration")
        configuration = dict(before) if isinstance(before, Mapping) else {}
        for device, new in (update.get("configuration") or {}).items():
            old = configuration.get(device, {})
            configuration[device] = {**old, **{key: {**old.get(key, {}), **value} for key, value in new.items()}}
        documents.append(
            {**documents[-1], "uid": update["uid"], "time": update["time"], "configuration": configuration}
        )
    return documents
