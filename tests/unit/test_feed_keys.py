"""A feed with CurveZMQ: a dashboard with keys hears it, nobody else does."""

from __future__ import annotations

import contextlib

import pytest
import zmq

from cdi_stream.addresses import CurveKeys
from cdi_stream.documents.curve import make_keys
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.errors import ConfigError
from cdi_stream.operators.announce import Announcer
from cdi_stream.operators.feed import unpack
from cdi_stream.operators.hub import subscribe


def test_a_dashboard_with_keys_hears_the_feed_and_nobody_else(tmp_path):
    server, secret, _, client = make_keys(tmp_path / "keys")
    _, _, _, stranger = make_keys(tmp_path / "strange")
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with (
        zmq.Context() as context,
        contextlib.closing(Announcer(endpoint, secret=secret)) as announcer,
        subscribe(context, endpoint, CurveKeys(secret=client, server=server)) as known,
        subscribe(context, endpoint, CurveKeys(secret=stranger, server=server)) as unknown,
        subscribe(context, endpoint) as plain,
    ):
        for _ in range(200):
            announcer.tell(({"kind": "state"}, {}))
            announcer.send()
            if known.poll(50):
                break
        assert unpack(known.recv_multipart())[0]["kind"] == "state"
        announcer.tell(({"kind": "state"}, {}))
        announcer.send()
        assert known.poll(2000)
        assert not unknown.poll(300)
        assert not plain.poll(100)


def test_a_file_that_is_no_secret_key_is_refused(tmp_path):
    server, *_ = make_keys(tmp_path / "keys")
    with pytest.raises(ConfigError, match="expected a secret key"):
        Announcer(f"tcp://127.0.0.1:{free_port()}", secret=server)
