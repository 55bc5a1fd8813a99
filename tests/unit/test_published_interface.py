"""The published descriptions of the dashboard's interface are those of the server and of its messages."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

from cdi_stream.operators.app import DashboardSettings, make_app
from cdi_stream.operators.binary import from_bytes
from cdi_stream.operators.feed import pack
from cdi_stream.operators.hub import Hub
from tests.system.browser import frame, progress, result, state

REFERENCE = Path(__file__).parents[2] / "deploy" / "docs" / "reference"


def test_the_description_of_the_http_interface_is_that_of_the_server():
    """``CDI_STREAM_WRITE_OPENAPI=1`` writes the file anew."""
    served = make_app(DashboardSettings(feed="tcp://127.0.0.1:5570")).openapi()
    file = REFERENCE / "openapi.json"
    if os.environ.get("CDI_STREAM_WRITE_OPENAPI"):
        file.write_text(json.dumps(served, indent=1) + "\n")
    assert json.loads(file.read_text()) == served


def sent():
    """Messages as a browser gets them: with the snapshot of a new connection."""
    hub = Hub()
    messages = [
        state(alarms=[{"key": "disk", "text": "full", "since_s": 1.0}]),
        progress(20, (3,)),
        frame(20, (30, 150)),
        result("preview", "preliminary"),
        result("reconstruction", fields={"frame_sums": [1, 2]}),
        result("reconstruction", "failed", ("no peak",)),
        result("refinement", fields={"method": "auto", "recipe": ""}),
    ]
    with hub.client() as client:
        for seq, (header, images) in enumerate(messages):
            stamp = {"service": "first", "seq": seq, "time_s": 1.0}
            hub.take(pack(header | stamp, images))
        queue = [data for _, data in client._queue]
    with hub.client() as client:
        return queue + [data for _, data in client._queue]


@pytest.mark.parametrize("kind", ["history", "state", "progress", "frame", "result"])
def test_each_message_is_as_described(kind):
    described = json.loads((REFERENCE / "asyncapi.json").read_text())["components"]["messages"]
    found = [data for data in sent() if from_bytes(data)[0]["kind"] == kind]
    assert found
    for data in found:
        n_header = int.from_bytes(data[:4], "little")
        header = json.loads(data[4 : 4 + n_header])
        jsonschema.validate(header, described[kind]["payload"])
        unknown = header.keys() - described[kind]["payload"]["properties"].keys() - {"images"}
        assert not unknown, "fields that the description does not name"
    assert described.keys() == {"history", "state", "progress", "frame", "result"}
