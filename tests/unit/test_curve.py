"""CurveZMQ with bluesky's own proxy: who has the keys hears and is heard, nobody else is."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest
import zmq
from bluesky.callbacks.zmq import ClientCurve

from cdi_stream.addresses import CurveKeys
from cdi_stream.documents.curve import make_keys, secure
from cdi_stream.documents.proxy import own_proxy
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.errors import ConfigError
from cdi_stream_plugins.bluesky import CdiStream, publisher
from cdi_stream_plugins.sinks.bus import BusSink
from cdi_stream_plugins.sources.bus import BusSource

BLUESKY = """
import sys
from pathlib import Path
from bluesky.callbacks.zmq import Proxy, ServerCurve
curve = ServerCurve(Path(sys.argv[1]), Path(sys.argv[2]), None)
Proxy(sys.argv[3], sys.argv[4], out_curve=curve).start()
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return make_keys(tmp_path_factory.mktemp("keys") / "made")


@pytest.fixture(scope="module")
def proxy(keys):
    ends = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
    with own_proxy(*ends, keys[1]):
        yield ends


def heard(source, send, timeout_s=15.0):
    end_s, k = time.monotonic() + timeout_s, 0
    while time.monotonic() < end_s:
        k += 1
        send("start", {"uid": f"u{k}"})
        if source.socket.poll(100):
            return next(doc["uid"] for _, doc in source.documents(lambda error: None)).startswith("u")
    return False


def test_everything_of_ours_speaks_with_keys(keys, proxy):
    server_public, _, _, client_secret = keys
    curve = CurveKeys(secret=client_secret, server=server_public)
    texts = {"curve_secret": str(client_secret), "curve_server": str(server_public)}
    with zmq.Context() as context, contextlib.closing(BusSource(context, proxy[1], **texts)) as source:
        with contextlib.closing(BusSink(address=proxy[0], curve=curve)) as sink:
            assert heard(source, sink)
        own = publisher(proxy[0][6:], curve_config=ClientCurve(client_secret, server_public))
        with contextlib.closing(own) as send:
            assert heard(source, send)
        with contextlib.closing(CdiStream({"documents": {"publish": proxy[0], **texts}})) as send:
            assert heard(source, send)


def test_who_has_no_keys_is_not_heard_and_hears_nothing(keys, proxy):
    server_public, _, _, client_secret = keys
    curve = CurveKeys(secret=client_secret, server=server_public)
    texts = {"curve_secret": str(client_secret), "curve_server": str(server_public)}
    with zmq.Context() as context:
        with (
            contextlib.closing(BusSource(context, proxy[1], **texts)) as source,
            contextlib.closing(BusSink(address=proxy[0], is_immediate=True)) as stranger,
        ):
            assert not heard(source, stranger, 2.0)
        with (
            contextlib.closing(BusSource(context, proxy[1])) as source,
            contextlib.closing(BusSink(address=proxy[0], curve=curve)) as sink,
        ):
            assert not heard(source, sink, 2.0)


def test_the_proxy_of_bluesky_knows_the_service_by_its_key(keys):
    """It has keys on one side only: with keys on both sides bluesky 1.15 does not start."""
    ends = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
    texts = {"curve_secret": str(keys[3]), "curve_server": str(keys[0])}
    command = [sys.executable, "-c", BLUESKY, str(keys[1]), str(keys[0].parent), *ends]
    with subprocess.Popen(command) as process, zmq.Context() as context:
        with (
            contextlib.closing(BusSource(context, ends[1], **texts)) as source,
            contextlib.closing(BusSink(address=ends[0])) as sink,
        ):
            assert heard(source, sink)
        process.terminate()


def test_a_profile_with_a_wrong_key_is_told_at_once(keys, tmp_path):
    documents = {"publish": "tcp://127.0.0.1:1", "curve_secret": str(keys[2]), "curve_server": str(keys[0])}
    with pytest.raises(ConfigError, match="expected a secret key"):
        CdiStream({"documents": documents})


def test_the_secret_keys_are_for_their_owner_alone(keys):
    assert [path.stat().st_mode & 0o777 for path in keys] == [0o644, 0o600, 0o644, 0o600]


def test_no_key_is_replaced(keys):
    with pytest.raises(ConfigError, match="exists already"):
        make_keys(keys[0].parent)


def test_a_wrong_key_file_is_named(keys, tmp_path):
    (tmp_path / "text").write_text("no key")
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        for secret, message in ((tmp_path / "text", "expected a key"), (keys[2], "expected a secret key")):
            with pytest.raises(ConfigError, match=message):
                secure(socket, CurveKeys(secret=secret, server=keys[0]))
        with pytest.raises(ConfigError, match="absent"):
            secure(socket, CurveKeys(secret=tmp_path / "absent", server=keys[0]))
