"""Structured log: one JSON object a line, with the run and the curve that the line is about.

A line holds ``time`` (ISO 8601, UTC), ``level``, ``logger`` and ``message``; ``run`` (uid of the raw run) and
``curve_index`` where they are known; ``exception`` with the traceback after an error.  Lines of other packages have the
same form.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

VARIABLE = "CDI_STREAM_LOG_FORMAT"
"""Environment variable with the format of the log: ``text`` or ``json``."""

_place: ContextVar[dict[str, object]] = ContextVar("place")


@contextlib.contextmanager
def about(raw_uid: str, curve_index: int) -> Iterator[None]:
    """Note in each line of this thread which run and curve it is about, until the context ends."""
    token = _place.set({"run": raw_uid, "curve_index": curve_index})
    try:
        yield
    finally:
        _place.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_place.get({}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def write_json(stream: TextIO) -> None:
    """Write all lines of the log, warnings and uncaught errors of this process as JSON to ``stream``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught


def is_json() -> bool:
    """Return whether the log of this process is JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    logging.getLogger("cdi_stream").critical("the program ends with an error", exc_info=(kind, error, traceback))
