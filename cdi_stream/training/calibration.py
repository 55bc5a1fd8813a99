"""How far a network's answers to mirror images have to agree for its crystal to be relied on.

Found on simulated crystals that no training draws, as strained as beamlines bring them, whatever the network was
trained for: one that is wrong about strong strain has to seem unsure of it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from torch import Generator

from cdi_stream.networks.losses import overlaps
from cdi_stream.networks.mirrors import agreement, mirrored_answers
from cdi_stream.networks.torchscript import Network, NetworkContract, load, rewrite_contract
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import Array, measure
from cdi_stream.training.fields import FIELDS
from cdi_stream.training.shapes import SHAPES
from cdi_stream.training.trainer import HELD_OUT_SEED

RELIABLE_OVERLAP, RELIABLE_SHARE = 0.87, 0.9
"""With the truth, of crystals that their network is sure of; and of how many of them."""
WINDOW = 30
"""Crystals of neighbouring agreement that are judged together."""
LEAST_CRYSTALS = 20
"""That confirm a limit."""
PHOTONS = (1e5, 1e7)
FIRST_SEED = HELD_OUT_SEED + 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One crystal: how far four answers agree, and the overlap of the first with the truth."""

    agreement: float
    overlap: float

    @property
    def is_near(self) -> bool:
        """Whether the answer may be relied on."""
        return self.overlap >= RELIABLE_OVERLAP


def calibrate(path: Path, n: int, device: str = "cpu") -> NetworkContract:
    """Try a network on ``n`` crystals and write the limit into its file, and its card if there is one.

    Raises
    ------
    NetworkFileError
        If it is not a network for volumes, or is replaced meanwhile.
    """
    network = load(path, device)
    contract = network.contract.model_copy(update={"sure_from": sure_from(trials(network, n))})
    rewrite_contract(path, contract, network.sha256)
    card = path.with_suffix(".card.json")
    if card.is_file():
        written = json.loads(card.read_text()) | {"network": contract.model_dump(mode="json", exclude_none=True)}
        card.write_text(json.dumps(written, indent=1) + "\n")
    return contract


def trials(network: Network, n: int, first_seed: int = FIRST_SEED) -> list[Trial]:
    """Draw ``n`` crystals of 0 to 5 pi, about as large as the network expects them, and have them inverted."""
    return [_trial(network, Generator().manual_seed(first_seed + k)) for k in range(n)]


def _trial(network: Network, generator: Generator) -> Trial:
    n_voxels, n_out = network.lab_shape[0], network.contract.output_shape[0]
    typical = n_voxels / network.contract.oversampling
    ranges = CrystalRanges(
        longest_vox=(0.7 * typical, 1.25 * typical),  # the live path guesses the size of a crystal by its fringes
        phase_range_rad=(0.0, 5 * math.pi),
        correlation=(0.5, 1.3),
        shapes=tuple(SHAPES),
        fields=tuple(FIELDS),
    )
    array = Array.SAME if n_out == n_voxels else Array.DOUBLE
    magnitude, truth = measure(crystals(1, n_out, ranges, generator), generator, PHOTONS, array)
    answers = mirrored_answers(network, magnitude[0])
    return Trial(agreement=agreement(answers), overlap=float(overlaps(answers[:1].cpu(), truth)[0]))


def sure_from(tried: list[Trial]) -> float | None:
    """The least agreement from which on nine of ten crystals are near the truth; none if they are not, or too few are.

    Found on every second crystal, as far down as nine of ten of the last `WINDOW` admitted are near, so that those near
    the limit are as good as those above; and confirmed on the others.
    """
    limit = _limit(tried[::2])
    admitted = [trial for trial in tried[1::2] if limit is not None and trial.agreement >= limit]
    return limit if len(admitted) >= LEAST_CRYSTALS and _are_near(admitted) else None


def _limit(tried: list[Trial]) -> float | None:
    ordered = sorted(tried, key=lambda trial: (-trial.agreement, trial.overlap))  # of equals the wrong ones first
    windows = (ordered[end - WINDOW : end] for end in range(WINDOW, len(ordered) + 1))
    near = list(takewhile(_are_near, windows))
    last = next((trial for trial in reversed(near[-1]) if trial.is_near), None) if near else None
    return None if last is None else math.ceil(1000 * last.agreement) / 1000


def _are_near(some: list[Trial]) -> bool:
    return sum(trial.is_near for trial in some) >= RELIABLE_SHARE * len(some)
