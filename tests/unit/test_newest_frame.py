"""The newest frame for the operators' pages: a limited rate, and always the last frame."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
import zmq

from cdi_stream.assemble.assembler import Assembler
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.live.ingest import Ingest, IngestSettings
from cdi_stream.stream.receive import Receiver, open_socket
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder
from cdi_stream_plugins.sources.process import ProcessSource
from sim_beamline import wire

N_FRAMES, EVERY_S = 40, 0.4


class Told:
    """Keeps the messages, in place of an announcer."""

    is_on = True

    def __init__(self):
        self.messages = []

    def tell(self, message):
        self.messages.append(message)


@pytest.fixture
def detector_and_told():
    """Yield a detector's socket, and the messages of an ingest that reads it."""
    told, is_stopped = Told(), threading.Event()
    with zmq.Context() as context, ExitStack() as stack:
        detector = stack.enter_context(context.socket(zmq.PUSH))
        documents = ProcessSource(context, "tcp://127.0.0.1:*")
        stack.callback(documents.close)
        port = detector.bind_to_random_port("tcp://127.0.0.1")
        data = open_socket(context, f"tcp://127.0.0.1:{port}", "pull", bind=False, max_message_bytes=10**6)
        receiver = Receiver(data, Dectris2Decoder())
        stack.callback(receiver.close)
        settings = IngestSettings(progress_every_s=60, frame_every_s=EVERY_S)
        assembler = Assembler(AssembleSettings(), time.monotonic, time.time)
        ingest = Ingest(settings, receiver, documents, assembler, told)
        body = (is_stopped.is_set, lambda work: None, lambda: True, tuple)
        thread = threading.Thread(target=ingest.run, args=body)
        thread.start()
        try:
            yield detector, told
        finally:
            is_stopped.set()
            thread.join()


def image(image_id):
    pixels = np.full((4, 5), image_id, dtype=np.uint16)
    return wire.image_message(series=7, image_id=image_id, pixels=pixels, count_time_s=0.1, codec="raw")


def test_the_last_frame_of_a_series_is_shown_though_none_follows_it(detector_and_told):
    detector, told = detector_and_told
    for image_id in range(1, N_FRAMES + 1):
        detector.send(image(image_id))
    end_s = time.monotonic() + 120
    while not told.messages or told.messages[-1][0]["image_id"] < N_FRAMES:
        assert time.monotonic() < end_s, [header["image_id"] for header, _ in told.messages]
        time.sleep(0.02)
    header, _ = told.messages[-1]
    assert (header["image_id"], header["largest_counts"]) == (N_FRAMES, N_FRAMES)
    assert 2 <= len(told.messages) <= 4, "a flood of frames is thinned out"
    time.sleep(2 * EVERY_S)
    assert [header["image_id"] for header, _ in told.messages].count(N_FRAMES) == 1
