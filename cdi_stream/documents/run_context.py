"""Run context: the values of a raw run that travel with each of its curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdi_stream.documents.readings import whole
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.messages import PREVIOUS_RUN, RunContext

SERIES_KEYS = ("series_uid", "series_index", PREVIOUS_RUN)
"""Keys of a raw start document that place the run in a series of one crystal, see `follow_crystal` of the plugins."""

COPIED_KEYS = (
    "tiled_access_tags",
    "data_session",
    "proposal",
    "cycle",
    "sample",
    "simulated",
    "replay_of",
    *SERIES_KEYS,
)
"""Keys of a raw start document that the start document of the reconstruction copies."""


def context_of(run: RunRecord, copied_keys: tuple[str, ...] = ()) -> RunContext:
    """Return the context of a run; values of an unexpected type are left out.

    ``copied_keys`` are further keys of the raw start document that the start document of the reconstruction copies.
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
        is_heard=run.is_uid_known,
    )


def context_without_documents(uid: str, *, is_claimed: bool) -> RunContext:
    """Return the context of a run without documents; ``is_claimed``: the detector's ``user_data`` names the run."""
    return RunContext(uid=uid, is_heard=is_claimed)


def _sample(value: Any) -> str | None:
    """Return the name of a sample; some facilities write a map with the key ``name``."""
    if isinstance(value, Mapping):
        value = value.get("name")
    return _text(value)


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    return "".join(letter if letter.isprintable() else "?" for letter in value[:200])
