"""Outgoing: the open runs of this service, whose results go to disk, spool and bus."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cdi_stream.alarms import Alarms
from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.documents.publish import (
    PREVIEW,
    ExitStatus,
    Identity,
    Provenance,
    Published,
    RunPublisher,
    derived_uid,
    reconstruction_identity,
    start_values,
)
from cdi_stream.documents.spool import Item, Spool
from cdi_stream.geometry.affine import Shape
from cdi_stream.messages import CurveProgress, Document, Result, RunContext
from cdi_stream.operators.announce import Announcer
from cdi_stream.operators.feed import result_message

logger = logging.getLogger(__name__)

ARRAYS_WAIT_S = 60.0
"""Time [s] that a run stays open while the disk is full; arrays written later are published in a run of their own."""

MAX_PENDING = 20
"""Number of results whose arrays are kept in memory while the disk is full; the arrays of older results are lost."""


class _Publisher:
    """Publisher of one run of this service, and the documents of the run that are not in the spool yet."""

    def __init__(
        self,
        context: RunContext,
        provenance: Provenance,
        shapes: Mapping[str, Shape],
        directory: Path,
        identity: Identity,
    ) -> None:
        self.run = RunPublisher(context, provenance, shapes, directory, self._compose, identity)
        self._composed: list[Item] = []

    @property
    def uid(self) -> str:
        """Uid of the run."""
        return self.run.uid

    def take(self) -> list[Item]:
        """Return the documents that are not in the spool yet, and forget them."""
        items, self._composed = self._composed, []
        return items

    def drop_half(self) -> None:
        """Delete the documents of an event that failed half-way; start document and descriptors are kept."""
        self._composed = [(name, doc) for name, doc in self._composed if name in ("start", "descriptor")]

    def _compose(self, name: str, doc: Document) -> None:
        self._composed.append((name, doc))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A result whose event is published and whose arrays are not on disk."""

    context: RunContext
    publisher: _Publisher
    result: Result
    published: Published


@dataclass(slots=True, kw_only=True)
class _Closing:
    """A run whose stop document waits for arrays since ``since_s`` (monotonic) [s]."""

    publisher: _Publisher
    exit_status: ExitStatus
    reason: str
    since_s: float


MAX_PLOTTED = 5000
"""Largest number of frames whose counts go to the operators' pages."""


class Outgoing:
    """Open runs of this service, one for each raw run.  Safe to use from several threads.

    Parameters
    ----------
    provenance
        Origin of the results, written into each start document.
    shapes
        Shape of the arrays of each stream.
    results
        Folder of the result files of each run.
    spool
        Takes the documents.
    push
        Called when new documents are in the spool.
    announcer
        Sends the results to the operators' pages.
    alarms
        Alarms of the service.
    clock
        Monotonic time [s].
    done
        Called with the key of a curve whose reconstruction is published with its arrays.
    """

    def __init__(
        self,
        provenance: Provenance,
        shapes: Mapping[str, Shape],
        results: ResultFolder,
        spool: Spool,
        push: Callable[[], None],
        announcer: Announcer,
        alarms: Alarms | None = None,
        clock: Callable[[], float] = time.monotonic,
        done: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._done = done
        self._provenance = provenance
        self._shapes = shapes
        self._results = results
        self._spool = spool
        self._push = push
        self._announcer = announcer
        self._alarms = alarms or Alarms()
        self._clock = clock
        self._lock = threading.RLock()
        self._publishers: dict[str, _Publisher] = {}
        self._pending: list[_Pending] = []
        self._closing: list[_Closing] = []

    def open_runs(self) -> tuple[str, ...]:
        """Return the uids of the raw runs for which a run of this service is open."""
        return tuple(self._publishers)

    def uid_for(self, context: RunContext) -> str:
        """Return the uid of this service's run for a raw run; the run is opened if it is not open."""
        with self._lock:
            return self._publisher(context).uid

    def progress(self, progress: CurveProgress) -> None:
        """Publish the progress of a curve; an error is only logged."""
        with self._lock:
            publisher = self._publisher(progress.run)
            try:
                publisher.run.progress(progress)
                self._emit(publisher)
            except Exception:
                publisher.drop_half()
                self._emit(publisher)
                logger.exception("run %s: progress cannot be published", progress.run.uid[:8])

    def result(self, context: RunContext, result: Result) -> str | None:
        """Write and publish one result; return the problem of the publication, None without one.

        Neither a full disk nor invalid metadata ends the service.
        """
        with self._lock:
            publisher = self._publisher(context)
            problem = self._publish(context, publisher, result)
        scalars = {**result.metrics.known(), "latency_s": self._clock() - result.complete_s}
        self._announcer.tell(
            result_message(
                stage=result.stream,
                run=context,
                run_uid=publisher.uid,
                curve_index=result.curve_index,
                crystal=result.crystal,
                verdict=result.verdict.grade,
                reasons=list(result.verdict.reasons),
                scalars=scalars,
                problem=problem,
                **_rocking(result),
            )
        )
        return problem

    def close(self, raw_uid: str, exit_status: ExitStatus = "success", reason: str = "") -> None:
        """Publish the stop document of this service's run for a raw run, if it is open.

        After success the stop document waits up to `ARRAYS_WAIT_S` for arrays that are not on disk.
        """
        with self._lock:
            publisher = self._publishers.pop(raw_uid, None)
            if publisher is None:
                return
            closing = _Closing(publisher=publisher, exit_status=exit_status, reason=reason, since_s=self._clock())
            if exit_status == "success" and self._lacks_arrays(publisher):
                self._closing.append(closing)
            else:
                self._stop(closing)

    def close_all(self, reason: str) -> int:
        """Publish the stop document of every run; return the number of results without their arrays."""
        with self._lock:
            for raw_uid in self.open_runs():
                self.close(raw_uid, "abort", reason)
            for closing in self._closing:
                self._stop(closing)
            self._closing.clear()
            return len(self._pending)

    def retry(self) -> None:
        """Try to write the arrays that are not on disk; call this regularly."""
        with self._lock:
            self._pending = [pending for pending in self._pending if not self._complete(pending)]
            if not self._pending:
                self._alarms.clear("disk")
            due = [c for c in self._closing if not self._waits(c)]
            self._closing = [c for c in self._closing if c not in due]
            for closing in due:
                self._stop(closing)

    def _waits(self, closing: _Closing) -> bool:
        return self._clock() - closing.since_s < ARRAYS_WAIT_S and self._lacks_arrays(closing.publisher)

    def _lacks_arrays(self, publisher: _Publisher) -> bool:
        """Return whether the arrays of any result of a run are not on disk."""
        return any(pending.publisher is publisher for pending in self._pending)

    def _publish(self, context: RunContext, publisher: _Publisher, result: Result) -> str | None:
        """Publish one result; return the problem of the publication, None without one."""
        key = _key_of(result)
        try:
            published = publisher.run.result(result)
            self._emit(publisher, key if published.problem is None else None)
        except Exception as error:
            publisher.drop_half()
            self._emit(publisher)
            logger.exception("run %s: the %s cannot be published", context.uid[:8], result.stream)
            return f"not published: {error!r:.200}"
        if published.problem is None:
            return None
        self._alarms.set(
            "disk", f"{published.problem}: results are published without their arrays; make room on the disk"
        )
        logger.error("run %s: %s", context.uid[:8], published.problem)
        if result.stream == PREVIEW:
            return published.problem
        self._pending.append(_Pending(context=context, publisher=publisher, result=result, published=published))
        self._pending = self._pending[-MAX_PENDING:]
        return published.problem

    def _complete(self, pending: _Pending) -> bool:
        """Write the arrays of one result, and publish their place; false if the disk is still full.

        The place is published in the run of the result while that is open, else in a run of its own.
        """
        is_open = pending.publisher.run.is_open
        publisher, published = (pending.publisher, pending.published) if is_open else self._arrays_run(pending)
        try:
            problem = publisher.run.complete(pending.result, published)
            if problem is None and not is_open:
                publisher.run.close()
        except Exception:  # another attempt would fail in the same way
            logger.exception("run %s: arrays cannot be published", pending.context.uid[:8])
            problem, publisher = None, pending.publisher  # no document of a run of its own is published
            publisher.drop_half()
        if problem is not None:
            return False
        self._emit(publisher, _key_of(pending.result))
        return True

    def _arrays_run(self, pending: _Pending) -> tuple[_Publisher, Published]:
        uid = derived_uid(pending.publisher.uid, pending.result.stream, str(pending.published.seq_num), "arrays")
        identity = Identity(uid=uid, stage="arrays", parents=(pending.publisher.uid,))
        return self._new_publisher(pending.context, identity), replace(pending.published, seq_num=1)

    def _stop(self, closing: _Closing) -> None:
        closing.publisher.run.close(closing.exit_status, closing.reason)
        self._emit(closing.publisher)

    def _publisher(self, context: RunContext) -> _Publisher:
        """Return the publisher of the run for a raw run; the run is opened if it is not open."""
        if context.uid not in self._publishers:
            attempt = self._spool.next_attempt(context.uid)
            identity = reconstruction_identity(context.uid, self._provenance.config_sha256, attempt)
            self._publishers[context.uid] = self._new_publisher(context, identity)
        return self._publishers[context.uid]

    def _new_publisher(self, context: RunContext, identity: Identity) -> _Publisher:
        return _Publisher(context, self._provenance, self._shapes, self._results.of(start_values(context)), identity)

    def _emit(self, publisher: _Publisher, curve_key: str | None = None) -> None:
        """Put the documents of a run into the spool in one transaction, and send them to the bus."""
        self._spool.put(publisher.uid, publisher.take(), curve_key=curve_key)
        self._push()
        if curve_key is not None:
            self._done(curve_key)


def _key_of(result: Result) -> str | None:
    """Return the key of the curve that counts as published with a result; None for other results."""
    return result.key if result.stream == "reconstruction" and result.key else None


def _rocking(result: Result) -> dict[str, list[int]]:
    """Return the counts of each frame, for the page's plot; nothing for a result without, or for a very long curve."""
    sums = result.frame_sums
    return {} if sums is None or len(sums) > MAX_PLOTTED else {"frame_sums": sums.tolist()}
