"""The source ``tiled`` on a real Tiled server that streams, with the documents of a real RunEngine."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
import zmq
from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData
from bluesky_tiled_plugins import TiledWriter
from ophyd.sim import SynAxis, SynGauss, SynSignal
from tiled.client import from_uri

from cdi_stream.documents.plain import to_plain
from cdi_stream.documents.positions import read_part
from cdi_stream.documents.runs import RunBook
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.errors import EndpointError
from cdi_stream_plugins.sources.tiled import TiledSource

KEY = "keyofthetests"
N_POINTS = 11

Documents = list[tuple[str, dict[str, Any]]]


class Server:
    """A Tiled server with a catalog in a folder and its streaming cache in memory."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        catalog = {
            "uri": f"sqlite:///{folder}/catalog.db",
            "writable_storage": [str(folder / "tiled"), f"sqlite:///{folder}/tables.db"],
            "readable_storage": [str(folder)],
            "init_if_not_exists": True,
        }
        config = {
            "authentication": {"single_user_api_key": KEY},
            "streaming_cache": {"uri": "memory"},
            "trees": [{"path": "/", "tree": "catalog", "args": catalog}],
        }
        (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML

    def start(self) -> None:
        command = [sys.executable, "-m", "tiled", "serve", "config", str(self.folder / "config.yml")]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "tiled.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        end_s = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end_s:
                self.stop()
                pytest.fail((self.folder / "tiled.log").read_text())
            time.sleep(0.1)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{self.uri}/healthz", timeout=1).close()
            return True
        return False

    def n_listings(self) -> int:
        """Return how often a source has listed the runs."""
        return (self.folder / "tiled.log").read_text().count("GET /api/v1/search/?")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("tiled"))
    server.start()
    yield server
    server.stop()


class Beamline:
    """A RunEngine that writes to the server, and a list of the documents that it sent."""

    def __init__(self, server: Server) -> None:
        self.client = from_uri(server.uri, api_key=KEY)
        self.engine = RunEngine({}, context_managers=[])
        self.engine.subscribe(TiledWriter(self.client, batch_size=1))
        self.sent: Documents = []
        self.engine.subscribe(lambda name, doc: self.sent.append((name, doc)))
        self.motor = SynAxis(name="theta")
        self.temperature = SynSignal(name="temperature", func=lambda: 293.5)
        self.engine.preprocessors = [SupplementalData(baseline=[self.temperature])]
        self.detector = SynGauss("det", self.motor, "theta", center=0, Imax=1)

    def scan(self, n: int = N_POINTS, **metadata: object) -> Any:
        return bp.scan([self.detector], self.motor, -1, 1, n, md=metadata)

    def paused_scan(self, at: int, reached: threading.Event, go_on: threading.Event) -> Any:
        """A scan that waits between two points until ``go_on`` is set."""

        @bpp.run_decorator()
        def plan():
            for k in range(N_POINTS):
                if k == at:
                    reached.set()
                    while not go_on.is_set():
                        yield from bps.sleep(0.05)
                yield from bps.mv(self.motor, 0.1 * k)
                yield from bps.trigger_and_read([self.detector, self.motor])

        return plan()


@pytest.fixture
def beamline(server) -> Iterator[Beamline]:
    beamline = Beamline(server)
    yield beamline
    beamline.client.context.close()


class Listener:
    """A source, and the documents that came from it."""

    def __init__(self, context: zmq.Context, uri: str, key: str = KEY) -> None:
        self.source = TiledSource(context, uri, api_key=key)
        self.came: Documents = []
        self.times_s: dict[str, float] = {}

    def wait_for(self, n_stops: int, timeout_s: float = 30.0) -> Documents:
        """Return all documents that came until the stop document number ``n_stops``."""
        end_s = time.monotonic() + timeout_s
        while sum(name == "stop" for name, _ in self.came) < n_stops:
            assert time.monotonic() < end_s, f"came: {Counter(name for name, _ in self.came)}"
            self.take(0.05)
        return self.came

    def take(self, wait_s: float) -> Documents:
        """Wait for documents; return all that came so far."""
        if self.source.socket.poll(1000 * wait_s):
            for name, doc in self.source.documents(pytest.fail):
                self.came.append((name, doc))
                self.times_s[f"{name} {doc.get('descriptor')} {doc.get('seq_num')}"] = time.time()
        return self.came


@contextlib.contextmanager
def listener(uri: str, key: str = KEY, settle_s: float = 1.0) -> Iterator[Listener]:
    """A source that has had time to connect."""
    with zmq.Context() as context:
        listener = Listener(context, uri, key)
        with contextlib.closing(listener.source):
            time.sleep(settle_s)
            yield listener


def assert_same(came: Documents, sent: Documents) -> None:
    """Each run came whole and once: same uids, data keys and values, sequence numbers in order."""
    for (_, start), (_, stop) in zip(of(sent, "start"), of(sent, "stop"), strict=True):
        ours, theirs = of_run(came, start["uid"]), of_run(sent, start["uid"])
        assert [name for name, _ in ours][:1] + [name for name, _ in ours][-1:] == ["start", "stop"]
        assert ours[0][1] == to_plain(start)
        assert ours[-1][1]["uid"] == stop["uid"]
        assert ours[-1][1]["num_events"] == stop["num_events"]
        descriptors = {doc["uid"]: doc for _, doc in of(ours, "descriptor")}
        assert len(of(ours, "descriptor")) == len(descriptors)
        assert descriptors.keys() == {doc["uid"] for _, doc in of(theirs, "descriptor")}
        for uid, descriptor in descriptors.items():
            (original,) = [doc for _, doc in of(theirs, "descriptor") if doc["uid"] == uid]
            assert descriptor["name"] == original["name"]
            assert descriptor["data_keys"].keys() == original["data_keys"].keys()
            events = [doc for _, doc in of(ours, "event") if doc["descriptor"] == uid]
            originals = [doc for _, doc in of(theirs, "event") if doc["descriptor"] == uid]
            for key in ("seq_num", "time", "data", "timestamps"):
                assert [event[key] for event in events] == [event[key] for event in originals]
            assert ours.index(("descriptor", descriptor)) < ours.index(("event", events[0]))


def of(documents: Documents, kind: str) -> Documents:
    return [(name, doc) for name, doc in documents if name == kind]


def of_run(documents: Documents, uid: str) -> Documents:
    """Documents of one run, in the order in which they came."""
    descriptors = {doc["uid"] for _, doc in of(documents, "descriptor") if doc["run_start"] == uid}
    return [
        (name, doc)
        for name, doc in documents
        if (name == "start" and doc["uid"] == uid)
        or doc.get("run_start") == uid
        or doc.get("descriptor") in descriptors
    ]


def test_the_documents_of_two_scans_come_whole(server, beamline, caplog):
    """A run of this service between them is left out, and the key is in no log."""
    book = RunBook(time.time)
    with caplog.at_level(logging.DEBUG), listener(server.uri) as listening:
        beamline.engine(beamline.scan())
        (own,) = beamline.engine(beamline.scan(2, original_run_uid="raw"))
        (uid,) = beamline.engine(beamline.scan())
        came = listening.wait_for(2)
    raw = [document for document in beamline.sent if document not in of_run(beamline.sent, own)]
    assert_same(came, raw)
    assert len(came) == len(raw) == 2 * (1 + 2 + 2 + N_POINTS + 1)
    assert KEY not in caplog.text
    for name, doc in came:
        book.on_document(name, doc)
    run = book.runs[uid]
    assert [event.readings["theta"] for event in run.events["primary"].values()] == [*np.linspace(-1, 1, N_POINTS)]
    assert len(run.events["baseline"]) == 2
    assert run.stop is not None
    assert not book.orphans


def test_events_come_while_the_run_is_open(server, beamline):
    """The source connects in the middle of a run, and takes it from its beginning."""
    reached, go_on = threading.Event(), threading.Event()
    beamline.engine(beamline.scan())
    old = len(beamline.sent)
    thread = threading.Thread(target=beamline.engine, args=(beamline.paused_scan(5, reached, go_on),))
    thread.start()
    assert reached.wait(20)
    with listener(server.uri) as listening:
        end_s = time.monotonic() + 10
        while len(of(listening.take(0.05), "event")) < 5 + 1 and time.monotonic() < end_s:
            pass
        n_before = len(of(listening.came, "event"))
        go_on.set()
        came = listening.wait_for(1)
        thread.join()
    assert n_before == 5 + 1  # with one of the baseline
    assert_same(came, beamline.sent[old:])
    assert len(came) == len(beamline.sent) - old


@pytest.mark.slow
def test_long_arrays_and_texts_come_with_their_event(server, beamline):
    """Tiled stores arrays of more than 16 numbers outside the table of events; it refuses shorter ones in SQLite."""
    calls = iter(range(100))
    line = SynSignal(name="line", func=lambda: (np.arange(40) + next(calls)).tolist())
    text = SynSignal(name="series_id", func=lambda: "abc")
    for signal in (line, text):
        signal.trigger().wait()
    with listener(server.uri) as listening:
        beamline.engine(bp.count([line, text], num=3))
        assert_same(listening.wait_for(1), beamline.sent)
    events = [doc["data"] for _, doc in of(listening.came, "event") if "line" in doc["data"]]
    assert [len(data["line"]) for data in events] == [40, 40, 40]
    assert events[0]["line"][0] + 1 == events[1]["line"][0]


@pytest.mark.slow
def test_positions_in_files_of_a_fly_scan_come(server, beamline):
    ophyd_async = pytest.importorskip("ophyd_async.core", reason="ophyd-async is not installed")
    from sim_beamline.fly_devices import PositionBox
    from sim_beamline.pulses import Motion

    theta = np.linspace(-1, 1, 8)
    motion = Motion(period_s=0.3)
    box = PositionBox(server.folder / "positions.h5", {"theta": theta}, motion)
    info = ophyd_async.TriggerInfo(trigger=ophyd_async.DetectorTrigger.EXTERNAL_EDGE, livetime=0.01, number_of_events=8)

    @bpp.stage_decorator([box])
    @bpp.run_decorator()
    def fly():
        yield from bps.prepare(box, info, wait=True)
        yield from bps.declare_stream(box, name="main", collect=True)
        yield from bps.kickoff(box, wait=True)
        yield from bps.kickoff(motion, wait=True)
        yield from bps.collect_while_completing([box, motion], [box], flush_period=0.1, stream_name="main")

    book = RunBook(time.time)
    with listener(server.uri) as listening:
        (uid,) = beamline.engine(fly())
        for name, doc in listening.wait_for(1):
            book.on_document(name, doc)
    parts = [part for stream, part in book.runs[uid].positions if stream == "main"]
    np.testing.assert_array_equal(np.concatenate([read_part(part) for part in parts]), theta)
    assert [part.point for part in parts] == [part.first + 1 for part in parts]


def test_a_wrong_key_gives_one_clear_line(server, caplog):
    with caplog.at_level(logging.DEBUG), listener(server.uri, key="wrong-key", settle_s=1.5) as listening:
        assert listening.take(0) == []
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "refuses the API key: set documents.options.api_key" in lines[0]


def test_a_wrong_address_is_refused():
    with zmq.Context() as context, pytest.raises(EndpointError, match="http://host:8000"):
        TiledSource(context, "tcp://127.0.0.1:5578")


@pytest.mark.slow
@pytest.mark.parametrize("is_source_first", [True, False])
def test_a_restart_of_the_server_loses_and_repeats_nothing(tmp_path, is_source_first):
    """The server ends in the middle of a run and starts again; a second run follows.

    The RunEngine goes on after the source has connected again, or before, so that both runs end without the source.
    """
    server = Server(tmp_path)
    server.start()
    beamline = Beamline(server)
    reached, go_on = threading.Event(), threading.Event()

    def two_runs() -> None:
        beamline.engine(beamline.paused_scan(5, reached, go_on))
        beamline.engine(beamline.scan())

    with listener(server.uri) as listening:
        thread = threading.Thread(target=two_runs)
        thread.start()
        assert reached.wait(20)
        listening.take(1.0)
        server.stop()
        listening.take(2.0)  # the source tries again in vain
        n_listings = server.n_listings()
        server.start()
        while is_source_first and server.n_listings() == n_listings:
            listening.take(0.2)
        go_on.set()
        came = listening.wait_for(2)
        thread.join()
    server.stop()
    beamline.client.context.close()
    assert_same(came, beamline.sent)
    assert len(came) == len(beamline.sent)
