"""A fly scan of ophyd-async's own detector and a position box, by a real RunEngine, to the assembled curve."""

from __future__ import annotations

import contextlib
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
import zmq
from bluesky import RunEngine

from cdi_stream.assemble.assembler import Assembler
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.stream.receive import Receiver, open_socket
from cdi_stream_plugins.bluesky import CdiStream, with_run_uid
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder
from cdi_stream_plugins.sources.process import ProcessSource
from sim_beamline.detector import run_detector
from sim_beamline.devices import DetectorClient
from sim_beamline.scan import recorded_scan

ophyd_async = pytest.importorskip("ophyd_async.core", reason="ophyd-async is not installed: pip install ophyd-async")


class Line:
    """Detector in a thread, assembler in this process, RunEngine with ophyd-async devices."""

    def __init__(self, scan, folder, stack):
        from sim_beamline.fly_devices import PositionBox, StreamingEiger
        from sim_beamline.pulses import Motion

        data, control, documents = (f"tcp://127.0.0.1:{free_port()}" for _ in range(3))
        self.context = stack.enter_context(zmq.Context())
        detector = threading.Thread(
            target=run_detector, args=(scan, data, control, "push", "bslz4", "dectris2"), kwargs={"does_connect": False}
        )
        detector.start()
        stack.callback(detector.join)
        stack.callback(self._end_detector, control)
        self.source = ProcessSource(self.context, documents)
        stack.callback(self.source.close)
        self.receiver = Receiver(
            open_socket(self.context, data, "pull", bind=False, max_message_bytes=10**8), Dectris2Decoder()
        )
        stack.callback(self.receiver.close)
        motors = frozenset(scan.scanned)
        self.assembler = Assembler(AssembleSettings(motors=motors), time.monotonic, time.time)
        self.engine = RunEngine({}, context_managers=[])
        sender = CdiStream({"documents": {"source": "process", "address": documents}})
        stack.callback(sender.close)
        self.engine.subscribe(sender)
        client = DetectorClient(name="eiger", control_endpoint=control, context=self.context)
        stack.callback(client.close)
        shape = scan.frames.shape[1:]
        self.motion = Motion(period_s=0.01)
        self.eiger = StreamingEiger(client, folder / "images.h5", shape, self.motion, name="eiger")
        self.box = PositionBox(folder / "positions.h5", scan.scanned, self.motion)

    def _end_detector(self, control):
        with self.context.socket(zmq.REQ) as socket:
            socket.connect(control)
            socket.send_json({"command": "exit"})
            socket.recv_json()

    def curves(self, n, timeout_s=60.0):
        found, end_s = [], time.monotonic() + timeout_s
        while len(found) < n and time.monotonic() < end_s:
            for message in self.receiver.messages():
                self.assembler.on_message(message)
                del message
            for name, doc in self.source.documents(lambda error: None):
                self.assembler.on_document(name, doc)
            found += self.assembler.poll()
            time.sleep(0.005)
        return found


def fly(motion, devices, n_events, frames_an_event=1):
    """A fly scan as ophyd-async's users write it."""
    trigger = ophyd_async.DetectorTrigger.EXTERNAL_EDGE
    info = ophyd_async.TriggerInfo(
        trigger=trigger, livetime=0.01, number_of_events=n_events, collections_per_event=frames_an_event
    )

    @bpp.stage_decorator(devices)
    @bpp.run_decorator(md={"motors": ["theta"]})
    def plan():
        yield from bps.prepare(devices[0], info, group="prepare")
        yield from bps.prepare(devices[1], info, group="prepare")
        yield from bps.wait("prepare")
        yield from bps.declare_stream(*devices, name="main", collect=True)
        yield from bps.kickoff_all(*devices, wait=True)
        yield from bps.kickoff(motion, wait=True)
        yield from bps.collect_while_completing([*devices, motion], devices, flush_period=0.1, stream_name="main")

    return plan()


@pytest.mark.parametrize("frames_an_event", [1, 48], ids=["an event a frame", "one event"])
def test_a_fly_scan_is_pixel_and_angle_exact(tmp_path, frames_an_event):
    scan = recorded_scan("plain")
    n = len(scan.frames)
    assert n == 48
    with contextlib.ExitStack() as stack:
        line = Line(scan, tmp_path, stack)
        plan = fly(line.motion, [line.eiger, line.box], n // frames_an_event, frames_an_event)
        line.engine(with_run_uid(plan, line.eiger, "client.user_data"))
        (curve,) = line.curves(1)
    assert curve.account.missing == ()
    np.testing.assert_array_equal(curve.counts, scan.frames)
    for name, values in scan.scanned.items():
        np.testing.assert_array_equal(curve.scanned[name], values)
    assert curve.doubts == ()
