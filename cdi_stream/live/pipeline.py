"""The service: threads and queues around the stages.  Knows all stages; none of them knows it.

Four threads.  *Ingest* polls the detector and the document bus and feeds the assembler, so that frames and
documents need no lock.  *Infer* takes curves from a queue and publishes the network's answer at once.
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
from cdi_stream.live.chain import ChainSettings, failed, reconstruct
from cdi_stream.live.journal import Journal
from cdi_stream.live.publish import ExitStatus, Provenance, Result, RunPublisher, reconstruction_identity
from cdi_stream.live.receive import Receiver
from cdi_stream.messages import BrokenCurve, CurveProgress, RockingCurve, RunContext, Verdict
from cdi_stream.networks.torchscript import Network
from cdi_stream.protocols import Sink

logger = logging.getLogger(__name__)

MAX_WAITING = 16
"""Previews are dropped while more than this waits; curves are never."""

RUN_END_S = 1.0
"""A run's stop document may overtake its last frames by this much."""

CLOSE_LEFT_RUN = "stop of a run that was left open"
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
    prefix: str
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
        self._work: queue.Queue[Work | None] = queue.Queue()
        self._polish_queue: queue.Queue[_Polish | RunStopped | None] = queue.Queue()
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._lock = threading.RLock()
        self._archive_queue: queue.Queue[tuple[str, Mapping[str, Any]] | None] = queue.Queue()
        self._stopping = threading.Event()
        self._journal = Journal(settings.directory / "journal.json")
        self._publishers: dict[str, RunPublisher] = {}
        self._noted: dict[str, int] = {}
        self._ended_runs: set[str] = set()
        self._stop_heard_s: dict[str, float] = {}
        self._preview_s = 0.0
        self._threads = [
            threading.Thread(target=self._guard, args=(body, next_queue), name=name, daemon=True)
            for name, body, next_queue in (
                ("ingest", self._ingest, self._work),
                ("infer", self._infer, self._polish_queue),
                ("polish", self._polish, self._archive_queue),
                ("archive", self._archive, None),
            )
        ]

    def start(self) -> None:
        """Start the threads, after settling what an earlier service left."""
        for uid in self._journal.left_runs:
            self._close_left_run(uid)
        for broken in self._journal.broken_curves():
            self._assembler.forget(broken.series)
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
        self._journal.close()
        logger.info(
            "%d messages, %d malformed, %d of series that were not seen to start or were over",
            self._receiver.n_messages,
            self._receiver.n_malformed,
            self._assembler.n_stale,
        )

    def wait(self, timeout_s: float) -> bool:
        """Wait; true once the service has failed or was stopped."""
        return self._stopping.wait(timeout_s)

    def _guard(self, body: Callable[[], None], next_queue: queue.Queue[Any] | None) -> None:
        """Run a thread's body; at its end, however it came, the next thread is told to finish too."""
        try:
            body()
        except BaseException as error:
            logger.exception("thread %s died", threading.current_thread().name)
            self.failure = error
        finally:
            self._stopping.set()
            self._is_idle.set()
            if next_queue is not None:
                next_queue.put(None)

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

    def _take_frames(self) -> None:
        for message in self._receiver.messages():
            try:
                self._assembler.on_message(message)
            except WireError as error:
                self._receiver.refuse(error)

    def _take_documents(self) -> None:
        for name, doc in bus.received(self._documents, self._settings.prefix, self._read):
            try:
                self._assembler.on_document(name, doc)
            except WireError as error:
                logger.warning("document dropped: %s", error)

    def _pass_on(self) -> None:
        for curve in self._assembler.poll():
            self._is_idle.clear()
            self._work.put(curve)
            self._noted.pop(str(curve.series.series), None)
            if curve.run.uid in self._ended_runs or not curve.run.is_heard:
                self._work.put(RunStopped(uid=curve.run.uid))
        open_runs = self._assembler.open_runs()
        self._end_runs(set(open_runs.values()))
        is_due = time.monotonic() - self._preview_s >= self._settings.preview_every_s
        if is_due or any(str(series) not in self._noted for series in open_runs):
            self._report(is_due)

    def _report(self, is_due: bool) -> None:
        """Note new curves in the journal, and pass previews on if they are due."""
        self._preview_s = time.monotonic() if is_due else self._preview_s
        for one in self._assembler.progress():
            if str(one.series) not in self._noted:
                self._noted[str(one.series)] = 0
                self._journal.curve_began(one)
            if is_due and one.run.is_heard and self._work.qsize() < MAX_WAITING:
                self._work.put(one)

    def _end_runs(self, open_uids: set[str]) -> None:
        """Pass on that a raw run is over, once its stop has had time to be overtaken by its frames."""
        now, runs = time.monotonic(), self._assembler.book.runs
        for uid, record in runs.items():
            if record.stop is not None and uid not in self._ended_runs:
                heard_s = self._stop_heard_s.setdefault(uid, now)
                if now - heard_s >= RUN_END_S and uid not in open_uids:
                    self._ended_runs.add(uid)
                    self._work.put(RunStopped(uid=uid))
        for uid in [uid for uid in self._stop_heard_s if uid not in runs]:
            del self._stop_heard_s[uid]
            self._ended_runs.discard(uid)
        for uid in [uid for uid in tuple(self._publishers) if uid not in runs and uid not in open_uids]:
            if uid not in self._ended_runs:
                self._ended_runs.add(uid)
                self._work.put(RunStopped(uid=uid))

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

    def _preview(self, progress: CurveProgress) -> None:
        if self._noted.get(str(progress.series), -1) < progress.account.received:
            self._noted[str(progress.series)] = progress.account.received
            self._journal.curve_began(progress)
            with self._lock:
                self._publisher(progress.run).preview(progress)

    def _curve(self, curve: RockingCurve) -> None:
        results = reconstruct(curve, self._network, self._settings.chain, wait_turn=self._wait_turn)
        self._publish(curve, self._next(curve, results, "inference"))
        self._polish_queue.put(_Polish(curve=curve, results=results))

    def _wait_turn(self) -> None:
        self._is_idle.wait()

    def _polish(self) -> None:
        while (work := self._polish_queue.get()) is not None:
            if isinstance(work, RunStopped):
                self._close(work.uid, "success", "")
                continue
            self._publish(work.curve, self._next(work.curve, work.results, "reconstruction"))
            self._journal.curve_ended(work.curve.series.series)
        for uid in list(self._publishers):
            self._close(uid, "abort", "the service was stopped")

    def _next(self, curve: RockingCurve, results: Iterator[Result], stream: str) -> Result:
        """Take the next result; a curve that breaks the stages fails, and the service goes on."""
        try:
            return next(results)
        except StopIteration:
            return failed(stream, curve, ("no result: an earlier stage failed, see the inference",), {})
        except Exception as error:
            logger.exception("run %s curve %d: %s failed", curve.run.uid[:8], curve.curve_index, stream)
            return failed(stream, curve, (f"our fault: {error!r}; please report it with the service's log",), {})

    def _publish(self, curve: RockingCurve, result: Result) -> None:
        with self._lock:
            self._result(curve.run, result)
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

    def _result(self, context: RunContext, result: Result) -> None:
        """Write and emit one result; a disk that is full must not end the service."""
        try:
            self._publisher(context).result(result)
        except OSError:
            logger.exception("run %s: the %s cannot be written", context.uid[:8], result.stream)

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
        with self._lock:
            self._result(broken.run, result)
        self._journal.curve_ended(broken.series)
        if broken.run.uid not in self._assembler.book.runs:
            self._close(broken.run.uid, "abort", broken.reason)

    def _publisher(self, context: RunContext) -> RunPublisher:
        if context.uid not in self._publishers:
            attempt = self._journal.next_attempt(context.uid)
            settings = self._settings
            identity = reconstruction_identity(context.uid, settings.provenance.config_sha256, attempt)
            publisher = RunPublisher(
                context, settings.provenance, self._shapes(), settings.directory, self._emit, identity
            )
            self._journal.run_began(publisher.uid, context.uid)
            self._publishers[context.uid] = publisher
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
        self._archive_queue.put((CLOSE_LEFT_RUN, stop))
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
            if name != CLOSE_LEFT_RUN:
                sink(name, doc)
            elif (close_run := getattr(sink, "close_run", None)) is not None:
                close_run(doc)
        except Exception:
            logger.exception("%s refused a %s document; the result files are kept", type(sink).__name__, name)
