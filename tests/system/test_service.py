"""The service's threads over real sockets, with curves and documents that go wrong."""

from __future__ import annotations

import contextlib
import pickle
import queue
import time
from collections import Counter

import msgpack
import numpy as np
import pytest
import zmq

from cdi_stream.alarms import Alarms
from cdi_stream.assemble.assembler import Assembler
from cdi_stream.assemble.incoming import Incoming
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.documents.delivery import BusDelivery
from cdi_stream.documents.publish import Provenance
from cdi_stream.documents.spool import Spool
from cdi_stream.live.ingest import Ingest, IngestSettings
from cdi_stream.live.outgoing import Outgoing
from cdi_stream.live.pipeline import Parts, Service
from cdi_stream.operators.announce import Announcer
from cdi_stream.stream.receive import Receiver, open_socket
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder
from cdi_stream_plugins.sources.bus import BusSource
from sim_beamline import wire
from sim_beamline.scan import recorded_scan
from tests.builders import settings_for

PROVENANCE = Provenance(version="0", config_sha256="c", network_name="n", network_sha256="s", beamline="b")


class Collector:
    """A sink that keeps what it gets, and the bus behind it: what is sent is heard."""

    def __init__(self):
        self.documents = []
        self._unheard = queue.Queue()

    def __call__(self, name, doc):
        self.documents.append((name, doc))
        self._unheard.put(doc["uid"])

    def heard(self, timeout_ms):
        with contextlib.suppress(queue.Empty):
            yield self._unheard.get(timeout=timeout_ms / 1000)
            while True:
                yield self._unheard.get_nowait()

    def close(self):
        pass

    def of(self, kind):
        return [doc for name, doc in self.documents if name == kind]


class Rig:
    """A service in this process; the test is detector and RunEngine."""

    def __init__(self, scan, network, directory, chain=None, preview_fractions=(0.5, 0.75), **options):
        self.scan = scan
        self.context = zmq.Context()
        self.data, self.docs = self.context.socket(zmq.PUSH), self.context.socket(zmq.PUB)
        data_port = self.data.bind_to_random_port("tcp://127.0.0.1")
        docs_port = self.docs.bind_to_random_port("tcp://127.0.0.1")
        endpoint = f"tcp://127.0.0.1:{data_port}"
        self.detector = open_socket(self.context, endpoint, "pull", bind=False, max_message_bytes=10**8)
        self.documents = BusSource(self.context, f"tcp://127.0.0.1:{docs_port}")
        self.sink = Collector()
        incoming = Incoming(directory / "incoming")
        waits = AssembleSettings(reading_timeout_s=1.0, preview_fractions=preview_fractions)
        self.assembler = Assembler(waits, time.monotonic, time.time, incoming)
        self.alarms = Alarms()
        spool, announcer = Spool(directory), Announcer(None)
        delivery = BusDelivery(spool, self.sink, self.sink.heard)
        settings = IngestSettings(progress_every_s=0.05, frame_every_s=1.0)
        self.receiver = Receiver(self.detector, Dectris2Decoder())
        chain = chain or settings_for(scan, phase={"recipe": "2*ER"}, publish={"lab_shape": (48, 48, 48)})
        shapes = dict.fromkeys(("preview", "inference"), network.lab_shape) | {"reconstruction": chain.lab_shape}
        outgoing = Outgoing(
            PROVENANCE, shapes, ResultFolder(base=directory), spool, delivery.push, announcer, done=incoming.discard
        )
        parts = Parts(
            ingest=Ingest(settings, self.receiver, self.documents, self.assembler, announcer, self.alarms),
            alarms=self.alarms,
            assembler=self.assembler,
            network=network,
            chain=chain,
            outgoing=outgoing,
            spool=spool,
            decode=Dectris2Decoder().decode,
            bus=delivery,
            announcer=announcer,
            **options,
        )
        self.service = Service(parts)
        self.service.start()
        self.wait_for(self._is_heard)

    def _is_heard(self):
        """A publisher loses what it sends before its subscriber has met it."""
        self.document("start", {"uid": "probe", "time": 0.0})
        return "probe" in self.assembler.book.runs

    def document(self, name, doc):
        self.docs.send(b" ".join((b"", name.encode(), msgpack.packb(doc))))

    def open_run(self, uid):
        self.document("start", {"uid": uid, "time": time.time()})
        keys = {key: {"units": unit} for key, unit in self.scan.units.items() if unit}
        base = {"run_start": uid, "data_keys": keys, "configuration": {}}
        self.document("descriptor", {"uid": f"{uid}-b", "name": "baseline", **base})
        self.document("event", {"descriptor": f"{uid}-b", "seq_num": 1, "data": dict(self.scan.baseline)})
        self.document("descriptor", {"uid": f"{uid}-p", "name": "primary", **base})

    def events(self, uid, first=1):
        (name, track) = next(iter(self.scan.scanned.items()))
        for k, value in enumerate(track):
            data = {name: float(value), "det_image_id": k}
            self.document("event", {"descriptor": f"{uid}-p", "seq_num": first + k, "data": data})

    def stop_run(self, uid):
        self.document("stop", {"run_start": uid, "time": time.time(), "num_events": {}})

    def curve(self, uid, series, index=0, frames=None):
        frames = self.scan.frames if frames is None else frames
        self.begin(uid, series, index, len(frames))
        self.frames(series, frames)
        self.data.send(wire.end_message(series=series))

    def begin(self, uid, series, index=0, n_frames=48):
        claim = {"run_uid": uid, "curve_index": index, "n_points": n_frames}
        self.data.send(
            wire.start_message(
                series=series, n_images=n_frames, shape=self.scan.frames.shape[1:], header=self.scan.detector,
                mask=self.scan.pixel_mask, user_data=claim, dtype="uint32",
            )
        )  # fmt: skip

    def frames(self, series, frames, first_id=0):
        for k, pixels in enumerate(frames):
            self.data.send(
                wire.image_message(series=series, image_id=first_id + k, pixels=pixels, count_time_s=0.1, codec="bslz4")
            )

    def wait_for(self, condition, timeout_s=600):
        end = time.monotonic() + timeout_s
        while not condition():
            assert self.service.failure is None, self.service.failure
            assert time.monotonic() < end, [name for name, _ in self.sink.documents]
            time.sleep(0.05)

    def results(self):
        return [doc["data"] for doc in self.sink.of("event") if "reconstruction_verdict" in doc["data"]]

    def close(self):
        if self.context.closed:
            return
        self.service.stop()
        self.receiver.close()
        self.documents.close()
        for socket in (self.data, self.docs):
            socket.close(0)
        self.context.term()


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


@pytest.fixture
def make(scan, network, tmp_path):
    rigs = []

    def start(**options):
        rigs.append(Rig(scan, network, tmp_path, **options))
        return rigs[-1]

    yield start
    for rig in rigs:
        rig.close()


def test_a_stop_that_overtakes_a_curve_reopens_no_run(make):
    rig = make()
    rig.open_run("raw")
    rig.events("raw")
    rig.curve("raw", 1, 0)
    rig.wait_for(lambda: len(rig.results()) == 1)
    rig.stop_run("raw")
    rig.wait_for(lambda: rig.sink.of("stop"))
    rig.events("raw", first=49)
    rig.curve("raw", 2, 1)
    rig.wait_for(lambda: len(rig.sink.of("stop")) == 2)
    assert len(rig.results()) == 2
    for kind in ("start", "event", "stream_resource"):
        assert max(Counter(doc["uid"] for doc in rig.sink.of(kind)).values()) == 1, kind
    assert {doc["original_run_uid"] for doc in rig.sink.of("start")} == {"raw"}


def test_a_curve_that_breaks_a_stage_fails_and_the_next_is_right(make, monkeypatch):
    from cdi_stream.inversion import chain

    whole = chain.prepare
    calls = []

    def breaks_once(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("a stage broke")
        return whole(*arguments)

    monkeypatch.setattr(chain, "prepare", breaks_once)
    rig = make(preview_fractions=())
    rig.open_run("raw")
    rig.curve("raw", 1, 0)
    rig.events("raw")
    rig.wait_for(lambda: len(rig.results()) == 1)
    rig.events("raw", first=49)
    rig.curve("raw", 2, 1)
    rig.wait_for(lambda: len(rig.results()) == 2)
    first, second = rig.results()
    assert first["reconstruction_verdict"] == "failed"
    assert second["reconstruction_verdict"] != "failed"


def test_garbage_on_both_sockets_changes_nothing(make):
    rig = make()
    rng = np.random.default_rng(0)
    for n in (0, 1, 7, 100):
        rig.docs.send(rng.bytes(n))
        rig.data.send(rng.bytes(n))
    for doc in ({}, {"uid": 3}, {"descriptor": []}):
        for name in ("start", "event", "stop", "descriptor", "event_page"):
            rig.document(name, doc)
    rig.open_run("raw")
    rig.events("raw")
    rig.curve("raw", 1)
    rig.wait_for(lambda: rig.results())
    assert rig.results()[0]["reconstruction_verdict"] != "failed"


def test_a_run_never_heard_of_is_closed_after_its_curve(make):
    rig = make()
    rig.curve("unheard", 5)
    rig.wait_for(lambda: rig.sink.of("stop"))
    (result,) = rig.results()
    assert result["reconstruction_verdict"] == "failed"
    assert "no reading" in result["reconstruction_reasons"]


def test_a_service_that_stops_in_mid_curve_leaves_it_to_the_next(make):
    first = make()
    first.open_run("raw")
    first.events("raw")
    half = first.scan.frames[:20]
    first.begin("raw", 1, n_frames=len(first.scan.frames))
    first.frames(1, half)
    first.wait_for(lambda: first.assembler.progress() and first.assembler.progress()[0].account.received == 20)
    first.close()
    assert first.results() == []
    assert first.service.left["curves"] == 1
    second = make()
    assert second.assembler.progress()[0].account.received == 20
    second.frames(1, first.scan.frames[20:], first_id=20)
    second.data.send(wire.end_message(series=1))
    second.wait_for(lambda: second.results())
    (result,) = second.results()
    assert result["reconstruction_frames_received"] == len(first.scan.frames)
    assert result["reconstruction_verdict"] != "failed"
    assert not {d["uid"] for d in first.sink.of("start")} & {d["uid"] for d in second.sink.of("start")}


def test_curves_that_pile_up_hold_the_detector_and_lose_nothing(make, caplog):
    rig = make(max_waiting_bytes=1)
    rig.open_run("raw")
    for index in range(3):
        rig.events("raw", first=1 + 48 * index)
        rig.curve("raw", index + 1, index)
    rig.wait_for(lambda: len(rig.results()) == 3)
    assert [data["reconstruction_frames_missing"] for data in rig.results()] == [0, 0, 0]
    assert "no frames are taken meanwhile" in caplog.text


def test_of_curves_that_pile_up_each_gets_its_reconstruction_in_order_and_the_last_one_is_searched(make, scan):
    rig = make(chain=settings_for(scan, phase={"recipe": "2000*ER"}, publish={"lab_shape": (48, 48, 48)}))
    rig.open_run("raw")
    for index in range(6):
        rig.events("raw", first=1 + 48 * index)
        rig.curve("raw", index + 1, index)
    rig.wait_for(lambda: len(rig.results()) == 6)
    assert [data["reconstruction_curve_index"] for data in rig.results()] == list(range(6))
    assert {data["reconstruction_verdict"] for data in rig.results()} <= {"good", "doubtful"}
    reasons = [data["reconstruction_reasons"] for data in rig.results()]
    assert sum("there was no time for a search" in text for text in reasons) >= 3
    assert "search" not in reasons[-1]


def test_a_preview_comes_before_its_curve_and_none_of_a_curve_that_comes_at_once(make):
    rig = make()
    rig.open_run("raw")
    rig.events("raw")
    rig.begin("raw", 1)
    for k in range(24):
        rig.frames(1, rig.scan.frames[k : k + 1], first_id=k)
        time.sleep(0.05)
    rig.wait_for(lambda: rig.service.counters()["previews"] == 1)
    rig.frames(1, rig.scan.frames[24:], first_id=24)
    rig.data.send(wire.end_message(series=1))
    rig.wait_for(lambda: len(rig.results()) == 1)
    (preview,) = [doc["data"] for doc in rig.sink.of("event") if "preview_fraction" in doc["data"]]
    assert (preview["preview_fraction"], preview["preview_frames_received"]) == (0.5, 24)
    rig.events("raw", first=49)
    rig.curve("raw", 2, 1)
    rig.wait_for(lambda: len(rig.results()) == 2)
    assert rig.service.counters()["previews"] == 1
    assert [data["reconstruction_frames_missing"] for data in rig.results()] == [0, 0]
    names = [next(iter(doc["data"])).split("_")[0] for doc in rig.sink.of("event")]
    assert names.index("preview") < names.index("inference")


# --- floods, and what is no document ------------------------------------------------------------------------------


def test_20_000_ends_of_nobody_s_series_hold_no_scan_up(make):
    rig = make()
    for series in range(20_000):
        rig.data.send(wire.end_message(series=10**6 + series))
    began_s = time.monotonic()
    rig.open_run("raw")
    rig.events("raw")
    rig.curve("raw", 1)
    rig.wait_for(lambda: rig.results(), 60)
    assert rig.results()[0]["reconstruction_frames_missing"] == 0
    assert time.monotonic() - began_s < 40


def test_3000_messages_that_cannot_be_read_hold_no_scan_up(make):
    rig = make()
    rng = np.random.default_rng(0)
    for _ in range(3000):
        rig.data.send(rng.bytes(200))
    rig.open_run("raw")
    rig.events("raw")
    rig.curve("raw", 1)
    rig.wait_for(lambda: rig.results(), 60)
    assert rig.results()[0]["reconstruction_frames_missing"] == 0
    assert rig.service.counters()["malformed"] == 3000


def test_pickled_documents_are_counted_and_the_first_reason_is_an_alarm(make):
    rig = make()
    for _ in range(5):
        rig.docs.send(b" ".join((b"", b"start", pickle.dumps({"uid": "raw", "time": 0.0}))))
    rig.wait_for(lambda: rig.service.counters()["documents_unusable"] == 5)
    rig.wait_for(lambda: rig.alarms.active())
    (alarm,) = rig.alarms.active()
    assert alarm["key"] == "documents"
    assert "5 documents could not be used" in alarm["text"]
    assert "pickled, as a bluesky Publisher sends it by default" in alarm["text"]
