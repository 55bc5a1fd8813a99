"""Border of a stage: an error of the program makes a failed result, and the service goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from cdi_stream.inversion.chain import failed
from cdi_stream.inversion.interruption import InterruptionError
from cdi_stream.inversion.verdict import failed_verdict
from cdi_stream.messages import Result, RockingCurve
from cdi_stream.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")


def attempt(curve: RockingCurve, stream: str, compute: Callable[[], T]) -> T | Result:
    """Return what ``compute`` makes of a curve; after an error of the program, a failed result of ``stream``."""
    try:
        return compute()
    except InterruptionError:
        raise
    except Exception as error:
        logger.exception("run %s curve %d: %s failed", curve.run.uid[:8], curve.curve_index, stream)
        text = f"the {stream} ended with an error of the program: {error!r:.200}; please report it with the log"
        return failed(stream, curve, failed_verdict(text), Metrics())
