"""The service: threads and queues around the stages.  Knows all stages; none of them knows it.

*Ingest* polls the detector and the document bus and feeds the assembler.  *Infer* takes curves from a queue and
publishes the network's answer at once.  *Polish* refines them in turn, standing still between cycles while a curve
waits for its inference, and queues the refinements.  *Archive* writes the documents to the slower sinks (Tiled).
*Refine* keeps the worker process, *announce* feeds the operators' pages.  Previews are dropped when the queue is long;
curves never.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cdi_stream.live.announce import Announcer
from cdi_stream.live.assemble import Assembler
from cdi_stream.live.chain import ChainSettings, failed, reconstruct
from cdi_stream.live.ingest import Ingest, RunStopped, Work
from cdi_stream.live.journal import Journal
from cdi_stream.live.outgoing import Archive, Outgoing
from cdi_stream.live.publish import Result
from cdi_stream.messages import BrokenCurve, CurveProgress, RockingCurve, Verdict
from cdi_stream.networks.torchscript import Network
from cdi_stream.refine.backlog import Backlog
from cdi_stream.refine.published import refinement_message
from cdi_stream.refine.queue import Document, Job

logger = logging.getLogger(__name__)

MAX_WAITING = 16
"""Previews are dropped while more than this waits; curves are never."""

STATE_EVERY_S = 1.0
_ANNOUNCE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _Polish:
    """A curve whose inference is out; ``results`` goes on with the polish."""

    curve: RockingCurve
    results: Iterator[Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a service is put together from; ``backlog`` is None where nothing is refined.

    Curves may wait for their turn up to ``max_waiting_bytes``; then no frames are taken until there is room.
    """

    ingest: Ingest
    assembler: Assembler
    network: Network
    chain: ChainSettings
    outgoing: Outgoing
    archive: Archive
    journal: Journal
    announcer: Announcer
    backlog: Backlog | None = None
    max_waiting_bytes: int = 4 << 30


class Service:
    """Runs until `stop`; `failure` then holds what ended it, if anything did."""

    def __init__(self, parts: Parts) -> None:
        self.failure: BaseException | None = None
        self._parts = parts
        self._work: queue.Queue[Work | None] = queue.Queue()
        self._polish_queue: queue.Queue[_Polish | RunStopped | None] = queue.Queue()
        self._n_unfinished = 0
        self._waiting_bytes = 0
        self._count_lock = threading.Lock()
        self._may_polish = threading.Event()
        self._may_polish.set()
        self._stopping = threading.Event()
        bodies: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "ingest": (self._ingest, lambda: self._work.put(None)),
            "infer": (self._infer, lambda: self._polish_queue.put(None)),
            "polish": (self._polish, parts.archive.end),
            "archive": (parts.archive.run, lambda: None),
            "announce": (self._announce, lambda: None),
        }
        if parts.backlog is not None:
            bodies["refine"] = (self._refine, lambda: None)
        self._threads = [
            threading.Thread(target=self._guard, args=body, name=name, daemon=True) for name, body in bodies.items()
        ]

    def start(self) -> None:
        """Start the threads, after settling what an earlier service left."""
        self._parts.outgoing.close_left_runs()
        for broken in self._parts.journal.broken_curves():
            self._parts.assembler.forget(broken.series)
            self._work.put(broken)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End cleanly: open curves are published as interrupted, queues are drained."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._parts.archive.close()
        self._parts.journal.close()
        self._parts.announcer.close()
        if self._parts.backlog is not None:
            self._parts.backlog.close()
        logger.info("since the start: %s", self._parts.ingest.counters())

    def wait(self, timeout_s: float) -> bool:
        """Wait; true once the service has failed or was stopped."""
        return self._stopping.wait(timeout_s)

    def counters(self) -> dict[str, int]:
        """Messages since the start: all, malformed, and those of nobody's series."""
        return self._parts.ingest.counters()

    def _guard(self, body: Callable[[], None], tell_next: Callable[[], None]) -> None:
        """Run a thread's body; at its end, however it came, the next thread is told to finish too."""
        try:
            body()
        except BaseException as error:
            logger.exception("thread %s died", threading.current_thread().name)
            self.failure = error
        finally:
            self._stopping.set()
            self._may_polish.set()
            tell_next()

    def _ingest(self) -> None:
        outgoing = self._parts.outgoing
        self._parts.ingest.run(
            self._stopping.is_set, self._take, lambda: self._work.qsize() < MAX_WAITING, outgoing.open_runs
        )

    def _take(self, work: Work) -> None:
        if isinstance(work, RockingCurve):
            self._may_polish.clear()
            self._count(+1, work)
        self._work.put(work)
        self._wait_for_room()

    def _wait_for_room(self) -> None:
        """Take no frames while curves wait for more memory than they may: the detector is held up, nothing is lost."""
        if self._waiting_bytes > self._parts.max_waiting_bytes and self._n_unfinished > 1:
            logger.warning("%d curves wait to be reconstructed: no frames are taken meanwhile", self._n_unfinished)
        while self._waiting_bytes > self._parts.max_waiting_bytes and self._n_unfinished > 1:
            if self._stopping.wait(_ANNOUNCE_S):
                return

    def _count(self, change: int, curve: RockingCurve) -> None:
        """Count curves between their last frame and their last document; workers stand still meanwhile."""
        with self._count_lock:
            self._n_unfinished += change
            self._waiting_bytes += change * curve.counts.nbytes
            if self._parts.backlog is not None:
                self._parts.backlog.hold(self._n_unfinished > 0)

    def _infer(self) -> None:
        while (work := self._work.get()) is not None:
            match work:
                case CurveProgress():
                    self._parts.journal.curve_began(work)
                    self._parts.outgoing.preview(work)
                case RockingCurve():
                    self._curve(work)
                case BrokenCurve():
                    self._broken(work)
                case RunStopped():
                    self._polish_queue.put(work)
            if not any(isinstance(waiting, RockingCurve) for waiting in tuple(self._work.queue)):
                self._may_polish.set()

    def _curve(self, curve: RockingCurve) -> None:
        results = reconstruct(curve, self._parts.network, self._parts.chain, wait_turn=self._wait_turn)
        self._publish(curve, self._next(curve, results, "inference"))
        self._polish_queue.put(_Polish(curve=curve, results=results))

    def _wait_turn(self) -> None:
        self._may_polish.wait()

    def _polish(self) -> None:
        while (work := self._polish_queue.get()) is not None:
            if isinstance(work, RunStopped):
                self._parts.outgoing.close(work.uid)
                continue
            result = self._next(work.curve, work.results, "reconstruction")
            self._queue_refinements(work.curve, result)
            self._publish(work.curve, result)
            self._parts.journal.curve_ended(work.curve.series.series)
            self._count(-1, work.curve)
        for uid in self._parts.outgoing.open_runs():
            self._parts.outgoing.close(uid, "abort", "the service was stopped")

    def _next(self, curve: RockingCurve, results: Iterator[Result], stream: str) -> Result:
        """Take the next result; a curve that breaks the stages fails, and the service goes on."""
        try:
            return next(results)
        except StopIteration:
            return failed(stream, curve, ("no result: an earlier stage failed, see the inference",), {})
        except Exception as error:
            logger.exception("run %s curve %d: %s failed", curve.run.uid[:8], curve.curve_index, stream)
            return failed(stream, curve, (f"our fault: {error!r}; please report it with the service's log",), {})

    def _queue_refinements(self, curve: RockingCurve, result: Result) -> None:
        """Queue before publishing, so that a reconstruction that is known has its refinement on disk."""
        if self._parts.backlog is None:
            return
        try:
            self._parts.backlog.enqueue(result, curve.run, self._parts.outgoing.uid_for(curve.run))
        except Exception:
            logger.exception("run %s curve %d: refinement cannot be queued", curve.run.uid[:8], curve.curve_index)

    def _publish(self, curve: RockingCurve, result: Result) -> None:
        self._parts.outgoing.result(curve.run, result)
        logger.info(
            "run %s curve %d %s: %s, %d of %d frames, chi2 %.4f",
            curve.run.uid[:8],
            curve.curve_index,
            result.stream,
            result.verdict.grade,
            curve.account.received,
            curve.account.expected,
            result.scalars.get("chi2", float("nan")),
        )

    def _broken(self, broken: BrokenCurve) -> None:
        result = Result(
            stream="reconstruction",
            curve_index=broken.curve_index,
            series=str(broken.series),
            crystal=None,
            verdict=Verdict(grade="failed", reasons=(broken.reason,)),
            account=broken.account,
            scalars={},
            complete_s=time.monotonic(),
        )
        self._parts.outgoing.result(broken.run, result)
        self._parts.journal.curve_ended(broken.series)
        if broken.run.uid not in self._parts.assembler.book.runs:
            self._parts.outgoing.close(broken.run.uid, "abort", broken.reason)

    def _refine(self) -> None:
        assert self._parts.backlog is not None
        self._parts.backlog.run(self._stopping.is_set, self._hand_on)

    def _hand_on(self, job: Job, documents: list[Document]) -> None:
        """Give a published refinement to the archives and to the operators."""
        assert self._parts.backlog is not None
        self._parts.archive.put_run(list(documents), lambda: self._archived(job))
        self._parts.announcer.tell(refinement_message(job, documents))

    def _archived(self, job: Job) -> None:
        assert self._parts.backlog is not None
        self._parts.backlog.archived(job)

    def _announce(self) -> None:
        told_s = 0.0
        while not self._stopping.wait(_ANNOUNCE_S):
            if time.monotonic() - told_s >= STATE_EVERY_S and self._parts.announcer.is_on:
                told_s = time.monotonic()
                self._parts.announcer.tell(({"kind": "state", **self._state()}, {}))
            self._parts.announcer.send()
        self._parts.announcer.send()

    def _state(self) -> dict[str, Any]:
        newest_s, backlog = self._parts.ingest.newest_frame_s, self._parts.backlog
        jobs = {"queue": {}, "refinement": None} if backlog is None else backlog.state()
        return {
            **jobs,
            "counters": self._parts.ingest.counters(),
            "waiting": self._n_unfinished,
            "lag_s": None if newest_s is None else time.monotonic() - newest_s,
        }
