"""Networks on measured crystals: misfit right after the network, after the live polish, after refinement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from cdi_stream.config import PhaseConfig
from cdi_stream.files.intensities.read import read_intensities
from cdi_stream.files.intensities.volume import in_counts
from cdi_stream.files.intensities.window import window_of
from cdi_stream.interface.phase_counts import prepared
from cdi_stream.inversion.chain import lab_volume, starting_point
from cdi_stream.inversion.infer import infer
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.inversion.methods import MethodSettings, refine
from cdi_stream.inversion.phase_retrieval import retrieve_phase
from cdi_stream.messages import LabVolume, PhasedVolume, PreparedVolume, read_only
from cdi_stream.networks.block_dct import downsample
from cdi_stream.networks.mirrors import agreement, mirrored_answers
from cdi_stream.networks.packaged import DEFAULT_NETWORK, network_file
from cdi_stream.networks.torchscript import Network, load
from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.quality import misfit
from cdi_stream.phasing.starts import start_from
from tests.bench.networks import pictures
from tests.bench.phasing.real import SOURCES
from tests.bench.record import Case, Line, plain_table

SIZE = 128
REFINEMENT = MethodSettings(network_file=DEFAULT_NETWORK, budget_s=60.0)
PICTURES = Path("bench-results/pictures")


def cases(networks: Sequence[str]) -> Iterator[Case]:
    """Each network on both crystals; one for 32^3 voxels as its paper feeds it, too."""
    for name in networks:
        for source in SOURCES:
            for way in WAYS if name.startswith("chan2021") else ("",):
                yield Case(key=f"real/{name}{way}/{source}", measure=partial(followed, name, source, way))


def followed(name: str, source: str, way: str = "") -> Line:
    """Chi2 and r_p of each step on the measured voxels, and how far answers to mirror images agree."""
    volume, network = _measured(source), load(network_file(name))
    lab = WAYS[way](volume, network)
    magnitude = torch.from_numpy(lab.magnitude.copy())
    agreed = agreement(mirrored_answers(network, magnitude))
    start = starting_point(infer(lab, network), volume, "cpu")
    start = replace(start, ask_sure=lambda: network.contract.is_sure(agreed))
    default = PhaseConfig()
    polished = retrieve_phase(volume, start, PhaseConfig(budget_s=default.budget_s, most_voxels=default.most_voxels))
    refined, schedule = refine("auto", PhasedVolume(crystal=polished, volume=volume), REFINEMENT)
    found = {"polish": polished, "refined": refined}
    first = start_from(to_fourier_order(start.density), to_fourier_order(start.support))
    answered = misfit(first.result[0], measurement_of(volume))
    drawn = {"network": start.density, **{key: torch.from_numpy(np.array(one.density)) for key, one in found.items()}}
    pictures.draw(PICTURES / f"{name}{way} {source}.png", f"{name}{way}: {source}", drawn)
    steps = {"network": answered, **{key: one.metrics.known() for key, one in found.items()}}
    numbers = {f"{key}_{step}": scalars[key] for step, scalars in steps.items() for key in ("chi2", "r_p")}
    return {"network": name + way, "source": source, "agreement": agreed, "refinement": schedule, **numbers}


def _measured(source: str) -> PreparedVolume:
    with tempfile.TemporaryDirectory() as folder:
        counts = in_counts(read_intensities(SOURCES[source](Path(folder))))
    return prepared(window_of(counts, (SIZE,) * 3).take(counts))


def _by_blocks(volume: PreparedVolume, network: Network) -> LabVolume:
    """The middle of the magnitudes, half as many along each axis; they stay in the detector's coordinates."""
    shape = network.contract.input_shape
    start = tuple(n // 2 - m for n, m in zip(volume.counts.shape, shape, strict=True))
    inner = tuple(slice(first, first + 2 * m) for first, m in zip(start, shape, strict=True))
    seen = torch.from_numpy(np.where(volume.valid_pixels, volume.counts, 0)[inner].astype(np.float32))
    magnitude = downsample(seen.sqrt()).clamp_min(0)
    whole = volume.affine.window(start, tuple(2 * m for m in shape))
    return LabVolume(
        magnitude=read_only((magnitude / magnitude.amax()).numpy()),
        valid_pixels=read_only(np.ones(shape, dtype=bool)),
        affine=replace(whole, shape=shape, bq=2 * whole.bq),  # from the same voxel, in steps twice as long
    )


WAYS: dict[str, Callable[[PreparedVolume, Network], LabVolume]] = {"": lab_volume, " by blocks": _by_blocks}
"""How a network is fed."""


def table(lines: list[Line]) -> Table:
    """One row a network and crystal."""
    keys = [f"{key}_{step}" for step in ("network", "polish", "refined") for key in ("chi2", "r_p")]
    result = plain_table("Networks on measured crystals", "network", "crystal", *keys, "agreement")
    for line in lines:
        result.add_row(line["network"], line["source"], *(f"{line[key]:.4f}" for key in (*keys, "agreement")))
    return result
