"""How far a network's answers to mirror images have to agree for its crystal to be relied on.

Found on simulated crystals that no training draws, as strained as beamlines bring them, whatever the network was
trained for: one that is wrong about strong strain has to seem unsure of it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Generator

from cdi_stream.networks.losses import overlaps
from cdi_stream.networks.mirrors import agreement, mirrored_answers
from cdi_stream.networks.torchscript import Network, NetworkContract, load, rewrite_contract
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import Array, measure
from cdi_stream.training.trainer import HELD_OUT_SEED

RELIABLE_OVERLAP = 0.87
"""That nine of ten crystals have with the truth where their network is sure."""
LEAST_CRYSTALS = 20
"""That a limit stands on."""
PHOTONS = (1e5, 1e7)
_FIRST_SEED = HELD_OUT_SEED + 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One crystal: how far four answers agree, and the overlap of the first with the truth."""

    agreement: float
    overlap: float


def calibrate(path: Path, n: int, device: str = "cpu") -> NetworkContract:
    """Try a network on ``n`` crystals and write the limit into its file, and its card if there is one.

    Raises
    ------
    NetworkFileError
        If it is not a network for volumes.
    """
    network = load(path, device)
    contract = network.contract.model_copy(update={"sure_above": sure_above(trials(network, n))})
    rewrite_contract(path, contract)
    card = path.with_suffix(".card.json")
    if card.is_file():
        written = json.loads(card.read_text()) | {"network": contract.model_dump()}
        card.write_text(json.dumps(written, indent=1) + "\n")
    return contract


def trials(network: Network, n: int) -> list[Trial]:
    """Draw ``n`` crystals of 0 to 5 pi, of the size in their array that the network expects, and have them inverted."""
    return [_trial(network, Generator().manual_seed(_FIRST_SEED + k)) for k in range(n)]


def _trial(network: Network, generator: Generator) -> Trial:
    n_voxels, n_out = network.lab_shape[0], network.contract.output_shape[0]
    typical = n_voxels / network.contract.oversampling
    ranges = CrystalRanges(
        longest_vox=(0.77 * typical, 1.18 * typical),
        phase_range_rad=(0.0, 5 * math.pi),
        correlation=(0.5, 1.3),
        shapes=("polyhedron", "superellipsoid"),
    )
    array = Array.SAME if n_out == n_voxels else Array.DOUBLE
    magnitude, truth = measure(crystals(1, n_out, ranges, generator), generator, PHOTONS, array)
    answers = mirrored_answers(network, magnitude[0])
    return Trial(agreement=agreement(answers), overlap=float(overlaps(answers[:1].cpu(), truth)[0]))


def sure_above(tried: list[Trial]) -> float | None:
    """The least agreement above which nine of ten crystals are near the truth; none if too few are."""
    by_agreement = sorted(tried, key=lambda trial: -trial.agreement)
    for n in range(len(by_agreement), LEAST_CRYSTALS - 1, -1):
        if np.quantile([trial.overlap for trial in by_agreement[:n]], 0.1) >= RELIABLE_OVERLAP:
            below = by_agreement[n].agreement if n < len(by_agreement) else 0.0
            return round((by_agreement[n - 1].agreement + below) / 2, 3)
    return None
