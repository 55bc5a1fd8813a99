"""Documents of a run in Tiled: each comes once, with its descriptor, whatever is read again."""

from __future__ import annotations

import pytest

from cdi_stream.errors import WireError
from cdi_stream_plugins.sources.tiled_run import TiledRun

DESCRIPTOR = {
    "uid": "d1",
    "time": 10.0,
    "data_keys": {"theta": {"dtype": "number"}, "ts_theta": {"dtype": "number"}},
    "configuration": {"det": {"data": {"gain": 1, "mode": "a"}, "timestamps": {"gain": 9.0}, "data_keys": {}}},
}


@pytest.fixture
def documents():
    return []


@pytest.fixture
def run(documents):
    run = TiledRun({"uid": "raw", "time": 9.0}, lambda name, doc: documents.append((name, doc)))
    run.descriptors("primary", DESCRIPTOR)
    return run


def row(seq_num, time_s, **values):
    return {"seq_num": seq_num, "time": time_s, **values}


def test_documents_come_in_order_and_once(run, documents):
    rows = [row(1, 11.0, theta=0.1, ts_theta=10.9), row(2, 12.0, theta=0.2, ts_theta=11.9)]
    run.events("primary", rows[:1])
    run.descriptors("primary", DESCRIPTOR)
    run.events("primary", rows)
    run.stop({"uid": "s"})
    run.events("primary", [row(3, 13.0)])
    assert [name for name, _ in documents] == ["start", "descriptor", "event", "event", "stop"]
    assert documents[1][1] == {**DESCRIPTOR, "name": "primary", "run_start": "raw"}
    assert [doc["seq_num"] for name, doc in documents if name == "event"] == [1, 2]


def test_a_point_that_was_measured_again_comes_again(run, documents):
    """A RunEngine that resumes at a checkpoint uses the sequence numbers after it again."""
    run.events("primary", [row(1, 11.0, theta=0.1), row(2, 12.0, theta=0.2), row(2, 20.0, theta=0.3)])
    assert [doc["data"]["theta"] for name, doc in documents if name == "event"] == [0.1, 0.2, 0.3]
    assert run.n_events("primary") == 3
    assert run.n_points("primary") == 2


def test_a_data_key_that_looks_like_a_timestamp_is_a_data_key(run, documents):
    run.events("primary", [row(1, 11.0, theta=0.1, ts_theta=7.0, ts_ts_theta=10.8)])
    event = documents[-1][1]
    assert event["data"] == {"theta": 0.1, "ts_theta": 7.0}
    assert event["timestamps"]["ts_theta"] == 10.8


def test_a_new_configuration_gives_a_new_descriptor(run, documents):
    update = {"uid": "d2", "time": 15.0, "configuration": {"det": {"data": {"gain": 2}, "timestamps": {"gain": 14.9}}}}
    run.descriptors("primary", {**DESCRIPTOR, "_config_updates": [update]})
    name, descriptor = documents[-1]
    assert (name, descriptor["uid"], descriptor["time"]) == ("descriptor", "d2", 15.0)
    assert descriptor["configuration"]["det"]["data"] == {"gain": 2, "mode": "a"}
    assert descriptor["data_keys"] == DESCRIPTOR["data_keys"]
    run.events("primary", [row(1, 11.0), row(2, 16.0)])
    assert [doc["descriptor"] for name, doc in documents if name == "event"] == ["d1", "d2"]


def test_arrays_that_are_not_in_the_table_are_named(documents):
    run = TiledRun({"uid": "raw"}, lambda name, doc: documents.append((name, doc)))
    array, image = {"dtype": "array"}, {"dtype": "array", "external": "STREAM:"}
    run.descriptors("primary", {"uid": "d", "data_keys": {"line": array, "short": array, "image": image}})
    assert run.array_keys("primary", row(1, 1.0, short=[1.0])) == ["line"]


@pytest.mark.parametrize(("shape", "of_point"), [((3, 4), [4]), ((12,), [4]), ((3,), [])])
def test_points_in_files_come_once(documents, shape, of_point):
    run = TiledRun({"uid": "raw"}, lambda name, doc: documents.append((name, doc)))
    run.descriptors("primary", {"uid": "d", "data_keys": {"image": {"shape": of_point, "external": "STREAM:"}}})
    file = {"mimetype": "application/x-hdf5", "parameters": {"dataset": "x"}, "assets": [{"data_uri": "file:///f.h5"}]}
    for n in (0, shape[0], shape[0]):
        source = {**file, "structure": {"shape": [n, *shape[1:]]}}
        assert run.files("primary", "image", {"data_sources": [source]})
    (_, resource), (_, datum) = documents[2:]
    assert resource["uri"] == "file:///f.h5"
    assert resource["uid"] == datum["stream_resource"]
    assert datum["indices"] == {"start": 0, "stop": 3}
    assert datum["seq_nums"] == {"start": 1, "stop": 4}
    assert datum["descriptor"] == "d"


def test_a_node_of_values_in_events_names_no_files(run):
    assert not run.files("primary", "theta", {"data_sources": [{}]})
    assert not run.files("primary", "internal", {"data_sources": [{}]})


def test_a_table_without_sequence_numbers_is_refused(run):
    with pytest.raises(WireError, match="a Tiled table with seq_num and time, got None"):
        run.events("primary", [{"time": 3.0}])
