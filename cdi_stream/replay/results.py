"""Collect the documents of a replay from the bus, and summarise each curve."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from cdi_stream.config import Config
from cdi_stream.documents import bus
from cdi_stream.errors import ServiceError
from cdi_stream.files.recording import do_sums_agree
from cdi_stream.files.result_file import read_frame_sums
from cdi_stream.messages import Document, RecordedScan
from cdi_stream.processes import Processes

RESULT_TIMEOUT_S = 180.0
"""Longest time without a document before a replay fails [s]."""

SERVICE_TIMEOUT_S = 60.0
"""Longest time from the end of the replayed run to the first document of the service [s].

A service sends its progress every second.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a replay: points of the raw run, events of the reconstruction run, and its streams."""

    n_points: int
    n_events: int
    streams: tuple[str, ...]


@dataclass(slots=True)
class ReplayDocuments:
    """Documents of a replay on the bus.

    Other programs may use the bus.  The replayed run is recognised by its sample, and by ``replay_of`` or ``simulated``
    in its start document.
    """

    scan_name: str
    raw_uid: str | None = None
    our_uid: str | None = None
    n_points: int = 0
    raw_over_s: float | None = None
    is_over: bool = False
    streams: dict[str, str] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def take(self, name: str, doc: Document, now_s: float) -> None:
        """Assign one document to the replayed run or to the reconstruction run; ``now_s`` is monotonic time [s]."""
        run = doc.get("run_start")
        if name == "start":
            self._start(doc)
        elif name == "descriptor" and run is not None and run in (self.our_uid, self.raw_uid):
            self.streams[doc["uid"]] = ("raw " if run == self.raw_uid else "") + doc["name"]
        elif name == "event" and doc.get("descriptor") in self.streams:
            self._event(self.streams[doc["descriptor"]], doc)
        elif name == "stop" and run == self.raw_uid:
            self.raw_over_s = now_s
        elif name == "stop":
            self.is_over |= run == self.our_uid

    def _start(self, doc: Document) -> None:
        stage, is_replay = doc.get("analysis_stage"), "replay_of" in doc or "simulated" in doc
        if self.raw_uid is None and stage is None and is_replay and doc.get("sample") == self.scan_name:
            self.raw_uid = doc["uid"]
        elif self.raw_uid is not None and stage == "reconstruction" and doc.get("original_run_uid") == self.raw_uid:
            self.our_uid = doc["uid"]

    def _event(self, stream: str, doc: Document) -> None:
        self.n_points += stream == "raw primary"
        if not stream.startswith("raw "):
            plain = {key.removeprefix(f"{stream}_"): value for key, value in doc["data"].items()}
            self.events.setdefault(stream, []).append(plain)


def follow(
    listener: zmq.Socket[bytes],
    config: Config,
    children: Processes,
    scan_name: str,
    n_curves: int,
    report: Callable[[Progress], None],
) -> ReplayDocuments:
    """Return the documents of a replay, as soon as every curve has its reconstruction and the run has ended.

    Parameters
    ----------
    listener
        Socket that is subscribed to the document bus.
    config
        Configuration of the service.
    children
        Processes of the replay.
    scan_name
        Sample name in the replayed run.
    n_curves
        Number of curves.
    report
        Called with the progress at each document.

    Raises
    ------
    ServiceError
        If a process dies, if no service answers, or if no result comes in time.
    """
    documents, read = ReplayDocuments(scan_name), bus.reader(config.documents.serializer)
    last_s = time.monotonic()
    while not (documents.is_over and len(documents.events.get("reconstruction", [])) >= n_curves):
        children.check()
        for name, doc in bus.receive(listener, config.documents.prefix, read, timeout_ms=200):
            last_s = time.monotonic()
            documents.take(name, doc, last_s)
            n_events = {stream: len(events) for stream, events in documents.events.items()}
            report(Progress(n_points=documents.n_points, n_events=sum(n_events.values()), streams=tuple(n_events)))
        _require_progress(documents, time.monotonic(), last_s)
    return documents


def _require_progress(documents: ReplayDocuments, now_s: float, last_s: float) -> None:
    if documents.is_over and not documents.events.get("reconstruction"):
        raise ServiceError("the service closed its run without a reconstruction; see service.log")
    if (
        documents.our_uid is None
        and documents.raw_over_s is not None
        and now_s - documents.raw_over_s > SERVICE_TIMEOUT_S
    ):
        raise ServiceError(
            f"no service published anything of the run within {SERVICE_TIMEOUT_S:.0f} s of its end: does 'cdi-stream "
            "serve' run with this configuration?"
        )
    if now_s - last_s > RESULT_TIMEOUT_S:
        raise ServiceError(f"nothing on the document bus for {RESULT_TIMEOUT_S:.0f} s; see the logs in the folder")


def summary(documents: ReplayDocuments, index: int, scan: RecordedScan | None) -> dict[str, Any]:
    """Return the summary of one curve, the JSON output of the command ``replay``.

    Parameters
    ----------
    documents
        Documents of the replay.
    index
        Number of the curve.
    scan
        Replayed scan; its doubts enter the verdict.  None for a run from an archive.
    """
    events = {
        stream: _of_curve(stream_events, index)
        for stream, stream_events in documents.events.items()
        if stream in ("inference", "reconstruction")
    }
    result = events["reconstruction"]
    latency = {stream: event["latency_s"] for stream, event in events.items()}
    stages = {
        key.removeprefix("latency_").removesuffix("_s"): value
        for key, value in result.items()
        if key.startswith("latency_") and key != "latency_s"
    }
    names = ("expected", "received", "missing", "duplicate", "late", "bad")
    frames = {name: result[f"frames_{name}"] for name in names}
    doubts = () if scan is None else scan.doubts
    is_doubted = bool(doubts) and result["verdict"] == "good"
    return {
        **frames,
        "chi2": result["chi2"],
        "r_p": result["r_p"],
        "verdict": "doubtful" if is_doubted else result["verdict"],
        "reasons": [*doubts, *(reason for reason in result["reasons"].split(" | ") if reason)],
        "latency_s": {**latency, **stages},
        "size_lab_nm": [result[f"size_lab_{axis}_nm"] for axis in "xyz"],
        "raw_uid": documents.raw_uid,
        "reconstruction_uid": documents.our_uid,
        "file": result["file"],
        "frame_sums_match": None if scan is None else _frame_sums_match(Path(result["file"]), scan),
    }


def _of_curve(events: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """Return the event of a curve; raises `ServiceError` if the bus has lost it."""
    event = next((event for event in events if event["curve_index"] == index), None)
    if event is None:
        raise ServiceError(
            f"expected an event of curve {index}, got none: it was lost on the document bus; the result is in the "
            "results' folder"
        )
    return event


def _frame_sums_match(path: Path, scan: RecordedScan) -> bool | None:
    """Return whether all frames arrived with the sums on record, such as SPEC's ImageTot; None without such sums."""
    if scan.frame_sums is None:
        return None
    sums = read_frame_sums(path)
    if sums is None:
        return None
    return sums.shape == scan.frame_sums.shape and bool(do_sums_agree(sums, scan.frame_sums)[scan.has_frame].all())
