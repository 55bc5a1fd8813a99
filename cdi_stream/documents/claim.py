"""Claim: the statement in a detector's ``user_data`` about the run that a series belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cdi_stream.documents.readings import whole
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.documents.runs import MAX_UID
from cdi_stream.messages import POINTS_PER_CURVE

_UID_KEYS = ("run_uid", "scan_uid", "bluesky_run_uid")
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Run that ``user_data`` names, place of the curve in the run, and number of points of the curve.

    Parameters
    ----------
    run_uid
        Uid of the run, None if ``user_data`` names none.
    curve_index
        Place of the curve in the run, from 0.
    n_points
        Number of points of the curve.
    is_firm
        Whether ``run_uid`` is certainly a uid, so that the documents of its run are waited for.  Any other text may be
        a file name and counts only if a run of that uid is known.
    is_named
        Whether only a run whose events name the series can be its run; a run that was open at the time is not enough.
    """

    run_uid: str | None = None
    curve_index: int | None = None
    n_points: int | None = None
    is_firm: bool = False
    is_named: bool = False


def claim_with_plan(claim: Claim, run: RunRecord | None) -> Claim:
    """Return the claim with the number of points that the start document states as `POINTS_PER_CURVE`.

    The number in ``user_data`` comes first.
    """
    if claim.n_points or run is None:
        return claim
    return replace(claim, n_points=_count(run.start.get(POINTS_PER_CURVE)))


def read_claim(user_data: Any) -> Claim:
    """Return the claim in ``user_data``: a run uid, or a map (or its JSON text) with ``run_uid`` and further keys.

    A claim is firm if the uid is a value of the keys ``run_uid``, ``scan_uid`` or ``bluesky_run_uid``, or has the form
    of a UUID.  A value of the key ``uid`` alone may name something else.
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
    """Return a text if it can be a uid, which becomes part of file names and of documents; else None."""
    return text if 0 < len(text) <= MAX_UID and text.isprintable() else None


def _is_uuid(text: str | None) -> bool:
    return text is not None and _UUID.fullmatch(text) is not None


def _count(value: Any) -> int | None:
    number = None if isinstance(value, bool) else whole(value)
    return number if number is not None and number >= 0 else None
