"""A RunEngine with real ophyd devices, `publisher`, a bluesky proxy on loopback, and a subscriber of the service."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import logging
import math
import pathlib
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
import zmq
import zmq.auth
from bluesky import RunEngine
from bluesky.callbacks.zmq import ClientCurve
from ophyd import Component, Device, Kind, Signal
from ophyd.sim import EnumSignal, SynAxis, SynGauss, SynSignal

from cdi_stream.documents import bus
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.errors import ConfigError, EndpointError
from cdi_stream_plugins.bluesky import publisher


class Colour(enum.Enum):
    RED = "red"


class ComplexDetector(Device):
    """Detector with readings of every kind of numpy data type."""

    field = Component(Signal, value=np.complex128(1 - 2j), kind=Kind.hinted)
    wave = Component(Signal, value=np.array([1j, 2]), kind=Kind.hinted)
    image = Component(Signal, value=np.arange(6, dtype=np.uint16).reshape(2, 3), kind=Kind.hinted)
    count = Component(Signal, value=np.uint64(2**63), kind=Kind.hinted)
    is_open = Component(Signal, value=np.bool_(True), kind=Kind.hinted)
    name_of_file = Component(Signal, value=np.str_("frame 1"), kind=Kind.hinted)
    taken = Component(Signal, value=np.datetime64("2026-01-02T03:04"), kind=Kind.config)
    table = Component(Signal, value={1: "one", Colour.RED: 2, (3, 4): {None: 5}}, kind=Kind.hinted)
    nothing = Component(Signal, value=np.float32("nan"), kind=Kind.hinted)

    def describe(self):
        """Return descriptions with data types for complex numbers, which ophyd has none for."""
        keys = ("field", "wave", "image", "count", "is_open", "name_of_file", "table", "nothing")
        return {f"{self.name}_{key}": {"source": "SIM", "dtype": "array", "shape": []} for key in keys}

    def describe_configuration(self):
        return {f"{self.name}_taken": {"source": "SIM", "dtype": "string", "shape": []}}


PROXY = """
import sys
from bluesky.callbacks.zmq import Proxy, ServerCurve
ends, secret = sys.argv[1:3], sys.argv[3:]
curve = {"in_curve": ServerCurve(secret[0], None, None)} if secret else {}
Proxy(*(f"tcp://{end}" for end in ends), **curve).start()
"""


@contextlib.contextmanager
def running_proxy(*secret: str) -> Iterator[list[str]]:
    """Yield the in and out address of a bluesky proxy in another process."""
    ends = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with subprocess.Popen([sys.executable, "-c", PROXY, *ends, *secret]) as process:
        try:
            wait_for(ends[1])
            yield ends
        finally:
            process.terminate()


def wait_for(end: str) -> None:
    host, _, port = end.partition(":")
    give_up_s = time.monotonic() + 300
    while time.monotonic() < give_up_s:
        with contextlib.suppress(OSError):
            return socket.create_connection((host, int(port)), timeout=1).close()
        time.sleep(0.05)
    raise AssertionError(f"no proxy at {end}")


@pytest.fixture(scope="module")
def proxy():
    with running_proxy() as ends:
        yield ends


class Listener:
    """Subscriber of the bus, as the service has it."""

    def __init__(self, context, address: str, serializer: str = "msgpack") -> None:
        self._socket = bus.listen(context, f"tcp://{address}")
        self._read = bus.reader(serializer)
        self.documents: list[tuple[str, dict]] = []

    def until_stop(self, n_stops: int = 1) -> list[tuple[str, dict]]:
        end = time.monotonic() + 120
        while sum(name == "stop" for name, _ in self.documents) < n_stops:
            assert time.monotonic() < end, [name for name, _ in self.documents]
            self.documents += bus.receive(self._socket, "", self._read, timeout_ms=100)
        return self.documents

    def nothing_more(self) -> bool:
        return not list(bus.receive(self._socket, "", self._read, timeout_ms=300))

    def close(self) -> None:
        self._socket.close(0)


@contextlib.contextmanager
def listening(address: str, serializer: str = "msgpack") -> Iterator[Listener]:
    with zmq.Context() as context, contextlib.closing(Listener(context, address, serializer)) as listener:
        yield listener


@pytest.fixture
def listener(proxy):
    with listening(proxy[1]) as listener:
        yield listener


@pytest.fixture
def send(proxy):
    send = publisher(proxy[0])
    time.sleep(0.3)  # a publisher loses what it sends before its subscribers have met it
    yield send
    send.close()


def empty_run(metadata=None):
    yield from bps.open_run(metadata)
    yield from bps.close_run()


def engine_with(*subscribers) -> RunEngine:
    engine = RunEngine({}, context_managers=[])
    for subscriber in subscribers:
        engine.subscribe(subscriber)
    return engine


def test_readings_of_real_devices_reach_the_other_end(listener, send):
    motor = SynAxis(name="theta", value=np.float64(0))
    gauss = SynGauss("gauss", motor, "theta", center=0, Imax=np.int64(5))
    shutter = EnumSignal(name="shutter", value=1, enum_strings=("open", "closed"))
    shape = SynSignal(name="shape", func=lambda: np.arange(4, dtype=np.int16))
    everything = ComplexDetector(name="d")
    engine_with(send)(bp.scan([gauss, shutter, shape, everything], motor, -1, 1, 3))
    documents = listener.until_stop()
    data = [doc["data"] for name, doc in documents if name == "event"]
    assert [point["theta"] for point in data] == [-1, 0, 1]
    assert data[1]["gauss"] == 5
    assert data[0]["shutter"] == shutter.get()
    assert data[0]["shape"] == [0, 1, 2, 3]
    assert data[0]["d_field"] == {"real": 1, "imag": -2}
    assert data[0]["d_wave"] == {"real": [0, 2], "imag": [1, 0]}
    assert data[0]["d_image"] == [[0, 1, 2], [3, 4, 5]]
    assert data[0]["d_count"] == 2**63
    assert data[0]["d_is_open"] is True
    assert data[0]["d_name_of_file"] == "frame 1"
    assert data[0]["d_table"] == {"1": "one", "red": 2, "(3, 4)": {"None": 5}}
    assert math.isnan(data[0]["d_nothing"])
    (descriptor,) = (doc for name, doc in documents if name == "descriptor")
    assert descriptor["configuration"]["d"]["data"] == {"d_taken": "2026-01-02T03:04"}
    assert (send.n_replaced, send.n_dropped) == (0, 0)
    assert send.n_sent == len(documents)


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
def test_metadata_of_users_reaches_the_other_end(proxy, serializer):
    metadata = {
        "when": dt.datetime(2026, 1, 2),
        "where": pathlib.PurePosixPath("/data"),
        "id": uuid.UUID(int=7),
        "colour": Colour.RED,
        "sizes": {np.int64(3), 1},
        "bytes": [b"x", (np.nan,)],
        "at": np.array([1.5, 2.5]),
    }
    with listening(proxy[1], serializer) as listener, contextlib.closing(publisher(proxy[0], serializer)) as send:
        time.sleep(0.3)
        engine_with(send)(empty_run(metadata))
        start = listener.until_stop()[0][1]
    assert (start["when"], start["where"], start["colour"]) == ("2026-01-02T00:00:00", "/data", "red")
    assert (start["id"], start["sizes"], start["at"]) == (str(uuid.UUID(int=7)), [1, 3], [1.5, 2.5])
    assert start["bytes"][0] == "x"
    assert math.isnan(start["bytes"][1][0])


def test_an_unknown_type_does_not_end_the_plan(listener, send, caplog):
    metadata = {"operator": threading.Thread, "beam": object}
    for _ in range(2):
        engine_with(send)(empty_run({"keys": metadata}))
    starts = [doc for name, doc in listener.until_stop(2) if name == "start"]
    assert starts[0]["keys"] == {"operator": str(threading.Thread), "beam": str(object)}
    assert send.n_replaced == 4
    assert caplog.text.count("its text stands for it") == 1, "one reason is logged once"


def test_a_document_that_cannot_be_sent_is_dropped_and_counted(send, caplog):
    class Broken(dict):
        def get(self, *_):
            raise RuntimeError("no such luck")

    send("event", Broken())
    assert send.n_dropped == 1
    send.close()
    engine_with(send)(empty_run())
    assert send.n_dropped == 3
    assert caplog.text.count("a document is not sent") == 2
    assert "no such luck" in caplog.text


def test_a_publisher_that_is_subscribed_twice_sends_once(listener, send, caplog):
    motor = SynAxis(name="theta")
    engine_with(send, send, lambda *document: send(*document))(bp.count([motor], 2))
    documents = listener.until_stop()
    assert [name for name, _ in documents] == ["start", "descriptor", "event", "event", "stop"]
    assert listener.nothing_more()
    assert send.n_repeated == len(documents)
    assert caplog.text.count("subscribed more than once") == 1


def test_large_arrays_in_events_are_sent_with_one_warning(listener, send, caplog):
    image = SynSignal(name="image", func=lambda: np.ones((200, 100), dtype=np.uint32))
    engine_with(send)(bp.count([image], 3))
    documents = listener.until_stop()
    assert sum(name == "event" for name, _ in documents) == 3
    assert np.shape(documents[2][1]["data"]["image"]) == (200, 100)
    assert caplog.text.count("arrays in events: 'image'") == 1


def test_an_event_without_data_is_sent_as_it_is(listener, send):
    send("event", {"uid": "x"})
    send("stop", {"uid": "y", "data": 3})
    assert listener.until_stop() == [("event", {"uid": "x"}), ("stop", {"uid": "y", "data": 3})]


def test_a_large_list_of_lists_of_unequal_length_is_sent(listener, send):
    send("event_page", {"uid": ["x"], "data": {"ragged": [[1], [2, 3]]}})
    send("stop", {"uid": "y"})
    assert listener.until_stop()[0][1]["data"] == {"ragged": [[1], [2, 3]]}


def test_ipv6_addresses_are_reached():
    with zmq.Context() as context, context.socket(zmq.SUB) as proxy:
        proxy.setsockopt(zmq.IPV6, 1)
        proxy.setsockopt(zmq.SUBSCRIBE, b"")
        try:
            port = proxy.bind_to_random_port("tcp://[::1]")
        except zmq.ZMQError:
            pytest.skip("this machine has no IPv6")
        with contextlib.closing(publisher(f"[::1]:{port}")) as send:
            assert not proxy.poll(500)  # meanwhile the subscription is told
            send("start", {"uid": "x"})
            assert proxy.poll(3000)
            assert bus.unpack(proxy.recv(), b"", bus.reader("msgpack")) == ("start", {"uid": "x"})


def test_closing_does_not_wait_for_a_proxy_that_is_gone():
    send = publisher(("127.0.0.1", free_port()))
    engine_with(send)(empty_run())
    begin = time.monotonic()
    send.close()
    assert time.monotonic() - begin < 3


def test_keys_of_curvezmq_are_passed_on(tmp_path):
    for name in ("server", "client"):
        zmq.auth.create_certificates(tmp_path, name)
    curve = ClientCurve(tmp_path / "client.key_secret", tmp_path / "server.key")
    with (
        running_proxy(str(tmp_path / "server.key_secret")) as ends,
        listening(ends[1]) as listener,
        contextlib.closing(publisher(ends[0], curve_config=curve)) as known,
        contextlib.closing(publisher(ends[0])) as unknown,
    ):
        time.sleep(0.5)
        for send, who in ((unknown, "unknown"), (known, "known")):
            engine_with(send)(empty_run({"who": who}))
        found = listener.until_stop()
    assert [doc["who"] for name, doc in found if name == "start"] == ["known"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("nonsense://x",), EndpointError, "host:port"),
        (("127.0.0.1:5577", "yaml"), ConfigError, "msgpack, json"),
    ],
)
def test_what_cannot_be_opened_is_told_at_once(arguments, error, words):
    with pytest.raises(error, match=words):
        publisher(*arguments)


def test_nothing_heavy_is_imported():
    script = (
        "import sys, cdi_stream_plugins.bluesky\n"
        "heavy = ('torch', 'numba', 'skimage', 'scipy', 'h5py', 'pydantic', 'ophyd', 'matplotlib')\n"
        "print([module for module in heavy if module in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_log_says_where_the_publisher_sends(send, caplog):
    with caplog.at_level(logging.WARNING):
        send("start", {"uid": "x", "odd": len})
    assert f"publisher to {send.address}" in caplog.text
