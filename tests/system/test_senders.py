"""Streams of independent senders arrive complete, in order and exact to the pixel.

The images expected are decoded here, with bitshuffle, lz4 and cbor2, none of which the package decodes with.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import bitshuffle
import cbor2
import h5py
import lz4.block
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.system.senders import (
    LIBERTEM_PYTHON,
    TICKIT_PYTHON,
    LiveSim,
    RustSender,
    TickitEiger,
    live_sim,
    recorded_messages,
    rust_sender,
    tickit_eiger,
    write_recorded,
)

pytestmark = pytest.mark.slow

Wire = Literal["dectris1", "dectris2"]
TIMEOUT_S = 60.0
TICKIT_SHAPE = (4362, 4148)


def environment(variable: str, needs: str) -> str:
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} does not name a Python that has {needs}")
    return python


@pytest.fixture(scope="module")
def tickit() -> str:
    return environment(TICKIT_PYTHON, "tickit-devices")


@pytest.fixture(scope="module")
def libertem() -> str:
    return environment(LIBERTEM_PYTHON, "libertem-dectris and libertem-live")


# --- our recorder ----------------------------------------------------------------------------------------------


def recorded_frames(
    endpoint: str, wire: Wire, drive: Callable[[], None], directory: Path, *, n_frames: int, n_series: int = 1
) -> list[NDArray[Any]]:
    """Images that ``cdi-stream record`` writes while ``drive`` makes the sender send, each once and in order."""
    out = directory / "recorded.h5"
    options = ["--format", wire, "--out", str(out), "--series", str(n_series), "--timeout", str(TIMEOUT_S), "--json"]
    command = [sys.executable, "-m", "cdi_stream", "record", endpoint, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            drive()
            output, errors = process.communicate(timeout=2 * TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0, (output, errors)
    counts = json.loads(output.splitlines()[-1])
    assert counts["received"] == n_frames, (counts, errors)
    assert (counts["missing"], counts["duplicate"], counts["bad"]) == (0, 0, 0), (counts, errors)
    with h5py.File(out) as file:
        data = file["entry/data"]
        assert data["frame_id"][()].tolist() == list(range(n_frames // n_series)) * n_series
        return list(data["data"][()])


# --- a decoder of its own, for what the senders made themselves -------------------------------------------------


def pixels(encoding: str, blob: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    if encoding == "lz4<":
        plain = lz4.block.decompress(blob, uncompressed_size=math.prod(shape) * dtype.itemsize)
        return np.frombuffer(plain, dtype).reshape(shape)
    assert encoding == f"bs{8 * dtype.itemsize}-lz4<"
    n_bytes, block_bytes = struct.unpack(">QI", blob[:12])
    assert n_bytes in (0, math.prod(shape) * dtype.itemsize)
    body = np.frombuffer(blob, np.uint8, offset=12)
    return bitshuffle.decompress_lz4(body, shape, dtype, block_bytes // dtype.itemsize)


def untagged(part: bytes) -> Any:
    """Outermost map of a CBOR message; older cbor2 keeps the self-describing tag around it."""
    item = cbor2.loads(part)
    return item.value if isinstance(item, cbor2.CBORTag) else item


def channel(item: Any) -> NDArray[Any]:
    (array,) = item["data"].values()
    (shape, typed) = array.value
    algorithm, itemsize, blob = typed.value.value
    assert (array.tag, typed.tag, typed.value.tag, algorithm, itemsize) == (40, 69, 56500, "bslz4", 2)
    return pixels("bs16-lz4<", blob, (shape[0], shape[1]), np.dtype("<u2"))


# --- tickit-devices --------------------------------------------------------------------------------------------


def tickit_file(python: str, name: str) -> bytes:
    """One of the captured messages that come with tickit-devices."""
    program = "import tickit_devices.eiger.data as data; print(*data.__path__)"
    found = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    return (Path(found.stdout.strip()) / name).read_bytes()


@pytest.fixture(scope="module")
def eiger(tickit, tmp_path_factory) -> Iterator[TickitEiger]:
    with tickit_eiger(tickit, tmp_path_factory.mktemp("tickit")) as device:
        yield device


@pytest.fixture(scope="module")
def image_1(tickit) -> NDArray[Any]:
    return pixels("bs16-lz4<", tickit_file(tickit, "frame_sample"), TICKIT_SHAPE, np.dtype("<u2"))


@pytest.fixture(scope="module")
def image_2(tickit) -> NDArray[Any]:
    return channel(untagged(tickit_file(tickit, "stream2/image.cbor")))


@pytest.mark.parametrize("pause_s", [0.0, 0.3])
@pytest.mark.parametrize("header_detail", ["none", "basic", "all"])
def test_tickit_stream_1(eiger, image_1, tmp_path, header_detail, pause_s):
    """Without a pause the header often shares a message with the first image; each series ends twice."""
    eiger.set_up("legacy", header_detail, n_frames=3)
    frames = recorded_frames(
        eiger.endpoint_v1, "dectris1", lambda: eiger.run_series(pause_s=pause_s), tmp_path, n_frames=3
    )
    assert_same(frames, [image_1] * 3)


@pytest.mark.parametrize("pause_s", [0.0, 0.3])
@pytest.mark.parametrize("header_detail", ["none", "basic", "all"])
def test_tickit_stream_2(eiger, image_2, tmp_path, header_detail, pause_s):
    eiger.set_up("cbor", header_detail, n_frames=3)
    frames = recorded_frames(
        eiger.endpoint_v2, "dectris2", lambda: eiger.run_series(pause_s=pause_s), tmp_path, n_frames=3
    )
    assert_same(frames, [image_2] * 3)


@pytest.mark.parametrize("wire", ["dectris1", "dectris2"])
def test_tickit_series_follow_each_other_at_once(eiger, image_1, image_2, tmp_path, wire):
    def drive() -> None:
        for disarm in (False, True, False):
            eiger.run_series(disarm=disarm, pause_s=0.0)

    eiger.set_up("legacy" if wire == "dectris1" else "cbor", "basic", n_frames=2)
    endpoint, image = (eiger.endpoint_v1, image_1) if wire == "dectris1" else (eiger.endpoint_v2, image_2)
    frames = recorded_frames(endpoint, wire, drive, tmp_path, n_frames=6, n_series=3)
    assert_same(frames, [image] * 6)


# --- LiberTEM --------------------------------------------------------------------------------------------------


def our_frames(dtype: str, n_frames: int = 5, shape: tuple[int, int] = (97, 163)) -> NDArray[Any]:
    """Every pixel tells its frame, row and column, in each 16 bits of it; sides are odd and unequal."""
    index = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    frames = np.arange(n_frames, dtype=np.uint64)[:, None, None] * 10_000 + index
    bits = 8 * np.dtype(dtype).itemsize
    return (frames * (65_539 if bits == 32 else 1) % 2**bits).astype(dtype)


@pytest.mark.parametrize("compression", ["bslz4", "lz4"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_libertem_dectris_plays_our_frames(libertem, tmp_path, dtype, compression):
    expected = our_frames(dtype)
    source = write_recorded(tmp_path / "recorded", recorded_messages(expected, compression=compression))
    with rust_sender(libertem, tmp_path, source) as sender:
        frames = recorded_frames(sender.endpoint, "dectris1", sender.run_series, tmp_path, n_frames=5)
    assert_same(frames, expected)


def test_libertem_dectris_repeats_the_number_of_a_series(libertem, tmp_path):
    expected = our_frames("uint16")
    source = write_recorded(tmp_path / "recorded", recorded_messages(expected))
    with rust_sender(libertem, tmp_path, source) as sender:
        frames = recorded_frames(sender.endpoint, "dectris1", lambda: twice(sender), tmp_path, n_frames=10, n_series=2)
    assert_same(frames, [*expected, *expected])


def test_libertem_dectris_makes_up_frames_with_a_bslz4_header_of_zeros(libertem, tmp_path):
    with rust_sender(libertem, tmp_path, 4) as sender:
        frames = recorded_frames(sender.endpoint, "dectris1", sender.run_series, tmp_path, n_frames=4)
    assert_same(frames, [np.full((512, 512), index, np.uint16) for index in range(4)])


@pytest.mark.parametrize("trigger_mode", ["exts", "exte"])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_libertem_live_plays_our_frames_when_armed(libertem, tmp_path, dtype, trigger_mode):
    expected = our_frames(dtype)
    source = write_recorded(tmp_path / "recorded", recorded_messages(expected, trigger_mode=trigger_mode))
    with live_sim(libertem, tmp_path, source) as sender:
        frames = recorded_frames(sender.endpoint, "dectris1", sender.run_series, tmp_path, n_frames=5)
        frames += recorded_frames(sender.endpoint, "dectris1", sender.run_series, tmp_path, n_frames=5)
    assert_same(frames, [*expected, *expected])


def twice(sender: RustSender | LiveSim) -> None:
    sender.run_series()
    sender.run_series()


def assert_same(frames: list[NDArray[Any]], expected: Any) -> None:
    assert len(frames) == len(expected)
    for frame, other in zip(frames, expected, strict=True):
        assert frame.dtype == other.dtype
        np.testing.assert_array_equal(frame, other)
