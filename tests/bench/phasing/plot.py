"""Pictures of what runs against seconds or cycles: the curves, and the starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tests.bench.phasing.curves import NOISES
from tests.bench.record import Line


def draw(lines: list[Line], out: Path) -> None:
    """Chi2 of each way with noise and without, and of each way to begin."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, noise in zip(axes, NOISES, strict=False):
        _curves(ax, [line for line in lines if line.get("noise") == noise])
        ax.set(title=noise, xlabel="seconds", ylabel="best chi2", xscale="log", yscale="log")
    _starts(axes[2], [line for line in lines if line.get("start")])
    axes[2].set(title="starts of a recipe", xlabel="cycles", ylabel="chi2, mean and spread", yscale="log")
    for ax in axes:
        if ax.has_data():
            ax.legend(fontsize="small")
    figure.savefig(out, dpi=110)


def _curves(ax: Any, lines: list[Line]) -> None:
    for line in lines:
        ax.plot(line["curve"]["seconds"], line["curve"]["best_chi2"], label=line["way"])


def _starts(ax: Any, lines: list[Line]) -> None:
    """Mean over the crystals."""
    for name in dict.fromkeys(line["start"] for line in lines):
        some = [line for line in lines if line["start"] == name]
        mean, spread = (np.mean([line[key] for line in some], axis=0) for key in ("chi2_mean", "chi2_std"))
        ax.plot(some[0]["cycles"], mean, label=name)
        ax.fill_between(some[0]["cycles"], mean - spread, mean + spread, alpha=0.2)
