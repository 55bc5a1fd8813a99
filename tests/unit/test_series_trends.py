"""The trends of a series as one run for plots, from the documents of a real RunEngine."""

from __future__ import annotations

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine
from event_model import DocumentNames, schema_validators
from ophyd.sim import det

from cdi_stream_plugins.bluesky import ReconstructionResult, SeriesTrends
from cdi_stream_plugins.bluesky.series import PLAN_NAME, _Row, trends_run


@pytest.fixture
def engine():
    return RunEngine({}, context_managers=[])


def scan(index, chi2):
    """A run of a series whose crystal has this chi2."""
    row = _Row("crystal")
    row.take(index, ReconstructionResult(verdict="good", chi2=chi2))

    @bpp.run_decorator(md={"series_index": index})
    def plan():
        yield from bps.trigger_and_read([det])
        yield from bps.trigger_and_read([row], name="reconstruction")

    yield from plan()


def test_two_series_are_two_runs_with_valid_documents(engine):
    documents = []
    trends = SeriesTrends("crystal", lambda name, doc: documents.append((name, doc)))
    engine.subscribe(trends)
    for index, chi2 in ((0, 0.3), (1, 0.2), (0, 0.7)):
        engine(scan(index, chi2))
    trends.close()
    assert [name for name, _ in documents] == [
        *("start", "descriptor", "event", "event", "stop"),
        *("start", "descriptor", "event", "stop"),
    ]
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    events = [doc["data"] for name, doc in documents if name == "event"]
    assert [(event["series_index"], event["crystal_chi2"]) for event in events] == [(0, 0.3), (1, 0.2), (0, 0.7)]
    assert [row["crystal_chi2"] for row in trends.rows] == [0.7], "of the newest series"


def test_runs_outside_a_series_are_left_out(engine):
    trends = SeriesTrends("crystal", lambda name, doc: pytest.fail(f"a {name} of no series"))
    engine.subscribe(trends)
    engine(bp.count([det]))
    trends.close()
    assert trends.rows == []


def test_the_run_of_the_trends_is_plotted_over_the_scans(engine):
    documents = []
    results = [ReconstructionResult(verdict="good", chi2=chi2) for chi2 in (0.3, 0.2)]
    engine(trends_run("crystal", "first", results), lambda name, doc: documents.append((name, doc)))
    start, descriptor = (next(doc for name, doc in documents if name == kind) for kind in ("start", "descriptor"))
    assert (start["plan_name"], start["series_uid"], start["num_points"]) == (PLAN_NAME, "first", 2)
    assert start["hints"]["dimensions"] == [(["series_index"], "primary")]
    assert "crystal_strain_high" in descriptor["hints"]["crystal"]["fields"]
    assert [doc["data"]["crystal_chi2"] for name, doc in documents if name == "event"] == [0.3, 0.2]
