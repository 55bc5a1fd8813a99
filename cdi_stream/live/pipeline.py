"""The service: threads and queues around the stages.  The stages do not import this module.

- *ingest* polls the detector and the document bus, and feeds the assembler.
- *infer* takes curves from a queue, and publishes the network's crystal at once.  While no complete curve waits, it
  publishes previews of curves that are still measured, and does the work that their frames so far allow.
- *phase* retrieves the phase of one curve after the other, and asks for the refinements.  The phase retrieval pauses
  between cycles while a curve waits for its inference, and for a preview, so that the preview is over sooner.  It ends
  when curves pile up (`cdi_stream.live.pace`); these curves keep the network's crystals.
- *bus* checks that documents arrive on the bus; one thread for each archive writes documents to the slower sinks
  (Tiled), and waits while curves wait.
- *refine* runs the worker process, *announce* sends messages to the operators' pages.

Previews, work ahead and messages of progress are dropped when time is short; curves are never dropped.

A service that stops, or is killed, leaves curves, documents and refinements on disk; the next service finishes them.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cdi_stream.alarms import Alarms
from cdi_stream.assemble.assembler import Assembler
from cdi_stream.documents.delivery import ArchiveDelivery, BusDelivery
from cdi_stream.documents.spool import Spool
from cdi_stream.inversion.ahead import WorkAhead
from cdi_stream.inversion.chain import ChainSettings, InferredCurve, PreviousCrystal, infer_curve
from cdi_stream.live.attempt import attempt
from cdi_stream.live.ingest import Ingest, RunStopped, Work
from cdi_stream.live.outgoing import Outgoing
from cdi_stream.live.pace import Pace
from cdi_stream.live.previews import Previews
from cdi_stream.live.refinements import refinement_message
from cdi_stream.live.second_results import SecondResults, StoppedError
from cdi_stream.live.tally import Tally
from cdi_stream.logs import about
from cdi_stream.messages import CurveProgress, PartialCurve, Result, RockingCurve, RunContext
from cdi_stream.networks.torchscript import Network
from cdi_stream.operators.announce import Announcer
from cdi_stream.refine.backlog import Backlog
from cdi_stream.refine.queue import Job, NamedDocument
from cdi_stream.stream.frame_log import Decode

logger = logging.getLogger(__name__)

MAX_WAITING = 16
"""Number of entries in the queue from which on all but curves is dropped; curves are never dropped."""

STATE_EVERY_S = 1.0
"""Time [s] between two messages about the state of the service."""

STOP_S = 7.0
"""Time [s] in which a service stops; work that is not finished by then is left for the next start."""

_ANNOUNCE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _PhaseRequest:
    """A curve whose inference is published; ``inferred`` is None where the inference ended with an error."""

    curve: RockingCurve
    inferred: InferredCurve | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Parts of a service; ``backlog`` is None if no method of refinement is configured.

    ``previous`` returns the crystal of the run that a run names as its predecessor, None without one.
    ``decode`` decodes the detector's messages that an earlier service stored.  While curves of more than
    ``max_waiting_bytes`` wait for their reconstruction, no frames are taken.  ``resources`` returns sizes of disk and
    memory [bytes] by name.  ``keep_house`` is called about once a second.
    """

    ingest: Ingest
    assembler: Assembler
    decode: Decode
    network: Network
    chain: ChainSettings
    outgoing: Outgoing
    spool: Spool
    bus: BusDelivery
    announcer: Announcer
    previous: Callable[[RunContext], PreviousCrystal | None] = lambda _: None
    archives: tuple[ArchiveDelivery, ...] = ()
    backlog: Backlog | None = None
    alarms: Alarms = field(default_factory=Alarms)
    max_waiting_bytes: int = 4 << 30
    resources: Callable[[], dict[str, int]] = dict
    keep_house: Callable[[], None] = lambda: None


class Service:
    """Runs the threads until `stop`, or until one of them fails.

    `failure` holds the error that ended the service, or None.  After `stop`, `left` holds the numbers of curves and
    documents that are left for the next start.
    """

    def __init__(self, parts: Parts) -> None:
        self.failure: BaseException | None = None
        self.left: dict[str, int] = {}
        self._parts = parts
        self._work: queue.Queue[Work | None] = queue.Queue()
        self._phase_queue: queue.Queue[_PhaseRequest | RunStopped | None] = queue.Queue()
        self._n_pending = 0
        self._waiting_bytes = 0
        self._pace = Pace()
        self._second = SecondResults(
            parts.chain, self._pace, parts.previous, self._is_time_up, is_refined=parts.backlog is not None
        )
        self._ahead = WorkAhead(parts.chain)
        self._previews = Previews(parts.network, parts.chain, self._ahead, parts.outgoing)
        self._tally = Tally()
        self._start_s = time.time()
        self._count_lock = threading.Lock()
        self._stopping = threading.Event()
        self._published = threading.Event()
        self._stop_at_s = float("inf")
        bodies: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "ingest": (self._ingest, lambda: self._work.put(None)),
            "infer": (self._infer, lambda: self._phase_queue.put(None)),
            "phase": (self._phase, self._published.set),
            "bus": (self._bus, lambda: None),
            "announce": (self._announce, lambda: None),
        }
        for archive in parts.archives:
            bodies[archive.name] = (self._archive(archive), lambda: None)
        if parts.backlog is not None:
            bodies["refine"] = (self._refine, lambda: None)
        self._threads = [
            threading.Thread(target=self._guard, args=body, name=name, daemon=True) for name, body in bodies.items()
        ]

    def start(self) -> None:
        """Take up the curves and documents that an earlier service left, then start the threads."""
        n_runs = self._parts.spool.close_open_runs("the service was killed")
        n_curves = self._parts.assembler.resume(self._parts.spool.is_published, self._parts.decode)
        if n_runs or n_curves:
            logger.info("of the last service: %d curves to go on with, %d runs closed", n_curves, n_runs)
        for thread in self._threads:
            thread.start()
        self._parts.bus.push()

    def stop(self) -> None:
        """Stop within `STOP_S`: finish the current work if there is time, leave all other work for the next start."""
        self._stop_at_s = time.monotonic() + STOP_S
        self._stopping.set()
        for thread in self._threads:
            thread.join(max(0.1, self._stop_at_s - time.monotonic()))
        for archive in self._parts.archives:
            archive.leave()
        for thread in self._threads:
            thread.join(max(0.1, self._stop_at_s + 1.0 - time.monotonic()))
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        documents = self._parts.spool.close()
        n_curves = self._pace.n_curves + self._n_pending + len(self._parts.assembler.open_runs())
        self.left = {"curves": n_curves, **documents}
        if stuck:
            logger.warning("still at work and left alone: %s", ", ".join(stuck))
        else:
            self._parts.bus.close()
            self._parts.announcer.close()
            if self._parts.backlog is not None:
                self._parts.backlog.close()
        logger.info("since the start: %s; left for the next start: %s", self.counters(), self.left)

    def wait(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` [s]; return whether the service has failed or was stopped."""
        return self._stopping.wait(timeout_s)

    @property
    def has_ended(self) -> bool:
        """Whether every thread has come to its end."""
        return not any(thread.is_alive() for thread in self._threads)

    def counters(self) -> dict[str, int]:
        """Return counts of messages, documents and previews since the start."""
        previews = {"previews": self._previews.n_published, "previews_dropped": self._previews.n_dropped}
        return {**self._parts.ingest.counters(), **previews, "work_again": self._ahead.n_again}

    def _guard(self, body: Callable[[], None], tell_next: Callable[[], None]) -> None:
        """Run a thread's body; after its end, also by an error, tell the next thread to finish."""
        try:
            body()
        except BaseException as error:
            logger.exception("thread %s died", threading.current_thread().name)
            self.failure = error
        finally:
            self._stop_at_s = min(self._stop_at_s, time.monotonic() + STOP_S)
            self._stopping.set()
            self._second.may_run.set()
            tell_next()

    def _is_time_up(self) -> bool:
        """Return whether the time to finish curves is over; a quarter of `STOP_S` is reserved for their documents."""
        return time.monotonic() > self._stop_at_s - 0.25 * STOP_S

    def _ingest(self) -> None:
        outgoing = self._parts.outgoing
        self._parts.ingest.run(
            self._stopping.is_set, self._take, lambda: self._work.qsize() < MAX_WAITING, outgoing.open_runs
        )

    def _take(self, work: Work) -> None:
        if isinstance(work, RockingCurve):
            self._second.may_run.clear()
            self._count(+1, work)
            self._tally.curve(work.account)
        self._work.put(work)
        self._wait_for_room()

    def _wait_for_room(self) -> None:
        """Block while waiting curves need more than ``max_waiting_bytes``; the detector waits, and no frame is lost."""
        if self._waiting_bytes > self._parts.max_waiting_bytes and self._pace.n_curves > 1:
            logger.warning("%d curves wait to be reconstructed: no frames are taken meanwhile", self._pace.n_curves)
        while self._waiting_bytes > self._parts.max_waiting_bytes and self._pace.n_curves > 1:
            if self._stopping.wait(_ANNOUNCE_S):
                return

    def _count(self, change: int, curve: RockingCurve) -> None:
        """Change the number of curves between last frame and last document; workers pause while it is above 0."""
        with self._count_lock:
            if change > 0:
                self._pace.arrive()
            else:
                self._pace.leave()
            self._waiting_bytes += change * curve.counts.nbytes
            if self._parts.backlog is not None:
                self._parts.backlog.hold(self._pace.n_curves > 0)

    def _infer(self) -> None:
        while (work := self._work.get()) is not None:
            if self._is_time_up():
                continue
            match work:
                case CurveProgress():
                    self._parts.outgoing.progress(work)
                case PartialCurve():
                    self._second.may_run.clear()
                    self._partial(work)
                case RockingCurve():
                    with about(work.run.uid, work.curve_index):
                        self._curve(work)
                case RunStopped():
                    self._phase_queue.put(work)
            if not self._is_curve_waiting():
                self._second.may_run.set()

    def _is_curve_waiting(self) -> bool:
        """Return whether a complete curve waits for its inference."""
        return any(isinstance(entry, RockingCurve) for entry in tuple(self._work.queue))

    def _is_partial_waiting(self) -> bool:
        """Return whether newer frames of a curve wait in the queue; the work on them includes the older frames."""
        return any(isinstance(entry, PartialCurve) for entry in tuple(self._work.queue))

    def _why_no_preview(self) -> str:
        """Return why there is no time for a preview; empty if there is."""
        if self._is_curve_waiting():
            return "a complete curve waits for its inference"
        if self._pace.n_curves > 1:
            return f"{self._pace.n_curves} curves wait for their reconstruction"
        if self._work.qsize() >= MAX_WAITING:
            return f"{self._work.qsize()} entries wait in the queue"
        return "the service stops" if self._stopping.is_set() else ""

    def _partial(self, curve: PartialCurve) -> None:
        """Publish a preview of a curve, or do the work on its frames so far, if there is time."""
        if curve.is_preview:
            self._previews.take(curve, self._why_no_preview)
        elif not self._why_no_preview() and not self._is_partial_waiting():
            attempt(curve.curve, "work ahead", partial(self._ahead.take, curve))

    def _curve(self, curve: RockingCurve) -> None:
        """Publish the network's crystal of a curve, and ask for its phase retrieval."""
        with self._ahead.last_work_on(curve.key) as work:
            compute = partial(infer_curve, curve, self._parts.network, self._parts.chain, work=work)
            inferred = attempt(curve, "inference", compute)
        if isinstance(inferred, Result):
            self._publish(curve, inferred)
            self._phase_queue.put(_PhaseRequest(curve=curve, inferred=None))
        else:
            self._publish(curve, inferred.result)
            self._phase_queue.put(_PhaseRequest(curve=curve, inferred=inferred))

    def _phase(self) -> None:
        while (work := self._phase_queue.get()) is not None:
            if isinstance(work, RunStopped):
                self._parts.outgoing.close(work.uid)
            elif not self._is_time_up():
                with about(work.curve.run.uid, work.curve.curve_index):
                    self._reconstruction(work)
        self._n_pending = self._parts.outgoing.close_all("the service was stopped")

    def _reconstruction(self, work: _PhaseRequest) -> None:
        """Publish the second result of a curve, then ask for its refinements, so that they cannot delay the result."""
        curve = work.curve
        try:
            result = self._second.result_of(curve, work.inferred)
        except StoppedError:
            return
        self._publish(curve, result)
        self._count(-1, curve)
        if self._parts.backlog is not None:
            self._parts.backlog.ask(result, curve.run, self._parts.outgoing.uid_for(curve.run))

    def _publish(self, curve: RockingCurve, result: Result) -> None:
        problem = self._parts.outgoing.result(curve.run, result)
        verdict = result.verdict
        latency_s = time.monotonic() - result.complete_s
        self._tally.result(result.stream, verdict.grade, latency_s, result.metrics.known())
        logger.info(
            "run %s curve %d %s: %s, %d of %d frames, chi2 %.4f%s",
            curve.run.uid[:8],
            curve.curve_index,
            result.stream,
            verdict.grade,
            curve.account.received,
            curve.account.expected,
            result.metrics.chi2,
            "" if verdict.grade == "good" else "; " + " | ".join(verdict.reasons),
        )
        if problem is not None:
            logger.error("run %s curve %d %s: %s", curve.run.uid[:8], curve.curve_index, result.stream, problem)

    def _bus(self) -> None:
        """Check that published documents arrive on the bus, until all have arrived or the time to stop is over."""

        def is_over() -> bool:
            """Return whether every document is heard on the bus, or the time to stop is over."""
            is_idle = self._published.is_set() and not self._parts.spool.waiting("bus")
            return self._stopping.is_set() and (is_idle or time.monotonic() > self._stop_at_s)

        self._parts.bus.run(is_over)

    def _archive(self, archive: ArchiveDelivery) -> Callable[[], None]:
        def is_urgent() -> bool:
            """Return whether a curve waits behind the one at work; false after a stop."""
            return self._pace.n_waiting > 0 and not self._stopping.is_set()

        return lambda: archive.run(self._published.is_set, is_urgent)

    def _refine(self) -> None:
        assert self._parts.backlog is not None
        self._parts.backlog.run(self._stopping.is_set, self._hand_on)

    def _hand_on(self, job: Job, documents: list[NamedDocument]) -> None:
        """Give a published refinement to the archives and to the operators."""
        assert self._parts.backlog is not None
        key = f"refinement {job.key}"
        if self._parts.archives and not self._parts.spool.is_published(key):
            sinks = tuple(archive.name for archive in self._parts.archives)
            self._parts.spool.put(job.key, documents, curve_key=key, sinks=sinks)
        self._parts.backlog.mark_archived(job)
        message = refinement_message(job, documents)
        self._tally.result("refinement", message[0]["verdict"])
        self._parts.announcer.tell(message)

    def _announce(self) -> None:
        state_s = 0.0
        while not self._stopping.wait(_ANNOUNCE_S):
            if time.monotonic() - state_s >= STATE_EVERY_S:
                state_s = time.monotonic()
                self._parts.outgoing.retry()
                self._parts.keep_house()
                if self._parts.announcer.is_on:
                    self._parts.announcer.tell(({"kind": "state", **self._state()}, {}))
            self._parts.announcer.send()
        self._parts.announcer.send()

    def _state(self) -> dict[str, Any]:
        newest_s, backlog = self._parts.ingest.newest_frame_s, self._parts.backlog
        jobs = {"queue": {}, "refinement": None} if backlog is None else backlog.state()
        return {
            **jobs,
            "counters": self.counters(),
            **self._tally.as_dict(),
            "documents": self._parts.spool.counts(),
            "resources": self._parts.resources(),
            "start_s": self._start_s,
            "waiting": self._pace.n_curves,
            "waiting_bytes": self._waiting_bytes,
            "lag_s": None if newest_s is None else time.monotonic() - newest_s,
            "alarms": self._parts.alarms.active(),
        }
