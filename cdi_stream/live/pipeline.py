"""The service: threads and queues around the stages.  Knows all stages; none of them knows it.

Four threads.  *Ingest* polls the detector and the document bus and feeds the assembler, so that frames and
documents need no lock.  *Infer* takes curves from a bounded queue and publishes the network's answer at once.
*Polish* refines them in turn, standing still between cycles while a curve waits for its inference.  *Archive*
writes the documents to the slower sinks (Tiled).  Previews are dropped when the queue is long; curves never.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from cdi_stream import bus
from cdi_stream.affine import Shape
from cdi_stream.errors import WireError
from cdi_stream.live.assemble import Assembler
from cdi_stream.live.chain import ChainSettings, reconstruct
from cdi_stream.live.journal import Journal
from cdi_stream.live.publish import ExitStatus, Provenance, Result, RunPublisher
from cdi_stream.live.receive import Receiver
from cdi_stream.messages import BrokenCurve, CurveProgress, RockingCurve, RunContext, Verdict
from cdi_stream.networks.torchscript import Network
from cdi_stream.protocols import Sink

logger = logging.getLogger(__name__)

QUEUE_LENGTH = 64
_POLL_MS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped:
    """A raw run is over and all its curves are in the queue before this."""

    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Polish:
    """A curve whose inference is out; ``results`` goes on with the polish."""

    curve: RockingCurve
    results: Iterator[Result]


Work = RockingCurve | BrokenCurve | CurveProgress | RunStopped


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """What the service needs beside its sockets and stages."""

    chain: ChainSettings
    provenance: Provenance
    directory: Path
    preview_every_s: float
    prefix: bytes
    serializer: str


class Service:
    """Runs until `stop`; `failure` then holds what ended it, if anything did."""

    def __init__(
        self,
        settings: ServiceSettings,
        receiver: Receiver,
        documents: zmq.Socket[bytes],
        assembler: Assembler,
        network: Network,
        bus_sink: Sink,
        archives: list[Sink],
    ) -> None:
        self.failure: BaseException | None = None
        self._settings = settings
        self._receiver = receiver
        self._documents = documents
        self._assembler = assembler
        self._network = network
        self._bus_sink = bus_sink
        self._archives = archives
        self._read = bus.reader(settings.serializer)
        self._work: queue.Queue[Work | None] = queue.Queue(QUEUE_LENGTH)
        self._polish_queue: queue.Queue[_Polish | RunStopped | None] = queue.Queue()
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._lock = threading.RLock()
        self._archive_queue: queue.Queue[tuple[str, Mapping[str, Any]] | None] = queue.Queue()
        self._stopping = threading.Event()
        self._journal = Journal(settings.directory / "journal.json")
        self._publishers: dict[str, RunPublisher] = {}
        self._noted: dict[str, int] = {}
        self._stopped_runs: set[str] = set()
        self._preview_s = 0.0
        self._threads = [
            threading.Thread(target=self._guard, args=(body,), name=name, daemon=True)
            for name, body in (
                ("ingest", self._ingest),
                ("infer", self._infer),
                ("polish", self._polish),
                ("archive", self._archive),
            )
        ]

    def start(self) -> None:
        """Settle what an earlier service left, then start the threads."""
        for uid in self._journal.left_runs:
            self._close_left_run(uid)
        for broken in self._journal.broken_curves():
            self._work.put(broken)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End cleanly: open curves are published as interrupted, queues are drained."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        for sink in (self._bus_sink, *self._archives):
            sink.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait; true once the service has failed or was stopped."""
        return self._stopping.wait(timeout_s)

    def _guard(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            logger.exception("thread %s died", threading.current_thread().name)
            self.failure = error
            self._stopping.set()
            self._is_idle.set()
            for waiting in (self._work, self._polish_queue, self._archive_queue):
                waiting.put(None)

    # --- ingest -----------------------------------------------------------------------------------------

    def _ingest(self) -> None:
        poller = zmq.Poller()
        poller.register(self._receiver.socket, zmq.POLLIN)
        poller.register(self._documents, zmq.POLLIN)
        while not self._stopping.is_set():
            events = dict(poller.poll(_POLL_MS))
            if self._documents in events:
                self._take_documents()
            if self._receiver.socket in events:
                self._take_frames()
            self._pass_on()
        for broken in self._assembler.interrupt("interrupted: the service was stopped"):
            self._work.put(broken)
        self._work.put(None)

    def _take_frames(self, at_most: int = 32) -> None:
        for _ in range(at_most):
            n_before = self._receiver.n_messages
            message = self._receiver.receive()
            if self._receiver.n_messages == n_before:
                return
            if message is None:
                continue
            try:
                self._assembler.on_message(message)
            except WireError as error:
                self._receiver.refuse(error)

    def _take_documents(self) -> None:
        while True:
            try:
                message = self._documents.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                unpacked = bus.unpack(message, self._settings.prefix, self._read)
            except WireError as error:
                logger.warning("document dropped: %s", error)
                continue
            if unpacked is not None:
                self._assembler.on_document(*unpacked)

    def _pass_on(self) -> None:
        for curve in self._assembler.poll():
            self._is_idle.clear()
            self._work.put(curve)
        for uid, record in self._assembler.book.runs.items():
            if record.stop is not None and uid not in self._stopped_runs and not self._has_open_curve(uid):
                self._stopped_runs.add(uid)
                self._work.put(RunStopped(uid=uid))
        now = time.monotonic()
        if now - self._preview_s >= self._settings.preview_every_s:
            self._preview_s = now
            for progress in self._assembler.progress():
                if self._work.qsize() < QUEUE_LENGTH // 4:
                    self._work.put(progress)

    def _has_open_curve(self, uid: str) -> bool:
        return any(progress.run.uid == uid for progress in self._assembler.progress())

    # --- infer and polish -------------------------------------------------------------------------------

    def _infer(self) -> None:
        while (work := self._work.get()) is not None:
            match work:
                case CurveProgress():
                    self._preview(work)
                case RockingCurve():
                    self._curve(work)
                case BrokenCurve():
                    self._broken(work)
                case RunStopped():
                    self._polish_queue.put(work)
            if not any(isinstance(waiting, RockingCurve) for waiting in tuple(self._work.queue)):
                self._is_idle.set()
        self._is_idle.set()
        self._polish_queue.put(None)

    def _preview(self, progress: CurveProgress) -> None:
        if self._noted.get(str(progress.series)) != progress.account.received:
            self._noted[str(progress.series)] = progress.account.received
            with self._lock:
                self._journal.curve_began(progress)
                self._publisher(progress.run).preview(progress)

    def _curve(self, curve: RockingCurve) -> None:
        results = reconstruct(curve, self._network, self._settings.chain, wait_turn=self._wait_turn)
        self._publish(curve, next(results))
        self._polish_queue.put(_Polish(curve=curve, results=results))

    def _wait_turn(self) -> None:
        self._is_idle.wait()

    def _polish(self) -> None:
        while (work := self._polish_queue.get()) is not None:
            if isinstance(work, RunStopped):
                self._close(work.uid, "success", "")
                continue
            for result in work.results:
                self._publish(work.curve, result)
            with self._lock:
                self._journal.curve_ended(work.curve.series.series)
        for uid in list(self._publishers):
            self._close(uid, "abort", "the service was stopped")
        self._archive_queue.put(None)

    def _publish(self, curve: RockingCurve, result: Result) -> None:
        with self._lock:
            path = self._publisher(curve.run).result(result)
        logger.info(
            "run %s curve %d %s: %s, %d of %d frames, chi2 %.4f, %s",
            curve.run.uid[:8],
            curve.curve_index,
            result.stream,
            result.verdict.grade,
            curve.account.received,
            curve.account.expected,
            result.scalars.get("chi2", float("nan")),
            path.name,
        )

    def _broken(self, broken: BrokenCurve) -> None:
        verdict = Verdict(grade="failed", reasons=(broken.reason,))
        result = Result(
            stream="reconstruction",
            curve_index=broken.curve_index,
            series=str(broken.series),
            crystal=None,
            verdict=verdict,
            account=broken.account,
            scalars={},
            complete_s=time.monotonic(),
        )
        with self._lock:
            self._publisher(broken.run).result(result)
            self._journal.curve_ended(broken.series)
        if broken.run.uid not in self._assembler.book.runs:
            self._close(broken.run.uid, "abort", broken.reason)

    def _publisher(self, context: RunContext) -> RunPublisher:
        if context.uid not in self._publishers:
            left = [entry for entry in self._journal.left_runs.values() if entry["raw_uid"] == context.uid]
            attempt = 1 + max(entry["attempt"] for entry in left) if left else 0
            publisher = RunPublisher(
                context, self._settings.provenance, self._shapes(), self._settings.directory, self._emit, attempt
            )
            self._publishers[context.uid] = publisher
            self._journal.run_began(publisher.uid, context.uid, attempt)
        return self._publishers[context.uid]

    def _shapes(self) -> dict[str, Shape]:
        return {
            "inference": self._network.contract.input_shape,
            "reconstruction": self._settings.chain.lab_shape,
        }

    def _close(self, raw_uid: str, exit_status: ExitStatus, reason: str) -> None:
        with self._lock:
            publisher = self._publishers.pop(raw_uid, None)
            if publisher is not None:
                publisher.close(exit_status, reason)
                self._journal.run_ended(publisher.uid)

    def _close_left_run(self, uid: str) -> None:
        """Tell everyone that a run whose service was killed will not go on."""
        stop = {
            "uid": f"{uid}-stop",
            "run_start": uid,
            "time": time.time(),
            "exit_status": "abort",
            "reason": "the service was killed",
            "num_events": {},
        }
        self._bus_sink("stop", stop)
        for sink in self._archives:
            close_run = getattr(sink, "close_run", None)
            if close_run is not None:
                close_run(stop)
        self._journal.run_ended(uid)

    def _emit(self, name: str, doc: Mapping[str, Any]) -> None:
        self._bus_sink(name, doc)
        self._archive_queue.put((name, doc))

    # --- archive ----------------------------------------------------------------------------------------

    def _archive(self) -> None:
        while (item := self._archive_queue.get()) is not None:
            for sink in self._archives:
                self._to_archive(sink, *item)

    def _to_archive(self, sink: Sink, name: str, doc: Mapping[str, Any]) -> None:
        """An archive that is down must not take the live path with it."""
        try:
            sink(name, doc)
        except Exception:
            logger.exception("%s refused a %s document; the result files are kept", type(sink).__name__, name)
