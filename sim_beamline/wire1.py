"""Make the message parts of DECTRIS stream v1 and of ``array-1.0`` with independent codec libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import lz4.block
import numpy as np
from numpy.typing import NDArray

from sim_beamline.wire import bslz4

NANO = 10**9


def start_parts(
    *, series: int, n_images: int, shape: tuple[int, int], header: Mapping[str, Any], mask: Any, user_data: Any
) -> list[bytes]:
    """Return the header of a series, with ``header_detail`` basic, or all if there is a mask, and the appendix."""
    names = {
        "pixel_row_m": "y_pixel_size",
        "pixel_col_m": "x_pixel_size",
        "beam_row": "beam_center_y",
        "beam_col": "beam_center_x",
        "count_time_s": "count_time",
        "distance_m": "detector_distance",
        "photon_energy_ev": "photon_energy",
    }
    config = {wire: header[ours] for ours, wire in names.items() if ours in header}
    if "omega_deg" in header:
        config |= dict(zip(("omega_start", "omega_increment"), header["omega_deg"], strict=True))
    config |= {"nimages": n_images, "ntrigger": 1, "trigger_mode": "ints"}
    config |= {"x_pixels_in_detector": shape[1], "y_pixels_in_detector": shape[0]}
    detail = "basic" if mask is None else "all"
    parts = [_json(htype="dheader-1.0", series=series, header_detail=detail), _json(**config)]
    if mask is not None:
        blob = np.where(mask, 0, 1).astype("<u4").tobytes()
        parts += [_json(htype="dpixelmask-1.0", shape=[shape[1], shape[0]], type="uint32"), blob]
    return parts if user_data is None else [*parts, json.dumps(user_data).encode()]


def image_parts(*, series: int, image_id: int, pixels: NDArray[Any], count_time_s: float, codec: str) -> list[bytes]:
    """Return the four parts of one image."""
    rows, cols = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    encoding = {"raw": "<", "lz4": "lz4<", "bslz4": f"bs{bits}-lz4<"}[codec]
    blob = packed(pixels, codec)
    description = {"shape": [cols, rows], "type": pixels.dtype.name, "encoding": encoding, "size": len(blob)}
    real_time = int(count_time_s * NANO)
    return [
        _json(htype="dimage-1.0", series=series, frame=image_id, hash=""),
        _json(htype="dimage_d-1.0", **description),
        blob,
        _json(htype="dconfig-1.0", start_time=0, stop_time=real_time, real_time=real_time),
    ]


def end_parts(*, series: int) -> list[bytes]:
    """Return the end message of a series."""
    return [_json(htype="dseries_end-1.0", series=series)]


def array_parts(*, frame: int, pixels: NDArray[Any], codec: str) -> list[bytes]:
    """Return one image of ``array-1.0`` in the form of ADZMQ 1.4."""
    encoding = "" if codec == "raw" else codec
    header = {"type": pixels.dtype.name, "shape": list(pixels.shape), "frame": frame, "encoding": encoding}
    return [_json(htype="array-1.0", **header, ndattr={}), packed(pixels, codec)]


def packed(pixels: NDArray[Any], codec: str) -> bytes:
    """Return pixels as the blob of either format: raw, a bare LZ4 block, or bitshuffled with HDF5's header."""
    if codec == "bslz4":
        return bslz4(pixels)
    content = np.ascontiguousarray(pixels).tobytes()
    return lz4.block.compress(content, store_size=False) if codec == "lz4" else content


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()
