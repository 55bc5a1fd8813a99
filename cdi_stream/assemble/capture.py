"""Capture: the loop around a recorder - one detector socket, and the document bus where there is one."""

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
"""Frames may be overtaken by the end of their series, and documents come later still."""

FLUSH_S = 1.0
"""A kill loses the frames of this time."""


TELL_EVERY_S = 5.0
"""How often it is told what is awaited [s]."""

_POLL_MS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSettings:
    """What to record, where to, and when to stop: after ``n_series`` ends (0: never), or ``timeout_s`` of silence."""

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
    """Record until it is time to stop; returns the frame counts and how many series ended.

    ``report`` is given the number of frames written now and then, ``tell`` what is awaited while nothing comes.
    ``bad`` counts malformed messages too.  A disk that fills up ends the recording: what was written stays, and
    ``stopped`` says why it ended.

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
                receiver.revive(time.monotonic())
                report(recorder.n_frames)
        except OSError as error:  # the file is whole: space is taken before it is written
            stopped = f"{error.strerror} in {settings.out.parent.resolve()}: make room, then record again"
        counts = recorder.close()
    counts["bad"] += receiver.n_malformed
    told = {} if stopped is None else {"stopped": stopped}
    return counts | {"series": recorder.n_ended, "messages": receiver.n_messages} | told


def _turns(
    settings: CaptureSettings, recorder: Recorder, silence: _Silence, is_stopped: Callable[[], bool]
) -> Iterator[None]:
    """Yield for each turn of the loop, as long as there is something to wait for; flush in between."""
    flushed_s, until_s = time.monotonic(), math.inf
    while not is_stopped() and time.monotonic() < until_s:
        yield
        now_s = time.monotonic()
        if now_s - flushed_s > FLUSH_S:
            recorder.flush()
            flushed_s = now_s
        lasts_s = silence.look(now_s, recorder.n_frames)
        is_silent = settings.timeout_s is not None and lasts_s > settings.timeout_s
        if recorder.is_done or is_silent:
            until_s = min(until_s, now_s + (LINGER_S if recorder.is_done else 0.0))


class _Silence:
    """How long no message has come; says so every `TELL_EVERY_S`."""

    def __init__(self, detector: DetectorConfig, receiver: Receiver, tell: Callable[[str], None]) -> None:
        self._place = (
            f"{detector.endpoint} ({detector.socket.upper()}, {'bound here' if detector.bind else 'connecting there'})"
        )
        self._receiver = receiver
        self._tell = tell
        self._n_messages = 0
        self._since_s = self._told_s = time.monotonic()

    def look(self, now_s: float, n_frames: int) -> float:
        """Return how long no message has come [s]."""
        receiver = self._receiver
        if receiver.n_messages > self._n_messages:
            self._n_messages, self._since_s, self._told_s = receiver.n_messages, now_s, now_s
        if now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
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
    detector = settings.detector
    decoder = decoder_of(detector)
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        socket = socket_of(detector, context)
        stack.callback(socket.close, 0)
        documents = None
        if settings.documents is not None:
            documents = bus.listen(context, settings.documents.subscribe)
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
        log.write(parts, time.time_ns())

    return write


def _close(log: MessageLog) -> None:
    """Close a log; on a full disk its last message is cut off, which `read_log` knows."""
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
    for name, doc in bus.received(socket, settings.documents.prefix, read):
        try:
            recorder.on_document(name, doc)
        except WireError as error:
            logger.warning("document dropped: %s", error)
