"""Decompression of one image by every backend that is installed, in turn in one run.

``python -m tests.bench.decompression`` prints the median and the fifth percentile of the time an image takes
[microseconds].  bitshuffle's own package is measured as well, with the threads that OpenMP gives it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import bitshuffle
import numpy as np
from rich.console import Console
from rich.table import Table

from cdi_stream_plugins.decoders.decompression import BACKENDS, HEADER_BYTES
from sim_beamline import wire
from tests.bench.ingest import bragg_frames

N_TIMES = 300


def images() -> dict[str, np.ndarray]:
    """Images of 512 x 512 pixels: empty, with a peak, and with a thousand counts in every pixel."""
    peak = bragg_frames(1)[0]
    dense = np.random.default_rng(1).poisson(1000, peak.shape).astype(np.uint32)
    return {
        "empty, 32 bit": np.zeros_like(peak),
        "peak, 32 bit": peak,
        "peak, 16 bit": peak.clip(0, 60_000).astype(np.uint16),
        "1000 counts, 32 bit": dense,
    }


def ways(packed: bytes, pixels: np.ndarray) -> dict[str, Callable[[], object]]:
    """Functions that decompress an image, by backend."""
    item, block = pixels.itemsize, 8192 // pixels.itemsize
    blocks = np.frombuffer(packed, np.uint8)[HEADER_BYTES:]
    found: dict[str, Callable[[], object]] = {
        name: lambda backend=backend: backend(packed, "bslz4", item, pixels.nbytes)
        for name, backend in BACKENDS.items()
    }
    return found | {"bitshuffle": lambda: bitshuffle.decompress_lz4(blocks, pixels.shape, pixels.dtype, block)}


def measure() -> dict[str, dict[str, tuple[float, float]]]:
    """Median and fifth percentile [microseconds] by image and backend; the backends take turns."""
    figures = {}
    for image, pixels in images().items():
        functions = ways(wire.bslz4(pixels), pixels)
        times: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(N_TIMES):
            for name, function in functions.items():
                begin = time.perf_counter()
                function()
                times[name].append(1e6 * (time.perf_counter() - begin))
        figures[image] = {name: (float(np.median(t)), float(np.percentile(t, 5))) for name, t in times.items()}
    return figures


def main() -> None:
    """Print the figures as a table."""
    figures = measure()
    names = list(next(iter(figures.values())))
    table = Table("image", *names, title=f"median (5 %) in us; load {os.getloadavg()[0]:.1f}")
    for image, row in figures.items():
        table.add_row(image, *(f"{row[name][0]:.0f} ({row[name][1]:.0f})" for name in names))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
