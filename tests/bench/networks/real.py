"""Networks on measured crystals: misfit right after the network, after the live polish, after refinement."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.table import Table

from cdi_stream.config import PolishConfig
from cdi_stream.fourier import to_fourier_order
from cdi_stream.intensities.read import read_intensities
from cdi_stream.intensities.window import window_of
from cdi_stream.live.chain import starting_point
from cdi_stream.live.correct import to_lab
from cdi_stream.live.infer import infer
from cdi_stream.live.polish import PolishSettings, measurement, polish
from cdi_stream.messages import PhasedVolume
from cdi_stream.networks.mirrors import SURE, agreement, mirrored_answers
from cdi_stream.networks.packaged import network_file
from cdi_stream.networks.torchscript import load
from cdi_stream.phase import in_counts, prepared
from cdi_stream.phasing.starts import start_from
from cdi_stream.refine.methods import MethodSettings, refine
from tests.bench.phasing.real import SOURCES
from tests.bench.record import Case, Line, plain_table
from tests.bench.volumes import misfits

SIZE = 128
BUDGET_S = 60.0


def cases(networks: Sequence[str]) -> Iterator[Case]:
    """Each network on both crystals."""
    for name in networks:
        for source in SOURCES:
            yield Case(key=f"real/{name}/{source}", measure=partial(followed, name, source))


def followed(name: str, source: str) -> Line:
    """Chi2 and r_p of each step on the measured voxels, and how far answers to mirror images agree."""
    with tempfile.TemporaryDirectory() as folder:
        found = in_counts(read_intensities(SOURCES[source](Path(folder))))
    volume = prepared(window_of(found, (SIZE,) * 3).take(found))
    network = load(network_file(name))
    lab = to_lab(volume, network.contract.input_shape[0], network.contract.oversampling)
    agreed = agreement(mirrored_answers(network, torch.from_numpy(lab.magnitude.copy())))
    start = starting_point(infer(lab, network), volume, "cpu")
    start = replace(start, ask_sure=lambda: agreed > SURE)
    default = PolishConfig()
    polished = polish(volume, start, PolishSettings(budget_s=default.budget_s, most_voxels=default.most_voxels))
    settings = MethodSettings(
        recipe="", network_file=network_file(name), network_steps=1, network_recipe="", budget_s=BUDGET_S
    )
    refined, schedule = refine("auto", PhasedVolume(crystal=polished, volume=volume), settings)
    first = start_from(to_fourier_order(start.density), to_fourier_order(start.support))
    answered = {key: value[0] for key, value in zip(("chi2", "r_p"), misfits(first, measurement(volume)), strict=True)}
    steps = {"network": answered, "polish": polished.scalars, "refined": refined.scalars}
    numbers = {f"{key}_{step}": scalars[key] for step, scalars in steps.items() for key in ("chi2", "r_p")}
    return {"network": name, "source": source, "agreement": agreed, "refinement": schedule, **numbers}


def table(lines: list[Line]) -> Table:
    """One row a network and crystal."""
    keys = [f"{key}_{step}" for step in ("network", "polish", "refined") for key in ("chi2", "r_p")]
    result = plain_table("Networks on measured crystals", "network", "crystal", *keys, "agreement")
    for line in lines:
        result.add_row(line["network"], line["source"], *(f"{line[key]:.4f}" for key in (*keys, "agreement")))
    return result
