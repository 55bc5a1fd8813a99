"""Make messages of DECTRIS stream v2 with independent libraries: cbor2 encodes, bitshuffle and lz4 compress."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import bitshuffle
import cbor2
import lz4.block
import numpy as np
from numpy.typing import NDArray

_TAGS = {"u1": 64, "u2": 69, "u4": 70, "i4": 78, "f4": 85}
CHANNEL = "threshold_1"


def start_message(
    *,
    series: int,
    n_images: int,
    shape: tuple[int, int],
    header: Mapping[str, Any],
    mask: NDArray[np.bool_] | None,
    user_data: Any,
    dtype: str,
) -> bytes:
    """Return the start message of a series; ``header`` holds the detector's numbers of the scan."""
    message: dict[str, Any] = {
        "type": "start",
        "arm_date": datetime.now(UTC),
        "series_id": series,
        "series_unique_id": f"sim-{series}",
        "number_of_images": n_images,
        "number_of_channels": 1,
        "channels": [CHANNEL],
        "image_size_x": shape[1],
        "image_size_y": shape[0],
        "image_dtype": dtype,
        "user_data": user_data,
    }
    names = {
        "pixel_row_m": "pixel_size_y",
        "pixel_col_m": "pixel_size_x",
        "beam_row": "beam_center_y",
        "beam_col": "beam_center_x",
        "count_time_s": "count_time",
        "saturation_counts": "saturation_value",
        "photon_energy_ev": "incident_energy",
    }
    message |= {wire: header[ours] for ours, wire in names.items() if ours in header}
    if "distance_m" in header:
        message["detector_translation"] = [0.0, 0.0, header["distance_m"]]
    if "omega_deg" in header:
        start_deg, step_deg = header["omega_deg"]
        message["goniometer"] = {"omega": {"start": start_deg, "increment": step_deg}}
    if mask is not None:
        message["pixel_mask"] = {CHANNEL: array(np.where(mask, 0, 1).astype(np.uint32))}
    return _encode(message)


def image_message(
    *, series: int, image_id: int, pixels: NDArray[Any], count_time_s: float, codec: str, clock_s: float = 0.0
) -> bytes:
    """Return the message of one image of one channel; the times of the image are off by ``clock_s`` [s]."""
    nanoseconds, off = int(count_time_s * 1e9), int(clock_s * 1e9)
    return _encode(
        {
            "type": "image",
            "series_id": series,
            "series_unique_id": f"sim-{series}",
            "image_id": image_id,
            "real_time": [nanoseconds, 10**9],
            "start_time": [image_id * nanoseconds + off, 10**9],
            "stop_time": [(image_id + 1) * nanoseconds + off, 10**9],
            "data": {CHANNEL: array(pixels, codec)},
        }
    )


def end_message(*, series: int) -> bytes:
    """Return the end message of a series."""
    return _encode({"type": "end", "series_id": series, "series_unique_id": f"sim-{series}"})


def array(pixels: NDArray[Any], codec: str = "raw") -> cbor2.CBORTag:
    """Return a row-major array (tag 40) of typed elements, raw or compressed (tag 56500)."""
    content: Any = np.ascontiguousarray(pixels).tobytes()
    if codec != "raw":
        packed = {"bslz4": bslz4, "lz4": _lz4}[codec](pixels)
        content = cbor2.CBORTag(56500, [codec, pixels.dtype.itemsize, packed])
    typed_array = cbor2.CBORTag(_TAGS[pixels.dtype.str[1:]], content)
    return cbor2.CBORTag(40, [list(pixels.shape), typed_array])


def bslz4(pixels: NDArray[Any]) -> bytes:
    """Return bitshuffled and LZ4-compressed pixels behind HDF5's header of total size and block size."""
    block = 8192 // pixels.dtype.itemsize
    packed = bitshuffle.compress_lz4(np.ascontiguousarray(pixels).ravel(), block)
    result: bytes = struct.pack(">QI", pixels.nbytes, block * pixels.dtype.itemsize) + packed.tobytes()
    return result


def _lz4(pixels: NDArray[Any]) -> bytes:
    """Return LZ4-compressed pixels in HDF5's format: total size, block size, then each block behind its length."""
    packed = lz4.block.compress(np.ascontiguousarray(pixels).tobytes(), store_size=False)
    result: bytes = struct.pack(">QII", pixels.nbytes, pixels.nbytes, len(packed)) + packed
    return result


def _encode(message: Mapping[str, Any]) -> bytes:
    return bytes.fromhex("d9d9f7") + cbor2.dumps(dict(message))
