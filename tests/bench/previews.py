"""How close a preview is to the final crystal of its curve, by the fraction of the frames that were measured.

    python -m tests.bench.previews [SCAN ...]
    python -m tests.bench.previews --latency 4

The first command prints a table for the simulated scans ``demo`` and ``plain``, and for recorded scans: files or
folders.  The second one measures whether previews delay the inference of their curve.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from cdi_stream.files.recorded_scan import read_recorded
from cdi_stream.inversion.chain import ChainSettings, infer_curve, phase_curve
from cdi_stream.inversion.correct import crystal_to
from cdi_stream.inversion.preview import preview_curve
from cdi_stream.messages import Crystal, RecordedScan, Result
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.networks.torchscript import Network, load
from cdi_stream.phasing.align import align
from sim_beamline.scan import recorded_scan
from tests.assembling import Rig, scan_begin, scan_points
from tests.bench.latency import measure
from tests.builders import settings_for

FRACTIONS = (0.4, 0.5, 0.6, 0.75, 0.9)


def nmse(final: Crystal, other: Crystal) -> float:
    """Return 1 - |correlation|^2 of two crystals, on the grid of the first, up to global phase, shift and twin."""
    density = crystal_to(torch.from_numpy(np.array(other.density)), other.affine, final.affine)
    return 1 - align(torch.from_numpy(np.array(final.density)), density).correlation ** 2


def results(scan: RecordedScan, network: Network, settings: ChainSettings) -> Iterator[tuple[str, Result]]:
    """Yield the previews, the inference and the final result of a scan that is measured point by point."""
    rig = Rig(motors=frozenset(scan.scanned), preview_fractions=FRACTIONS)
    rig.feed(*scan_begin(scan))
    for item in chain.from_iterable(scan_points(scan)):
        rig.feed(item)
        for partial in rig.assembler.partial_curves():
            yield f"preview {100 * partial.fraction:.0f} %", preview_curve(partial, network, settings)
    (curve,) = rig.curves or rig.settle()
    inferred = infer_curve(curve, network, settings)
    yield "inference", inferred.result
    yield "reconstruction", phase_curve(inferred, settings)


def table(scans: dict[str, RecordedScan]) -> Table:
    """Return the table: a row for each scan, a column for each fraction."""
    network = load(DEFAULT_NETWORK)
    shown = Table("scan", "frames", *(f"{100 * fraction:.0f} %" for fraction in FRACTIONS), "inference")
    for name, scan in scans.items():
        *firsts, (_, final) = results(scan, network, settings_for(scan))
        shown.add_row(name, str(len(scan.frames)), *(_cell(final, first) for _, first in firsts))
    return shown


def _cell(final: Result, first: Result) -> str:
    """Return the NMSE of a first answer, with a star if its reasons say that the peak is not passed yet."""
    if first.crystal is None or final.crystal is None:
        return "no crystal"
    star = "*" if any("not passed yet" in reason for reason in first.verdict.reasons) else ""
    return f"{nmse(final.crystal, first.crystal):.3f}{star}"


def latencies(n_rounds: int) -> Iterator[dict[str, float]]:
    """Yield the median latency [s] of the inference over six curves, in turn with and without previews.

    The service has one thread, because two wait for one another where other programs run.  A short recipe of the phase
    retrieval keeps curves from piling up, when previews are dropped.
    """
    options = {"speed": "2", "n_curves": 6, "top": "threads = 1\n", "tables": '\n[phase]\nrecipe = "30*ER"\n'}
    publish = {"with_s": "", "without_s": "preview_fractions = []\n"}
    for _ in range(n_rounds):
        yield {name: measure(publish=text, **options)["inference"]["p50_s"] for name, text in publish.items()}


def latency_ratio(n_rounds: int) -> dict[str, float]:
    """Return the medians over the rounds [s], and their ratio."""
    rounds = list(latencies(n_rounds))
    medians = {name: float(np.median([one[name] for one in rounds])) for name in rounds[0]}
    return medians | {"ratio": medians["with_s"] / medians["without_s"]}


def main() -> None:
    """Print the table, or the latencies."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.previews", description=__doc__)
    parser.add_argument("scans", nargs="*", type=Path, help="recorded scans")
    parser.add_argument("--scan", type=int, help="number of the scan, where a file has several")
    parser.add_argument("--latency", type=int, metavar="N", help="only the latency of the inference, over N rounds")
    given = parser.parse_args()
    if given.latency:
        print(json.dumps(latency_ratio(given.latency)))
        return
    recorded = {path.name: read_recorded(path, given.scan) for path in given.scans}
    Console(width=160).print(table({"demo": recorded_scan("demo"), "plain": recorded_scan("plain"), **recorded}))


if __name__ == "__main__":
    main()
