"""Previews of a real service: published while a real plan measures, before the inference, and read back from Tiled."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from cdi_stream.documents.tiled_server import local_tiled
from sim_beamline.scan import recorded_scan
from tests.system.beamline import beamline
from tests.system.test_live import wait_for


@pytest.mark.slow
def test_previews_come_while_the_curve_is_measured(tmp_path):
    with beamline(tmp_path, recorded_scan("plain")) as line:
        # One thread: two wait for one another where other programs run, and then previews are rightly dropped.
        line.config_file.write_text(f"threads = 1\n{line.config_file.read_text()}")
        line.start_service()
        line.start_detector()
        line.start_plan(speed="1")
        line.wait_until(lambda: line.ours("stop"))
        (start,) = line.ours("start")
        events = [doc for name, doc in line.documents() if name == "event"]
        previews, (inference,) = line.ours("event", "preview"), line.ours("event", "inference")
        line.wait_until(lambda: line.is_in_tiled(start["uid"]))
    assert [event["data"]["preview_fraction"] for event in previews] == [0.5, 0.75]
    assert [event["data"]["preview_frames_received"] / 48 for event in previews] == pytest.approx([0.5, 0.75], abs=0.1)
    assert [event["data"]["preview_verdict"] for event in previews] == ["preliminary"] * 2
    assert events.index(previews[1]) < events.index(inference)
    check_arrays(tmp_path, start["uid"], [event["data"]["preview_file"] for event in previews])


def check_arrays(directory, uid, files):
    """The arrays and the numbers of each preview read back from Tiled as they are in the files."""
    from tiled.client import from_uri

    with local_tiled(directory) as server:
        wait_for(server)
        client = from_uri(server.uri, api_key=server.api_key)
        try:
            stream = client[uid]["preview"]
            volumes, supports = (stream[f"preview_{name}"].read() for name in ("crystal", "support"))
            fractions = stream["preview_fraction"].read()
        finally:
            client.context.close()
    assert list(fractions) == [0.5, 0.75]
    for volume, support, path in zip(volumes, supports, files, strict=True):
        with h5py.File(path) as file:
            np.testing.assert_array_equal(volume, file["entry/data/crystal"][0])
            np.testing.assert_array_equal(support, file["entry/data/support"][0])
