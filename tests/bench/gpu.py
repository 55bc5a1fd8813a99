"""``make gpu``: all that a GPU is needed for, in one command of less than ten minutes.

The GPU's tests, passes of the networks, volume to crystal, cycles and `auto` at 128^3 and 256^3, and trainings of the
networks of the papers' sizes in the minutes that are left.  After each step the figures are in ``figures.json`` of the
folder; networks, model cards and training curves lie beside it.  ``--device cpu --seconds 5`` tries the command where
there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cdi_stream as cdi
from cdi_stream.disk.atomic import atomic_write
from cdi_stream.inversion.chain import lab_volume
from cdi_stream.inversion.infer import infer
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.prepare import prepare
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.networks.torchscript import load
from cdi_stream.phasing.align import align
from cdi_stream.phasing.engine import run
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.starts import random_starts
from cdi_stream.training.run import TASKS, train
from sim_beamline.scan import recorded_scan
from tests.bench import crystals
from tests.bench.networks.forward import timed
from tests.bench.phasing.speed import measurement
from tests.builders import curve_of, settings_for

logger = logging.getLogger(__name__)

TESTS_S = 150.0
"""Longest time of the tests [s]."""

PAPER_SIZES = ("wu2021", "chan2021", "masto2025")
"""Networks of the papers' sizes, which a GPU trains."""

RESERVE_S = 25.0
"""Time kept for the end of the last training: validation and export [s]."""

GOALS = {"forward_p50_ms": 1.0, "volume_to_crystal_p50_ms": 5.0}

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Extent of a run.

    Parameters
    ----------
    device
        ``cuda`` or ``cpu``.
    seconds
        Time of each measurement and of each search [s].
    sizes
        Sides of the volumes of cycles and searches [voxels].
    end_s
        Time at which the command must be over (monotonic) [s].
    out
        Folder of figures and networks.
    """

    device: str
    seconds: float
    sizes: tuple[int, ...]
    end_s: float
    out: Path

    def left_s(self) -> float:
        """Return the time that is left [s]."""
        return self.end_s - time.monotonic()


def steps(extent: Extent) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Yield the steps by name, the most wanted first."""
    yield "machine", partial(machine, extent)
    yield "tests", partial(tests, extent)
    for name in TASKS:
        yield f"forward/{name}", partial(timed, name, extent.device)
    yield "volume_to_crystal", partial(volume_to_crystal, extent)
    for n in extent.sizes:
        yield f"cycles/{n}", partial(cycles, extent, n)
    for n in extent.sizes:
        yield f"auto/{n}", partial(auto, extent, n)
    for place, name in enumerate(PAPER_SIZES):
        yield f"training/{name}", partial(training, extent, name, len(PAPER_SIZES) - place)


def machine(extent: Extent) -> Figures:
    """Name the device and the versions."""
    name = torch.cuda.get_device_name() if extent.device == "cuda" else "cpu"
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}


def tests(extent: Extent) -> Figures:
    """Run the GPU's tests; without a GPU only collect them."""
    options = ["-x", "-p", "no:cacheprovider"] if extent.device == "cuda" else ["--collect-only"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *options]
    made = subprocess.run(command, capture_output=True, text=True, timeout=TESTS_S, check=False)
    return {"exit_code": made.returncode, "last_lines": made.stdout.splitlines()[-5:]}


def volume_to_crystal(extent: Extent) -> Figures:
    """Time the way from a prepared volume of the demo to the network's crystal on the host, at 64^3."""
    scan = recorded_scan("demo")
    curve, settings = curve_of(scan), settings_for(scan)
    geometry, _, _ = locate(curve, settings.beamline, settings.fixed)
    volume = prepare(curve, geometry, settings.detector, settings.prepare)
    network = load(DEFAULT_NETWORK, extent.device)
    return quantiles(lambda: infer(lab_volume(volume, network, extent.device), network), extent)


def cycles(extent: Extent, n: int) -> Figures:
    """Time a cycle of HIO, ER and RAAR against two transforms."""
    data = on_device(measurement(n), extent.device)
    field = torch.randn((1, n, n, n), dtype=torch.complex64, device=extent.device)
    share = replace(extent, seconds=extent.seconds / 4)
    pair = quantiles(lambda: torch.fft.fftn(torch.fft.ifftn(field, dim=(1, 2, 3)), dim=(1, 2, 3)), share)
    figures: Figures = {"pair_p50_ms": pair["p50_ms"]}
    for name in ("HIO", "ER", "RAAR"):
        steps_of = run(parse_recipe(f"SW[off]+900000*{name}"), data, random_starts(data, [1]))
        figures[f"{name}_over_pair"] = quantiles(partial(next, steps_of), share)["p50_ms"] / pair["p50_ms"]
    return figures


def auto(extent: Extent, n: int) -> Figures:
    """Search a crystal of 3 pi from 1e6 photons; return its error, and the time."""
    case = crystals.Case(seed=91_000, kind="polyhedron", phase_pi=3.0, n=n)
    truth = crystals.crystal(case)
    counts, valid = crystals.measured(case, truth)
    begin_s = time.monotonic()
    found = cdi.phase(counts, valid, budget_s=min(12 * extent.seconds, 60.0), device=extent.device)
    seconds = time.monotonic() - begin_s
    match = align(torch.from_numpy(truth), torch.from_numpy(found.object.copy()))
    return {"seconds": seconds, "nmse": 1 - match.correlation**2, "verdict": found.verdict.grade}


def training(extent: Extent, name: str, n_left: int) -> Figures:
    """Train a network in its part of the time that is left; ``n_left`` trainings share that time."""
    minutes = min(extent.left_s() / n_left - RESERVE_S, 60 * extent.seconds) / 60
    if minutes < 0.05:
        return {"skipped": "no time is left"}
    lines: list[str] = []
    train(
        name,
        extent.out / f"{name}.pt",
        minutes=minutes,
        steps=None if extent.device == "cuda" else 2,
        seed=1,
        device=extent.device,
        is_resumed=False,
        report=lines.append,
    )
    return {"minutes": minutes, "lines": lines[-2:]}


def on_device(data: Measurement, device: str) -> Measurement:
    """Return a measurement on a device."""
    return replace(
        data,
        magnitude=data.magnitude.to(device),
        magnitude_scale=data.magnitude_scale.to(device),
        valid=data.valid.to(device),
    )


def quantiles(work: Callable[[], object], extent: Extent) -> Figures:
    """Return median and 95th percentile of the times of ``work`` [ms], for about ``extent.seconds``."""
    times_s: list[float] = []
    for _ in range(3):
        _timed_s(work, extent.device)
    end_s = time.monotonic() + extent.seconds
    while len(times_s) < 5 or (time.monotonic() < end_s and len(times_s) < 500):
        times_s.append(_timed_s(work, extent.device))
    p50, p95 = np.percentile(times_s, (50, 95))
    return {"p50_ms": 1e3 * float(p50), "p95_ms": 1e3 * float(p95), "n": len(times_s)}


def _timed_s(work: Callable[[], object], device: str) -> float:
    begin_s = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin_s


def main() -> None:
    """Run the steps one after the other; one that fails is noted, and the next begins."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=9.0, help="time of the whole command")
    parser.add_argument("--seconds", type=float, default=5.0, help="time of each measurement")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="sides of the volumes [voxels]")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a GPU that torch can use, got none; --device cpu --seconds 5 tries the command")
    end_s = time.monotonic() + 60 * asked.minutes
    extent = Extent(device=asked.device, seconds=asked.seconds, sizes=tuple(asked.sizes), end_s=end_s, out=asked.out)
    asked.out.mkdir(parents=True, exist_ok=True)
    figures: Figures = {"goals": GOALS}
    for name, step in steps(extent):
        begin_s = time.monotonic()
        try:
            figures[name] = step() if extent.left_s() > 0 else {"skipped": "no time is left"}
        except Exception as error:  # a figure that is missing must not cost the others
            logger.exception("%s failed", name)
            figures[name] = {"failed": repr(error)[:500]}
        figures[name]["took_s"] = round(time.monotonic() - begin_s, 2)
        print(f"{name}: {json.dumps(figures[name])}", flush=True)
        with atomic_write(asked.out / "figures.json") as part:
            part.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
