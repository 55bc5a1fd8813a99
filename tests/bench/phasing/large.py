"""Crystals in volumes that are too large for a search: from counts to the network's crystal and its phase retrieval."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import groupby

import numpy as np
from rich.table import Table

from cdi_stream.config import PhaseConfig
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion.chain import lab_volume, starting_point
from cdi_stream.inversion.extent import CrystalOffsets, crystal_extent
from cdi_stream.inversion.infer import infer
from cdi_stream.inversion.phase_retrieval import retrieve_phase
from cdi_stream.messages import PreparedVolume
from tests.bench.crystals import Case as Crystal
from tests.bench.crystals import crystal, measured
from tests.bench.phasing.shared_crystals import RIGHT, distance
from tests.bench.record import Case, Line, median, plain_table
from tests.bench.volumes import network

N_CRYSTALS = 100
FIRST = 97_000
N = 96
"""Voxels along each axis: 885 000 in all, as many as a cut of the demo has."""
PHOTONS = 3e6
VOXEL_M = 1e-8


def cases() -> Iterator[Case]:
    """All crystals."""
    for k in range(N_CRYSTALS):
        yield Case(key=f"large/{k}", measure=partial(retrieved, k))


def drawn(k: int) -> Crystal:
    """The crystal of this number."""
    kind = ("polyhedron", "superellipsoid")[k % 2]
    return Crystal(seed=FIRST + k, kind=kind, phase_pi=1.0 + k // 2 % 5, photons=PHOTONS, n=N)


def retrieved(k: int) -> Line:
    """Phase one crystal as the live service does with a volume of this size."""
    case = drawn(k)
    truth = crystal(case)
    volume = prepared(*measured(case, truth))
    first = infer(lab_volume(volume, network()), network())
    begin_s = time.monotonic()
    found = retrieve_phase(volume, starting_point(first, volume, "cpu"), PhaseConfig())
    numbers = {"seconds": time.monotonic() - begin_s, "verdict": found.verdict.grade, **found.metrics.known()}
    return {"kind": case.kind, "phase_pi": case.phase_pi, **numbers, **distance(truth, found.density)}


def prepared(counts: np.ndarray, valid: np.ndarray) -> PreparedVolume:
    """A volume on orthogonal axes whose voxels of the crystal have a side of `VOXEL_M`."""
    affine = AffineMap(
        shape=(N, N, N),
        q0=np.array([0.0, 0.0, 3e10]),
        bq=2 * np.pi / (N * VOXEL_M) * np.eye(3),
        sample_to_lab=np.eye(3),
        coordinates="detector",
    )
    scale = np.ones(counts.shape, np.float32)
    given = counts.astype(np.uint32), valid, scale
    extent, oversampling = crystal_extent(CrystalOffsets().offsets(*given), affine)
    return PreparedVolume(
        counts=given[0],
        valid_pixels=valid,
        expected_scale=scale,
        affine=affine,
        crystal_extent_m=extent,
        oversampling=oversampling,
    )


def table(lines: list[Line]) -> Table:
    """Crystals found, and their verdicts, by phase range."""
    columns = ("pi", "found", "NMSE median", "s median", "good of found", "good but wrong")
    result = plain_table(f"Large volumes, live (found: NMSE < {RIGHT})", *columns)
    groups = [(f"{pi:.0f}", list(some)) for pi, some in groupby(sorted(lines, key=_phase_pi), key=_phase_pi)]
    for name, some in [*groups, ("all", lines)]:
        right = [line for line in some if line["nmse"] < RIGHT]
        good = [line for line in some if line["verdict"] == "good"]
        result.add_row(
            name,
            f"{len(right)} of {len(some)}",
            f"{median(line['nmse'] for line in some):.3f}",
            f"{median(line['seconds'] for line in some):.1f}",
            f"{sum(line['verdict'] == 'good' for line in right)} of {len(right)}",
            str(sum(line["nmse"] >= RIGHT for line in good)),
        )
    return result


def _phase_pi(line: Line) -> float:
    return float(line["phase_pi"])
