"""A network refined on one volume (Wu et al. 2021, npj Comput. Mater. 7, 175, equations 7-8), against seconds.

From trained and from random weights, beside what the same seconds give by projections and by gradients on the object.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from cdi_stream.networks.losses import pad_to_double
from cdi_stream.networks.packaged import network_file
from cdi_stream.networks.torchscript import load_trainable
from cdi_stream.networks.unsupervised import UnsupervisedSchedule, WeightRefinement, refine_weights
from cdi_stream.networks.wu2021 import small
from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.engine import Batch, run
from cdi_stream.phasing.gradient import Adam, refine_by_adam
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.starts import random_starts
from cdi_stream.phasing.steps import descent
from tests.bench.phasing.shared_crystals import crystal
from tests.bench.record import Case, Line, plain_table
from tests.bench.volumes import Volume, misfits, nmse, seen_by_network, volume_of

N_POINTS = 50
TRIAL_STEPS = 5
EVERY = 10
NOISES = {"1e6 photons": 1e6, "no noise": math.inf}
COLUMNS = ("seconds", "loss", "chi2", "r_p")


class Curve:
    """What was seen against seconds: loss (where there is one), chi2, r_p."""

    def __init__(self) -> None:
        self.begin()
        self.points: list[tuple[float, float, float, float]] = []

    def begin(self) -> None:
        """Count the seconds from here."""
        self._begin_s = time.perf_counter()

    @property
    def passed_s(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._begin_s

    def note(self, loss: float, chi2: float, r_p: float) -> None:
        """Add a point, now."""
        self.points.append((self.passed_s, loss, chi2, r_p))

    @property
    def best(self) -> tuple[float, float, float, float]:
        """The point of least chi2."""
        return min(self.points, key=lambda point: point[2])

    def thinned(self) -> Line:
        """Some of the points, evenly over the logarithm of their number, and the best chi2 until each."""
        places = np.unique(np.geomspace(1, len(self.points), N_POINTS).astype(int)) - 1
        table = np.array(self.points)
        columns = dict(zip(COLUMNS, table[places].T.tolist(), strict=True))
        return {**columns, "best_chi2": np.minimum.accumulate(table[:, 2])[places].tolist()}


def cases(seconds: float) -> Iterator[Case]:
    """Each way on the same crystal, with noise and without."""
    for noise in NOISES:
        for name in WAYS:
            yield Case(key=f"curves/{name}/{noise}/{seconds:g} s", measure=partial(followed, name, noise, seconds))


def followed(name: str, noise: str, seconds: float) -> Line:
    """Curve of one way, and how far its best crystal is from the truth."""
    volume = volume_of(torch.from_numpy(crystal("faceted", 1, seed=101)), NOISES[noise], seed=1)
    curve = Curve()
    best, steps = WAYS[name](volume, curve, seconds)
    return {
        "way": name,
        "noise": noise,
        "steps": steps,
        "seconds_in_all": curve.passed_s,
        "best": dict(zip(COLUMNS, curve.best, strict=True)),
        "nmse": nmse(volume, [best])[0],
        "curve": curve.thinned(),
    }


Found = tuple[Tensor, int]
"""The crystal of the least chi2 in Fourier order, and the steps of all."""


def _weights(make: Callable[[], nn.Module], volume: Volume, curve: Curve, seconds: float) -> Found:
    """The schedule is as long as the time allows, by the time of a few steps of another copy."""
    trial = Curve()
    _refined(make(), volume, TRIAL_STEPS, trial, seconds)
    step_s = float(np.median(np.diff([point[0] for point in trial.points])))
    network = make()
    curve.begin()
    refined = _refined(network, volume, int(seconds / step_s), curve, seconds)
    return to_fourier_order(pad_to_double(refined.crystal)), len(curve.points)


def _refined(network: nn.Module, volume: Volume, steps: int, curve: Curve, seconds: float) -> WeightRefinement:
    return refine_weights(
        network,
        volume.magnitude,
        torch.ones(volume.counts.shape, dtype=torch.bool),
        UnsupervisedSchedule(steps=max(TRIAL_STEPS, steps)),
        is_over=lambda: len(curve.points) >= TRIAL_STEPS and curve.passed_s > seconds,
        watch=lambda step, *terms: curve.note(*terms),
    )


def _random_network() -> nn.Module:
    """Untrained, and so normalised by this volume itself: it has no statistics of its own."""
    torch.manual_seed(1)
    return small().train()


def _cycles(make: Callable[[Volume], Iterator[Batch]], volume: Volume, curve: Curve, seconds: float) -> Found:
    """Note every few cycles, until the time is over."""
    data, best, steps = volume.data, volume.data.magnitude, 0
    least, batches = math.inf, make(volume)
    curve.begin()
    for steps, batch in enumerate(batches, 1):
        if steps % EVERY == 0:
            (misfit,), (correlation,) = misfits(batch, data)
            curve.note(math.nan, misfit, correlation)
            if misfit < least:
                least, best = misfit, batch.result[0].clone()
            if curve.passed_s > seconds:
                break
    return best, steps


def _restarted(volume: Volume) -> Iterator[Batch]:
    """The recipe of the paper from one random start after the other."""
    for seed in count(1):
        yield from run(parse_recipe("wu2021"), volume.data, random_starts(volume.data, [seed]))


def _by_adam(volume: Volume) -> Iterator[Batch]:
    return refine_by_adam(volume.data, seen_by_network(volume), Adam(steps=1_000_000))


def _by_descent(volume: Volume) -> Iterator[Batch]:
    return run(descent(1_000_000), volume.data, seen_by_network(volume))


WAYS: dict[str, Callable[[Volume, Curve, float], Found]] = {
    "trained weights": partial(_weights, lambda: load_trainable(network_file("wu2021-small"))),
    "random weights": partial(_weights, _random_network),
    "recipe wu2021, again and again": partial(_cycles, _restarted),
    "object, Adam": partial(_cycles, _by_adam),
    "object, accelerated": partial(_cycles, _by_descent),
}


def table(lines: list[Line]) -> Table:
    """Best chi2 after some seconds, and the end."""
    after = (1, 10, 60, 180, 900)
    columns = ("way", "data", *(f"chi2 at {s} s" for s in after), "r_p", "NMSE", "steps", "ms a step")
    result = plain_table("Curves", *columns)
    for line in sorted(lines, key=lambda line: line["noise"]):
        curve = line["curve"]
        at = (_until(s, curve["seconds"], curve["best_chi2"]) for s in after)
        ms = 1e3 * line["seconds_in_all"] / line["steps"]
        ends = (f"{line['best']['r_p']:.4f}", f"{line['nmse']:.4f}", str(line["steps"]), f"{ms:.1f}")
        result.add_row(line["way"], line["noise"], *at, *ends)
    return result


def _until(s: float, seconds: list[float], values: list[float]) -> str:
    """Value after ``s`` seconds; nothing before the first, or where the curve had ended long before."""
    known = [value for t, value in zip(seconds, values, strict=True) if t <= s]
    return f"{known[-1]:.2e}" if known and seconds[-1] > 0.9 * s else ""
