"""Message for the operators' pages about a published refinement, made from its documents and its file."""

from __future__ import annotations

from pathlib import Path

from cdi_stream.errors import RecordingError
from cdi_stream.files.result_file import read_result
from cdi_stream.messages import Crystal, RunContext, Verdict
from cdi_stream.metrics import Metrics
from cdi_stream.operators.feed import FeedMessage, result_message
from cdi_stream.refine.jobs import STREAM
from cdi_stream.refine.queue import Job, NamedDocument


def refinement_message(job: Job, documents: list[NamedDocument]) -> FeedMessage:
    """Return the message about a refinement; without slices if its file cannot be read."""
    data = next(doc["data"] for name, doc in documents if name == "event")
    plain = {key.removeprefix(f"{STREAM}_"): value for key, value in data.items()}
    reasons = [reason for reason in plain["reasons"].split(" | ") if reason]
    return result_message(
        stage=STREAM,
        run=RunContext(uid=job.spec["raw_uid"], scan_id=job.spec["scan_id"]),
        run_uid=job.key,
        curve_index=job.spec["curve_index"],
        crystal=_crystal(Path(plain["file"]), Verdict(grade=plain["verdict"], reasons=tuple(reasons))),
        verdict=plain["verdict"],
        reasons=reasons,
        method=plain["method"],
        recipe=plain["recipe"],
        scalars={key: value for key, value in plain.items() if isinstance(value, float)},
    )


def _crystal(path: Path, verdict: Verdict) -> Crystal | None:
    """Return the crystal of a result file; None if the file cannot be read or has no crystal."""
    try:
        result = read_result(path)
    except RecordingError:
        return None
    return Crystal(
        density=result.density, support=result.support > 0, affine=result.affine, metrics=Metrics(), verdict=verdict
    )
