"""Outgoing: the runs of ours that are open, and the way of their documents to bus and archives."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cdi_stream.affine import Shape
from cdi_stream.feed import result_message
from cdi_stream.live.announce import Announcer
from cdi_stream.live.journal import Journal
from cdi_stream.live.publish import ExitStatus, Provenance, Result, RunPublisher, reconstruction_identity
from cdi_stream.messages import CurveProgress, RunContext
from cdi_stream.protocols import Sink

logger = logging.getLogger(__name__)

CLOSE_LEFT_RUN = "stop of a run that was left open"

Item = tuple[str, Mapping[str, Any]]


class Archive:
    """Writes documents to the slower sinks, from one thread; one that is down takes nothing with it."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks
        self._waiting: queue.Queue[tuple[list[Item], Callable[[], None]] | None] = queue.Queue()

    def put(self, *items: Item) -> None:
        """Add documents, from any thread."""
        self._waiting.put((list(items), lambda: None))

    def put_run(self, items: list[Item], then: Callable[[], None]) -> None:
        """Add a whole run; ``then`` is called when every sink has it, which one may from an earlier service."""
        self._waiting.put((items, then))

    def end(self) -> None:
        """Let `run` return once everything before is written."""
        self._waiting.put(None)

    def run(self) -> None:
        """Write until the end."""
        while (waiting := self._waiting.get()) is not None:
            items, then = waiting
            try:
                written = [_write(sink, *item) for sink in self._sinks if not _has(sink, *items[0]) for item in items]
                if all(written):
                    then()
            except Exception:
                logger.exception("an archive is in trouble; the result files are kept")

    def close(self) -> None:
        """Close the sinks."""
        for sink in self._sinks:
            sink.close()


def _has(sink: Sink, name: str, doc: Mapping[str, Any]) -> bool:
    """Whether a sink has the whole run that this document starts; one that has a part of it forgets that part."""
    has_run = getattr(sink, "has_run", None)
    return name == "start" and has_run is not None and bool(has_run(doc["uid"]))


def _write(sink: Sink, name: str, doc: Mapping[str, Any]) -> bool:
    try:
        if name != CLOSE_LEFT_RUN:
            sink(name, doc)
        elif (close_run := getattr(sink, "close_run", None)) is not None:
            close_run(doc)
    except Exception:
        logger.exception("%s refused a %s document; the result files are kept", type(sink).__name__, name)
        return False
    return True


class Outgoing:
    """Safe to use from several threads; each raw run has one run of ours while it is open."""

    def __init__(
        self,
        provenance: Provenance,
        shapes: Mapping[str, Shape],
        directory: Path,
        journal: Journal,
        bus_sink: Sink,
        archive: Archive,
        announcer: Announcer,
    ) -> None:
        self._provenance = provenance
        self._shapes = shapes
        self._directory = directory
        self._journal = journal
        self._bus_sink = bus_sink
        self._archive = archive
        self._announcer = announcer
        self._lock = threading.RLock()
        self._publishers: dict[str, RunPublisher] = {}

    def open_runs(self) -> tuple[str, ...]:
        """Raw runs that a run of ours is open for."""
        return tuple(self._publishers)

    def uid_for(self, context: RunContext) -> str:
        """Uid of the run of ours for a raw run; it is opened if need be."""
        with self._lock:
            return self._publisher(context).uid

    def preview(self, progress: CurveProgress) -> None:
        """Publish how far a curve has come."""
        with self._lock:
            try:
                self._publisher(progress.run).preview(progress)
            except Exception:
                logger.exception("run %s: a preview cannot be published", progress.run.uid[:8])

    def result(self, context: RunContext, result: Result) -> None:
        """Write and publish one result; neither a full disk nor metadata that no schema allows ends the service."""
        with self._lock:
            publisher = self._publisher(context)
            try:
                publisher.result(result)
            except Exception:
                logger.exception("run %s: the %s cannot be published", context.uid[:8], result.stream)
        self._announcer.tell(
            result_message(
                stage=result.stream,
                run=context,
                run_uid=publisher.uid,
                curve_index=result.curve_index,
                crystal=result.crystal,
                verdict=result.verdict.grade,
                reasons=list(result.verdict.reasons),
                scalars={**result.scalars, "latency_s": time.monotonic() - result.complete_s},
            )
        )

    def close(self, raw_uid: str, exit_status: ExitStatus = "success", reason: str = "") -> None:
        """Publish the stop of our run for a raw one, if there is one."""
        with self._lock:
            publisher = self._publishers.pop(raw_uid, None)
            if publisher is not None:
                publisher.close(exit_status, reason)
                self._journal.run_ended(publisher.uid)

    def close_left_runs(self) -> None:
        """Tell everyone that runs whose service was killed will not go on."""
        for uid in self._journal.left_runs:
            stop = {
                "uid": f"{uid}-stop",
                "run_start": uid,
                "time": time.time(),
                "exit_status": "abort",
                "reason": "the service was killed",
                "num_events": {},
            }
            self._bus_sink("stop", stop)
            self._archive.put((CLOSE_LEFT_RUN, stop))
            self._journal.run_ended(uid)

    def _publisher(self, context: RunContext) -> RunPublisher:
        if context.uid not in self._publishers:
            attempt = self._journal.next_attempt(context.uid)
            identity = reconstruction_identity(context.uid, self._provenance.config_sha256, attempt)
            publisher = RunPublisher(context, self._provenance, self._shapes, self._directory, self._emit, identity)
            self._journal.run_began(publisher.uid, context.uid)
            self._publishers[context.uid] = publisher
        return self._publishers[context.uid]

    def _emit(self, name: str, doc: Mapping[str, Any]) -> None:
        self._bus_sink(name, doc)
        self._archive.put((name, doc))
