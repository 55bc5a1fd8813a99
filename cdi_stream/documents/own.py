"""Documents of this service: they come back on the bus and are told from those of raw runs here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdi_stream.messages import Document

SOURCE = "cdi_stream:"
"""Begin of the ``source`` of every data key of this service."""

STAGES = ("reconstruction", "refinement", "arrays")
"""Values of ``analysis_stage`` in the start documents of this service."""

STREAMS = frozenset({"progress", "preview", "inference", "reconstruction", "refinement"})
"""Names of the streams of this service."""

_IN_EVERY_EVENT = "_frames_expected"


def is_own_start(start: Document) -> bool:
    """Whether a start document belongs to a run that a service like this one made of a raw run."""
    return "original_run_uid" in start or start.get("analysis_stage") in STAGES


def is_own_descriptor(descriptor: Document) -> bool:
    """Whether a descriptor belongs to a run of this service, by the sources of its data."""
    keys = descriptor.get("data_keys")
    data_keys = [key for key in keys.values() if isinstance(key, Mapping)] if isinstance(keys, Mapping) else []
    return any(str(key.get("source")).startswith(SOURCE) for key in data_keys)


def is_own_event(event: Document) -> bool:
    """Whether an event whose descriptor is unknown belongs to a run of this service, by its frame account."""
    return any(str(key).endswith(_IN_EVERY_EVENT) for key in event["data"])


def is_own_resource(resource: Document) -> bool:
    """Whether a document that names data in a file belongs to a run of this service, by the name of its data key."""
    return str(resource.get("data_key")).partition("_")[0] in STREAMS


def is_own_stop(n_events: Mapping[str, Any]) -> bool:
    """Whether a stop document belongs to a run of this service, by the streams whose events it counts."""
    return bool(n_events) and n_events.keys() <= STREAMS
