"""Latency from the last frame's message to each document, over many curves of the demo through the real service."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from cdi_stream.files.recording import read_scan
from cdi_stream.processes import run_module
from cdi_stream.replay.play import example_config, replay


def measure(
    n_curves: int = 12,
    case: str = "demo",
    speed: str = "5",
    pause_s: float = 3.0,
    refine: bool = False,
    top: str = "",
    publish: str = "",
    tables: str = "",
) -> dict[str, dict[str, float]]:
    """Median and 95th percentile [s] of both documents and of each stage.

    ``pause_s`` between curves lets the simulated beamline, which shares the cores, stand still meanwhile; with
    0 the next scan is measured at the same time.  ``refine`` keeps a refinement running beside it all.  ``top``,
    ``publish`` and ``tables`` are further lines of the configuration: before its tables, in the table of that name, and
    behind them all.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        run_module("sim_beamline", "simulate", "--case", case, "--out", str(directory / "scan.h5"))
        (directory / "out").mkdir()
        config = example_config(read_scan(directory / "scan.h5"), directory / "out")
        if refine:
            config = config.replace("[refine]\nmethods = []", '[refine]\nmethods = ["recipe"]\nrecipe = "20000*ER"')
        config = top + config.replace("[publish]\n", f"[publish]\n{publish}") + tables
        (directory / "beamline.toml").write_text(config)
        summaries = replay(
            directory / "scan.h5",
            directory / "out",
            speed=speed,
            config_file=directory / "beamline.toml",
            is_service_running=False,
            n_curves=n_curves,
            pause_s=pause_s,
            is_refining=refine,
        )
    found: dict[str, list[float]] = {}
    for summary in summaries:
        for name, value in summary["latency_s"].items():
            found.setdefault(name, []).append(value)
    return {
        name: {"p50_s": float(np.percentile(v, 50)), "p95_s": float(np.percentile(v, 95))} for name, v in found.items()
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
