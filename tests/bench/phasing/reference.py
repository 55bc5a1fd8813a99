"""Fingerprints of the automatic method, to prove that a change of the code leaves its results bit-identical.

``python -m tests.bench.phasing.reference`` phases twelve simulated volumes (32 to 48 voxels an axis) and prints, for
each, the SHA-256 of the crystal with its support, chi2 and the number of cycles.  Run it before and after a change
on the same machine and compare the two outputs with ``diff``.

The clock of the deadline stands still, so the search is limited by its numbers of starts and cycles only and not by
the speed of the machine.  Two threads are used, since the number of threads decides how many rounds of starts are run
before the search looks whether they agree.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.auto_settings import AutoSettings
from cdi_stream.phasing.coarse_to_fine import solve_large
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.explore import Exploration
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.quality import misfit
from cdi_stream.phasing.recipe import Recipe, parse_recipe
from cdi_stream.phasing.schedules import loose_and_tight
from cdi_stream.phasing.starts import start_from
from tests.bench.crystals import Case, crystal, measured

SEED = 11
"""Seed of the random starts of every search."""
EXPLORATION = Exploration(starts_a_round=6, pool=12, least_rounds=2, most_rounds=6)
SETTINGS = AutoSettings(explorations=(EXPLORATION,), finalists=3, attempts=2)
"""A search of at most 72 starts: long enough to reach every step of the method, short enough to wait for."""

CASES = {
    "polyhedron, 1 pi": Case(seed=201, kind="polyhedron", phase_pi=1, n=32),
    "superellipsoid, 2 pi": Case(seed=202, kind="superellipsoid", phase_pi=2, n=32),
    "polyhedron, 3 pi": Case(seed=203, kind="polyhedron", phase_pi=3, n=32),
    "superellipsoid, 4 pi": Case(seed=204, kind="superellipsoid", phase_pi=4, n=32),
    "polyhedron, 5 pi, few photons": Case(seed=205, kind="polyhedron", phase_pi=5, n=32, photons=2e5),
    "superellipsoid, 1 pi, gaps": Case(seed=206, kind="superellipsoid", phase_pi=1, n=36, has_gaps=True),
    "polyhedron, 3 pi, gaps": Case(seed=207, kind="polyhedron", phase_pi=3, n=40, has_gaps=True),
    "superellipsoid, 3 pi": Case(seed=208, kind="superellipsoid", phase_pi=3, n=48),
    "superellipsoid, 1 pi, no noise": Case(seed=209, kind="superellipsoid", phase_pi=1, n=32, photons=math.inf),
}
"""Volumes that are phased from random starts alone."""
KNOWN = Case(seed=210, kind="polyhedron", phase_pi=3, n=32)
"""Volume whose true crystal is given to the search as known beforehand, and as a start to that of large volumes."""


def main() -> None:
    """Print one line for each volume."""
    torch.set_num_threads(2)
    for name, case in CASES.items():
        data, _ = volume(case)
        found = solve(data, SEED, stopped_deadline(), SETTINGS)
        show(name, found.crystal, found.support, data, found.effort.cycles)
    data, truth = volume(KNOWN)
    known = start_from(truth, truth.abs() > 0.1)
    settings = AutoSettings(explorations=(EXPLORATION,), attempts=1, known_recipe=parse_recipe("SUPPORT[fixed]+20*ER"))
    found = solve(data, SEED, stopped_deadline(), settings, known=known)
    show("known crystal", found.crystal, found.support, data, found.effort.cycles)
    blurred = start_from(truth.abs().to(truth), truth.abs() > 0.1)
    for name, start in (("large, right start", known), ("large, wrong start", blurred)):
        found_large = solve_large(data, start, loose_recipe, SEED, EXPLORATION, stopped_deadline())
        show(name, found_large.crystal, found_large.support, data, int(found_large.metrics.cycles or 0))


def loose_recipe(extent_vox: float) -> Recipe:
    """Return the schedule of the known crystals."""
    return loose_and_tight(extent_vox)[0]


def stopped_deadline() -> Deadline:
    """Return a deadline that is never over."""
    return Deadline(60.0, clock=lambda: 0.0)


def volume(case: Case) -> tuple[Measurement, Tensor]:
    """Return the measurement of a simulated crystal and that crystal, both in Fourier order."""
    truth = crystal(case)
    counts, valid = (to_fourier_order(torch.from_numpy(array)).contiguous() for array in measured(case, truth))
    magnitude = counts.sqrt()
    data = Measurement(magnitude=magnitude, magnitude_scale=torch.ones_like(magnitude), valid=valid)
    return data, to_fourier_order(torch.from_numpy(truth)).contiguous()


def show(name: str, found: Tensor, support: Tensor, data: Measurement, cycles: int) -> None:
    """Print the fingerprint of one result."""
    digest = hashlib.sha256()
    for array in (found, support):
        digest.update(np.ascontiguousarray(array.numpy()).tobytes())
    chi2 = misfit(found, data)["chi2"]
    print(f"{name:32s} {digest.hexdigest()} chi2 {chi2!r} cycles {cycles}", flush=True)


if __name__ == "__main__":
    main()
