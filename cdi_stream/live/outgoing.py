"""Outgoing: the runs of ours that are open, and the way of their results to disk, spool and bus."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdi_stream.alarms import Alarms
from cdi_stream.documents.publish import (
    ExitStatus,
    Identity,
    Provenance,
    Published,
    RunPublisher,
    derived_uid,
    reconstruction_identity,
)
from cdi_stream.documents.spool import Item, Spool
from cdi_stream.geometry.affine import Shape
from cdi_stream.messages import CurveProgress, Result, RunContext
from cdi_stream.operators.announce import Announcer
from cdi_stream.operators.feed import result_message

logger = logging.getLogger(__name__)

ARRAYS_WAIT_S = 60.0
"""A run is kept open for arrays that the disk does not take for so long; later they go out in a run of their own."""

MAX_PENDING = 20
"""Results whose arrays are kept in memory until the disk takes them; of the oldest beyond, the arrays are lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A result whose event is out and whose arrays are not on disk."""

    context: RunContext
    publisher: RunPublisher
    result: Result
    published: Published


@dataclass(slots=True, kw_only=True)
class _Closing:
    """A run whose stop document waits for arrays."""

    publisher: RunPublisher
    exit_status: ExitStatus
    reason: str
    since_s: float


class Outgoing:
    """Safe to use from several threads; each raw run has one run of ours while it is open.

    ``push`` is called when new documents are in the spool, ``done`` with the key of a curve whose reconstruction is
    out with its arrays: nothing of it is needed any more.  ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        provenance: Provenance,
        shapes: Mapping[str, Shape],
        directory: Path,
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
        self._directory = directory
        self._spool = spool
        self._push = push
        self._announcer = announcer
        self._alarms = alarms or Alarms()
        self._clock = clock
        self._lock = threading.RLock()
        self._publishers: dict[str, RunPublisher] = {}
        self._composed: list[Item] = []
        self._pending: list[_Pending] = []
        self._closing: list[_Closing] = []

    def open_runs(self) -> tuple[str, ...]:
        """Return the raw runs that a run of ours is open for."""
        return tuple(self._publishers)

    def uid_for(self, context: RunContext) -> str:
        """Return the uid of the run of ours for a raw run; it is opened if need be."""
        with self._lock:
            return self._publisher(context).uid

    def preview(self, progress: CurveProgress) -> None:
        """Publish how far a curve has come."""
        with self._lock:
            publisher = self._publisher(progress.run)
            try:
                publisher.preview(progress)
                self._emit(publisher.uid)
            except Exception:  # border of a preview: a picture is no reason to lose the curve
                self._drop_half()
                self._emit(publisher.uid)
                logger.exception("run %s: a preview cannot be published", progress.run.uid[:8])

    def result(self, context: RunContext, result: Result) -> str | None:
        """Write and publish one result; returns what is wrong with the publication, None if nothing is.

        Neither a full disk nor metadata that no schema allows ends the service.
        """
        with self._lock:
            publisher = self._publisher(context)
            problem = self._published(context, publisher, result)
        scalars = {**result.scalars, "latency_s": self._clock() - result.complete_s}
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
            )
        )
        return problem

    def close(self, raw_uid: str, exit_status: ExitStatus = "success", reason: str = "") -> None:
        """Publish the stop of our run for a raw one, if there is one; it waits a while for arrays under way."""
        with self._lock:
            publisher = self._publishers.pop(raw_uid, None)
            if publisher is None:
                return
            waits = exit_status == "success" and any(one.publisher is publisher for one in self._pending)
            closing = _Closing(publisher=publisher, exit_status=exit_status, reason=reason, since_s=self._clock())
            if waits:
                self._closing.append(closing)
            else:
                self._stop(closing)

    def close_all(self, reason: str) -> int:
        """Publish the stop of every run of ours; returns how many results lack their arrays."""
        with self._lock:
            for raw_uid in self.open_runs():
                self.close(raw_uid, "abort", reason)
            for closing in self._closing:
                self._stop(closing)
            self._closing.clear()
            return len(self._pending)

    def retry(self) -> None:
        """Try to write the arrays that are not on disk; to be called now and then."""
        with self._lock:
            self._pending = [one for one in self._pending if not self._is_complete(one)]
            if not self._pending:
                self._alarms.clear("disk")
            due = [c for c in self._closing if not self._waits(c)]
            self._closing = [c for c in self._closing if c not in due]
            for closing in due:
                self._stop(closing)

    def _waits(self, closing: _Closing) -> bool:
        is_early = self._clock() - closing.since_s < ARRAYS_WAIT_S
        return is_early and any(one.publisher is closing.publisher for one in self._pending)

    def _published(self, context: RunContext, publisher: RunPublisher, result: Result) -> str | None:
        key = _key_of(result)
        try:
            published = publisher.result(result)
            self._emit(publisher.uid, key if published.problem is None else None)
        except Exception as error:  # border of a result: the failure is told in the curve's account
            self._drop_half()
            self._emit(publisher.uid)
            logger.exception("run %s: the %s cannot be published", context.uid[:8], result.stream)
            return f"not published: {error!r:.200}"
        if published.problem is None:
            return None
        self._alarms.set("disk", f"{published.problem}: results are published without their arrays; make room")
        logger.error("run %s: %s", context.uid[:8], published.problem)
        self._pending.append(_Pending(context=context, publisher=publisher, result=result, published=published))
        self._pending = self._pending[-MAX_PENDING:]
        return published.problem

    def _is_complete(self, one: _Pending) -> bool:
        """Bring the arrays of one result to disk, in its own run if that is open, else in a run of arrays."""
        is_open = one.publisher.is_open
        publisher, published = (one.publisher, one.published) if is_open else self._arrays_run(one)
        try:
            problem = publisher.complete(one.result, published)
            if problem is None and not is_open:
                publisher.close()
        except Exception:  # border of a result: its numbers are already published
            logger.exception("run %s: arrays cannot be published", one.context.uid[:8])
            problem = None  # to try again would not help
        if problem is not None:
            self._drop_half()
            return False
        self._emit(publisher.uid, _key_of(one.result))
        return True

    def _arrays_run(self, one: _Pending) -> tuple[RunPublisher, Published]:
        uid = derived_uid(one.publisher.uid, one.result.stream, str(one.published.seq_num), "arrays")
        identity = Identity(uid=uid, stage="arrays", parents=(one.publisher.uid,))
        publisher = RunPublisher(one.context, self._provenance, self._shapes, self._directory, self._compose, identity)
        return publisher, replace(one.published, seq_num=1)

    def _stop(self, closing: _Closing) -> None:
        closing.publisher.close(closing.exit_status, closing.reason)
        self._emit(closing.publisher.uid)

    def _publisher(self, context: RunContext) -> RunPublisher:
        if context.uid not in self._publishers:
            attempt = self._spool.next_attempt(context.uid)
            identity = reconstruction_identity(context.uid, self._provenance.config_sha256, attempt)
            self._publishers[context.uid] = RunPublisher(
                context, self._provenance, self._shapes, self._directory, self._compose, identity
            )
        return self._publishers[context.uid]

    def _drop_half(self) -> None:
        """Drop the documents of an event that could not be composed to its end; what its run needs is kept."""
        self._composed = [(name, doc) for name, doc in self._composed if name in ("start", "descriptor")]

    def _compose(self, name: str, doc: Mapping[str, Any]) -> None:
        self._composed.append((name, doc))

    def _emit(self, run: str, curve_key: str | None = None) -> None:
        """Hand what was composed to the spool, all at once, and let the bus have it."""
        items, self._composed = self._composed, []
        self._spool.put(run, items, curve_key=curve_key)
        self._push()
        if curve_key is not None:
            self._done(curve_key)


def _key_of(result: Result) -> str | None:
    """Key of the curve that is spoken for by a result."""
    return result.key if result.stream == "reconstruction" and result.key else None
