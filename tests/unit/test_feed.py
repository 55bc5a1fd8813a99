"""Messages of the feed: headers and pictures."""

from __future__ import annotations

import json

import pytest

from cdi_stream.live.refinements import refinement_message
from cdi_stream.messages import CurveProgress, FrameAccount, RunContext
from cdi_stream.operators import feed
from cdi_stream.refine.queue import Job

RUN = RunContext(uid="5d0c", scan_id=54, sample="Au 3", plan_name="rocking_curve", motors=("theta",))
PLACE = {
    "raw_uid": "5d0c",
    "scan_id": 54,
    "sample": "Au 3",
    "plan_name": "rocking_curve",
    "motors": ["theta"],
    "curve_index": 2,
}


@pytest.mark.parametrize("run", [RUN, RunContext(uid="5d0c")])
def test_progress_and_result_name_their_curve_in_the_words_of_a_beamline(run):
    account = FrameAccount(expected=3, received=3)
    progress = feed.progress_message(CurveProgress(series=1, run=run, curve_index=2, account=account))
    result = feed.result_message(
        stage="inference", run=run, run_uid="99aa", curve_index=2, crystal=None, verdict="failed", published=False
    )
    nothing = PLACE | {"scan_id": None, "sample": None, "plan_name": None, "motors": []}
    for message in (progress, result):
        header, images = feed.unpack(feed.pack(*message))
        assert {key: header[key] for key in PLACE} == (PLACE if run is RUN else nothing)
        assert not images
    assert result[0]["run_uid"] == "99aa"
    assert result[0]["published"] is False


def test_method_and_recipe_of_a_refinement_are_no_reasons():
    data = {"reasons": "two crystals in the beam | few counts", "verdict": "doubtful", "file": "/nowhere.h5"}
    data |= {"method": "auto", "recipe": "SW[every=10]+150*HIO", "chi2": 0.01, "curve_index": 2}
    event = {"data": {f"refinement_{key}": value for key, value in data.items()}}
    spec = {"raw_uid": "5d0c", "scan_id": 54, "curve_index": 2}
    job = Job(
        id=1, key="k", method="auto", spec=spec, input="i", state="computed", priority=0, created_s=0.0, attempts=1,
        owner=None, error=None,
    )  # fmt: skip
    header, _ = refinement_message(job, [("start", {}), ("event", event)])
    assert header["reasons"] == ["two crystals in the beam", "few counts"]
    assert (header["method"], header["recipe"]) == ("auto", "SW[every=10]+150*HIO")
    assert (header["scan_id"], header["raw_uid"], header["curve_index"]) == (54, "5d0c", 2)
    assert json.dumps(header)
