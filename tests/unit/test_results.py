"""Results in the process of the RunEngine: by run and curve, waited for, and none when the time is over."""

from __future__ import annotations

import math
import threading
import time

import pytest

from cdi_stream_plugins.bluesky.results import ReconstructionResult, Results


def documents(run="ours", raw="raw", index=0, verdict="good", **data):
    values = {"curve_index": index, "verdict": verdict, **data}
    return [
        ("start", {"uid": run, "original_run_uid": raw, "analysis_stage": "reconstruction"}),
        ("descriptor", {"uid": f"{run}-d", "run_start": run, "name": "reconstruction"}),
        ("event", {"descriptor": f"{run}-d", "data": {f"reconstruction_{k}": v for k, v in values.items()}}),
    ]


def taken(*parts):
    results = Results()
    for part in parts:
        for name, doc in part:
            results.take(name, doc)
    return results


def test_a_result_is_found_by_run_and_curve():
    results = taken(documents(), documents("other", "raw 2", verdict="failed"), documents(index=1, verdict="doubtful"))
    assert results.wait("raw", 0, 0.0).verdict == "good"
    assert results.wait("raw", 1, 0.0).verdict == "doubtful"
    assert results.wait("raw 2", 0, 0.0).verdict == "failed"
    assert results.wait("raw 2", 1, 0.0) == ReconstructionResult()


def test_the_numbers_have_their_names_and_missing_ones_are_nan():
    result = taken(documents(chi2=0.01, size_lab_x_nm=300.0, file="/data/x.h5", latency_s=4.0, r_p="odd")).wait(
        "raw", 0, 0
    )
    assert (result.chi2, result.size_x_nm, result.path, result.seconds, result.uid) == (
        0.01,
        300.0,
        "/data/x.h5",
        4.0,
        "ours",
    )
    assert math.isnan(result.r_p)
    assert math.isnan(result.strain_low)


def test_a_result_that_comes_later_ends_the_wait():
    results = Results()

    def send():
        time.sleep(0.2)
        for name, doc in documents():
            results.take(name, doc)

    thread = threading.Thread(target=send)
    thread.start()
    begin = time.monotonic()
    assert results.wait("raw", 0, 30.0).verdict == "good"
    assert time.monotonic() - begin < 10.0
    thread.join()


def test_without_a_run_the_next_new_result_counts():
    results = taken(documents())
    assert results.wait(None, 0, 0.05).verdict == "none"
    thread = threading.Timer(0.2, lambda: [results.take(*d) for d in documents("new", "raw 2", verdict="doubtful")])
    thread.start()
    assert results.wait(None, 0, 30.0).verdict == "doubtful"
    thread.join()


def test_without_a_run_each_next_result_counts_whatever_its_curve():
    results = Results()
    for part in (documents(), documents(index=1, verdict="doubtful"), documents("new", "raw 2", verdict="failed")):
        thread = threading.Timer(0.2, lambda part=part: [results.take(*d) for d in part])
        thread.start()
        assert results.wait(None, 7, 30.0).verdict == part[-1][1]["data"]["reconstruction_verdict"]
        thread.join()


def test_the_newest_open_raw_run_is_known():
    results = taken([("start", {"uid": "a"}), ("start", {"uid": "b"})], documents())
    assert results.newest_run == "b"
    results.take("stop", {"run_start": "b"})
    assert results.newest_run == "a"


@pytest.mark.parametrize("doc", [{}, {"descriptor": 3}, {"uid": None, "data": []}])
@pytest.mark.parametrize("name", ["start", "descriptor", "event", "stop", "datum"])
def test_odd_documents_are_left_out(name, doc):
    results = taken(documents())
    results.take(name, doc)
    assert results.wait("raw", 0, 0.0).verdict == "good"


def test_old_results_are_forgotten():
    results = taken(*(documents(f"ours {k}", f"raw {k}") for k in range(500)))
    assert results.wait("raw 499", 0, 0.0).verdict == "good"
    assert results.wait("raw 0", 0, 0.0).verdict == "none"
    assert len(results._results) <= 200
