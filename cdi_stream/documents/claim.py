"""What a detector's ``user_data`` says of the run that a series belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdi_stream.documents.readings import whole
from cdi_stream.documents.runs import MAX_UID

_UID_KEYS = ("run_uid", "scan_uid", "bluesky_run_uid")
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Run that ``user_data`` names, the curve's place in it and the number of its points.

    ``is_firm``: the name is certainly meant as a run's uid, so that its documents are waited for; a text that may be
    a file name counts only if a run of that uid is known.  ``is_named``: only a run whose events name the series will
    do, not one that was open at the time.
    """

    run_uid: str | None = None
    curve_index: int | None = None
    n_points: int | None = None
    is_firm: bool = False
    is_named: bool = False


def read_claim(user_data: Any) -> Claim:
    """Read ``user_data``: a run uid, or a map (plain or as JSON text) with ``run_uid`` and more.

    A firm claim is a value of the keys ``run_uid``, ``scan_uid`` or ``bluesky_run_uid``, or a text in the form of a
    UUID; the key ``uid`` alone may be anybody's.
    """
    if isinstance(user_data, str):
        try:
            user_data = json.loads(user_data)
        except (ValueError, RecursionError):
            uid = _uid(user_data.strip())
            return Claim(run_uid=uid, is_firm=_is_uuid(uid))
    if not isinstance(user_data, Mapping):
        return Claim()
    named = next((_uid(str(user_data[key])) for key in _UID_KEYS if user_data.get(key)), None)
    uid = named or (_uid(str(user_data["uid"])) if user_data.get("uid") else None)
    return Claim(
        run_uid=uid,
        curve_index=_count(user_data.get("curve_index")),
        n_points=_count(user_data.get("n_points")),
        is_firm=named is not None or _is_uuid(uid),
    )


def _uid(text: str) -> str | None:
    """Return a uid that can be one: it becomes part of names and of documents."""
    return text if 0 < len(text) <= MAX_UID and text.isprintable() else None


def _is_uuid(text: str | None) -> bool:
    return text is not None and _UUID.fullmatch(text) is not None


def _count(value: Any) -> int | None:
    number = None if isinstance(value, bool) else whole(value)
    return number if number is not None and number >= 0 else None
