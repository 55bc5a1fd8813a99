"""From a run's documents to the values of it that travel with a curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdi_stream.documents.readings import whole
from cdi_stream.documents.runs import RunRecord
from cdi_stream.messages import RunContext

COPIED_KEYS = ("tiled_access_tags", "data_session", "proposal", "cycle", "sample", "simulated", "replay_of")
"""Keys of a raw start document that ours copies."""


def context_of(run: RunRecord, copied_keys: tuple[str, ...] = ()) -> RunContext:
    """Return what a curve is told of its run; fields that are not of their kind are left out.

    ``copied_keys`` are further keys of the start document that our own start document copies.
    """
    start = run.start
    groups = start.get("data_groups")
    motors = start.get("motors")
    return RunContext(
        uid=run.uid,
        scan_id=None if isinstance(start.get("scan_id"), bool) else whole(start.get("scan_id")),
        sample=_sample(start.get("sample")),
        plan_name=_text(start.get("plan_name")),
        motors=tuple(str(name) for name in motors) if isinstance(motors, list | tuple) else (),
        metadata={key: start[key] for key in (*COPIED_KEYS, *copied_keys) if key in start},
        data_groups=tuple(group for group in groups if isinstance(group, str))
        if isinstance(groups, list | tuple)
        else (),
        readings=run.readings,
        units=run.units,
    )


def context_without_documents(uid: str, *, is_claimed: bool) -> RunContext:
    """Return the context of a curve whose run was not heard; ``is_claimed``: the detector named it."""
    return RunContext(uid=uid, is_heard=is_claimed)


def _sample(value: Any) -> str | None:
    """Return the name of a sample; some facilities describe it by a map with a name."""
    if isinstance(value, Mapping):
        value = value.get("name")
    return _text(value)


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    return "".join(letter if letter.isprintable() else "?" for letter in value[:200])
