"""A run of the service in Tiled, through the writer of bluesky and that of bluesky-tiled-plugins: found and read."""

from __future__ import annotations

import time
import warnings

import h5py
import numpy as np
import pytest
from bluesky import RunEngine

from cdi_stream.documents.publish import RunPublisher
from cdi_stream.documents.run_context import context_of
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.documents.tiled_server import local_tiled
from cdi_stream.errors import ServiceError
from cdi_stream.files.result_file import ARRAYS, LATTICE_ARRAYS
from cdi_stream_plugins.bluesky import ReconstructionResult
from cdi_stream_plugins.bluesky.series import PLAN_NAME, trends_run
from tests.unit.test_publish import IDENTITY, PROVENANCE, SHAPES, result

RAW = {
    "uid": "raw",
    "time": 1.7e9,
    "scan_id": 12,
    "sample": {"name": "Au 7"},
    "proposal": {"proposal_id": "GUP-1"},
    "cycle": "2026-3",
    "data_session": "pass-1",
    "tiled_access_tags": ["34idc"],
    "data_groups": ["bcdi"],
    "esaf": 271828,
    "not_copied": "secret",
    "series_index": 3,
    "previous_run": "before",
}
COPIED = ("scan_id", "sample", "proposal", "cycle", "data_session", "tiled_access_tags", "data_groups", "esaf")
N_CURVES = 2


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Client of a real Tiled server, whose folder of results the server may read."""
    from tiled.client import from_uri

    folder = tmp_path_factory.mktemp("tiled")
    with local_tiled(folder) as server:
        end = time.monotonic() + 60
        while True:
            try:
                server.require_answer()
                break
            except ServiceError:
                assert time.monotonic() < end
                time.sleep(0.2)
        made = from_uri(server.uri, api_key=server.api_key)
        made.folder = folder
        yield made
        made.context.close()


@pytest.fixture(scope="module")
def documents(client):
    """Documents of a run of the service with two curves, whose files are in the server's folder."""
    context = context_of(RunRecord(uid="raw", start=RAW, received_s=0.0), copied_keys=("esaf",))
    composed = []
    publisher = RunPublisher(
        context, PROVENANCE, SHAPES, client.folder, lambda name, doc: composed.append((name, doc)), IDENTITY
    )
    for index in range(N_CURVES):
        publisher.result(result("inference", index), clock=lambda: 10.2)
        publisher.result(result("reconstruction", index), clock=lambda: 10.5)
    publisher.close()
    return composed


def writer_of(name, client):
    """A writer of Tiled into a container of its own."""
    if name == "bluesky":
        from bluesky.callbacks.tiled_writer import TiledWriter

        return TiledWriter(client)
    from bluesky_tiled_plugins import TiledWriter

    return TiledWriter(client, batch_size=1)


@pytest.fixture(scope="module", params=["bluesky", "bluesky_tiled_plugins"])
def catalog(request, client, documents):
    """The container into which one of the writers has written the run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        container = client.create_container(key=request.param)
        writer = writer_of(request.param, container)
        for name, doc in documents:
            writer(name, doc)
    return client[request.param]


def test_the_run_is_a_bluesky_run_that_clients_find_by_their_keys(catalog):
    from tiled.queries import Key

    for key, value in {"analysis_stage": "reconstruction", "original_run_uid": "raw", "cycle": "2026-3"}.items():
        assert list(catalog.search(Key(f"start.{key}") == value)) == [IDENTITY.uid]
    assert list(catalog.search(Key("start.cycle") == "2020-1")) == []
    run = catalog[IDENTITY.uid]
    assert "BlueskyRun" in [spec.name for spec in run.specs]
    assert run.structure_family == "container"
    assert run.metadata["stop"]["exit_status"] == "success"


def test_the_keys_of_access_and_proposal_are_copied(catalog, documents):
    """The writers take `tiled_access_tags` out of the start document: they are the tags of the node in Tiled."""
    (published,) = [doc for name, doc in documents if name == "start"]
    expected = {key: RAW[key] for key in COPIED} | {"series_index": 3, "previous_run": "before"}
    assert {key: published[key] for key in expected} == expected
    assert "not_copied" not in published
    stored = catalog[IDENTITY.uid].metadata["start"]
    assert {key: stored[key] for key in expected if key in stored} | {"tiled_access_tags": ["34idc"]} == expected


@pytest.mark.parametrize("stream", SHAPES)
def test_volumes_are_those_of_the_files_and_scalars_are_a_column(catalog, stream):
    run = catalog[IDENTITY.uid][stream]
    files = run[f"{stream}_file"].read().tolist()
    assert len(files) == N_CURVES
    np.testing.assert_allclose(run[f"{stream}_chi2"].read(), [0.01] * N_CURVES)
    names = ARRAYS if stream == "inference" else ARRAYS | LATTICE_ARRAYS
    for name, dtype in names.items():
        volumes = run[f"{stream}_{name}"].read()
        assert volumes.dtype == np.dtype(dtype)
        for volume, file in zip(volumes, files, strict=True):
            with h5py.File(file) as data:
                np.testing.assert_array_equal(volume, data[f"entry/data/{name}"][0])


def test_the_trends_of_a_series_are_a_table(client):
    """As the page on series reads it."""
    from tiled.queries import Key

    engine = RunEngine({}, context_managers=[])
    container = client.create_container(key="trends")
    engine.subscribe(writer_of("bluesky_tiled_plugins", container))
    results = [ReconstructionResult(verdict="good", strain_high=value) for value in (1e-4, 2e-4)]
    engine(trends_run("crystal", "first", results))
    table = client["trends"].search(Key("start.plan_name") == PLAN_NAME).values().last()["primary"].read()
    assert table["series_index"].values.tolist() == [0, 1]
    assert table["crystal_strain_high"].values.tolist() == [1e-4, 2e-4]
