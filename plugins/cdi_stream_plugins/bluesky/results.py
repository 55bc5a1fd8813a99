"""Results of the service, received in the process of the RunEngine, so that a plan can wait for them."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import zmq

from cdi_stream.documents import bus
from cdi_stream.errors import WireError
from cdi_stream.messages import Document
from cdi_stream_plugins.bluesky.bus_settings import BusSettings

MAX_RUNS = 200
"""Number of raw runs whose results are kept."""

_POLL_MS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionResult:
    """Result of one rocking curve, by the names of the readings of a `Reconstruction` device.

    Parameters
    ----------
    verdict
        ``good``, ``doubtful`` or ``failed``; ``none`` if no result came in time.
    chi2, r_p
        Error and Pearson correlation on the measured voxels; NaN where unknown, like all numbers here.
    size_x_nm, size_y_nm, size_z_nm
        Box around 30 % of the largest amplitude, lab coordinates [nm].
    strain_low, strain_high
        Lowest and highest strain inside the crystal.
    uid
        Uid of the reconstruction's run.
    path
        Result file.
    seconds
        Time from the last frame to the document of the result [s].
    reasons
        Reasons for the verdict, separated by vertical bars.
    """

    verdict: str = "none"
    chi2: float = math.nan
    r_p: float = math.nan
    size_x_nm: float = math.nan
    size_y_nm: float = math.nan
    size_z_nm: float = math.nan
    strain_low: float = math.nan
    strain_high: float = math.nan
    uid: str = ""
    path: str = ""
    seconds: float = math.nan
    reasons: str = ""


UNITS = {"size_x_nm": "nm", "size_y_nm": "nm", "size_z_nm": "nm", "seconds": "s"}
"""Units of the numbers in a `ReconstructionResult`; the other numbers have none."""


class Results:
    """Results by raw run and place of the curve; `wait` blocks until one is there.

    `take` takes the documents of the bus in their order.  It is safe to call both from different threads.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._raw_of_run: OrderedDict[str, str] = OrderedDict()
        self._run_of_descriptor: dict[str, str] = {}
        self._results: OrderedDict[str, dict[int, ReconstructionResult]] = OrderedDict()
        self._open_raw: list[str] = []

    @property
    def newest_run(self) -> str | None:
        """Uid of the newest raw run on the bus that has no stop document."""
        return self._open_raw[-1] if self._open_raw else None

    def take(self, name: str, doc: Document) -> None:
        """Take one document; documents of other kinds are left out."""
        with self._changed:
            match name:
                case "start":
                    self._start(doc)
                case "descriptor" if doc.get("name") == "reconstruction" and doc.get("run_start") in self._raw_of_run:
                    self._run_of_descriptor[str(doc.get("uid"))] = str(doc["run_start"])
                case "event" if str(doc.get("descriptor")) in self._run_of_descriptor:
                    self._event(self._run_of_descriptor[str(doc["descriptor"])], doc)
                case "stop":
                    self._open_raw = [uid for uid in self._open_raw if uid != doc.get("run_start")]
            self._changed.notify_all()

    def wait(
        self, run_uid: str | None, index: int, timeout_s: float, is_over: Callable[[], bool] = lambda: False
    ) -> ReconstructionResult:
        """Return the result of one curve; one with the verdict ``none`` if none comes in time.

        Parameters
        ----------
        run_uid
            Uid of the raw run; None for the next result of any run.
        index
            Place of the curve in its run, from 0; without meaning if the run is not known.
        timeout_s
            Longest time to wait [s].
        is_over
            Tells whether to stop waiting early.
        """
        with self._changed:
            known = set(self._curves())
            self._changed.wait_for(lambda: self._find(run_uid, index, known) is not None or is_over(), timeout_s)
            return self._find(run_uid, index, known) or ReconstructionResult()

    def wake(self) -> None:
        """Let all waiting threads look again whether their waiting is over."""
        with self._changed:
            self._changed.notify_all()

    def _find(self, run_uid: str | None, index: int, known: set[tuple[str, int]]) -> ReconstructionResult | None:
        if run_uid is not None:
            return self._results.get(run_uid, {}).get(index)
        return next((self._results[uid][place] for uid, place in self._curves() if (uid, place) not in known), None)

    def _curves(self) -> Iterator[tuple[str, int]]:
        """Yield raw run and place of each curve that has a result."""
        return ((uid, index) for uid, curves in self._results.items() for index in curves)

    def _start(self, doc: Document) -> None:
        uid = str(doc.get("uid"))
        if doc.get("analysis_stage") == "reconstruction":
            self._raw_of_run[uid] = str(doc.get("original_run_uid"))
            while len(self._raw_of_run) > MAX_RUNS:
                old, _ = self._raw_of_run.popitem(last=False)
                self._run_of_descriptor = {d: run for d, run in self._run_of_descriptor.items() if run != old}
        elif "original_run_uid" not in doc:
            self._open_raw = [*self._open_raw[-MAX_RUNS:], uid]

    def _event(self, run: str, doc: Document) -> None:
        data = doc.get("data")
        if isinstance(data, Mapping):
            index = data.get("reconstruction_curve_index")
            result = _result_of(run, data)
            self._results.setdefault(self._raw_of_run[run], {})[index if isinstance(index, int) else 0] = result
            while len(self._results) > MAX_RUNS:
                self._results.popitem(last=False)


class ResultListener:
    """Thread that listens to the bus on which the service publishes, and fills `Results`."""

    def __init__(self, settings: BusSettings) -> None:
        self.results = Results()
        self._stopped = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        address = settings.results if "://" in settings.results else f"tcp://{settings.results}"
        self._socket = bus.listen(self._context, address, settings.curve)
        self._prefix, self._read = settings.prefix, bus.reader(settings.serializer)
        self._thread = threading.Thread(target=self._listen, name="cdi-stream results", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()
        self._context.term()

    def _listen(self) -> None:
        while not self._stopped.is_set():
            for name, doc in bus.receive(self._socket, self._prefix, self._read, _POLL_MS, on_unusable=_leave_out):
                self.results.take(name, doc)
        self._socket.close(0)


def _leave_out(error: WireError) -> None:
    """Leave out a message that is no document; the service itself reports them."""


def _result_of(run: str, data: Mapping[str, object]) -> ReconstructionResult:
    """Return the result in an event; a value of a wrong type counts as missing."""

    def number(key: str) -> float:
        """Return a number of the event; NaN if there is none."""
        value = data.get(f"reconstruction_{key}")
        return float(value) if isinstance(value, int | float) else math.nan

    def text(key: str) -> str:
        """Return a text of the event; empty if there is none."""
        value = data.get(f"reconstruction_{key}")
        return value if isinstance(value, str) else ""

    return ReconstructionResult(
        verdict=text("verdict") or "none",
        chi2=number("chi2"),
        r_p=number("r_p"),
        size_x_nm=number("size_lab_x_nm"),
        size_y_nm=number("size_lab_y_nm"),
        size_z_nm=number("size_lab_z_nm"),
        strain_low=number("strain_low"),
        strain_high=number("strain_high"),
        uid=run,
        path=text("file"),
        seconds=number("latency_s"),
        reasons=text("reasons"),
    )
