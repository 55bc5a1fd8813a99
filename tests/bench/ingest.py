"""Ingest: the receiver and assembler against a bare loop of recv, decompress and one copy, in one run."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import zmq

from cdi_stream.assemble.assembler import Assembler
from cdi_stream.assemble.incoming import Incoming
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.messages import RockingCurve, SeriesEnd
from cdi_stream.stream.receive import Receiver, open_socket
from cdi_stream_plugins.decoders.decompression import decompress
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder
from sim_beamline import wire

N_FRAMES = 1500
SHAPE = (512, 512)
FRAME_BYTES = 4 * SHAPE[0] * SHAPE[1]


def bragg_frames(n: int = 16) -> np.ndarray:
    """Sparse frames with a peak, like those of a rocking curve."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(row - 250, col - 270)
    return rng.poisson(2e4 / (1 + distance**3)[None] * np.ones((n, 1, 1))).astype(np.uint32)


def encoded() -> list[bytes]:
    """One message for each of a few frames; the series' ids run on."""
    frames = bragg_frames()
    return [
        wire.image_message(series=1, image_id=k, pixels=frames[k % 16], count_time_s=0.01, codec="bslz4")
        for k in range(N_FRAMES)
    ]


def send(port: int, n_rounds: int) -> None:
    """Send every round flat out, each when the receiver has asked for it."""
    messages = encoded()
    start = wire.start_message(
        series=1, n_images=N_FRAMES, shape=SHAPE, header={}, mask=None, user_data=None, dtype="uint32"
    )
    with zmq.Context() as context, context.socket(zmq.PUSH) as data, context.socket(zmq.REP) as control:
        data.setsockopt(zmq.SNDHWM, 200)
        data.bind(f"tcp://127.0.0.1:{port}")
        control.bind(f"tcp://127.0.0.1:{port + 1}")
        for _ in range(n_rounds):
            control.recv()
            control.send(b"")
            for message in (start, *messages, wire.end_message(series=1)):
                data.send(message, copy=False)


def bare(socket: zmq.Socket) -> int:
    """The reference: no CBOR and no accounting; the packed bytes lie behind the codec's name."""
    length_bytes = {0x58: 2, 0x59: 3, 0x5A: 5}
    volume = np.zeros((N_FRAMES, *SHAPE), dtype=np.uint32)
    socket.recv()
    for k in range(N_FRAMES):
        part = socket.recv(copy=False).buffer
        at = bytes(part[:400]).index(b"bslz4") + len(b"bslz4") + 1
        packed = part[at + length_bytes[part[at]] :]
        volume[k] = np.frombuffer(decompress(packed, "bslz4", 4, FRAME_BYTES), np.uint32).reshape(SHAPE)
    socket.recv()
    return N_FRAMES


def ours(receiver: Receiver, assembler: Assembler, incoming: Incoming) -> int:
    """The service's own receiver and assembler, frames in files that outlive the process."""
    socket = receiver.socket
    curves: list[RockingCurve] = []
    is_over = False
    while not (curves and is_over):
        if not socket.poll(1000):
            raise RuntimeError("the sender has stopped")
        for message in receiver.messages():
            assembler.on_message(message)
            is_over |= isinstance(message, SeriesEnd)
            del message
        curves += assembler.poll()
    incoming.discard(curves[0].key)
    return curves[0].account.received


def measure(n_rounds: int = 4, folder: Path | None = None) -> dict[str, float]:
    """Frames per second and their ratio, in the first round and the best of ``n_rounds``; frames lie in ``folder``.

    The first scan of a service takes fresh memory; later scans use it again, as in a running service.
    """
    with tempfile.TemporaryDirectory() as temporary:
        return _measured(n_rounds, folder or Path(temporary))


def _measured(n_rounds: int, folder: Path) -> dict[str, float]:
    port = free_port()
    sender = multiprocessing.get_context("spawn").Process(target=send, args=(port, 2 * n_rounds + 1), daemon=True)
    sender.start()
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    with zmq.Context() as context, context.socket(zmq.REQ) as control:
        control.setsockopt(zmq.LINGER, 0)
        control.connect(f"tcp://127.0.0.1:{port + 1}")
        with open_socket(context, f"tcp://127.0.0.1:{port}", "pull", bind=False, max_message_bytes=10**8) as socket:
            socket.setsockopt(zmq.RCVTIMEO, 20_000)
            incoming = Incoming(folder)
            settings = AssembleSettings(late_grace_s=1e-9, reading_timeout_s=1e-9, max_total_bytes=16 << 30)
            assembler = Assembler(settings, time.monotonic, time.time, incoming)
            ways: dict[str, Callable[[], int]] = {
                "bare": partial(bare, socket),
                "ours": partial(ours, Receiver(socket, Dectris2Decoder()), assembler, incoming),
            }
            for name in ["bare", *(n_rounds * list(ways))]:  # the first round only opens the connection
                control.send(b"")
                control.recv()
                begin = time.perf_counter()
                n = ways[name]()
                if n != N_FRAMES:
                    raise RuntimeError(f"{name}: {n} of {N_FRAMES} frames")
                rates[name].append(n / (time.perf_counter() - begin))
    best = {name: max(values) for name, values in rates.items()}
    return {
        "bare_fps": best["bare"],
        "ours_fps": best["ours"],
        "ratio": best["ours"] / best["bare"],
        "ratio_first_scan": rates["ours"][0] / best["bare"],
    }
