"""Capture: the loop that feeds a recorder from one detector socket and, where configured, the document bus."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from cdi_stream.assemble.recorder import Recorder
from cdi_stream.config import BusConfig, DetectorConfig
from cdi_stream.documents import bus
from cdi_stream.errors import ConfigError, WireError
from cdi_stream.protocols import Buffer
from cdi_stream.stream.detector import decoder_of, socket_of
from cdi_stream.stream.message_log import MessageLog
from cdi_stream.stream.receive import Receiver

logger = logging.getLogger(__name__)

LINGER_S = 0.5
"""Time [s] that recording goes on after the end of the last series: late frames and documents may still come."""

FLUSH_S = 1.0
"""Time [s] between two writes to disk; a recording that is killed loses the frames of this time."""

REPORT_EVERY_S = 5.0
"""Time [s] between two reports while no message comes."""

_POLL_MS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSettings:
    """Settings of a recording.

    ``out`` is the HDF5 file, ``raw`` the message log (None: none), ``documents`` the bus (None: none), ``beamline`` the
    name written into the file.  The recording stops after the end of ``n_series`` series (0: never), or when no message
    has come for ``timeout_s`` [s] (None: never).
    """

    detector: DetectorConfig
    out: Path
    raw: Path | None = None
    documents: BusConfig | None = None
    beamline: str | None = None
    n_series: int = 1
    timeout_s: float | None = None


def capture(
    settings: CaptureSettings,
    is_stopped: Callable[[], bool],
    report: Callable[[int], None],
    tell: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Record until stopped; return the frame counts.

    Parameters
    ----------
    settings
        Detector, files, and when to stop.
    is_stopped
        Tells whether to stop at once.
    report
        Called now and then with the number of frames written.
    tell
        Called with a sentence while no message comes.

    Returns
    -------
    counts
        ``expected``, ``received``, ``missing``, ``duplicate``, ``late``, ``bad`` (with malformed messages), ``series``
        (ended), ``messages``; ``stopped`` says why a full disk ended the recording.  The frames written before stay.

    Raises
    ------
    InputError, ServiceError
        If a file cannot be written, or the endpoint cannot be opened.
    """
    with _open(settings) as (recorder, receiver, documents):
        silence = _Silence(settings.detector, receiver, tell)
        stopped = None
        try:
            for _ in _turns(settings, recorder, silence, is_stopped):
                if receiver.socket.poll(_POLL_MS):
                    _take(receiver, recorder)
                if documents is not None:
                    _listen(documents, recorder, settings)
                receiver.reconnect_if_cut(time.monotonic())
                report(recorder.n_frames)
        except OSError as error:  # the file is whole: its space was reserved before
            stopped = f"{error.strerror} in {settings.out.parent.resolve()}: make room, then record again"
        counts = recorder.close()
    counts["bad"] += receiver.n_malformed
    reason = {} if stopped is None else {"stopped": stopped}
    return counts | {"series": recorder.n_ended, "messages": receiver.n_messages} | reason


def _turns(
    settings: CaptureSettings, recorder: Recorder, silence: _Silence, is_stopped: Callable[[], bool]
) -> Iterator[None]:
    """Yield once for each turn of the loop until the recording is to stop; flush the file in between."""
    flushed_s, until_s = time.monotonic(), math.inf
    while not is_stopped() and time.monotonic() < until_s:
        yield
        now_s = time.monotonic()
        if now_s - flushed_s > FLUSH_S:
            recorder.flush()
            flushed_s = now_s
        silence_s = silence.measure(now_s, recorder.n_frames)
        is_silent = settings.timeout_s is not None and silence_s > settings.timeout_s
        if recorder.is_done or is_silent:
            until_s = min(until_s, now_s + (LINGER_S if recorder.is_done else 0.0))


class _Silence:
    """Measures the time since the last message; reports it every `REPORT_EVERY_S` through ``tell``."""

    def __init__(self, detector: DetectorConfig, receiver: Receiver, tell: Callable[[str], None]) -> None:
        self._place = (
            f"{detector.endpoint} ({detector.socket.upper()}, {'bound here' if detector.bind else 'connecting there'})"
        )
        self._receiver = receiver
        self._tell = tell
        self._n_messages = 0
        self._since_s = self._reported_s = time.monotonic()

    def measure(self, now_s: float, n_frames: int) -> float:
        """Return the time since the last message [s]; ``now_s`` is monotonic time, ``n_frames`` is for the report."""
        receiver = self._receiver
        if receiver.n_messages > self._n_messages:
            self._n_messages, self._since_s, self._reported_s = receiver.n_messages, now_s, now_s
        if now_s - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now_s
            self._tell(
                f"no message from {self._place} for {now_s - self._since_s:.0f} s; so far {receiver.n_messages} "
                f"messages, {receiver.n_malformed} malformed, {n_frames} frames written{_remedy(receiver)}"
            )
        return now_s - self._since_s


def _remedy(receiver: Receiver) -> str:
    if receiver.n_messages == 0:
        return ": is the detector's stream on, and the address right?"
    return ": is --format right?" if receiver.n_malformed == receiver.n_messages else ""


@contextlib.contextmanager
def _open(
    settings: CaptureSettings,
) -> Iterator[tuple[Recorder, Receiver, zmq.Socket[bytes] | None]]:
    """Yield the recorder, the receiver and the document socket of a recording (None without documents)."""
    detector = settings.detector
    decoder = decoder_of(detector)
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        socket = socket_of(detector, context)
        stack.callback(socket.close, 0)
        documents = None
        if settings.documents is not None:
            documents = bus.listen(context, settings.documents.subscribe, settings.documents.curve)
            stack.callback(documents.close, 0)
        try:
            recorder = Recorder(settings.out, settings.beamline, settings.n_series)
            log = _log(settings.raw, stack)
        except OSError as error:
            raise ConfigError(f"the recording cannot be written: {error}") from error
        receiver = Receiver(socket, decoder, detector.max_queue_bytes, log, is_bound=detector.bind)
        stack.callback(receiver.close)
        yield recorder, receiver, documents


def _log(path: Path | None, stack: contextlib.ExitStack) -> Callable[[Any], None]:
    if path is None:
        return lambda _: None
    log = MessageLog(path)
    stack.callback(_close, log)

    def write(parts: list[Buffer]) -> None:
        """Write the parts of one message with the time of their receipt."""
        log.write(parts, time.time_ns())

    return write


def _close(log: MessageLog) -> None:
    """Close a log; on a full disk its last message is cut off, and `read_log` leaves that message out."""
    with contextlib.suppress(OSError):
        log.close()


def _take(receiver: Receiver, recorder: Recorder) -> None:
    for message in receiver.messages():
        try:
            recorder.take(message, time.time_ns())
        except WireError as error:
            receiver.refuse(error)


def _listen(socket: zmq.Socket[bytes], recorder: Recorder, settings: CaptureSettings) -> None:
    assert settings.documents is not None
    read = bus.reader(settings.documents.serializer)
    for name, doc in bus.receive(socket, settings.documents.prefix, read):
        try:
            recorder.on_document(name, doc)
        except WireError as error:
            logger.warning("document left out: %s", error)
