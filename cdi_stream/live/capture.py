"""Capture: the loop around a recorder - one detector socket, and the document bus where there is one."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from cdi_stream import bus
from cdi_stream.config import BusConfig, DetectorConfig
from cdi_stream.errors import ConfigError, WireError
from cdi_stream.live.detector import decoder_of, socket_of
from cdi_stream.live.receive import Receiver
from cdi_stream.live.record import Recorder
from cdi_stream.message_log import MessageLog
from cdi_stream.protocols import Buffer

logger = logging.getLogger(__name__)

LINGER_S = 0.5
"""Frames may be overtaken by the end of their series, and documents come later still."""

FLUSH_S = 2.0
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


def capture(settings: CaptureSettings, is_stopped: Callable[[], bool], report: Callable[[int], None]) -> dict[str, Any]:
    """Record until it is time to stop; returns the frame counts and how many series ended.

    ``report`` is given the number of frames written now and then.  ``bad`` counts malformed messages too.

    Raises
    ------
    InputError, ServiceError
        If a file cannot be written, or the endpoint cannot be opened.
    """
    with _open(settings) as (recorder, receiver, documents):
        last_s = flushed_s = time.monotonic()
        until_s: float | None = None
        while not is_stopped() and (until_s is None or time.monotonic() < until_s):
            if receiver.socket.poll(_POLL_MS):
                _take(receiver, recorder)
                last_s = time.monotonic()
            if documents is not None:
                _listen(documents, recorder, settings)
            receiver.revive(time.monotonic())
            report(recorder.n_frames)
            is_done = recorder.is_done
            if time.monotonic() - flushed_s > FLUSH_S:
                recorder.flush()
                flushed_s = time.monotonic()
            is_silent = settings.timeout_s is not None and time.monotonic() - last_s > settings.timeout_s
            if (is_done or is_silent) and until_s is None:
                until_s = time.monotonic() + (LINGER_S if is_done else 0.0)
        counts = recorder.close()
    counts["bad"] += receiver.n_malformed
    return counts | {"series": recorder.n_ended, "messages": receiver.n_messages}


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
    stack.callback(log.close)

    def write(parts: list[Buffer]) -> None:
        log.write(parts, time.time_ns())

    return write


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
