from __future__ import annotations

import event_model
import h5py
import numpy as np
import pytest

from cdi_stream.documents.publish import Provenance, RunPublisher, reconstruction_identity
from cdi_stream.files.result_file import ARRAYS, LATTICE_ARRAYS
from cdi_stream.geometry.affine import AffineMap, lab_grid
from cdi_stream.messages import Crystal, CurveProgress, FrameAccount, Result, RunContext, Verdict
from cdi_stream.metrics import Metrics

SHAPES = {"inference": (8, 8, 8), "reconstruction": (12, 12, 12)}
PROVENANCE = Provenance(
    version="0", config_sha256="c" * 64, network_name="n 1", network_sha256="s" * 64, beamline="aps_34idc"
)
IDENTITY = reconstruction_identity("raw", "c" * 64)
ACCOUNT = FrameAccount(expected=5, received=4, missing=(2,), duplicate=1)


def crystal(shape):
    source = AffineMap(
        shape=shape,
        q0=np.array([1e10, 2e10, 3e10]),
        bq=np.eye(3) * 1e7,
        sample_to_lab=np.eye(3),
        coordinates="detector",
    )
    rng = np.random.default_rng(0)
    density = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    return Crystal(
        density=density,
        support=np.abs(density) > 1,
        affine=lab_grid(source, shape, 5e-9),
        metrics=Metrics(),
        verdict=Verdict(grade="good"),
    )


def result(stream, index=0, with_crystal=True):
    return Result(
        stream=stream,
        curve_index=index,
        series="9",
        crystal=crystal(SHAPES[stream]) if with_crystal else None,
        verdict=Verdict(grade="good") if with_crystal else Verdict(grade="failed", reasons=("empty: no counts",)),
        account=ACCOUNT,
        metrics=Metrics(chi2=0.01),
        complete_s=10.0,
    )


@pytest.fixture
def published(tmp_path):
    found = []
    context = RunContext(uid="raw", scan_id=4, data_groups=("p1",))
    publisher = RunPublisher(
        context, PROVENANCE, SHAPES, tmp_path, lambda name, doc: found.append((name, doc)), IDENTITY
    )
    return publisher, found


def test_documents_are_valid_and_in_order(published):
    publisher, found = published
    progress = CurveProgress(series=9, run=RunContext(uid="raw"), curve_index=0, account=ACCOUNT)
    publisher.progress(progress)
    for stream in SHAPES:
        publisher.result(result(stream), clock=lambda: 10.2)
    publisher.close()
    for name, doc in found:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    names = [name for name, _ in found]
    assert names[:3] == ["start", "descriptor", "event"]
    assert names[-1] == "stop"
    start, stop = found[0][1], found[-1][1]
    assert start["original_run_uid"] == "raw"
    assert start["analysis_stage"] == "reconstruction"
    assert start["scan_id"] == 4
    assert start["data_groups"] == ["p1"]
    assert stop["num_events"] == {"progress": 1, "inference": 1, "reconstruction": 1}
    events = [doc for name, doc in found if name == "event"]
    assert events[1]["data"]["inference_latency_s"] == pytest.approx(0.2)
    assert events[1]["data"]["inference_frames_missing"] == 1


def test_arrays_lie_in_closed_files_that_the_documents_name(published):
    publisher, found = published
    path = publisher.result(result("reconstruction")).path
    resources = {doc["data_key"]: doc for name, doc in found if name == "stream_resource"}
    resource = resources["reconstruction_crystal"]
    assert resource["uri"] == f"file://localhost{path}"
    assert resource["parameters"]["join_method"] == "stack"
    with h5py.File(path) as file:
        stored = file[resource["parameters"]["dataset"]]
        np.testing.assert_array_equal(stored[0], crystal(SHAPES["reconstruction"]).density)
        assert file["entry/cdi_stream"].attrs["coordinates"] == "lab"
        assert file["entry/cdi_stream"].attrs["fourier_sign"] == 1
        np.testing.assert_allclose(file["entry/cdi_stream"].attrs["q0_lab_inv_m"], [1e10, 2e10, 3e10])
    assert not list(path.parent.glob("*.part"))


def test_a_second_curve_continues_the_stream(published):
    publisher, found = published
    publisher.result(result("reconstruction", 0))
    publisher.result(result("reconstruction", 1))
    datums = [doc for name, doc in found if name == "stream_datum"]
    n = len(ARRAYS | LATTICE_ARRAYS)
    assert [d["indices"]["start"] for d in datums] == [*n * [0], *n * [1]]
    assert len({doc["uid"] for name, doc in found if name == "stream_resource"}) == 2 * n
    assert [doc["seq_num"] for name, doc in found if name == "event"] == [1, 2]


def test_a_failed_curve_has_a_verdict_with_reasons_and_no_picture(published):
    publisher, found = published
    path = publisher.result(result("reconstruction", with_crystal=False)).path
    (event,) = [doc for name, doc in found if name == "event"]
    assert event["data"]["reconstruction_verdict"] == "failed"
    assert event["data"]["reconstruction_reasons"] == "empty: no counts"
    with h5py.File(path) as file:
        assert not file["entry/data/crystal"][()].any()


def test_uids_follow_from_the_raw_run_so_that_a_repeat_is_recognised(tmp_path):
    def uids(attempt=0, provenance=PROVENANCE):
        found = []
        context = RunContext(uid="raw")
        identity = reconstruction_identity("raw", provenance.config_sha256, attempt)
        publisher = RunPublisher(context, provenance, SHAPES, tmp_path, lambda *d: found.append(d), identity)
        publisher.result(result("inference"))
        return [doc["uid"] for name, doc in found if name in ("start", "event")]

    assert uids() == uids()
    assert not set(uids()) & set(uids(attempt=1))


def test_nothing_published_means_no_documents(published):
    publisher, found = published
    publisher.close()
    assert found == []
